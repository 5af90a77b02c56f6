"""Counts the instructions of each part of the CPU engine, and fails where a part has more than its limit.

    python -m benchmarks.instructions                       # a random scene
    python -m benchmarks.instructions --scene SCENE -r 270  # the middle view of a real one

Two checks on one thread, neither of which depends on the machine's load:

* callgrind counts the instructions of an AVX2 build, per splat-pixel pair, pixel or Gaussian;
* objdump reads the code for this machine's processor: a loop that writes a vector lane by lane, which valgrind cannot
  count where the processor has AVX-512, shows as many such writes in one function.

A check whose program is missing is skipped, with the reason. The CPU times are printed for information.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.native import build, write_case
from benchmarks.rasterizer import load_case
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.errors import run_script

# Part: what its instructions are divided by, the parts that it contains and that are subtracted, and the limit: a
# fifth above what GCC 12 gives on the random scene.
PARTS = {
    "project": ("Gaussian", [], 450),
    "plan": ("Gaussian", ["project"], 610),
    "forward": ("pair", ["plan"], 5.0),
    "backward": ("pair", ["project_backward"], 8.6),
    "backward_with_stats": ("pair", ["project_backward"], 9.8),
    "importance": ("pair", ["plan"], 5.0),
    "project_backward": ("Gaussian", [], 900),
    "loss": ("pixel", [], 220),
    "adam": ("Gaussian", [], 160),
}
NAMES = {"plan": "ordering"}
# Functions with the innermost loops, and writes of single lanes: broadcasts under a mask, and inserts.
HOT = re.compile(r"(blend_tile|blend_tile_backward|importance_tile|measure_band|pull_back_band)<float[^>]*>")
LANE_WRITE = re.compile(r"v?(insertps|pinsr[dq])\b|vp?broadcast.*\{%k[0-7]\}")
MAX_LANE_WRITES = 8


def make_case(options: argparse.Namespace, path: Path) -> None:
    """Write the view and the Gaussians that the options name, with random SH coefficients."""
    size, num = ("320x240", 10_000) if options.scene is None else (options.resolution, options.gaussians)
    camera, photo, points = load_case(options.scene, "images", size, num)
    model = GaussianModel.from_points(points, 3, "cpu")
    with torch.no_grad():
        model.sh_rest.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    write_case(path, camera, photo, model)


def measure(program: Path, case: Path, repeats: int) -> tuple[dict[str, float], int]:
    """Least CPU time of each part in ms, and the number of instances."""
    lines = subprocess.run([program, case, str(repeats)], check=True, capture_output=True, text=True).stdout
    values = {name.removeprefix("part_"): float(value) for name, value in re.findall(r"^(\w+) ([\d.]+)", lines, re.M)}
    return values, int(values.pop("instances"))


def count_instructions(program: Path, case: Path, folder: Path) -> dict[str, int]:
    """Instructions of one call of each part, by callgrind."""
    out = folder / "callgrind.out"
    subprocess.run(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--collect-atstart=no",
         "--toggle-collect=part_*", program, case, "1"], check=True, capture_output=True,
    )  # fmt: skip
    text = subprocess.run(
        ["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(out)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    counts: dict[str, int] = {}
    for number, name in re.findall(r"^ *([\d,]+) .*:part_(\w+)", text, re.M):
        counts[name] = max(counts.get(name, 0), int(number.replace(",", "")))
    return counts


def lane_writes(program: Path) -> dict[str, int]:
    """Writes of single lanes in each hot function, from its disassembly."""
    text = subprocess.run(["objdump", "-dC", "--no-show-raw-insn", program], check=True, capture_output=True, text=True)
    writes: dict[str, int] = {}
    function = None
    for line in text.stdout.splitlines():
        if line.endswith(">:"):
            match = HOT.search(line)
            function = match[0] if match else None
            if function:
                writes.setdefault(function, 0)
        elif function and LANE_WRITE.search(line):
            writes[function] += 1
    return writes


def report(counts: dict[str, int], milliseconds: dict[str, float], per: dict[str, int]) -> bool:
    """Print a line for each part; returns whether all are within their limits."""
    print(f"{'part':<22}{'ms':>8}{'M instr.':>10}{'per':>10}{'':>9}{'limit':>8}")
    good = True
    for part, (unit, contained, limit) in PARTS.items():
        line = f"{NAMES.get(part, part):<22}{milliseconds[part] - sum(milliseconds[p] for p in contained):>8.2f}"
        if counts:
            count = counts[part] - sum(counts[p] for p in contained)
            each = count / per[unit]
            good = good and each <= limit
            line += (
                f"{count / 1e6:>10.2f}{each:>10.1f} {unit:<8}{limit:>8}{'' if each <= limit else '  ABOVE THE LIMIT'}"
            )
        print(line)
    return good


def main() -> None:
    """Count, compare with the limits, and exit with 1 if one is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, help="folder of a real scene; its counts have no fixed limits")
    parser.add_argument("-r", "--resolution", type=int, default=-1, help="as for train.py, with --scene")
    parser.add_argument("--gaussians", type=int, help="with --scene (default: one for each point)")
    parser.add_argument("--repeats", type=int, default=10, help="the least CPU time of this many is printed")
    options = parser.parse_args()
    if platform.machine() != "x86_64":
        print(f"skipped: the checks know x86-64 only, this is {platform.machine()}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        case = folder / "case.bin"
        make_case(options, case)
        sizes = np.fromfile(case, np.int64, 5)
        native = build(folder / "native", "instructions")
        milliseconds, instances = measure(native, case, options.repeats)
        counts = {}
        if shutil.which("valgrind") and shutil.which("callgrind_annotate"):
            counts = count_instructions(build(folder / "avx2", "instructions", "x86-64-v3"), case, folder)
        else:
            print("skipped: the instructions are not counted without valgrind")
        per = {"Gaussian": int(sizes[0]), "pair": 256 * instances, "pixel": int(sizes[3] * sizes[4])}
        within_limits = report(counts, milliseconds, per)
        good = within_limits or options.scene is not None
        if shutil.which("objdump"):
            for function, writes in sorted(lane_writes(native).items()):
                good = good and writes <= MAX_LANE_WRITES
                print(f"{function}: {writes} writes of single lanes, at most {MAX_LANE_WRITES}")
        else:
            print("skipped: the code is not read without objdump")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    run_script(main)
