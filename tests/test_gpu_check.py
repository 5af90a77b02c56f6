"""The script for a machine with a GPU, as far as it can be held to account without one."""

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import Check


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.setattr(gpu_check, "ATTENTION", 0)
    (tmp_path / "out").mkdir()
    return Check(tmp_path / "out", tmp_path, time.monotonic() + 60)


def statuses(check: Check) -> list[str]:
    return [part["status"] for part in check.parts]


def test_a_part_that_fails_does_not_stop_the_others(check, capsys):
    assert not check.run("bad", [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], 30)
    assert check.run("good", [sys.executable, "-c", "pass"], 30)
    assert statuses(check) == ["failed", "ok"]
    assert check.parts[0]["note"] == "exit code 3"
    assert "the reason" in capsys.readouterr().out
    assert "the reason" in (check.folder / "log.txt").read_text()


def test_a_part_that_takes_too_long_is_ended_with_all_that_it_started(check, tmp_path):
    beat = tmp_path / "beat"
    start = time.monotonic()
    assert not check.run("slow", ["sh", "-c", f"(while true; do date >>{beat}; sleep 0.05; done) & wait"], 0.5)
    assert time.monotonic() - start < 10
    size = beat.stat().st_size
    time.sleep(0.3)
    assert beat.stat().st_size == size
    assert statuses(check) == ["too slow"]


def test_after_the_deadline_nothing_is_started(check):
    check.deadline = time.monotonic() - 1
    assert not check.run("late", ["/no/such/program"], 30)
    assert statuses(check) == ["too slow"] and check.parts[0]["note"] == "no time left"


def test_a_long_log_keeps_its_end(check, monkeypatch):
    monkeypatch.setattr(gpu_check, "LOG_BYTES", 100)
    check.note("part", "x" * 1000 + " the end")
    check.shorten_log()
    text = (check.folder / "log.txt").read_text()
    assert len(text) < 150 and text.endswith("the end\n")


def test_pictures_are_made_small_enough_to_be_carried(tmp_path):
    wide = np.zeros((100, 4000, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    gpu_check.write_small(tmp_path / "wide.png", tmp_path / "small.png")
    assert cv2.imread(str(tmp_path / "small.png")).shape == (38, gpu_check.PICTURE_WIDTH, 3)


def test_speed_and_memory_beside_gsplat():
    case = {"gaussians": 1000, "width": 80, "height": 60}
    ours = {**case, "engine": "ours", "seconds": {"step": 0.002}, "peak_device_mb": 50.0}
    theirs = {**case, "engine": "gsplat", "seconds": {"step": 0.005}, "peak_device_mb": 100.0}
    broken = {**case, "engine": "gsplat", "gaussians": 9, "error": "out of memory"}
    [line] = gpu_check.ratios([ours, theirs, broken])
    assert "2.50 times gsplat's speed, 0.50 of its memory" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path / "out")])
    assert gpu_check.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("gpu-check: --device cuda: expected ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
