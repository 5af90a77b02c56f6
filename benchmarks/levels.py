"""Times the CPU engine at each level of the instruction set, beside a build for this processor, in turns.

    python -m benchmarks.levels                       # random scenes
    python -m benchmarks.levels --scene SCENE -r 270

Needs the wheel's engine (``make wheels``, or an install with DGR_ARCH=portable) and a compiler. Least CPU time of one
thread, as other work on the machine takes wall time.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from diff_gaussian_rasterization import _C, levels

from benchmarks.native import ENGINE, find_compiler, package_flags
from benchmarks.rasterizer import load_case, our_work, trainable_model
from compact_splats.arguments.device import use_threads
from compact_splats.utils.errors import InputError, run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info


def native_library(folder: Path) -> Path:
    """The engine built for this processor, as the library of a level."""
    compiler = find_compiler()
    if compiler is None:
        raise InputError("there is no C++ compiler to build the engine for this processor")
    sources = [*sorted((ENGINE / "src").glob("cpu_*.cpp")), ENGINE / "src" / "level.cpp"]
    flags = ["-std=c++20", "-w", *package_flags(), "-march=native", "-fPIC", "-shared", "-fvisibility=hidden"]
    subprocess.run([compiler, *flags, "-pthread", *map(str, sources), "-o", str(folder / "native.so")], check=True)
    return folder / "native.so"


def main() -> None:
    """Measure all levels, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, help="folder of a real scene instead of random ones")
    parser.add_argument("-r", "--resolution", type=int, default=-1, help="as for train.py")
    parser.add_argument("--gaussians", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--size", default="480x360", help="of random scenes, WxH")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write all figures as JSON here")
    options = parser.parse_args()
    usable = [name for name, is_supported in _C.LEVELS.items() if is_supported]
    if not usable:
        raise InputError("this engine was built for one processor; install it with DGR_ARCH=portable")
    use_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = {"native": native_library(Path(folder))} | {name: levels.library_of(name) for name in usable}
        tables = {name: levels.open_level(path) for name, path in paths.items()}
    results = []
    for num in options.gaussians:
        size = options.resolution if options.scene else options.size
        camera, photo, points = load_case(options.scene, "images", size, num)
        work = our_work(camera, photo, trainable_model(points, torch.device("cpu")))
        parts = {"forward": work.forward, "both": work.forward_backward, "loss": work.loss, "step": work.step}
        taken = defaultdict(list)
        for _ in range(options.repeats + 1):  # the first turn warms up
            for name, table in tables.items():
                _C.use_level(table)
                for part, run in parts.items():
                    start = time.thread_time()
                    run()
                    taken[name, part].append(time.thread_time() - start)
        print(f"{num:,} Gaussians, {camera.width}x{camera.height}, ms of CPU (ratio to native)")
        for name in tables:
            least = {part: min(taken[name, part][1:]) for part in parts}
            ratio = {part: least[part] / min(taken["native", part][1:]) for part in parts}
            print(f"{name:8}" + "".join(f"{part:>9}{1e3 * least[part]:8.1f} ({ratio[part]:.2f})" for part in parts))
            results.append({"gaussians": num, "width": camera.width, "level": name, "seconds": least, "ratio": ratio})
    if options.out:
        write_json(options.out, {"machine": machine_info(), "results": results})


if __name__ == "__main__":
    run_script(main)
