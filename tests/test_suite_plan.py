"""The flags of test.py and test-fast.py, and the plans that they make: scenes, budgets, seeds, threads."""

import shutil
from pathlib import Path

import pytest
import torch
from suite_cases import write_table

from compact_splats.arguments.suite import SuiteConfig
from compact_splats.suite.command import run_suite
from compact_splats.suite.plan import make_plan
from compact_splats.utils.errors import InputError


@pytest.fixture
def words(data_dir, tmp_path) -> list[str]:
    """The command line of the plans below."""
    table, out = str(write_table(tmp_path)), str(tmp_path / "out")
    return ["--data", str(data_dir), "--output", out, "--budget-file", table]


@pytest.mark.parametrize(
    "flags",
    [
        "--repeats 0", "--jobs 0", "--iterations 0", "--retries -1", "--threads -1", "--protocol mine",
        "--budgets 0.1,,1", "--budgets 0", "--budgets -1", "--budgets nan", "--budgets inf", "--budgets 0.5,0.50",
        "--budgets 10%", "--small --budgets 0.1", "--scenes unicycle", "--budget-file missing.txt", "--data missing",
        "--sceens bicycle",
    ],
)  # fmt: skip
def test_bad_flags_are_one_line_and_nothing_is_written(words, tmp_path, flags):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError) as error:
        run_suite([*words, *flags.split(" ")], "full")
    assert "\n" not in str(error.value) and sorted(tmp_path.iterdir()) == before


def plan_of(words: list[str], *flags: str, schedule: str = "full"):
    return make_plan(SuiteConfig.from_command_line([*words, *flags]), schedule)


def test_scenes_are_found_up_to_two_folders_down_and_others_are_said_to_be_missing(words, data_dir):
    plan = plan_of(words)
    assert [job.source for job in plan.jobs] == [data_dir / "360_v2/bicycle", data_dir / "tandt_db/tandt/train"]
    (missing,) = plan.missing
    assert missing.scene == "playroom" and "https://" in missing.where


def test_a_folder_of_a_scenes_name_that_holds_no_scene_is_none(words, data_dir):
    """Other data sets have folders of training photos that are called train."""
    shutil.copytree(data_dir / "360_v2" / "bicycle" / "images_4", data_dir / "nerf" / "lego" / "train")
    assert [job.scene for job in plan_of(words).jobs] == ["bicycle", "train"]


def test_a_scene_that_is_there_twice_is_refused_and_a_link_to_it_is_not(words, data_dir):
    (data_dir / "bicycle").symlink_to(data_dir / "360_v2" / "bicycle")
    assert len(plan_of(words).jobs) == 2
    shutil.copytree(data_dir / "tandt_db" / "tandt" / "train", data_dir / "train")
    with pytest.raises(InputError, match="scene train is there twice"):
        plan_of(words)


def test_budgets_come_from_the_column_of_the_schedule_and_from_shares(words):
    def budgets(*flags: str, schedule: str = "full") -> list[tuple]:
        jobs = plan_of(words, "--scenes", "bicycle", *flags, schedule=schedule).jobs
        return [(job.name, job.budget, job.sh_rest_lr) for job in jobs]

    assert budgets() == [("bicycle/full-normal-seed0", 200, None)]
    assert budgets("--small") == [("bicycle/full-small-seed0", 80, None)]
    assert budgets(schedule="fast") == [("bicycle/fast-fast-seed0", 150, 0.005)]
    assert budgets("--budgets", "0.1,1", "--repeats", "2") == [
        ("bicycle/full-x0.1-seed0", 20, None),
        ("bicycle/full-normal-seed0", 200, None),
        ("bicycle/full-x0.1-seed1", 20, None),
        ("bicycle/full-normal-seed1", 200, None),
    ]


def test_a_budget_that_the_table_does_not_have_is_refused(words):
    with pytest.raises(InputError, match="train.*'small'"):
        plan_of(words, "--small")
    shutil.copytree(Path(words[1]) / "360_v2" / "bicycle", Path(words[1]) / "playroom")
    with pytest.raises(InputError, match="playroom.*'fast'"):
        plan_of(words, schedule="fast")


def test_the_protocol_chooses_the_folder_of_the_photos(words):
    for protocol, images in (("canonical", ["images_4", "images"]), ("resized", ["images", "images"])):
        jobs = plan_of(words, "--protocol", protocol).jobs
        assert [job.images for job in jobs] == images and {job.resolution for job in jobs} == {-1}


def test_jobs_share_the_cores_unless_told_otherwise(words, monkeypatch):
    monkeypatch.setattr("usable_processors.num_processors", lambda: 9)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    assert [plan_of(words, "--jobs", str(n)).jobs[0].threads for n in (1, 2, 20)] == [0, 4, 1]
    assert plan_of(words, "--jobs", "2", "--threads", "3").jobs[0].threads == 3
    assert plan_of(words, "--ray", "auto").jobs[0].threads == 9  # of which Ray has to be told a number
