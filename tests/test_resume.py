"""Runs that were stopped and continued: the same bits as from one that was not, and nothing lost by what goes wrong."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kill_runs import BUDGET, SCENE, STEPS

from compact_splats.arguments import TrainConfig
from compact_splats.demo.scene import write_demo_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.checkpoint import Checkpoints
from compact_splats.training.run import train
from compact_splats.training.training import Training
from compact_splats.utils.errors import InputError, Stopped, run_script
from compact_splats.utils.signals import StopRequest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.usefixtures("short_schedules_in_use")


class Killed(BaseException):
    """What stands for the death of the process: nothing in the project catches it."""


def make_config(scene: Path, out: Path, **changes) -> TrainConfig:
    values = {"final_budget": BUDGET, "eval": True, "quiet": True, "tensorboard": False, "threads": 1}
    return TrainConfig(source_path=scene, model_path=out, **{**values, **changes})


def run_until(config: TrainConfig, step: int, monkeypatch) -> TrainConfig:
    """Train, die right after the checkpoint of a step, and give the config that continues."""
    save = Checkpoints.save

    def save_and_die(self: Checkpoints, now: int, *args) -> None:
        save(self, now, *args)
        if now == step:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "save", save_and_die)
        train(config)
    return dataclasses.replace(config, resume=True)


def ply(config: TrainConfig, step: int = STEPS) -> bytes:
    return (config.model_path / "point_cloud" / f"iteration_{step}" / "point_cloud.ply").read_bytes()


def log_of(config: TrainConfig) -> list[dict]:
    """The log without its times."""
    lines = map(json.loads, (config.model_path / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in ("time", "seconds")} for line in lines]


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(short_scene, tmp_path_factory) -> tuple[TrainConfig, dict]:
    """A run that nothing happened to. Read only."""
    out = tmp_path_factory.mktemp("whole") / "model"
    config = make_config(short_scene, out, test_iterations=(10,), save_iterations=(30,), checkpoint_every="7")
    return config, train(config)


@pytest.fixture
def stopped(whole, tmp_path, monkeypatch) -> TrainConfig:
    """A config that continues the same run after step 35; those of 28 and 35 are there."""
    return run_until(dataclasses.replace(whole[0], model_path=tmp_path / "model"), 35, monkeypatch)


# ---- the same bits ----


def test_a_run_killed_again_and_again_ends_with_the_same_bits(whole, tmp_path, monkeypatch):
    """In densification, with gradients waiting, in selection, after it: model, log and figures are those of one go."""
    config = dataclasses.replace(whole[0], model_path=tmp_path / "model", checkpoint_every="1")
    for step in (2, 13, 22, 31, 38, 47, 59):
        config = run_until(config, step, monkeypatch)
    summary = train(config)
    assert ply(config) == ply(whole[0]) and ply(config, 30) == ply(whole[0], 30)
    assert log_of(config) == log_of(whole[0])
    assert {split: summary[split] for split in ("test", "train")} == {s: whole[1][s] for s in ("test", "train")}
    assert summary["training_minutes"] > 0 and summary["steps_per_second"] > 0


@pytest.mark.parametrize(("schedule", "exposure"), [("fast", "off"), ("quick", "on")])
def test_the_other_schedules_continue_with_the_same_bits_too(short_scene, tmp_path, monkeypatch, schedule, exposure):
    changes = {"schedule": schedule, "exposure": exposure, "random_background": True, "antialiasing": True}
    changes["checkpoint_every"] = "1"
    one, other = (make_config(short_scene, tmp_path / name, **changes) for name in ("one", "other"))
    train(one)
    for step in (9, 18, 41, 57):
        other = run_until(other, step, monkeypatch)
    train(other)
    assert ply(one) == ply(other)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for processes as Linux does")
def test_runs_killed_by_the_system_end_with_the_same_bits(tmp_path):
    """Four of the kills of docs/reliability.md."""
    words = ["-m", "tests.kill_runs", "--kills", "4", "--folder", tmp_path, "--out", tmp_path / "kills.json"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "kills.json").read_text())
    assert report["kills"] == 4 and report["identical"] == report["runs"] > 0


@pytest.fixture(scope="module")
def left_at(short_scene, tmp_path_factory) -> dict[int, TrainConfig]:
    """Configs that continue a run after step 18, in densification, and 37, in selection; the last has ended."""
    folder = tmp_path_factory.mktemp("left")
    config = make_config(short_scene, folder / "model", random_background=True, checkpoint_every="1")
    configs = {STEPS: config}
    for step in (18, 37):
        with pytest.MonkeyPatch.context() as patch:
            config = run_until(config, step, patch)
        configs[step] = dataclasses.replace(config, model_path=folder / f"step {step}")
        shutil.copytree(config.model_path, configs[step].model_path)
    train(config)
    return configs


OWN = ("processes", 0)


@pytest.mark.parametrize(
    ("place", "step"),
    [
        ((*OWN, "per_gaussian"), 18),
        ((*OWN, "strategies", 0, "generator"), 18),
        ((*OWN, "strategies", 0, "importance"), 18),
        ((*OWN, "strategies", 1), 37),
        ((*OWN, "gradients"), 37),
        (("model", "optimizer"), 37),
        (("model", "sh_degree"), 37),
        (("views",), 37),
        (("background",), 37),
    ],
)
def test_nothing_of_the_state_could_be_left_out(left_at, tmp_path, monkeypatch, place, step):
    """Guards the tests above against kills that would not show."""
    load_state_dict = Training.load_state_dict

    def load_the_others(self: Training, state: dict) -> None:
        fresh, kept = self.state_dict(), state
        for key in place[:-1]:
            fresh, kept = fresh[key], kept[key]
        kept[place[-1]] = fresh[place[-1]]
        load_state_dict(self, state)

    config = dataclasses.replace(left_at[step], model_path=tmp_path / "model")
    shutil.copytree(left_at[step].model_path, config.model_path)
    monkeypatch.setattr(Training, "load_state_dict", load_the_others)
    train(config)
    assert ply(config) != ply(left_at[STEPS])


def test_a_finished_run_leaves_no_checkpoints(whole):
    assert not (whole[0].model_path / "checkpoints").exists()


def test_checkpoints_are_written_as_often_as_asked(stopped):
    names = sorted(path.name for path in (stopped.model_path / "checkpoints").iterdir())
    assert names == ["step_00000028.ckpt", "step_00000035.ckpt"]


def test_a_damaged_checkpoint_costs_steps_and_no_bits(whole, stopped, capsys):
    newest = stopped.model_path / "checkpoints" / "step_00000035.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    (stopped.model_path / "point_cloud" / "iteration_30" / f".point_cloud.{'a' * 12}.ply").touch()
    train(dataclasses.replace(stopped, quiet=False))
    out = capsys.readouterr().out
    assert "step_00000035.ckpt can't be used" in out and "continues after step 28" in out
    assert ply(stopped) == ply(whole[0]) and log_of(stopped) == log_of(whole[0])
    assert not list(stopped.model_path.rglob(".*"))


# ---- asked to stop ----


@pytest.fixture
def ctrl_c_is_heard():
    """Also where the tests run in the background of a shell, which lets them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_saves_it(whole, tmp_path, monkeypatch, number, capsys):
    config = dataclasses.replace(whole[0], model_path=tmp_path / "model", checkpoint_every="0")
    update = GaussianModel.update
    calls = []

    def update_and_signal(self: GaussianModel, *args) -> None:
        update(self, *args)
        calls.append(1)
        if len(calls) == 23:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(GaussianModel, "update", update_and_signal)
        with pytest.raises(SystemExit) as ended:
            run_script(lambda: train(config))
    assert ended.value.code == 128 + number and signal.getsignal(number) == before
    assert "after step 23" in (said := capsys.readouterr().err) and "--resume" in said and said.count("\n") == 1
    train(dataclasses.replace(config, resume=True))
    assert ply(config) == ply(whole[0])


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_a_second_signal_ends_at_once():
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_outside_of_training_is_one_line(capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_script(interrupted)
    assert ended.value.code == 130 and capsys.readouterr().err == "stopped\n"


def test_in_other_threads_than_the_first_nothing_is_changed():
    before = signal.getsignal(signal.SIGTERM)

    def look() -> tuple:
        with StopRequest() as stop:
            return signal.getsignal(signal.SIGTERM), bool(stop)

    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(look).result() == (before, False)


def test_a_stopped_script_says_how_to_go_on(capsys):
    def stopped() -> None:
        raise Stopped(signal.SIGTERM, "do this")

    with pytest.raises(SystemExit) as ended:
        run_script(stopped)
    assert ended.value.code == 143 and capsys.readouterr().err == "do this\n"


# ---- nothing to continue, or nothing left to do ----


def test_with_nothing_to_continue_the_run_begins_and_says_so(short_scene, tmp_path, capsys, whole):
    """A script may always pass --resume."""
    config = dataclasses.replace(whole[0], model_path=tmp_path / "model", resume=True, quiet=False)
    train(config)
    assert "the training begins" in capsys.readouterr().out
    assert ply(config) == ply(whole[0])


def test_a_finished_run_is_not_trained_again(whole, capsys):
    before = files_of(whole[0].model_path)
    assert train(dataclasses.replace(whole[0], resume=True, quiet=False)) == whole[1]
    assert "finished" in capsys.readouterr().out
    for name, value in (("final_budget", 299), ("iterations", 30)):
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} {value}"):
            train(dataclasses.replace(whole[0], resume=True, **{name: value}))
    assert files_of(whole[0].model_path) == before


