"""The processors that this process may use, and the number of CPU threads that follows. It does not import torch."""

from __future__ import annotations

import math
import os
import sys
from functools import lru_cache
from pathlib import Path


def num_processors() -> int:
    """Processors that the affinity of the process and the CPU limits of its control groups allow; 1 or more."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cpu_quota())))


def default_threads(num_processes: int = 1) -> int:
    """CPU threads of each of some processes that share the processors.

    Not more than OMP_NUM_THREADS or, if torch is loaded, than ``torch.get_num_threads()``, which starts with that.
    """
    share = max(1, num_processors() // num_processes)
    if "torch" in sys.modules:
        return min(share, sys.modules["torch"].get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list is for nested threads
    return min(share, int(wanted)) if wanted.isdecimal() and int(wanted) > 0 else share


@lru_cache
def cpu_quota(mounted: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> float:
    """Processors that the CPU limits of the control groups allow, those above included; infinite without a limit.

    Version 2 has ``cpu.max``; version 1 has ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` below ``cpu``.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container may see the path of the host, which does not exist here. Its limit is then that of the root.
        steps = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(steps) + 1):
            folder = (mounted / "cpu" if controllers else mounted).joinpath(*steps[:depth])
            quota = min(quota, _quota_of(folder, is_first_version=bool(controllers)))
    return quota


def _quota_of(folder: Path, is_first_version: bool) -> float:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if is_first_version else ("cpu.max",)
    try:
        limit, period = " ".join((folder / name).read_text() for name in names).split()
    except (OSError, ValueError):
        return math.inf
    return float(limit) / float(period) if limit.isdecimal() and int(limit) > 0 else math.inf  # or "max", -1
