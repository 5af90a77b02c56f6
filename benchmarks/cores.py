"""Speed of a training step on many cores, computed on one by how long each item of parallel work takes.

    python -m benchmarks.cores                                                # a random scene
    python -m benchmarks.cores --scene SCENE -r 270 --gaussians 13445 45000   # a real one

A thread that is free takes the next item. All that is outside of the parallel rounds is serial: the C++ around them,
Python and torch's operations. The model leaves out memory bandwidth, shared caches and the waking of threads.
"""

from __future__ import annotations

import argparse
import heapq
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import diff_gaussian_rasterization
import torch

from benchmarks.native import build, write_case
from benchmarks.rasterizer import Work, load_case, our_work, ready_to_train
from compact_splats.arguments.device import use_threads
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.errors import run_script

CORES = (1, 8, 16, 64)
ROUNDS = {  # of each call of the engine
    "forward": ("project", "tile lists", "count", "scatter", "blend"),
    "loss": ("loss", "its gradient"),
    "backward": ("blend", "project"),
    "gradients": ("check", "add"),
    "adam": ("adam",),
}


def makespan(items: list[float], cores: int) -> float:
    """When the last item ends if a core that is free takes the next one."""
    free = [0.0] * min(cores, max(len(items), 1))
    for item in items:
        heapq.heapreplace(free, free[0] + item)
    return max(free)


class Timed:
    """An extension module that adds up the time within its calls."""

    def __init__(self, module: Any) -> None:
        self.module, self.seconds = module, 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.module, name)
        if name not in ("forward", "backward", "photometric_loss", "add_gradients", "adam"):
            return value

        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = value(*args, **options)
            self.seconds += time.perf_counter() - start
            return result

        return call


def python_microseconds(work: Work, repeats: int) -> float:
    """Least time of a step outside of the engine's calls. Wall time: reading a thread's CPU clock can take 200 us."""
    modules = (diff_gaussian_rasterization.render_pass, diff_gaussian_rasterization.optimizer)
    timed = Timed(modules[0]._C)
    for module in modules:
        module._C = timed
    least = float("inf")
    for _ in range(repeats):
        timed.seconds, start = 0.0, time.perf_counter()
        work.step()
        least = min(least, time.perf_counter() - start - timed.seconds)
    for module in modules:
        module._C = timed.module
    return 1e6 * least


def measure(
    program: Path, case: Path, repeats: int, cores: int
) -> tuple[dict[str, float], dict[str, list[list[float]]]]:
    """Microseconds of each call of the engine: outside of the rounds, and of each item of each round."""
    lines = subprocess.run([program, case, str(repeats), str(cores)], check=True, capture_output=True, text=True).stdout
    serial: dict[str, float] = {}
    rounds: dict[str, list[list[float]]] = defaultdict(list)
    for call, what, *numbers in map(str.split, lines.splitlines()):
        if what == "serial":
            serial[call] = float(numbers[0])
        else:
            rounds[call].append([float(number) for number in numbers])
    return serial, rounds


def report(program: Path, case: Path, repeats: int, python: float) -> None:
    """Print the table of one case."""
    print(f"{'us':<24}{'items':>7}{'longest':>9}" + "".join(f"{f'{n} cores':>10}" for n in CORES))
    columns = []
    for cores in CORES:
        serial, rounds = measure(program, case, repeats, cores)
        column = {}
        for call, names in ROUNDS.items():
            for name, items in zip(names, rounds[call], strict=True):
                column[f"{call}: {name}"] = (len(items), max(items, default=0), makespan(items, cores))
            column[f"{call}: serial"] = (1, serial[call], serial[call])
        columns.append(column | {"Python, torch: serial": (1, python, python)})
    for name, (num, longest, _) in columns[-1].items():
        print(f"{name:<24}{num:>7}{longest:>9.0f}" + "".join(f"{column[name][2]:>10.0f}" for column in columns))
    totals = [sum(us for _, _, us in column.values()) for column in columns]
    engine = [sum(us for name, (_, _, us) in column.items() if "Python" not in name) for column in columns]
    serial_share = sum(us for name, (_, _, us) in columns[0].items() if "serial" in name) / totals[0]
    print(f"{'step':<40}" + "".join(f"{total:>10.0f}" for total in totals))
    print(f"{'speed-up':<40}" + "".join(f"{totals[0] / total:>10.1f}" for total in totals))
    print(f"{'speed-up of the engine alone':<40}" + "".join(f"{engine[0] / each:>10.1f}" for each in engine))
    print(
        f"serial: {serial_share:.1%} of the step on one core, {serial_share - python / totals[0]:.1%} in the engine\n"
    )


def main() -> None:
    """A table for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, help="folder of a real scene instead of a random one")
    parser.add_argument("-i", "--images", default="images", help="its images folder")
    parser.add_argument("-r", "--resolution", type=int, default=-1, help="as for train.py, with --scene")
    parser.add_argument("--gaussians", type=int, nargs="+", default=[30_000], help="numbers of Gaussians")
    parser.add_argument("--size", default="640x480", help="of the random scene, WxH")
    parser.add_argument("--repeats", type=int, default=10, help="the least time of this many counts")
    options = parser.parse_args()
    use_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program, case = build(folder / "build", "cores", include="timed_team.h"), folder / "case.bin"
        for num in options.gaussians:
            size = options.size if options.scene is None else options.resolution
            camera, photo, points = load_case(options.scene, options.images, size, num)
            model = ready_to_train(GaussianModel.from_points(points, 3, "cpu"))
            with torch.no_grad():
                write_case(case, camera, photo, model)
            print(f"{num:,} Gaussians, {camera.width}x{camera.height}")
            report(program, case, options.repeats, python_microseconds(our_work(camera, photo, model), options.repeats))


if __name__ == "__main__":
    run_script(main)
