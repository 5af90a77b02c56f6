"""Trains many times in one process, and compares the growth of its memory with a limit.

    python -m benchmarks.soak --trainings 20 --out soak.json

Each training is complete, with densification, natural selection, evaluation and saving, but small: the demo scene and a
schedule of few steps. Resident memory is read after each. The first trainings fill caches and do not count.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from compact_splats.arguments import TrainConfig
from compact_splats.demo.scene import write_demo_scene
from compact_splats.training.run import train
from compact_splats.utils.errors import run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info

LIMIT_KB = 100  # per training: the slope of a line through all trainings after the warm-up


def resident_bytes() -> int:
    """Resident memory of this process in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_after_trainings(config: TrainConfig, count: int) -> Iterator[int]:
    """Train ``count`` times into the same folder.

    Yields:
        Resident bytes after each.
    """
    for _ in range(count):
        train(config)
        gc.collect()
        yield resident_bytes()


def growth(resident: Sequence[int], warm_up: int) -> float:
    """Bytes per training: the slope of the least-squares line through all after the first ``warm_up``."""
    after = np.asarray(resident[warm_up:], np.float64)
    return float(np.polyfit(np.arange(len(after)), after, 1)[0])


def main() -> None:
    """Train, print, write the JSON; exit code 1 if memory grows by more than LIMIT_KB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5, help="trainings that do not count")
    parser.add_argument("--iterations", type=int, default=150, help="steps of each")
    parser.add_argument("--final-budget", type=int, default=800)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene"
        write_demo_scene(scene, width=96, height=64, num_views=12, num_points=1500)
        config = TrainConfig(
            source_path=scene, model_path=Path(folder) / "run", eval=True, final_budget=options.final_budget,
            iterations=options.iterations, device="cpu", threads=options.threads, quiet=True,
        )  # fmt: skip
        resident = []
        for number, now in enumerate(memory_after_trainings(config, options.trainings), 1):
            resident.append(now)
            print(f"training {number:2}: {now / 1e6:.1f} MB", flush=True)
    slope_kb = growth(resident, options.warm_up) / 1e3
    print(f"growth: {slope_kb:.0f} kB per training after the first {options.warm_up}; limit {LIMIT_KB} kB")
    if options.out:
        write_json(options.out, {
            "machine": machine_info(), "trainings": options.trainings, "iterations": options.iterations,
            "warm_up": options.warm_up, "resident_bytes": resident, "growth_kb": slope_kb, "limit_kb": LIMIT_KB,
        })  # fmt: skip
    sys.exit(slope_kb > LIMIT_KB)


if __name__ == "__main__":
    run_script(main)
