"""benchmarks.gpu_check on a machine without a GPU: how steps end, and what is reported."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_check, kernels, wheels
from benchmarks.gpu_check import QUICK, Check
from benchmarks.rasterizer import deterministic


@pytest.fixture
def check(tmp_path: Path) -> Check:
    (tmp_path / "out").mkdir()
    return Check(tmp_path / "out", tmp_path, torch.device("cpu"), QUICK)


def summary(check: Check) -> list[str]:
    return (check.folder / "summary.txt").read_text().splitlines()


def test_a_step_that_fails_does_not_stop_the_others(check, capsys):
    assert not check.run("bad", [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], 30)
    assert check.run("good", [sys.executable, "-c", "print('one'); print('two')"], 30, shown=1)
    assert check.failed == ["bad"]
    assert [line.split()[:2] for line in summary(check)[::2]] == [["bad", "failed"], ["good", "ok"]]
    assert "exit code 3" in summary(check)[0] and summary(check)[1::2] == ["    the reason", "    two"]
    assert capsys.readouterr().out.splitlines() == summary(check)
    assert "the reason\n" in (check.folder / "log.txt").read_text()


def test_a_step_that_takes_too_long_is_ended_with_all_that_it_started(check, tmp_path):
    beat = tmp_path / "beat"
    start = time.monotonic()
    assert not check.run("slow", ["sh", "-c", f"(while true; do date >>{beat}; sleep 0.05; done) & wait"], 0.5)
    assert time.monotonic() - start < 10
    size = beat.stat().st_size
    time.sleep(0.3)
    assert beat.stat().st_size == size
    assert summary(check)[0].split()[1:3] == ["too", "slow"] and check.failed == ["slow"]


def test_after_the_deadline_nothing_is_started(check):
    check.deadline = time.monotonic() - 1
    assert not check.run("late", ["/no/such/program"], 30)
    assert "no time left" in summary(check)[0] and check.failed == ["late"]


def test_parts_can_be_selected(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(gpu_check, "PARTS", {name: lambda check, n=name: ran.append(n) for name in gpu_check.PARTS})
    for flags, expected in ((["speed"], ["speed"]), ([], ["smoke", "tests", "speed", "train"])):
        monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path), "--device", "cpu", *flags])
        assert gpu_check.main() == 0 and ran == expected
        ran.clear()
    assert "all steps passed" in (tmp_path / "summary.txt").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path / "out")])
    assert gpu_check.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu-check: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_minutes_are_for_all_parts_together(tmp_path, monkeypatch):
    seconds = []
    parts = {name: lambda check: seconds.append(check.deadline - time.monotonic()) for name in ("a", "b")}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path), "--device", "cpu", "--minutes", "0.5"])
    assert gpu_check.main() == 0
    assert 29 < seconds[1] < seconds[0] <= 30


def test_each_file_of_tests_has_a_line(check, tmp_path, monkeypatch):
    (tmp_path / "test_good.py").write_text("def test_cpu(): pass\ndef test_cpu_too(): pass\ndef test_other(): pass\n")
    (tmp_path / "test_bad.py").write_text("def test_cpu_is_wrong(): assert 1 == 2\n")
    (tmp_path / "test_none.py").write_text("def test_other(): pass\n")
    found = gpu_check.test_files("cpu", [str(tmp_path)])
    assert [Path(file).name for file in found] == ["test_bad.py", "test_good.py"]
    paths = [str(tmp_path / Path(file).name) for file in found]
    monkeypatch.setattr(gpu_check, "test_files", lambda which, where: paths)
    gpu_check.tests(check)
    lines = {line.split()[0]: line for line in summary(check) if not line.startswith(" ")}
    assert "ok" in lines["test_good.py"] and "2 passed, 1 deselected" in lines["test_good.py"]
    assert "failed" in lines["test_bad.py"] and check.failed == ["test_bad.py"]
    assert any("FAILED" in line and "test_cpu_is_wrong" in line for line in summary(check))


def test_kernels_are_set_beside_the_rate_of_copies_and_the_waits_of_the_host():
    """100 Gaussians of 59 numbers: Adam reads 4 arrays and writes 3. Waits are calls of cuda...Synchronize."""

    def event(key: str, count: int, us: float, on_gpu: bool) -> SimpleNamespace:
        device = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
        return SimpleNamespace(
            key=key, count=count, device_type=device, self_device_time_total=us, self_cpu_time_total=us
        )

    events = [
        event("dgr::cuda::(anonymous namespace)::adam_kernel(dgr::AdamParams)", 2, 200.0, True),
        event("void at::native::fill", 4, 600.0, True),
        event("cudaLaunchKernel", 6, 50.0, False),
        event("cudaStreamSynchronize", 2, 400.0, False),
    ]
    times = kernels.kernel_times(events, 2, True)
    assert [(each["ms"], each["calls"], each["share"]) for each in times] == [(0.3, 2, 0.75), (0.1, 1, 0.25)]
    kernels.add_bytes(times, kernels.bytes_at_least(100, 500, 3000, 59), copy_rate=100 * 59 * 7 * 4 / 0.5e-4)
    assert times[1]["bytes"] == 100 * 59 * 7 * 4 and times[1]["share_of_copy_rate"] == pytest.approx(0.5)
    assert "bytes" not in times[0]
    host = kernels.host_figures(events, 2, 0.5, 0.4)
    assert host == pytest.approx({"step_ms": 0.5, "idle_share": 0.2, "waits": 1, "wait_ms": 0.2, "host_ms": 0.3})
    text = kernels.table({"kernels": times, "host": host, "copy_gb_per_second": 8.0})
    assert "50%" in text and "idle 20%" in text and "waits 1.0 times" in text


def test_wheels_that_are_needed_have_the_versions_of_the_requirements(monkeypatch):
    """What cannot be imported is printed, and nothing else."""
    assert wheels.lacking() == [line for line in wheels.lacking() if "numpy" not in line and "pytest==" not in line]
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda module: None if module == "plyfile" else module)
    assert wheels.lacking() == [wheels.pins()["plyfile"]] and "plyfile==" in wheels.lacking()[0]
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda module: None)
    assert len(wheels.lacking()) == len(wheels.NEEDED) and wheels.pins()["constriction"] in wheels.lacking()


def test_deterministic_figures_do_not_fill_new_memory(monkeypatch):
    """As ``--deterministic`` of train.py; by default torch fills it."""
    calls = []  # torch's own function imports its compiler, which takes seconds
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda is_on, **options: calls.append(is_on))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    with deterministic(True):
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.utils.deterministic.fill_uninitialized_memory and calls == [True, False]