def test_a_run_killed_after_its_end_is_finished_and_leaves_no_checkpoints(stopped, whole, monkeypatch):
    def die(self: Checkpoints) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "clear", die)
        train(stopped)
    assert (stopped.model_path / "checkpoints").exists()
    train(stopped)
    assert not (stopped.model_path / "checkpoints").exists() and ply(stopped) == ply(whole[0])


def test_without_resume_a_run_begins_anew_and_takes_the_place_of_the_old_one(whole, stopped, monkeypatch):
    """The old checkpoints stay until the new run has one of its own."""
    run_until(dataclasses.replace(stopped, resume=False, seed=1, checkpoint_every="3"), 3, monkeypatch)
    assert [path.name for path in (stopped.model_path / "checkpoints").iterdir()] == ["step_00000003.ckpt"]
    with pytest.raises(InputError, match="--seed 0, found one with --seed 1"):
        train(stopped)


# ---- other flags ----


def test_other_flags_are_named_and_refused(stopped):
    before = files_of(stopped.model_path)
    other = dataclasses.replace(stopped, final_budget=200, lambda_dssim=0.5)
    given, begun = "--final-budget 200, --lambda-dssim 0.5", "--final-budget 300, --lambda-dssim 0.2"
    with pytest.raises(InputError, match=f"{given}, found one with {begun}"):
        train(other)
    assert files_of(stopped.model_path) == before


