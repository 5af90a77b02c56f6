"""The run folder, the order of views, clock and memory."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from compact_splats.training.run_folder import Run, RunFolder, free_folder
from compact_splats.training.view_sampler import ViewSampler
from compact_splats.utils.errors import InputError
from compact_splats.utils.images import to_uint8
from compact_splats.utils.usage import Stopwatch

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_view_is_drawn_once_before_any_is_drawn_again():
    sampler = ViewSampler(7, seeded())
    rounds = [[sampler.draw() for _ in range(7)] for _ in range(20)]
    assert all(sorted(views) == list(range(7)) for views in rounds)
    assert len({tuple(views) for views in rounds}) > 1  # shuffled anew


def test_the_generator_alone_decides_the_order():
    one, same, other = (ViewSampler(50, seeded(seed)) for seed in (1, 1, 2))
    order = [one.draw() for _ in range(120)]
    assert order == [same.draw() for _ in range(120)]
    assert order != [other.draw() for _ in range(120)]


@pytest.mark.parametrize(("count", "expected"), [(None, 5), (5, 5), (10, 5), (3, 3)])
def test_many_views_are_different_ones(count, expected):
    drawn = ViewSampler(5, seeded()).draw_many(count)
    assert len(drawn) == len(set(drawn)) == expected


def test_a_paused_clock_stands_still():
    clock = Stopwatch(CPU)
    with clock.paused():
        before = clock.seconds
        time.sleep(0.05)
        assert clock.seconds == before
    time.sleep(0.02)
    assert clock.seconds >= before + 0.02


def test_the_memory_meter_sees_what_came_and_went():
    """In a process of its own: the system may take idle pages from a large one while it is measured."""
    program = """
import json, torch
from compact_splats.utils.usage import MemoryMeter
meter = MemoryMeter(torch.device("cpu"))
block = torch.ones(50_000_000 // 4)
del block
print(json.dumps(meter.read()))
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["peak_rss_mb"] > 50
    if "peak_rss_above_start_mb" in figures:  # Linux
        assert 45 < figures["peak_rss_above_start_mb"] < 100


def test_the_log_starts_anew_and_is_there_line_by_line(tmp_path):
    for value in (1, 2):
        run = Run(tmp_path / "run")
        run.log("step", 10, {"loss": value})
        lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
        assert [(line["event"], line["iteration"], line["loss"]) for line in lines] == [("step", 10, value)]
        run.close()


def test_making_a_run_writes_nothing(tmp_path):
    Run(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_is_no_run_folder(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can.t be written"):
        Run(tmp_path / place)


def test_default_folders_never_meet_an_older_run(tmp_path):
    assert free_folder("fox", tmp_path) == tmp_path / "fox"
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox-2").mkdir()
    assert free_folder("fox", tmp_path) == tmp_path / "fox-3"


def test_saved_iterations_are_numbers_in_order(tmp_path):
    for name in ("iteration_7000", "iteration_30000", "iteration_500", "iteration_last", "other"):
        (tmp_path / "point_cloud" / name).mkdir(parents=True)
        (tmp_path / "point_cloud" / name / "point_cloud.ply").touch()
    (tmp_path / "point_cloud" / "iteration_9").mkdir()  # nothing in it yet
    assert RunFolder(tmp_path).saved_iterations() == [500, 7000, 30000]


def test_images_are_clamped_and_rounded():
    values = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.0, 7.0])
    assert np.array_equal(to_uint8(values), [0, 0, 0, 1, 254, 255, 255])
