"""Everything that needs a GPU, in one go and under ten minutes: tests, compute-sanitizer, speed, training.

    make gpu-check OUT=folder        # or, where all is installed: python -m benchmarks.gpu_check --out folder

Each part is a process with a time limit of its own; one that fails or takes too long does not stop the others, but
sets the exit code: 0 = all well, 1 = a part failed, 2 = no GPU. Without a network it works as well. It leaves 8 files:
report.json, summary.txt, log.txt, tests.xml and a picture for each training.
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
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import diff_gaussian_rasterization
import torch

from benchmarks import kernels, rasterizer
from compact_splats.arguments import pick_device
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info

ROOT = Path(__file__).parent.parent
ATTENTION = 5  # seconds that a part must have left to be started at all
LOG_BYTES = 8_000_000
PICTURE_WIDTH = 1500  # px; even without compression three rows of portraits stay below 16 MiB then
GSPLAT_LOG = "gsplat.txt"


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        gaussians, sizes, repeats: of the benchmark.
        profiled: Gaussians and size of the table of kernels.
        fox, fox_budget: the captured scene, and its final number of Gaussians.
        demo: options of utils.demo_scene.
        demo_budget: its final number of Gaussians.
        training: more options of train.py.
        parity_steps: length of the training that is done on the CPU, too.
    """

    gaussians: tuple[str, ...] = ("100000", "500000", "1000000", "3000000")
    sizes: tuple[str, ...] = ("800x530", "1600x1060")
    repeats: int = 10
    profiled: tuple[str, str] = ("1000000", "1600x1060")
    fox: str = "fox_medium"
    fox_budget: int = 100_000
    demo: tuple[str, ...] = ()
    demo_budget: int = 20_000
    training: tuple[str, ...] = ()
    parity_steps: int = 1500


QUICK = Sizes(
    gaussians=("500", "2000"), sizes=("96x64",), repeats=2, profiled=("2000", "96x64"), fox="fox_tiny", fox_budget=2000,
    demo=("--width", "96", "--height", "64", "--views", "12", "--points", "1500"), demo_budget=1000,
    training=("--iterations", "60"), parity_steps=40,
)  # fmt: skip


@dataclass
class Check:
    """The parts so far, and how to add one.

    Attributes:
        folder: where the files that stay go.
        work: where the rest goes.
        deadline: time.monotonic() by which all is over.
        parts: name, status ("ok", "failed", "too slow", "skipped"), seconds and note of each part.
    """

    folder: Path
    work: Path
    deadline: float
    parts: list[dict[str, Any]] = field(default_factory=list)

    def run(self, name: str, command: list[str], limit: float, environ: Mapping[str, str] | None = None) -> bool:
        """Run a part. Its output goes to the log, and its end to the terminal too if it fails.

        Returns:
            Whether it went well.
        """
        limit = min(limit, self.deadline - time.monotonic())
        if limit < ATTENTION:
            return self.skip(name, "no time left")
        print(f"{name} ...", flush=True)
        start, place = time.monotonic(), self._log().stat().st_size
        with self._log().open("ab") as log:
            log.write(f"\n===== {name}: {' '.join(command)}\n".encode())
            log.flush()
            process = start_group(command, environ, log)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end_group(process)
        status = "too slow" if code is None else "ok" if code == 0 else "failed"
        note = "" if code == 0 else f"stopped after {limit:.0f} s" if code is None else f"exit code {code}"
        self._add(name, status, time.monotonic() - start, note)
        if status != "ok":
            with self._log().open("rb") as log:
                log.seek(place)
                print("\n".join(f"    {line}" for line in log.read().decode(errors="replace").splitlines()[-15:]))
        return status == "ok"

    def skip(self, name: str, reason: str) -> bool:
        """Note that a part is left out, which is no failure unless time was short."""
        self._add(name, "too slow" if reason == "no time left" else "skipped", 0.0, reason)
        return False

    def fail(self, name: str, trace: str) -> None:
        """Note that this script itself broke."""
        self.note(name, trace)
        self._add(name, "failed", 0.0, trace.splitlines()[-1])

    def note(self, name: str, text: str) -> None:
        """Put text into the log."""
        with self._log().open("a") as log:
            log.write(f"\n===== {name}\n{text}\n")

    def _add(self, name: str, status: str, seconds: float, note: str) -> None:
        self.parts.append({"part": name, "status": status, "seconds": round(seconds, 1), "note": note})
        print(f"{name}: {status}, {seconds:.1f} s{', ' if note else ''}{note}", flush=True)

    def _log(self) -> Path:
        path = self.folder / "log.txt"
        path.touch()
        return path

    def shorten_log(self) -> None:
        """Keep the end of a log that has become too long to carry away."""
        content = self._log().read_bytes()
        if len(content) > LOG_BYTES:
            self._log().write_bytes(b"(the beginning is cut off)\n" + content[-LOG_BYTES:])


