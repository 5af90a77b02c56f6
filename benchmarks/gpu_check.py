"""Checks this project on a GPU, in four parts: smoke, tests, speed, train.

    make gpu-check OUT=folder MINUTES=15
    python -m benchmarks.gpu_check --out folder smoke tests

Each part takes less than 10 minutes, and all together less than MINUTES; without a name all parts run. A step that
fails or exceeds its time limit does not stop the others. Exit codes: 0 = all steps passed, 1 = a step failed, 2 = no
GPU. No network is needed. OUT gets summary.txt, which is written step by step, log.txt, the figures of the speed as
JSON, and a picture of each training.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diff_gaussian_rasterization
import torch
from usable_processors import num_processors

from benchmarks.smoke import NO_NVCC
from benchmarks.steps import PART_SECONDS, Check
from compact_splats.arguments import pick_device
from compact_splats.utils.errors import InputError
from compact_splats.utils.machine import machine_info

ROOT = Path(__file__).parent.parent
TEST_PROCESSES = 6  # they share the GPU and its memory
PARITY_DB = 1.0  # difference of test PSNR between GPU and CPU that rounding may cause in PARITY_STEPS


@dataclass(frozen=True)
class Sizes:
    """Sizes of scenes and trainings.

    Attributes:
        speed: options of benchmarks.rasterizer.
        profiled: options of benchmarks.kernels.
        capture, capture_budget: a scene below TEST_DATA/scenes, and its final number of Gaussians.
        demo: options of compact_splats.demo.scene.
        demo_budget: its final number of Gaussians.
        training: options of train.py.
        parity_steps: length of the training on both devices.
        smoke: options of benchmarks.smoke.
    """

    speed: tuple[str, ...] = (
        "--gaussians", "100000", "500000", "1000000", "3000000", "--sizes", "800x530", "1600x1060", "--repeats", "10",
    )  # fmt: skip
    profiled: tuple[str, ...] = ("--gaussians", "1000000", "--size", "1600x1060")
    capture: str = "fox_medium"
    capture_budget: int = 100_000
    demo: tuple[str, ...] = ()
    demo_budget: int = 20_000
    training: tuple[str, ...] = ()
    parity_steps: int = 1500
    smoke: tuple[str, ...] = ()


QUICK = Sizes(
    speed=("--gaussians", "500", "2000", "--sizes", "96x64", "--repeats", "2"),
    profiled=("--gaussians", "2000", "--size", "96x64"), capture="fox_tiny", capture_budget=2000,
    demo=("--width", "96", "--height", "64", "--views", "12", "--points", "1500"), demo_budget=1000,
    training=("--iterations", "60"), parity_steps=40, smoke=("--quick",),
)  # fmt: skip


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs a module or a script."""
    how = [module] if module.endswith(".py") else ["-m", module]
    return [sys.executable, *how, *map(str, arguments)]


def head(device: torch.device) -> str:
    """Commit, versions, GPU, driver and build of the engine, as one line."""
    machine, engine = machine_info(), engine_build().get("cuda") or {}
    what = machine["processor"]
    if device.type != "cpu":
        properties = torch.cuda.get_device_properties(device)
        what = f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        what += f"{properties.total_memory / 1e9:.0f} GB, driver {driver()}"
    return (
        f"commit {machine['commit'] or 'unknown'}, torch {machine['torch']} (CUDA {torch.version.cuda}), {what}, "
        f"engine by nvcc {engine.get('nvcc')} for {engine.get('architectures')}"
    )


def engine_build() -> dict[str, Any]:
    """What the installed engine says about its build."""
    path = Path(diff_gaussian_rasterization.__file__).parent / "build.json"
    return json.loads(path.read_text()) if path.exists() else {}