def test_flags_that_make_no_difference_may_differ(whole, stopped, short_scene, tmp_path):
    """The scene and the run may have moved, too."""
    scene, out = tmp_path / "moved", tmp_path / "renamed"
    shutil.copytree(short_scene, scene)
    stopped.model_path.rename(out)
    other = dataclasses.replace(
        stopped, source_path=scene, model_path=out, threads=2, checkpoint_every="1m", save_iterations=(50,)
    )
    train(other)
    assert ply(other) == ply(whole[0])


def test_resume_takes_the_flags_of_the_run_where_none_are_given(stopped):
    resumed = TrainConfig.from_command_line(["-m", str(stopped.model_path), "--resume", "--threads", "2"])
    absolute = {"source_path": stopped.source_path.absolute(), "model_path": stopped.model_path}
    assert resumed == dataclasses.replace(stopped, threads=2, **absolute)
    with pytest.raises(InputError, match="is missing"):
        TrainConfig.from_command_line(["-m", str(stopped.model_path / "nowhere"), "--resume"])


def test_another_scene_is_refused(stopped, tmp_path):
    """Of as many photos, with the same names."""
    write_demo_scene(tmp_path / "other", **SCENE, seed=1)
    with pytest.raises(InputError, match="training views that the run began with"):
        train(dataclasses.replace(stopped, source_path=tmp_path / "other"))


