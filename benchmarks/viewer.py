"""The cost of train.py --viewer without an open page: pairs of trainings with and without it, in alternating order.

``python -m benchmarks.viewer --pairs 6`` prints the time of each training, and the median ratio of the pairs in wall
time and in CPU time. CPU time depends less on other work on the machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compact_splats.demo.scene import write_demo_scene

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--final-budget", type=int, default=3000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene"
        write_demo_scene(scene, width=160, height=120, num_views=12, num_points=3000)
        flags = ["-s", str(scene), "--schedule", "fast", "--iterations", str(args.iterations), "--quiet"]
        flags += ["--final-budget", str(args.final_budget), "--no-tensorboard"]
        pairs = [measured_pair(flags, Path(folder), index) for index in range(args.pairs)]
    for name, unit in (("seconds", "s of training"), ("cpu_seconds", "s of CPU")):
        ratios = [with_viewer[name] / without[name] for without, with_viewer in pairs]
        print(
            f"{unit}: with --viewer {100 * (statistics.median(ratios) - 1):+.2f} % (median of {len(ratios)} pairs, ",
            end="",
        )
        print(f"from {100 * (min(ratios) - 1):+.1f} to {100 * (max(ratios) - 1):+.1f} %)")


def measured_pair(flags: list[str], folder: Path, index: int) -> tuple[dict, dict]:
    """A training without and one with --viewer; the order alternates."""
    order = ([], ["--viewer", "0"])
    taken = {}
    for extra in order if index % 2 else order[::-1]:
        out = folder / f"{index}-{len(extra)}"
        taken[len(extra)] = measured(["-m", str(out), *flags, *extra], out)
        print(f"pair {index + 1}, {'with' if extra else 'without'}: {taken[len(extra)]}", flush=True)
    return taken[0], taken[2]


def measured(flags: list[str], out: Path) -> dict[str, float]:
    """Seconds of the steps, CPU seconds of the process, and seconds of the process."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "train.py", *flags], cwd=ROOT, check=True)
    after, whole = os.times(), time.perf_counter() - start
    cpu = sum(getattr(after, each) - getattr(before, each) for each in ("children_user", "children_system"))
    minutes = json.loads((out / "summary.json").read_text())["training_minutes"]
    return {"seconds": round(60 * minutes, 2), "cpu_seconds": round(cpu, 2), "whole_seconds": round(whole, 2)}


if __name__ == "__main__":
    main()
