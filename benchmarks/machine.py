"""What a benchmark notes beside its figures: machine, versions, commit; and how it takes times."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from utils.usage import synchronize


def machine_info() -> dict[str, str | int]:
    """Processor, cores usable by this process, accelerator if any, versions and the commit of the checkout."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": num_cores(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", "-uno") else ""),
    }


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def median_seconds(
    work: Callable[[], object],
    repeats: int,
    device: torch.device,
    prepare: Callable[[], object] = lambda: None,
) -> float:
    """Median wall time of one call of ``work``, after one that is not counted.

    Accelerators are waited for. ``prepare`` runs before each call and is not timed.
    """
    times = []
    for _ in range(repeats + 1):
        prepare()
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