def start_group(command: list[str], environ: Mapping[str, str] | None, output: Any) -> subprocess.Popen:
    """Start a process in a group of its own, so that it can be ended with all that it starts."""
    full = {**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})}
    return subprocess.Popen(
        command, cwd=ROOT, env=full, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )


def end_group(process: subprocess.Popen) -> None:
    """End a process and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended, and left nothing behind
    process.wait()


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs a module or a script."""
    how = [module] if module.endswith(".py") else ["-m", module]
    return [sys.executable, *how, *map(str, arguments)]


def build_report(device: torch.device) -> dict[str, Any]:
    """Machine, GPU, driver, toolkit, architectures and commit."""
    report = machine_info() | {"engine": engine_build()}
    if device.type != "cpu":
        properties = torch.cuda.get_device_properties(device)
        report |= {
            "gpu": properties.name,
            "gpu_memory_mb": properties.total_memory / 1e6,
            "multiprocessors": properties.multi_processor_count,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "torch_cuda": torch.version.cuda,
            "driver": first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        }
    return report


def engine_build() -> dict[str, Any]:
    """What the installed engine says about its build."""
    path = Path(diff_gaussian_rasterization.__file__).parent / "build.json"
    return json.loads(path.read_text()) if path.exists() else {}


def first_line(*command: str) -> str | None:
    """What a command prints first; None where it does not run."""
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return lines[0].strip() if lines else None


@contextmanager
def gsplat_under_construction(device: torch.device, output: Path) -> Iterator[subprocess.Popen | None]:
    """Lets gsplat, if it is there, compile its kernels beside the tests, as its first import does; it takes minutes."""
    if device.type == "cpu" or importlib.util.find_spec("gsplat") is None:
        yield None
        return
    major, minor = torch.cuda.get_device_capability(device)
    headers = [str(path) for folder in sys.path for path in Path(folder).glob("nvidia/cu*/include")]
    environ = {
        "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}",
        "MAX_JOBS": str(os.cpu_count() or 1),
        # torch's headers include those of cuBLAS and others, which a small toolkit leaves to torch's packages.
        "CPATH": os.pathsep.join([*filter(None, [os.environ.get("CPATH")]), *headers]),
    }
    with output.open("wb") as file:
        process = start_group([sys.executable, "-c", "from gsplat.cuda._backend import _C; assert _C"], environ, file)
        try:
            yield process
        finally:
            end_group(process)


def run_tests(check: Check, device: torch.device, quick: bool) -> dict[str, Any]:
    """The tests of the engine on this device."""
    results = check.folder / "tests.xml"
    where = ["tests"] if device.type != "cpu" else ["tests/test_rasterizer_bits.py", "tests/test_photometric_loss.py"]
    which = "cuda and not emulat and not install" if device.type != "cpu" else "cpu"
    limit = 60 if quick else 150
    check.run(
        "tests", python("pytest", "-q", "-p", "no:cacheprovider", "-k", which, f"--junitxml={results}", *where), limit
    )
    if not results.exists():
        return {}
    suite = ElementTree.parse(results).getroot().find("testsuite")
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    if counts["tests"] == counts["skipped"]:
        check.parts[-1] |= {"status": "failed", "note": "no test ran"}
    return {**counts, "failed": failed}


def run_sanitizer(check: Check, device: torch.device) -> None:
    """Out-of-bounds accesses and races, on small inputs; or without the tool, the same calls alone."""
    check.run("all calls", python("benchmarks.exercise", "--device", device.type), 60)
    places = ["/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", os.environ.get("PATH", "")]
    tool = shutil.which("compute-sanitizer", path=os.pathsep.join(places))
    for name in ("memcheck", "racecheck"):
        if device.type == "cpu" or tool is None:
            check.skip(name, "it needs a GPU" if device.type == "cpu" else "no compute-sanitizer here")
            continue
        command = [
            tool,
            "--tool",
            name,
            "--error-exitcode",
            "3",
            *python("benchmarks.exercise", "--device", device.type),
        ]
        # Without torch's cache each array is an allocation of its own, and what lies beyond it is out of bounds.
        check.run(name, command, 75, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})


def run_benchmark(check: Check, device: torch.device, sizes: Sizes, gsplat: subprocess.Popen | None) -> list[dict]:
    """Speed and memory by number of Gaussians and size of the image."""
    out = check.work / "rasterizer.json"
    options = ["--gaussians", *sizes.gaussians, "--sizes", *sizes.sizes, "--repeats", sizes.repeats, "--deterministic"]
    if gsplat is not None and has_built(check, gsplat):
        options.append("--gsplat")
    check.run("benchmark", python("benchmarks.rasterizer", "--device", device.type, "--out", out, *options), 150)
    return json.loads(out.read_text())["results"] if out.exists() else []


