"""How many CPU threads are used without --threads: affinity, limits of control groups, OMP_NUM_THREADS, torch."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import usable_processors
from diff_gaussian_rasterization.queue import thread_count
from usable_processors import cpu_quota, default_threads, num_processors

from compact_splats.arguments.device import use_threads

ROOT = Path(__file__).parent.parent

# (lines of /proc/self/cgroup, files below /sys/fs/cgroup, processors)
LIMITS = {
    "version 2": (["0::/a/b"], {"a/b/cpu.max": "150000 100000\n"}, 1.5),
    "version 2, of a group above": (["0::/a/b"], {"a/cpu.max": "50000 100000", "a/b/cpu.max": "300000 100000"}, 0.5),
    "version 2, none": (["0::/a"], {"a/cpu.max": "max 100000\n"}, math.inf),
    "version 2, in a container": (["0::/"], {"cpu.max": "400000 100000\n"}, 4),
    "version 2, the host's path": (["0::/docker/1f"], {"cpu.max": "400000 100000\n"}, 4),
    "version 1": (
        ["3:memory:/m", "2:cpu,cpuacct:/a", "0::/"],
        {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n", "cpu.max": "max 100000\n"}, 2.5,
    ),
    "version 1, none": (
        ["2:cpu:/a"], {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, math.inf,
    ),
    "version 1, of another controller": (
        ["2:cpuset:/a"], {"cpu/a/cpu.cfs_quota_us": "1\n", "cpu/a/cpu.cfs_period_us": "2\n"}, math.inf,
    ),
    "nonsense": (["0::/a"], {"a/cpu.max": "many\n", "cpu.max": ""}, math.inf),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_the_limit_is_the_smallest_from_the_group_to_the_root(name, tmp_path):
    lines, files, expected = LIMITS[name]
    groups, mounted = tmp_path / "cgroup", tmp_path / "mounted"
    groups.write_text("".join(f"{line}\n" for line in lines))
    for path, text in files.items():
        (mounted / path).parent.mkdir(parents=True, exist_ok=True)
        (mounted / path).write_text(text)
    assert cpu_quota(mounted, groups) == expected


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert cpu_quota(tmp_path, tmp_path / "missing") == math.inf


@pytest.mark.parametrize(("quota", "expected"), [(math.inf, 6), (0.2, 1), (1.5, 2), (6.0, 6), (64.0, 6)])
def test_a_limit_allows_the_next_whole_number_of_processors(quota, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(6), raising=False)
    monkeypatch.setattr(usable_processors, "cpu_quota", lambda: quota)
    assert num_processors() == expected


def python(code: str, **environ: str) -> str:
    """What a new process prints, which starts in the checkout without OMP_NUM_THREADS unless it is given."""
    rest = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=rest | environ, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_affinity_of_the_process_counts():
    one = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    code = "import compact_splats, os, torch; from diff_gaussian_rasterization.queue import thread_count as n; "
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    assert python(one + code + "print(n(0), torch.get_num_threads())") == "1 1"
    # Also if it changes later, when torch does not notice.
    assert python(code + one + "print(n(0))") == "1"


def test_omp_num_threads_counts_with_and_without_torch():
    code = "import usable_processors as u; u.num_processors = lambda: 12; print(u.default_threads())"
    for value, expected in (("3", "3"), ("5,2", "5"), ("40", "12"), ("0", "12"), ("all", "12")):
        assert python(code, OMP_NUM_THREADS=value) == expected
    assert python(code) == "12"
    assert python("import torch; " + code, OMP_NUM_THREADS="1") == "1"


def test_a_share_of_the_processors_is_at_least_one_thread(monkeypatch):
    monkeypatch.setattr(usable_processors, "num_processors", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert [default_threads(num) for num in (1, 2, 3, 4, 20)] == [3, 3, 2, 2, 1]


@pytest.fixture
def threads_of_torch(monkeypatch):
    """On a machine of 8 processors; torch's number is restored."""
    before = torch.get_num_threads()
    monkeypatch.setattr(usable_processors, "num_processors", lambda: 8)
    monkeypatch.setattr("compact_splats.arguments.device.num_processors", lambda: 8)
    yield
    torch.set_num_threads(before)


def test_the_engine_takes_the_threads_of_torch(threads_of_torch):
    for set_to, expected in ((1, 1), (3, 3), (50, 8)):
        torch.set_num_threads(set_to)
        assert thread_count(0) == default_threads() == expected and thread_count(5) == 5


def test_threads_0_is_what_was_set_elsewhere_whatever_an_earlier_run_was_told(threads_of_torch):
    torch.set_num_threads(3)
    for flag, expected in ((0, 3), (1, 1), (0, 3), (6, 6), (2, 2), (0, 3)):
        use_threads(flag)
        assert torch.get_num_threads() == expected
    torch.set_num_threads(50)
    use_threads(0)
    assert torch.get_num_threads() == 8


def test_torch_starts_with_all_processors_that_can_be_used():
    code = "import compact_splats, os, torch; from usable_processors import num_processors as n; "
    assert python(code + "print(torch.get_num_threads() == n())") == "True"
    for number in ("1", "5"):
        assert python(code + "print(torch.get_num_threads())", OMP_NUM_THREADS=number) == number
