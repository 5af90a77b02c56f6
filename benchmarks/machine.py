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
        "commit": os.environ.get("COMMIT") or commit(),
    }


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> str:
    """The checkout's commit, "-dirty" behind it if files differ; empty outside of a checkout."""
    return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", "-uno") else "")


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
    prepare: Callable[[], object] | None = None,
) -> float:
    """Median wall time of one call of ``work``, after some that are not counted.

    A GPU is waited for. It is given several calls at a time, as in a training, where the next call is made ready
    while it works; with ``prepare``, which runs before each call and is not timed, only one.
    """
    on_gpu = device.type != "cpu"
    batch = 10 if on_gpu and prepare is None else 1
    num_warm_up = 3 if on_gpu else 1
    times = []
    for _ in range(repeats + num_warm_up):
        if prepare is not None:
            prepare()
        synchronize(device)
        start = time.perf_counter()
        for _ in range(batch):
            work()
        synchronize(device)
        times.append((time.perf_counter() - start) / batch)
    return statistics.median(times[num_warm_up:])