def driver() -> str:
    """Version of the GPU's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip().split("\n")[0]
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


# ---- parts ----


def smoke(check: Check) -> None:
    """Both engines side by side without torch, every call of the engine on small inputs, and a short training."""
    first_minute(check)
    check.run("engine", python("benchmarks.exercise", "--device", check.device.type), 120)
    scene = check.work / "small"
    if check.run("small scene", python("compact_splats.demo.scene", scene, *QUICK.demo), 60):
        train_once(check, check.device, scene, "fast", QUICK.demo_budget, 120, *QUICK.training)


def first_minute(check: Check) -> None:
    """smoke.cu, which needs nvcc."""
    if check.device.type == "cpu":
        check.result("smoke.cu", "skipped", "needs a GPU")
        return
    code, lines, seconds = check.call("smoke.cu", python("benchmarks.smoke", *check.sizes.smoke), 240)
    if code == NO_NVCC:
        check.result("smoke.cu", "skipped", lines[-1] if lines else "")
        return
    status = "ok" if code == 0 else "too slow" if code is None else "failed"
    check.result("smoke.cu", status, f"exit code {code}" if code else "", seconds)
    for line in lines:
        check.say(f"    {line}")


def test_files(which: str, where: list[str]) -> list[str]:
    """The files below ``where`` with tests that ``-k which`` selects."""
    command = python("pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "-k", which, *where)
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    return list(dict.fromkeys(line.partition("::")[0] for line in said.splitlines() if "::" in line))


def tests(check: Check) -> None:
    """The engine's tests on this device, several files at once, and its calls under compute-sanitizer."""
    on_gpu = check.device.type != "cpu"
    where = ["tests"] if on_gpu else ["tests/test_rasterizer_bits.py", "tests/test_photometric_loss.py"]
    which = "cuda and not emulat and not install" if on_gpu else "cpu"
    files = test_files(which, where)
    if not files:
        check.result("tests", "failed", "none were found")

    def run_file(file: str) -> None:
        command = python("pytest", "-q", "-p", "no:cacheprovider", "-k", which, file)
        code, lines, seconds = check.call(file, command, 300)
        status = "too slow" if code is None else "ok" if code == 0 else "failed"
        check.result(Path(file).name, status, lines[-1].strip("= ") if lines else "", seconds)
        for line in lines:
            if line.startswith(("FAILED", "ERROR")):
                check.say(f"    {line[:200]}")

    with ThreadPoolExecutor(max(1, min(TEST_PROCESSES, (os.cpu_count() or 1) // 2))) as pool:
        list(pool.map(run_file, files))
    if files and not any(" passed" in line for line in (check.folder / "summary.txt").read_text().splitlines()):
        check.result("tests", "failed", "all were skipped")
    sanitizer(check, on_gpu)


def sanitizer(check: Check, on_gpu: bool) -> None:
    """The engine's calls under compute-sanitizer."""
    places = ["/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", os.environ.get("PATH", "")]
    tool = shutil.which("compute-sanitizer", path=os.pathsep.join(places)) if on_gpu else None
    for name in ("memcheck", "racecheck"):
        if tool is None:
            check.result(name, "skipped", "no compute-sanitizer" if on_gpu else "needs a GPU")
            continue
        command = [tool, "--tool", name, "--error-exitcode", "3", *python("benchmarks.exercise", "--device", "cuda")]
        # Without torch's cache each array is an allocation of its own, so that accesses beyond its end are found.
        check.run(name, command, 120, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})


def speed(check: Check) -> None:
    """Speed and memory by number of Gaussians and image size, beside gsplat if it is installed, and the kernels."""
    options = ["--device", check.device.type]
    both = python("benchmarks.rasterizer", *options, "--deterministic", "--out", check.folder / "rasterizer.json")
    if check.device.type == "cpu" or importlib.util.find_spec("gsplat") is None:
        check.result("gsplat", "skipped", "not installed, or no GPU")
    elif build_gsplat(check):
        both.append("--gsplat")
    check.run("speed", [*both, *check.sizes.speed], 180, shown=40)
    kernels = python("benchmarks.kernels", *options, "--out", check.folder / "kernels.json", *check.sizes.profiled)
    check.run("kernels", kernels, 60, shown=30)


def build_gsplat(check: Check) -> bool:
    """Compile gsplat's kernels, as its first import does; this takes minutes."""
    major, minor = torch.cuda.get_device_capability(check.device)
    headers = [str(path) for folder in sys.path for path in Path(folder).glob("nvidia/cu*/include")]
    environ = {
        "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}",
        "MAX_JOBS": str(num_processors()),
        # torch's headers include those of cuBLAS and others, which may be in torch's packages only.
        "CPATH": os.pathsep.join([*filter(None, [os.environ.get("CPATH")]), *headers]),
    }
    command = [sys.executable, "-c", "from gsplat.cuda._backend import _C; assert _C"]
    return check.run("gsplat: compile", command, 300, environ)


def train(check: Check) -> None:
    """A captured scene, if TEST_DATA has it, else the demo scene, in both schedules; and a training on both devices."""
    sizes, demo = check.sizes, check.work / "demo"
    scene, budget = Path(os.environ.get("TEST_DATA", "")) / "scenes" / sizes.capture, sizes.capture_budget
    if not check.run("demo scene", python("compact_splats.demo.scene", demo, *sizes.demo), 60):
        return
    if not os.environ.get("TEST_DATA") or not scene.is_dir():
        check.result(sizes.capture, "skipped", "not in TEST_DATA, the demo scene is used")
        scene, budget = demo, sizes.demo_budget
    for schedule, limit in (("fast", 120), ("full", 240)):
        run = train_once(check, check.device, scene.resolve(), schedule, budget, limit, *sizes.training)
        profile_trained(check, scene.resolve(), run)
        render = python("render.py", "-m", run, "--skip-train", "--device", check.device.type)
        if check.run(f"{run.name}: render", render, 60):
            picture = check.folder / f"{run.name}.png"
            check.run(
                f"{run.name}: picture", python("compact_splats.suite.comparison", "-m", run, "--out", picture), 30
            )
    more = ("--iterations", str(sizes.parity_steps))
    devices = dict.fromkeys((check.device, torch.device("cpu")))
    runs = [train_once(check, device, demo, "fast", sizes.demo_budget, 60, *more) for device in devices]
    values = [summary["test"]["psnr"] for run in runs if (summary := summary_of(run))]
    if len(values) == len(runs):
        gap = max(values) - min(values)
        check.result("parity", "ok" if gap <= PARITY_DB else "failed", f"test PSNR differs by {gap:.3f} dB")


def profile_trained(check: Check, scene: Path, run: Path) -> None:
    """The kernels of a step on a trained model."""
    models = sorted(run.glob("point_cloud/iteration_*/point_cloud.ply"), key=lambda path: path.stat().st_mtime)
    if models:
        options = ["--scene", scene, "--ply", models[-1], "--device", check.device.type]
        out = check.folder / f"kernels-{run.name}.json"
        check.run(f"{run.name}: kernels", python("benchmarks.kernels", *options, "--out", out), 60, shown=20)


def train_once(
    check: Check, device: torch.device, scene: Path, schedule: str, budget: int, limit: float, *more: str
) -> Path:
    """Train; returns the folder of the run."""
    run = check.work / "-".join([scene.name, schedule, *more[1:], device.type])
    options = ["-s", scene, "-m", run, "--eval", "--schedule", schedule, "--final-budget", budget, "--quiet", *more]
    check.run(run.name, python("train.py", *options, "--device", device.type), limit)
    if summary := summary_of(run):
        check.say(
            f"    {summary['num_gaussians']:,} Gaussians, {summary['training_minutes']:.2f} min, "
            f"{summary['steps_per_second']:.1f} steps/s, test PSNR {summary['test']['psnr']:.2f} dB, SSIM "
            f"{summary['test']['ssim']:.4f}, {summary.get('peak_device_mb', summary['peak_rss_mb']):,.0f} MB"
        )
    return run


def summary_of(run: Path) -> dict[str, Any]:
    """summary.json of a run; empty if it is not finished."""
    path = run / "summary.json"
    return json.loads(path.read_text()) if path.exists() else {}


PARTS = {"smoke": smoke, "tests": tests, "speed": speed, "train": train}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try this script")
    parser.add_argument("--minutes", type=float, help="for all parts together; what finds no time left fails")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to try this script")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    return options


def main() -> int:
    """Run the parts; returns the exit code."""
    options = parse_arguments()
    try:
        device = pick_device(options.device, diff_gaussian_rasterization.DEVICES)
    except InputError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        if torch.cuda.is_available():
            print(f"gpu-check: the engine was built without CUDA: {engine_build().get('reason')}", file=sys.stderr)
        return 1 if torch.cuda.is_available() else 2
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        check = Check(options.out.resolve(), Path(work), device, QUICK if options.quick else Sizes())
        check.say(head(device))
        end = time.monotonic() + 60 * (options.minutes or 60 * len(PARTS))
        for name in options.parts or PARTS:
            check.say(f"\n{name}")
            check.deadline = min(time.monotonic() + PART_SECONDS, end)
            PARTS[name](check)
    check.say(f"\nfailed: {', '.join(check.failed)}" if check.failed else "\nall steps passed")
    return int(bool(check.failed))


if __name__ == "__main__":
    sys.exit(main())
