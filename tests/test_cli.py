"""Command line, configs and their JSON: every flag once, and what a user can get wrong."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from compact_splats.arguments import TrainConfig, pick_device
from compact_splats.arguments.options import from_json, to_json
from compact_splats.arguments.render import RenderConfig
from compact_splats.arguments.schedule import FAST, FULL, QUICK
from compact_splats.utils.errors import InputError

ROOT = Path(__file__).parent.parent
NEEDED = ["-s", "scene", "--final-budget", "100"]
SHARED_FLAGS = [
    ("-i images_4", "images", "images_4"),
    ("--images images_4", "images", "images_4"),
    ("-r 2", "resolution", 2),
    ("--resolution -1", "resolution", -1),
    ("-w", "white_background", True),
    ("--alpha mask", "alpha", "mask"),
    ("--white_background", "white_background", True),
    ("--sparse 1", "sparse", 1),
    ("--eval", "eval", True),
    ("--antialiasing", "antialiasing", True),
    ("--photo-memory 4GB", "photo_memory", "4GB"),
    ("--keep-nan", "keep_nan", True),
    ("--device cpu", "device", "cpu"),
    ("--threads 3", "threads", 3),
    ("-s other", "source_path", Path("other")),
    ("-m out", "model_path", Path("out")),
    ("--quiet", "quiet", True),
]
TRAIN_FLAGS = [
    *SHARED_FLAGS,
    ("--source_path other", "source_path", Path("other")),
    ("--model_path out", "model_path", Path("out")),
    ("--all_photos", "all_photos", True),
    ("--final_budget 7", "final_budget", 7),
    ("--schedule fast", "schedule", "fast"),
    ("--iterations 50", "iterations", 50),
    ("--minutes 2.5", "minutes", 2.5),
    ("--test_iterations 7000 9000", "test_iterations", (7000, 9000)),
    ("--save_iterations 7000", "save_iterations", (7000,)),
    ("--sh_degree 1", "sh_degree", 1),
    ("--seed 5", "seed", 5),
    ("--random_background", "random_background", True),
    ("--deterministic", "deterministic", True),
    ("--selection cutoff", "selection", "cutoff"),
    ("--sh_rest_lr 0.02", "sh_rest_lr", 0.02),
    ("--densify_grad_threshold 1e-3", "densify_grad_threshold", 1e-3),
    ("--lambda_dssim 0.5", "lambda_dssim", 0.5),
    ("--init_ply some.ply", "init_ply", Path("some.ply")),
    ("--checkpoint_every 10m", "checkpoint_every", "10m"),
    ("--no-resume", "resume", False),
    ("--no-tensorboard", "tensorboard", False),
    ("--viewer 9000", "viewer", 9000),
]
RENDER_FLAGS = [
    *SHARED_FLAGS,
    ("--model some.ply", "model", Path("some.ply")),
    ("--iteration 7000", "iteration", 7000),
    ("--skip_train", "skip_train", True),
    ("--skip_test", "skip_test", True),
    ("--depth", "depth", True),
    ("--counts", "counts", True),
    ("--rgba", "rgba", True),
    ("--cameras cameras.json", "cameras", Path("cameras.json")),
    ("--time", "time", True),
]
VIDEO_FLAGS = [
    ("--video b.gif", "video", Path("b.gif")),
    ("--path spline", "path", "spline"),
    ("--fps 12", "fps", 12),
    ("--frames 50", "frames", 50),
    ("--seconds 2.5", "seconds", 2.5),
    ("--size 64 48", "size", (64, 48)),
]


@pytest.mark.parametrize(("words", "field", "value"), TRAIN_FLAGS)
@pytest.mark.parametrize("separator", ["_", "-"])
def test_a_flag_of_train_sets_its_field_and_nothing_else(words, field, value, separator):
    flag, *rest = words.split(" ")
    flag = "--" + flag[2:].replace("_", separator) if flag.startswith("--") else flag
    plain = TrainConfig.from_command_line(NEEDED)
    with_minutes = {"schedule": "quick"} if field == "minutes" else {}
    expected = dataclasses.replace(plain, **{field: value}, **with_minutes)
    assert TrainConfig.from_command_line([*NEEDED, flag, *rest]) == expected


@pytest.mark.parametrize(("words", "field", "value"), RENDER_FLAGS)
def test_a_flag_of_render_sets_its_field_and_nothing_else(words, field, value):
    needed = ["-s", "scene", "-m", "model"]
    plain = RenderConfig.from_command_line(needed)
    changed = RenderConfig.from_command_line([*needed, *words.split(" ")])
    assert changed == dataclasses.replace(plain, **{field: value})


@pytest.mark.parametrize(("words", "field", "value"), VIDEO_FLAGS)
def test_a_flag_of_a_video_sets_its_field_and_nothing_else(words, field, value):
    needed = ["-m", "model", "--video", "a.mp4"]
    plain = RenderConfig.from_command_line(needed)
    changed = RenderConfig.from_command_line([*needed, *words.split(" ")])
    assert changed == dataclasses.replace(plain, **{field: value})


@pytest.mark.parametrize(
    ("config", "flags"), [(TrainConfig, TRAIN_FLAGS), (RenderConfig, [*RENDER_FLAGS, *VIDEO_FLAGS])]
)
def test_the_tables_above_hold_every_flag(config, flags):
    assert {field for _, field, _ in flags} == {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize("config", [TrainConfig, RenderConfig])
def test_every_switch_can_be_turned_off_again(config):
    for field in dataclasses.fields(config):
        if field.metadata["type"] is bool:
            flag = field.name.replace("_", "-")
            on_and_off = [*NEEDED[:2], "-m", "out", f"--{flag}", f"--no-{flag}"]
            needed = on_and_off + (NEEDED[2:] if config is TrainConfig else [])
            assert getattr(config.from_command_line(needed), field.name) is False


def test_a_value_may_follow_an_equals_sign_and_keeps_its_underscores():
    assert TrainConfig.from_command_line([*NEEDED, "--images=images_4"]).images == "images_4"


@pytest.mark.parametrize(
    "words",
    [
        "--final-budget 0",
        "--final-budget -5",
        "--final-budget many",
        "--final-budget 1.5",
        "--iteration 5",
        "--no-such-flag",
        "stray",
        "--test",
        "--iterations 0",
        "--iterations 100 --test-iterations 101",
        "--iterations 100 --save-iterations 0",
        "--schedule fast --save-iterations 15001",
        "--schedule slow",
        "--sh-degree 4",
        "--lambda-dssim 1.5",
        "--lambda-dssim nan",
        "--sh-rest-lr -1",
        "--densify-grad-threshold -1",
        "--resolution 0",
        "--threads -1",
        "--seed -1",
        "--device tpu",
        "--images",
        "--resume",
        "--checkpoint-every soon",
        "--checkpoint-every 0m",
        "--checkpoint-every nanm",
        "--checkpoint-every 1.5",
        "--checkpoint-every=-5",
    ],
)
def test_bad_flags_of_train_are_one_line(words):
    with pytest.raises(InputError) as error:
        TrainConfig.from_command_line([*NEEDED, *words.split(" ")])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("argv", [[], ["-s", "scene"], ["--final-budget", "5"]])
def test_what_training_cannot_do_without_is_asked_for(argv):
    with pytest.raises(InputError, match="is missing"):
        TrainConfig.from_command_line(argv)


def test_an_unknown_flag_brings_the_closest_known_one():
    with pytest.raises(InputError, match="did you mean --iterations"):
        TrainConfig.from_command_line([*NEEDED, "--iteration", "5"])


@pytest.mark.parametrize("script", ["convert.py", "train.py", "render.py"])
def test_scripts_end_on_bad_flags_with_one_line_and_exit_code_2(script, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / script, "--final-budgets", "0"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_config_survives_json(tmp_path):
    words = "-m out --test-iterations 3 4 --eval --lambda-dssim 0 --iterations 50 --schedule fast".split()
    config = TrainConfig.from_command_line([*NEEDED, *words])
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    absolute = {"source_path": Path("scene").absolute(), "model_path": Path("out").absolute()}
    assert TrainConfig.from_folder(tmp_path) == dataclasses.replace(config, **absolute)


def test_entries_that_nobody_knows_are_passed_over():
    """A config of a later version can still be rendered."""
    assert from_json(TrainConfig, {"seed": 3, "later": 1}, Path("config.json")) == {"seed": 3}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"final_budget": "many"}', '{"eval": 1}', '{"iterations": [3]}', "{}"]
)
def test_a_broken_config_file_is_one_line(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError) as error:
        TrainConfig.from_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_the_schedule_follows_the_flags():
    plain = TrainConfig.from_command_line(NEEDED)
    assert plain.make_schedule() == FULL
    assert dataclasses.replace(plain, schedule="fast").make_schedule() == FAST
    assert dataclasses.replace(plain, schedule="quick").make_schedule() == QUICK
    changed = dataclasses.replace(plain, iterations=600, sh_rest_lr=0.02, densify_grad_threshold=6e-4).make_schedule()
    assert changed.iterations == 600
    assert changed.learning_rates.sh_rest == 0.02 / 20
    assert changed.densification_rounds[0].gradient_threshold == 6e-4
    assert changed.densification_rounds[0].late_threshold == pytest.approx(4e-4)


def test_render_takes_the_scene_from_the_run_unless_told_otherwise(tmp_path):
    config = TrainConfig.from_command_line([*NEEDED, "--eval", "-r", "2", "-w", "--antialiasing", "--threads", "3"])
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    taken = RenderConfig.from_command_line(["-m", str(tmp_path)])
    assert taken.source_path == Path("scene").absolute() and taken.resolution == 2
    assert taken.eval and taken.white_background and taken.antialiasing
    assert taken.threads == 0  # the machine that renders need not be the one that trained
    told = RenderConfig.from_command_line(["-m", str(tmp_path), "-s", "other", "-r", "4", "--no-white-background"])
    assert (told.source_path, told.resolution, told.white_background) == (Path("other"), 4, False)


def test_a_gpu_that_cannot_be_used_is_refused_by_name_only():
    assert pick_device("auto", usable=("cpu",)).type == "cpu"
    with pytest.raises(InputError, match="--device cuda"):
        pick_device("cuda", usable=("cpu",))
