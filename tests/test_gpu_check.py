"""benchmarks.gpu_check on a machine without a GPU: how steps end, and what is reported."""

import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import QUICK, Check


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
