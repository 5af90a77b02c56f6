"""Command line, configs and their JSON: every flag once, and what a user can get wrong."""

import ast
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from compact_splats import __main__
from compact_splats.arguments import TrainConfig, pick_device
from compact_splats.arguments.compress import CompressConfig, OrderConfig
from compact_splats.arguments.convert import ConvertConfig
from compact_splats.arguments.export import ExportConfig
from compact_splats.arguments.metrics import MetricsConfig
from compact_splats.arguments.options import from_json, given, to_json
from compact_splats.arguments.render import RenderConfig
from compact_splats.arguments.schedule import FAST, FULL, QUICK
from compact_splats.arguments.suite import SuiteConfig
from compact_splats.arguments.view import ViewConfig
from compact_splats.training.summary import describe
from compact_splats.utils.errors import InputError

ROOT = Path(__file__).parent.parent
NEEDED = ["-s", "scene", "--final-budget", "100"]
SCRIPTS = {
    "train.py": TrainConfig, "render.py": RenderConfig, "metrics.py": MetricsConfig, "compress.py": CompressConfig,
    "view.py": ViewConfig, "convert.py": ConvertConfig, "compress.py export": ExportConfig, "test.py": SuiteConfig,
}  # fmt: skip
# A value of each type that is no default, and the words for it.
EXAMPLES = {int: (["3"], 3), float: (["0.125"], 0.125), str: (["a word"], "a word"), Path: (["x/y"], Path("x/y"))}


@pytest.mark.parametrize(
    ("cls", "field"),
    [(cls, field) for cls in [*SCRIPTS.values(), OrderConfig] for field in dataclasses.fields(cls)],
    ids=lambda value: value.name if isinstance(value, dataclasses.Field) else value.__name__,
)
def test_a_flag_sets_its_field_and_nothing_else(cls, field):
    """With hyphens or underscores or by its short name; a switch can be turned off again."""
    meta, name = field.metadata, f"--{field.name}"
    names = {name, name.replace("_", "-"), meta["short"]} - {None}
    if meta["type"] is bool:
        cases = [([flag], True) for flag in names] + [([name, name.replace("--", "--no-")], False)]
    else:
        words, value = ([meta["choices"][-1]], meta["choices"][-1]) if meta["choices"] else EXAMPLES[meta["type"]]
        if meta["many"]:
            words, value = words * 2, (value, value)
        cases = [([flag, *words], value) for flag in names]
        cases += [([name], meta["alone"])] if meta["alone"] is not None else []
    for argv, expected in cases:
        assert given(cls, argv) == {field.name: expected}


def test_the_flags_of_3dgs_have_their_names():
    words = (
        "-s a -m b -i c -r 2 -w --eval --iterations 9 --test_iterations 7 8 --save_iterations 7 --sh_degree 1 --quiet "
        "--white_background --random_background --source_path a --model_path b --images c --resolution 2 "
        "--densify_grad_threshold 0.5 --lambda_dssim 0.25 --antialiasing"
    )
    config = TrainConfig.from_command_line([*words.split(), "--final-budget", "5"])
    assert (config.images, config.resolution, config.test_iterations, config.white_background) == ("c", 2, (7, 8), True)


def test_minutes_are_those_of_the_quick_schedule():
    assert TrainConfig.from_command_line([*NEEDED, "--minutes", "2.5"]).schedule == "quick"


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


# Command lines with words that have no flag, and the same with flags.
BARE = {
    "train": (TrainConfig, "my_scene --final-budget 5 --eval", "-s my_scene --final-budget 5 --eval"),
    "train, the scene last": (TrainConfig, "--final-budget 5 --eval my_scene", "-s my_scene --final-budget 5 --eval"),
    "render": (RenderConfig, "run -s scene", "-m run -s scene"),
    "render a model": (RenderConfig, "run/point_cloud/iteration_1/m.ply -s x", "-m {}/run --model {}/m.ply -s x"),
    "render a saved step": (
        RenderConfig,
        "run/point_cloud/iteration_1/point_cloud.ply -s x",
        "-m {}/run --iteration 1 -s x",
    ),
    "compress a saved step": (
        CompressConfig,
        "run/point_cloud/iteration_1/point_cloud.ply -s x",
        "-m {}/run --iteration 1 -s x",
    ),
    "metrics": (MetricsConfig, "first second", "-m first second"),
    "compress": (CompressConfig, "run -s scene", "-m run -s scene"),
    "compress a model": (CompressConfig, "other.ply -s scene", "--ply other.ply -s scene"),
    "view": (ViewConfig, "model.ply --up -z", "-m model.ply --up -z"),
    "convert": (ConvertConfig, "video.mp4 -o scene", "--photos video.mp4 -o scene"),
    "export": (ExportConfig, "a.ply b.ply --format spz", "--models a.ply b.ply --format spz"),
}


