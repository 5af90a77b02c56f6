"""What a training costs: time and memory."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MB = 1e6  # bytes


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given; nothing on the CPU."""
    getattr(torch, device.type).synchronize()


class Stopwatch:
    """Seconds of work, without what happens in :meth:`paused`. Runs from the start."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0.0
        self._since: float | None = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time so far; exact on a GPU only while paused."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of this block."""
        synchronize(self._device)
        self._before, self._since = self.seconds, None
        try:
            yield
        finally:
            synchronize(self._device)
            self._since = time.perf_counter()

    def state_dict(self) -> dict[str, float]:
        """The time so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from ``state_dict``, whether running or paused."""
        self._before = state["seconds"]
        self._since = None if self._since is None else time.perf_counter()


class MemoryMeter:
    """Peak memory since the meter was made."""

    def __init__(self, device: torch.device) -> None:
        self._accelerator = getattr(torch, device.type) if device.type != "cpu" else None
        if self._accelerator:
            self._accelerator.reset_peak_memory_stats()
        _reset_peak()
        self._start = _status("VmRSS")
        self._earlier: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """Figures in MB: peak of the process, what of that came since the start, and the peak on the device."""
        peak = _peak()
        figures = {"peak_rss_mb": peak / MB}
        if self._start is not None:
            figures["peak_rss_above_start_mb"] = (peak - self._start) / MB
        if self._accelerator:
            figures["peak_device_mb"] = self._accelerator.max_memory_allocated() / MB
        return {name: max(value, self._earlier.get(name, value)) for name, value in figures.items()}

    def state_dict(self) -> dict[str, float]:
        """The figures so far."""
        return self.read()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take the peaks of the run that is continued into account."""
        self._earlier = dict(state)


def _reset_peak() -> None:
    """Let the kernel's high-water mark fall to the present level, where it can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then the peak is that of the whole process, which is an upper bound


def _peak() -> int:
    """Bytes; the high-water mark of the process's resident memory."""
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(entry: str) -> int | None:
    """Bytes of an entry of Linux's process status; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(entry + ":")), None)
