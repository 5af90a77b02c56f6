"""Free main memory, within the limits of the machine, the container and the process; and what malloc keeps."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_VERSION_2, _VERSION_1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Have malloc keep up to 256 MB that are freed, on Linux with glibc.

    A step of a training frees as much as the next one takes. What malloc gives back to the system in between comes
    again as pages of zeros, which can take a fifth of a step.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that malloc chooses itself


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still allocate on Linux; None on other systems.

    The minimum of the machine's available memory, the limits of the control groups (containers, batch systems), and
    the limit of the process (``ulimit -v``).

    Args:
        root: folder of ``proc`` and ``sys``, for tests.
    """
    try:
        free = [_entries(root / "proc/meminfo")["MemAvailable"]]
        used = _entries(root / "proc/self/status")["VmSize"]
    except (OSError, KeyError):  # not Linux, or an old kernel
        return None
    import resource  # not on Windows

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free.append(limit - used)
    return max(0, min(free + _left_by_groups(root)))


def _left_by_groups(root: Path) -> list[int]:
    """Bytes left by each control group with a limit, from that of the process up to the root."""
    try:
        lines = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    left = []
    for _, controllers, name in lines:
        if controllers and "memory" not in controllers.split(","):
            continue
        base, files = root / "sys/fs/cgroup", _VERSION_2
        if controllers:
            base, files = base / "memory", _VERSION_1
        own = base / name.strip("/")  # may be missing in a container, whose group is the root
        groups = [group for group in (own, *own.parents) if group == base or base in group.parents]
        left += [each for each in (_left_by_group(group, files) for group in groups) if each is not None]
    return left


def _left_by_group(group: Path, files: tuple[str, str]) -> int | None:
    """Limit minus usage, where reclaimable caches do not count as used; None without a limit."""
    try:
        limit, used = ((group / name).read_text().strip() for name in files)
        if limit == "max":
            return None
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        caches = sum(int(stat.get(f"total_{name}", stat.get(name, 0))) for name in ("inactive_file", "active_file"))
        return int(limit) - int(used) + caches
    except (OSError, ValueError):
        return None


def _entries(path: Path) -> dict[str, int]:
    """The entries of a ``/proc`` file that are sizes, in bytes."""
    lines = (line.split(":", 1) for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in lines}
