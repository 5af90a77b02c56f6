"""Seconds until something happens: the --help of each script, and the first step of ``train.py`` on a scene.

    python -m benchmarks.start --scene SCENE --out start.json

Medians of repeats, in wall time and CPU time of the process with its threads. One run before them is not counted: it
compiles to bytecode. ``--cold`` compiles in every run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info

ROOT = Path(__file__).parent.parent
SCRIPTS = ("train", "render", "metrics", "compress", "view", "convert", "test", "test-fast")
# train.py as it is, but it ends when its first step has been recorded.
FIRST_STEP = """
import os, runpy, sys
from compact_splats.training import run_context
run_context.RunContext.record = lambda self, step: os._exit(step.number != 1)
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def measure(words: list[str], repeats: int, cold: bool) -> dict[str, float]:
    """Median seconds of a Python process."""
    taken = []
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1"} if cold else {}
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        for _ in range(repeats + 1):
            before, start = os.times(), time.perf_counter()
            subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True, capture_output=True)
            wall, after = time.perf_counter() - start, os.times()
            cpu = sum(getattr(after, each) - getattr(before, each) for each in ("children_user", "children_system"))
            taken.append((wall, cpu))
    wall, cpu = (statistics.median(each) for each in zip(*taken[1:], strict=True))
    return {"wall_seconds": round(wall, 3), "cpu_seconds": round(cpu, 3)}


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, help="folder of a scene; without it only --help is measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="without compiled bytecode")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    jobs = {f"{script}.py --help": [f"{script}.py", "--help"] for script in SCRIPTS}
    with tempfile.TemporaryDirectory() as folder:
        if options.scene:
            flags = ["-s", str(options.scene.absolute()), "-m", f"{folder}/run", "--final-budget", "20000", "--eval"]
            jobs["train.py to step 1"] = ["-c", FIRST_STEP, *flags]
        results = {}
        for name, words in jobs.items():
            results[name] = measure(words, options.repeats, options.cold)
            print(f"{name:20} {results[name]['wall_seconds']:6.2f} s wall {results[name]['cpu_seconds']:6.2f} s CPU")
    if options.out:
        write_json(options.out, {"machine": machine_info(), "cold": options.cold, "results": results})


if __name__ == "__main__":
    main()