def has_built(check: Check, gsplat: subprocess.Popen) -> bool:
    """Waits for gsplat's kernels, as long as enough time remains for the rest."""
    limit = max(0.0, min(150, check.deadline - time.monotonic() - 240))
    start = time.monotonic()
    try:
        code = gsplat.wait(limit)
    except subprocess.TimeoutExpired:
        return check.skip("gsplat", f"its kernels were not built after {limit:.0f} s more")
    if code != 0:
        check.note("gsplat", (check.work / GSPLAT_LOG).read_text(errors="replace"))
        return check.skip("gsplat", "its kernels did not compile, see log.txt")
    print(f"gsplat: built, waited {time.monotonic() - start:.0f} s", flush=True)
    return True


def run_kernels(check: Check, device: torch.device, sizes: Sizes) -> list[dict]:
    """Where the time of a step goes."""
    out = check.work / "kernels.json"
    gaussians, size = sizes.profiled
    options = ["--gaussians", gaussians, "--size", size, "--device", device.type, "--out", out]
    check.run("kernels", python("benchmarks.kernels", *options), 60)
    return json.loads(out.read_text())["kernels"] if out.exists() else []


def run_training(
    check: Check, device: torch.device, scene: Path, schedule: str, budget: int, limit: float, *more: str
) -> dict[str, Any]:
    """Train; returns the summary and the curve, or how far it came."""
    name = "-".join([scene.name, schedule, *more[1:]])
    run = check.work / f"{name}-{device.type}"
    options = ["-s", scene, "-m", run, "--eval", "--schedule", schedule, "--final-budget", budget, "--quiet", *more]
    is_done = check.run(f"{name} on {device.type}", python("train.py", *options, "--device", device.type), limit)
    log = run / "log.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    steps = [{key: entry[key] for key in entry if key != "event"} for entry in entries if entry.get("event") == "step"]
    every = 10 if len(steps) > 50 else 1
    result = {"scene": scene.name, "schedule": schedule, "device": device.type, "budget": budget, "options": more,
              "curve": steps[every - 1 :: every]}  # fmt: skip
    return result | json.loads((run / "summary.json").read_text()) | {"run": str(run)} if is_done else result


def picture_of(check: Check, device: torch.device, training: dict[str, Any]) -> None:
    """Render the test views, and put photo, render and error into a picture."""
    if "run" not in training:
        return
    run, name = training["run"], f"{training['scene']}-{training['schedule']}"
    if check.run(f"{name}: render", python("render.py", "-m", run, "--skip-train", "--device", device.type), 60):
        picture = check.work / f"{name}.png"
        if check.run(f"{name}: picture", python("compact_splats.suite.comparison", "-m", run, "--out", picture), 30):
            write_small(picture, check.folder / picture.name)


def write_small(source: Path, target: Path) -> None:
    """Copy a picture, at most so wide that several can be carried away."""
    picture = cv2.imread(str(source))
    scale = PICTURE_WIDTH / picture.shape[1]
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(target), picture)


def run_trainings(check: Check, device: torch.device, sizes: Sizes) -> list[dict]:
    """The captured scene, where TEST_DATA has it, and the demo scene, each in both schedules; at last, both devices.

    Runs on the GPU and on the CPU part after some steps by rounding alone; their curves should not.
    """
    trainings = []
    data = os.environ.get("TEST_DATA")
    fox = Path(data) / "scenes" / sizes.fox if data else None
    if fox is not None and fox.is_dir():
        for schedule, limit in (("fast", 120), ("full", 200)):
            trainings.append(
                run_training(check, device, fox.resolve(), schedule, sizes.fox_budget, limit, *sizes.training)
            )
            picture_of(check, device, trainings[-1])
    else:
        check.skip(sizes.fox, "TEST_DATA is not set" if data is None else f"{fox}: no such folder")
    demo = check.work / "demo"
    if check.run("demo scene", python("compact_splats.demo.scene", demo, *sizes.demo), 60):
        for schedule, limit in (("fast", 60), ("full", 100)):
            trainings.append(run_training(check, device, demo, schedule, sizes.demo_budget, limit, *sizes.training))
            picture_of(check, device, trainings[-1])
        for each in dict.fromkeys((device, torch.device("cpu"))):
            more = ("--iterations", str(sizes.parity_steps))
            trainings.append(run_training(check, each, demo, "fast", sizes.demo_budget, 60, *more))
    return trainings