@pytest.mark.parametrize("name", BARE)
def test_a_word_without_a_flag_is_what_the_command_is_about(name, tmp_path, monkeypatch):
    """The scene of a training, the run or the model of the others; a file in a run folder is a model of this run."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "run" / "point_cloud" / "iteration_1" / "m.ply"
    file.parent.mkdir(parents=True)
    for path in (file, file.with_name("point_cloud.ply"), tmp_path / "other.ply", tmp_path / "run" / "cameras.json"):
        path.write_text("")
    cls, bare, flags = BARE[name]
    flags = flags.replace("{}/m.ply", str(file.relative_to(tmp_path))).replace("{}", str(tmp_path))
    assert cls.from_command_line(bare.split()) == cls.from_command_line(flags.split())


def test_the_scene_of_a_model_in_a_run_folder_is_that_of_the_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"source_path": "/scene", "resolution": 2}))
    (tmp_path / "m.ply").write_text("")
    config = CompressConfig.from_command_line([str(tmp_path / "m.ply")])
    assert (config.source_path, config.resolution, config.ply) == (Path("/scene"), 2, tmp_path / "m.ply")


@pytest.mark.parametrize(
    ("cls", "words", "said"),
    [
        (TrainConfig, "my_scene --final-budget 5 -s other", "'my_scene' has no flag and would be -s/--source-path"),
        (TrainConfig, "my_scene other --final-budget 5", "'my_scene' and 'other' have no flag"),
        (TrainConfig, "my_scene", "--final-budget is missing"),
        (ViewConfig, "a.ply b.ply", "'a.ply' and 'b.ply' have no flag"),
        (ViewConfig, "", "--model is missing"),
        (MetricsConfig, "", "--model-paths is missing"),
        (RenderConfig, f"{__file__} -s scene", "in no run folder"),
        (CompressConfig, "", "no model: give -m"),
        (CompressConfig, __file__, "no scene to fine-tune on"),
        (CompressConfig, f"-m {Path(__file__).parent}", "no scene to fine-tune on"),
    ],
)
def test_what_a_word_means_is_never_guessed(cls, words, said):
    with pytest.raises(InputError, match=re.escape(said)) as error:
        cls.from_command_line(words.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_begins_with_two_examples_that_can_be_typed(script, capsys, monkeypatch):
    """After the usage, and before the flags in their groups."""
    cls, (program, *subcommand) = SCRIPTS[script], script.split()
    monkeypatch.setattr(sys, "argv", [program])
    with pytest.raises(SystemExit):
        cls.from_command_line(["--help"])
    usage, _, first, second, empty, *rest = capsys.readouterr().out.splitlines()
    assert usage.startswith(f"usage: {script} ") and empty == ""
    for line in (first, second):
        python, name, *words = shlex.split(line)
        assert (python, name, words[: len(subcommand)]) == ("python", program, subcommand)
        if cls is CompressConfig and "-s" not in words:
            words += ["-s", "that of the run"]
        if cls is RenderConfig and "--video" not in words:
            words += ["-s", "that of the run"]
        cls.from_command_line(words[len(subcommand) :])
    assert [line for line in rest if line in ("basic:", "output:", "advanced:")][:1] == ["basic:"]


def test_without_a_command_the_next_steps_are_ten_lines(capsys, monkeypatch):
    """Each is a command of the table, and every script has one."""
    monkeypatch.setattr(sys, "argv", ["compact-splats"])
    __main__.main()
    head, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 9 and [line.split()[:2] for line in lines] == [
        ["compact-splats", name] for name in __main__.COMMANDS
    ]
    modules = {module for module, *_ in __main__.COMMANDS.values()}
    assert modules >= {f"commands.{path.stem}" for path in ROOT.glob("*.py") if path.stem != "setup"}


@pytest.mark.parametrize("unbuffered", ["1", ""])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(unbuffered):
    """As ``| head -1`` does: with the exit code of SIGPIPE and nothing on stderr."""
    command = subprocess.Popen(
        [sys.executable, "-m", "compact_splats", "--help"], cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    command.stdout.close()
    assert command.stderr.read() == b"" and command.wait() == 141


def test_a_command_may_have_the_name_of_its_script(capsys, monkeypatch):
    for word in ("suite-fast", "test-fast"):
        monkeypatch.setattr(sys, "argv", ["compact-splats", word, "--help"])
        with pytest.raises(SystemExit):
            __main__.main()
        assert capsys.readouterr().out.startswith("usage: compact-splats suite-fast DATA")
    monkeypatch.setattr(sys, "argv", ["compact-splats", "trian"])
    with pytest.raises(InputError, match="did you mean train"):
        __main__.main()


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("train.py", "python view.py"),
        ("../code/train.py", "python ../code/view.py"),
        ("compact-splats train", "compact-splats view"),
    ],
)
def test_a_training_ends_with_the_command_that_shows_its_result(program, command, monkeypatch):
    """As the user called train.py; the name of the folder is one word."""
    monkeypatch.setattr(sys, "argv", [program])
    numbers = ("peak_rss_mb", "num_gaussians", "ply_mb", "training_minutes", "steps_per_second")
    summary = dict.fromkeys(numbers, 1) | {"point_cloud": "my run/point_cloud.ply"}
    last = describe(summary, 1, Path("my run")).splitlines()[-1].partition("  ")[2].strip()
    assert last.startswith(f"{command} ")
    assert ViewConfig.from_command_line(shlex.split(last.removeprefix(command))).model == Path("my run")


# ---- without the environment ----

MISSING = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if f"{{name}}.".startswith("{package}."):
            raise ModuleNotFoundError("No module named '{package}'", name="{package}")
sys.meta_path.insert(0, Missing())
"""
OLD = "import sys; sys.version_info = (3, 9, 1)\n"
RUN = """
import runpy
sys.argv = ['{script}', *{words}]
sys.path.insert(0, '.')
runpy.run_path('{script}', run_name='__main__')
"""


