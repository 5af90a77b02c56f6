"""Checks this project on a GPU, in four parts: smoke, tests, speed, train.

    make gpu-check OUT=folder
    python -m benchmarks.gpu_check --out folder smoke tests

Each part takes less than 10 minutes; without a name all parts run. A step that fails or exceeds its time limit does not
stop the others. Exit codes: 0 = all steps passed, 1 = a step failed, 2 = no GPU. No network is needed. OUT gets
summary.txt, which is written step by step, log.txt, the figures of the speed as JSON, and a picture of each training.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diff_gaussian_rasterization
import torch
from usable_processors import num_processors

from compact_splats.arguments import pick_device
from compact_splats.utils.errors import InputError
from compact_splats.utils.machine import machine_info

ROOT = Path(__file__).parent.parent
PART_SECONDS = 560
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


QUICK = Sizes(
    speed=("--gaussians", "500", "2000", "--sizes", "96x64", "--repeats", "2"),
    profiled=("--gaussians", "2000", "--size", "96x64"), capture="fox_tiny", capture_budget=2000,
    demo=("--width", "96", "--height", "64", "--views", "12", "--points", "1500"), demo_budget=1000,
    training=("--iterations", "60"), parity_steps=40,
)  # fmt: skip


class Check:
    """Runs steps, and writes summary.txt and log.txt.

    Args:
        folder: of the files that stay.
        device: to check.
        sizes: of scenes and trainings.

    Attributes:
        work: folder of all other files.
        deadline: time.monotonic() at which the part ends.
        failed: names of the steps that failed.
    """

    def __init__(self, folder: Path, work: Path, device: torch.device, sizes: Sizes) -> None:
        self.folder, self.work, self.device, self.sizes = folder, work, device, sizes
        self.deadline = time.monotonic() + PART_SECONDS
        self.failed: list[str] = []

    def run(
        self, name: str, command: list[str], limit: float, environ: Mapping[str, str] | None = None, *, shown: int = 0
    ) -> bool:
        """Run a step.

        Args:
            name: of the step.
            command: its output goes to log.txt.
            limit: s.
            environ: variables to add.
            shown: lines at the end of the output that also go to summary.txt; of a step that fails at least 15.

        Returns:
            Whether it ended with exit code 0.
        """
        limit, start = min(limit, self.deadline - time.monotonic()), time.monotonic()
        if limit <= 0:
            return self.result(name, "too slow", "no time left in this part")
        log = self.folder / "log.txt"
        with log.open("ab") as file:
            file.write(f"\n===== {name}: {' '.join(command)}\n".encode())
            file.flush()
            begin = file.tell()
            code = run_group(command, environ, file, limit)
        status = "ok" if code == 0 else "too slow" if code is None else "failed"
        self.result(name, status, f"exit code {code}" if code else "", time.monotonic() - start)
        with log.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode(errors="replace").splitlines()
        count = shown if code == 0 else max(shown, 15)
        for line in lines[-count:] if count else []:
            self.say(f"    {line}")
        return code == 0

    def result(self, name: str, status: str, note: str = "", seconds: float = 0.0) -> bool:
        """Report the status of a step, "ok", "skipped", "failed" or "too slow"; whether it is "ok"."""
        self.say(f"{name:<30}{status:<10}{seconds:>7.1f} s  {note}".rstrip())
        if status in ("failed", "too slow"):
            self.failed.append(name)
        return status == "ok"

    def say(self, text: str) -> None:
        """Print a line, and append it to summary.txt."""
        print(text, flush=True)
        with (self.folder / "summary.txt").open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def run_group(command: list[str], environ: Mapping[str, str] | None, output: Any, limit: float) -> int | None:
    """Run a program, and end it with all that it started; its exit code, or None after ``limit`` seconds."""
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nothing of it runs any more
        process.wait()


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
    """Every call of the engine on small inputs, and a short training."""
    check.run("engine", python("benchmarks.exercise", "--device", check.device.type), 120)
    scene = check.work / "small"
    if check.run("small scene", python("compact_splats.demo.scene", scene, *QUICK.demo), 60):
        train_once(check, check.device, scene, "fast", QUICK.demo_budget, 120, *QUICK.training)


def tests(check: Check) -> None:
    """The engine's tests on this device, and its calls under compute-sanitizer."""
    on_gpu = check.device.type != "cpu"
    where = ["tests"] if on_gpu else ["tests/test_rasterizer_bits.py", "tests/test_photometric_loss.py"]
    which = "cuda and not emulat and not install" if on_gpu else "cpu"
    command = python("pytest", "-q", "-p", "no:cacheprovider", "-k", which, *where)
    passed = check.run("tests", command, 300, shown=1)
    if passed and " passed" not in (check.folder / "summary.txt").read_text().splitlines()[-1]:
        check.result("tests", "failed", "all were skipped")
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
        for name in options.parts or PARTS:
            check.say(f"\n{name}")
            check.deadline = time.monotonic() + PART_SECONDS
            PARTS[name](check)
    check.say(f"\nfailed: {', '.join(check.failed)}" if check.failed else "\nall steps passed")
    return int(bool(check.failed))


if __name__ == "__main__":
    sys.exit(main())