def test_damaged_checkpoints_alone_are_one_line(stopped):
    for path in (stopped.model_path / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    before = files_of(stopped.model_path)
    with pytest.raises(InputError, match="2 that can't"):
        train(stopped)
    assert files_of(stopped.model_path) == before


def test_every_flag_says_whether_it_may_change():
    """A new flag of the method must not be passed over by accident."""
    free = {field.name for field in dataclasses.fields(TrainConfig) if field.metadata["may_change"]}
    assert free == {
        "source_path", "photo_memory", "model_path", "all_photos", "keep_nan", "device", "threads",
        "test_iterations",
        "save_iterations", "checkpoint_every", "resume", "tensorboard", "viewer", "quiet",
    }  # fmt: skip


# ---- starting from a model ----


@pytest.mark.parametrize("degree", [0, 2, 3])
def test_training_starts_from_a_model(whole, short_scene, tmp_path, degree):
    """Of SH degree 3 here; what is given up or added leaves the rest as it is."""
    path = whole[0].model_path / "point_cloud" / f"iteration_{STEPS}" / "point_cloud.ply"
    full, cut = GaussianModel.load_ply(path, "cpu"), GaussianModel.load_ply(path, "cpu", degree)
    assert cut.max_sh_degree == cut.sh_degree == degree
    assert all(cut.parameters[name].equal(full.parameters[name]) for name in cut.parameters if name != "sh_rest")
    assert cut.sh_rest.equal(full.sh_rest[:, : cut.sh_rest.shape[1]])

    changes = {"init_ply": path, "sh_degree": degree, "final_budget": 250, "test_iterations": (1,)}
    config = make_config(short_scene, tmp_path / "out", **changes)
    assert train(config)["num_gaussians"] == 250
    first = next(line for line in log_of(config) if line["event"] == "train")
    assert first["psnr"] == pytest.approx(whole[1]["train"]["psnr"], abs=1)  # one step after where the model was


def test_a_model_of_lower_degree_gets_room(whole, tmp_path):
    path = whole[0].model_path / "point_cloud" / f"iteration_{STEPS}" / "point_cloud.ply"
    GaussianModel.load_ply(path, "cpu", 1).save_ply(tmp_path / "low.ply")
    model = GaussianModel.load_ply(tmp_path / "low.ply", "cpu", 3)
    assert (model.sh_degree, model.max_sh_degree) == (1, 3)
    assert model.sh_rest[:, :3].any() and not model.sh_rest[:, 3:].any()


def test_a_run_from_a_model_continues_without_it(whole, short_scene, tmp_path, monkeypatch):
    first = tmp_path / "first.ply"
    path = whole[0].model_path / "point_cloud" / f"iteration_{STEPS}" / "point_cloud.ply"
    shutil.copy(path, first)
    one, other = (make_config(short_scene, tmp_path / name, init_ply=first) for name in ("one", "other"))
    train(one)
    other = run_until(dataclasses.replace(other, checkpoint_every="11"), 22, monkeypatch)
    first.unlink()
    train(other)
    assert ply(one) == ply(other)


@pytest.mark.parametrize("content", [None, b"", b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n"])
def test_a_model_that_cannot_be_used_is_one_line_and_writes_nothing(short_scene, tmp_path, content):
    path = tmp_path / "model.ply"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        train(make_config(short_scene, tmp_path / "out", init_ply=path))
    assert "model.ply" in str(error.value) and not (tmp_path / "out").exists()


def test_tensorboard_is_told_what_to_drop(stopped):
    pytest.importorskip("torch.utils.tensorboard")
    train(dataclasses.replace(stopped, tensorboard=True))
    assert list(stopped.model_path.glob("events.out.tfevents.*"))