@pytest.mark.parametrize("script", ["train.py", "render.py", "metrics.py"])
@pytest.mark.parametrize(
    ("before", "said"),
    [
        (MISSING.format(package="torch"), "no package torch"),
        (MISSING.format(package="torch.utils.weak"), "another version of torch, with torch.utils.weak"),
        (MISSING.format(package="usable_processors"), "no package usable_processors"),
        (OLD, "Python 3.10 or later is needed, and this is Python 3.9"),
    ],
    ids=["torch", "an old torch", "the engine", "an old Python"],
)
def test_a_script_without_the_environment_says_how_to_make_it(script, before, said, tmp_path):
    words = {
        "train.py": [str(tmp_path), "--final-budget", "5", "-m", str(tmp_path / "run")],
        "render.py": ["run", "-s", "x"],
        "metrics.py": ["run"],
    }
    code = before + RUN.format(script=script, words=words[script])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr and "run `make setup` and `source .venv/bin/activate`" in done.stderr


def test_who_imports_the_package_without_the_environment_gets_an_import_error():
    code = MISSING.format(package="usable_processors") + "import compact_splats"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "ImportError" in done.stderr and "make setup" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("path", [*ROOT.glob("*.py"), ROOT / "compact_splats/__init__.py"], ids=lambda path: path.name)
def test_an_old_python_can_read_what_tells_it_that_it_is_too_old(path):
    ast.parse(path.read_text(), feature_version=(3, 7))


@pytest.mark.parametrize("argv", [[], ["-s", "scene"], ["--final-budget", "5"]])
def test_what_training_cannot_do_without_is_asked_for(argv):
    with pytest.raises(InputError, match="is missing"):
        TrainConfig.from_command_line(argv)


def test_an_unknown_flag_brings_the_closest_known_one():
    with pytest.raises(InputError, match="did you mean --iterations"):
        TrainConfig.from_command_line([*NEEDED, "--iteration", "5"])


@pytest.mark.parametrize("script", sorted({name.split()[0] for name in SCRIPTS}))
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
