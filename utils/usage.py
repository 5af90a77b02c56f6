"""Time and peak memory of a training."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MB = 1e6  # bytes


def synchronize(device: torch.device) -> None:
    """Wait until all queued work of the device is done; immediate on the CPU."""
    import torch  # late, so that --help is fast

    getattr(torch, device.type).synchronize()


class Stopwatch:
    """Seconds since its creation, without the blocks in :meth:`paused`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0.0
        self._since: float | None = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time so far; on a GPU exact only while paused, which synchronises."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time of a block, which may lie in another such block."""
        synchronize(self._device)
        was_running = self._since is not None
        self._before, self._since = self.seconds, None
        try:
            yield
        finally:
            synchronize(self._device)
            self._since = time.perf_counter() if was_running else None

    def state_dict(self) -> dict[str, float]:
        """The time so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from ``state_dict``, whether running or paused."""
        self._before = state["seconds"]
        self._since = None if self._since is None else time.perf_counter()


class MemoryMeter:
    """Peak memory since its creation.

    Args:
        device: of the work.
        apart: what is not counted as an increase, bytes: the photos.
    """

    def __init__(self, device: torch.device, apart: Callable[[], int] = lambda: 0) -> None:
        import torch

        self._accelerator = getattr(torch, device.type) if device.type != "cpu" else None
        if self._accelerator:
            self._accelerator.reset_peak_memory_stats()
        _reset_peak()
        self._start = _status("VmRSS")
        self._apart, self._apart_at_start = apart, apart()
        self._earlier: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """In MB: peak of the process, its increase since creation, and the peak on the device."""
        peak = _peak()
        figures = {"peak_rss_mb": peak / MB}
        if self._start is not None:
            figures["peak_rss_above_start_mb"] = (peak - self._start - self._apart() + self._apart_at_start) / MB
        if self._accelerator:
            figures["peak_device_mb"] = self._accelerator.max_memory_allocated() / MB
        return {name: max(value, self._earlier.get(name, value)) for name, value in figures.items()}

    def state_dict(self) -> dict[str, float]:
        """The peaks so far."""
        return self.read()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from ``state_dict``: the peaks are those of both runs."""
        self._earlier = dict(state)


def _reset_peak() -> None:
    """Reset the kernel's peak of resident memory (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak is then that of the whole process, an upper bound


def _peak() -> int:
    """Peak resident memory of the process, bytes."""
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(entry: str) -> int | None:
    """An entry of Linux's ``/proc/self/status``, bytes; None on other systems."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(entry + ":")), None)