def summary(report: dict[str, Any]) -> str:
    """The report for a reader."""
    build, tests = report["build"], report["tests"]
    engine = build["engine"].get("cuda") or {}
    lines = [
        f"commit {build['commit'] or 'unknown'}, torch {build['torch']}, {build.get('gpu') or build['processor']}, "
        f"driver {build.get('driver')}, engine by nvcc {engine.get('nvcc')} for {engine.get('architectures')}",
        "",
        *(f"{p['part']:<30}{p['status']:<10}{p['seconds']:>7.1f} s  {p['note']}" for p in report["parts"]),
    ]
    if tests:
        lines += ["", f"tests: {tests['tests']}, failures {tests['failures']}, errors {tests['errors']}, "
                  f"skipped {tests['skipped']}", *(f"    {name}" for name in tests["failed"][:20])]  # fmt: skip
    if report["benchmark"]:
        lines += ["", rasterizer.table(report["benchmark"]), *ratios(report["benchmark"])]
    if report["kernels"]:
        lines += ["", kernels.table(report["kernels"], 20)]
    if report["trainings"]:
        lines += ["", f"{'training':<24}{'Gaussians':>10}{'minutes':>9}{'steps/s':>9}{'PSNR':>8}{'SSIM':>8}{'MB':>8}"]
    for t in report["trainings"] or []:
        name = f"{t['scene']}, {t['schedule']}, {t['device']}"
        if "test" in t:
            lines.append(
                f"{name:<24}{t['num_gaussians']:>10,}{t['training_minutes']:>9.2f}{t['steps_per_second']:>9.1f}"
                f"{t['test']['psnr']:>8.2f}{t['test']['ssim']:>8.4f}{t.get('peak_device_mb', t['peak_rss_mb']):>8,.0f}"
            )
        else:
            lines.append(f"{name:<24}  not finished; last: {t['curve'][-1] if t['curve'] else 'nothing'}")
    return "\n".join(lines)


def ratios(results: list[dict]) -> list[str]:
    """How our whole step compares with gsplat's, case by case."""
    cases: dict[tuple, dict[str, dict]] = {}
    for result in results:
        if "error" not in result:
            case = (result["gaussians"], result["width"], result["height"])
            cases.setdefault(case, {})[result["engine"]] = result
    lines = []
    for (gaussians, width, height), engines in cases.items():
        if {"ours", "gsplat"} <= set(engines):
            ours, theirs = engines["ours"], engines["gsplat"]
            speed = theirs["seconds"]["step"] / ours["seconds"]["step"]
            memory = ours["peak_device_mb"] / theirs["peak_device_mb"]
            lines.append(
                f"{gaussians:>10,} {width}x{height}: {speed:.2f} times gsplat's speed, {memory:.2f} of its memory"
            )
    return lines


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; it is made")
    parser.add_argument("--minutes", type=float, default=8.5, help="all parts together (default: 8.5)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try this script itself")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to try this script itself")
    return parser.parse_args()


def main() -> int:
    """Run all parts; returns the exit code."""
    options = parse_arguments()
    try:
        device = pick_device(options.device, diff_gaussian_rasterization.DEVICES)
    except InputError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        if torch.cuda.is_available():
            print(f"gpu-check: the engine was built without CUDA: {engine_build().get('reason')}", file=sys.stderr)
        return 1 if torch.cuda.is_available() else 2
    sizes = QUICK if options.quick else Sizes()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "log.txt").write_text("")
    with (
        tempfile.TemporaryDirectory() as folder,
        gsplat_under_construction(device, (work := Path(folder)) / GSPLAT_LOG) as gsplat,
    ):
        check = Check(options.out.resolve(), work, time.monotonic() + 60 * options.minutes)
        report: dict[str, Any] = {"build": build_report(device), "parts": check.parts}
        # What matters most comes first.
        for name, part in {
            "tests": lambda: run_tests(check, device, options.quick),
            "benchmark": lambda: run_benchmark(check, device, sizes, gsplat),
            "kernels": lambda: run_kernels(check, device, sizes),
            "trainings": lambda: run_trainings(check, device, sizes),
            "sanitizer": lambda: run_sanitizer(check, device),
        }.items():
            try:
                report[name] = part()
            except Exception:  # of this script's own; the other parts shall have their turn
                report[name] = None
                check.fail(name, traceback.format_exc())
            write_json(options.out / "report.json", report)  # after each, for the event that this is stopped
    check.shorten_log()
    text = summary(report)
    (options.out / "summary.txt").write_text(text + "\n")
    print(f"\n{text}")
    return int(any(part["status"] in ("failed", "too slow") for part in check.parts))


if __name__ == "__main__":
    sys.exit(main())
