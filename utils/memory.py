"""How much main memory a process may still take: of the machine, of its container, and of its own limit."""

from __future__ import annotations

from pathlib import Path

_VERSION_2, _VERSION_1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that are left, by Linux's account; None elsewhere.

    The least of what the machine has (pages that are caches count as free), of what the control groups of the process
    leave it, as containers and batch systems set them, and of its own limit (``ulimit -v``).

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    try:
        free = [_entries(root / "proc/meminfo")["MemAvailable"]]
        used = _entries(root / "proc/self/status")["VmSize"]
    except (OSError, KeyError):  # no Linux, or an old one
        return None
    import resource  # not on Windows

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free.append(limit - used)
    return max(0, min(free + _left_by_groups(root)))


def _left_by_groups(root: Path) -> list[int]:
    """What each control group that has a limit leaves, of the process's own and those above it."""
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
        own = base / name.strip("/")  # in a container it may not be there, as its group is the root
        groups = [group for group in (own, *own.parents) if group == base or base in group.parents]
        left += [each for each in (_left_by_group(group, files) for group in groups) if each is not None]
    return left


def _left_by_group(group: Path, files: tuple[str, str]) -> int | None:
    """Limit minus use, where caches that the kernel would give up do not count as used; None without a limit."""
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
    """The sizes that a file of Linux's names, in bytes."""
    lines = (line.split(":", 1) for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in lines}
