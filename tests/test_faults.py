"""Faults during a run, provoked for real; what each of them does to a run is told in docs/reliability.md."""

import dataclasses
import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import test_resume
import torch
from diff_gaussian_rasterization import RenderPass
from kill_runs import BUDGET, SCENE, STEPS, result_of
from rasterizer_cases import add_gradients as engine_adds
from test_resume import run_until

from compact_splats.arguments import TrainConfig
from compact_splats.gaussian_renderer import render
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.faults import MOST_IN_A_ROW, SkippedViews
from compact_splats.training.gradients import add_gradients
from compact_splats.training.loading import load
from compact_splats.training.memory import no_room_to_grow
from compact_splats.training.processes import SINGLE_PROCESS
from compact_splats.training.progress import Progress
from compact_splats.training.run import train
from compact_splats.training.run_folder import Run
from compact_splats.training.strategies import standard_strategies
from compact_splats.training.training import Step, Training
from compact_splats.utils.errors import InputError
from compact_splats.utils.lock import FolderLock
from compact_splats.utils.memory import free_memory

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("short_schedules_in_use")


def make_config(scene: Path, out: Path, **changes) -> TrainConfig:
    values = {"save_iterations": (30,), "test_iterations": tuple(range(1, STEPS)), "checkpoint_every": "7"}
    return test_resume.make_config(scene, out, **{**values, **changes})


def shapes(num_rest: int) -> dict[str, tuple[int, ...]]:
    """Of a Gaussian's rows."""
    vectors = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (1,)}
    return {**vectors, "sh_dc": (1, 3), "sh_rest": (num_rest, 3)}


@pytest.fixture(scope="module")
def whole(short_scene, tmp_path_factory) -> dict:
    """What a run leaves that nothing happened to: both PLYs, and the log without times."""
    config = make_config(short_scene, tmp_path_factory.mktemp("whole") / "model")
    train(config)
    return result_of(config.model_path)


@pytest.fixture
def at_step(monkeypatch) -> Callable[[dict[int, Callable[[], None]]], None]:
    """Have something happen in the middle of a training, at the end of the work of a step."""
    update = Progress.update

    def plan(actions: dict[int, Callable[[], None]]) -> None:
        def update_and_act(self: Progress, step: Step, *args) -> None:
            update(self, step, *args)
            actions.get(step.number, lambda: None)()

        monkeypatch.setattr(Progress, "update", update_and_act)

    return plan


# ---- two runs ----


def test_a_second_run_into_a_folder_is_refused_and_changes_nothing(short_scene, tmp_path, at_step):
    """While the first is at it; that one goes on, and nothing is left of the lock."""
    config = make_config(short_scene, tmp_path / "out")
    refused = []

    def begin_another() -> None:
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} on .*; wait") as error:
            train(dataclasses.replace(config, seed=1, resume=True))
        refused.append(error)

    at_step({20: begin_another})
    train(config)
    assert len(refused) == 1 and not (tmp_path / "out" / ".lock").exists()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["seed"] == 0


def test_a_lock_leaves_no_folder_behind_that_was_made_for_it(tmp_path):
    with FolderLock(tmp_path / "new" / "folder"):
        pass
    assert not list(tmp_path.iterdir())
    with FolderLock(tmp_path / "new" / "folder"):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "file"]


def test_a_lock_on_a_folder_that_was_removed_is_taken_again_unless_somebody_else_has(tmp_path):
    folder = tmp_path / "folder"
    with FolderLock(folder) as lock:
        assert not lock.renew()
        shutil.rmtree(folder)
        assert lock.renew() and not lock.renew()
        shutil.rmtree(folder)
        with FolderLock(folder), pytest.raises(InputError, match="in use by"):
            lock.renew()
        assert lock.renew()
    assert not folder.exists()


# ---- what is not finite ----


class Poison:
    """Spoils the gradient of the image, or the loss, in some calls; stands for whatever overflows on the way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, value: float, calls: range, of_loss: bool = False) -> None:
        self.value, self.calls, self.of_loss, self.count = value, calls, of_loss, 0
        self._loss = RenderPass.photometric_loss
        monkeypatch.setattr(RenderPass, "photometric_loss", lambda view, *args: self(view, *args))

    def __call__(self, view: RenderPass, *args):
        self.count += 1
        loss = self._loss(view, *args)
        if self.count not in self.calls:
            return loss
        (view.v_image if self.of_loss else view.v_image[:, :, 7]).mul_(self.value)
        return loss * self.value if self.of_loss else loss


class GivenGradients:
    """Stands for a view: gradients of a loss, by autograd, and the model's sums. As on a GPU, or as on the CPU."""

    def __init__(self, model: GaussianModel, loss: torch.Tensor, is_known: bool = True) -> None:
        self._is_known = is_known
        found = torch.autograd.grad(loss, list(model.parameters.values()))
        self.gradients, self._sums = dict(zip(model.parameters, found, strict=True)), model.waiting_gradients()

    def add_gradients(self, loss: torch.Tensor, largest: float) -> torch.Tensor:
        pairs = {name: (gradient.contiguous(), self._sums[name]) for name, gradient in self.gradients.items()}
        self.gradients = {name: gradient for name, (gradient, _) in pairs.items()}
        usable = engine_adds(loss, pairs, largest=largest, unchecked="sh_rest")
        if self._is_known and not usable:
            self.gradients = {}
        return usable


def add_gradients_of(model: GaussianModel, loss: torch.Tensor, is_known: bool = True) -> torch.Tensor:
    return add_gradients(model, GivenGradients(model, loss, is_known), loss.detach())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
@pytest.mark.parametrize("of_loss", [False, True])
def test_a_view_that_is_not_finite_leaves_no_trace(value, of_loss):
    """Arrays, moments and waiting gradients keep their bits, and the view after it counts."""
    rng = torch.Generator().manual_seed(0)
    sizes = shapes(3)
    model = GaussianModel({name: torch.rand(5, *size, generator=rng) for name, size in sizes.items()}, 1)
    model.start_training(dict.fromkeys(sizes, 1e-3))

    def loss(factor: float = 1.0) -> torch.Tensor:
        return sum((row.square() * row.detach()).sum() for row in model.parameters.values()) * factor

    def state() -> list[torch.Tensor]:
        moments = [torch.as_tensor(each) for values in model.optimizer.state.values() for each in values.values()]
        waiting = [row.grad for row in model.parameters.values()]
        parts = [*model.parameters.values(), *moments, *waiting]
        return [part.detach().clone() for part in parts if part is not None]

    assert add_gradients_of(model, loss())
    model.update(("means",))
    before = state()
    if of_loss:
        bad = loss() + value
    else:
        bad = loss()
        spoilt = model.parameters["quats"] * 1.0
        spoilt.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([2]), value))
        bad = bad + spoilt.sum()
    is_usable = add_gradients_of(model, bad)
    assert is_usable if of_loss and value == 1e25 else not is_usable  # a large loss alone does no harm
    if not is_usable:
        assert all(map(torch.equal, state(), before)) and len(state()) == len(before)
        model.update(("means",))  # of which nothing waits
        assert all(map(torch.equal, state(), before))


@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf"), 1e25])
def test_where_nothing_may_be_waited_for_a_view_that_is_not_finite_adds_zeros(value):
    """As on a GPU."""
    rows = shapes(0)
    model = GaussianModel({name: torch.ones(4, *size) for name, size in rows.items()}, 0)
    total = sum(values.sum() for values in model.parameters.values())
    assert add_gradients_of(model, model.parameters["means"].sum() + 0 * total, is_known=False)
    everything = sum(values.sum() for values in model.parameters.values())
    usable = add_gradients_of(model, everything * value, is_known=False)
    expected = value if usable else 0.0
    assert bool(usable) == (value == 1)
    assert model.parameters["means"].grad.eq(1 + expected).all() and model.parameters["quats"].grad.eq(expected).all()


def test_the_rest_of_the_sh_has_gradients_only_where_sh_dc_has_and_no_larger_ones(short_scene, tmp_path):
    """Which is why it need not be looked at. Worst measured: 2.6 times as large; 10 is claimed."""
    config = make_config(short_scene, tmp_path / "out")
    scene = load(config)
    model = GaussianModel.from_points(scene.points, 3, CPU)
    model.sh_degree = 3
    weights = torch.rand(3, SCENE["height"], SCENE["width"], generator=torch.Generator().manual_seed(0)) - 0.5
    worst = 0.0
    for camera in scene.train:
        loss = (render(camera, model, torch.zeros(3)).image * weights).sum()
        dc, rest = torch.autograd.grad(loss, [model.sh_dc, model.sh_rest])
        assert not rest[dc[:, 0].eq(0).all(1)].any()
        worst = max(worst, float((rest.abs() / dc.abs().clamp_min(1e-30)).max()))
    assert 1 < worst < 10


@pytest.mark.parametrize("name", ["means", "opacity_logits"])
def test_gradients_add_up_with_the_bits_of_backward(name):
    rows = shapes(0)
    one, two = (
        GaussianModel(
            {each: torch.rand(50, *size, generator=torch.Generator().manual_seed(1)) for each, size in rows.items()}, 0
        )
        for _ in range(2)
    )
    for factor in (1.0, 0.3, 7.7):
        assert add_gradients_of(one, sum((row**3).sum() for row in one.parameters.values()) * factor)
        (sum((row**3).sum() for row in two.parameters.values()) * factor).backward()
    assert torch.equal(one.parameters[name].grad, two.parameters[name].grad)


def test_skipped_views_are_counted_and_the_run_ends_as_it_should(short_scene, tmp_path, monkeypatch):
    """In growth, with gradients waiting, in selection; stopped and continued in between, with the same bits."""
    plys, bad = [], [3, 12, 13, 22, 30, 38, 51]
    for name, steps in (("one", ()), ("two", (13, 39))):
        config = make_config(short_scene, tmp_path / name, checkpoint_every="13")
        for until in (*steps, STEPS):
            with monkeypatch.context() as patch:
                poison = Poison(patch, float("nan"), bad)
                poison.count = 0 if until == 13 or not steps else {39: 13, STEPS: 39}[until]
                if until != STEPS:
                    config = run_until(config, until, patch)
                else:
                    summary = train(config)
        assert summary["skipped_views"] == len(bad) and summary["num_gaussians"] == BUDGET
        plys.append(result_of(config.model_path)["iteration_60"])
    assert plys[0] == plys[1]
    log = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in log if line["event"] == "step"] == [len(bad)]


def test_too_many_in_a_row_end_the_run_with_a_checkpoint_of_the_last_good_state(
    short_scene, tmp_path, monkeypatch, whole
):
    config = make_config(short_scene, tmp_path / "out", checkpoint_every="0")
    with monkeypatch.context() as patch:
        Poison(patch, float("inf"), range(12, 1000), of_loss=True)
        with pytest.raises(
            InputError, match="20 views gave .* until step 31, 20 of them in a row.*--resume continues after step 31"
        ):
            train(config)
    assert train(dataclasses.replace(config, resume=True))["skipped_views"] == 20  # whatever it was has gone


def test_one_bad_view_never_ends_a_run_but_a_hundredth_of_the_steps_does():
    skipped = SkippedViews(3000, CPU)
    for step in range(1, 31):
        skipped.note(torch.tensor(False), "bad.png")
        assert skipped.too_many(2 * step) is None
        skipped.note(torch.tensor(True), "good.png")
        assert skipped.too_many(2 * step + 1) is None
    skipped.note(torch.tensor(False), "bad.png")
    expected = "31 views gave non-finite gradients until step 62, 1 of them in a row, the last of bad.png"
    assert expected in str(skipped.too_many(62))
    fresh = SkippedViews(3000, CPU)
    fresh.load_state_dict(skipped.state_dict())
    assert fresh.count() == 31 and fresh.too_many(62) is not None
    assert MOST_IN_A_ROW < 31


# ---- full disks ----


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """Mount a disk of so many kB."""
    mounted = []

    def mount(size_kb: int) -> Path:
        path = tmp_path / "disk"
        path.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", path]
        if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("mounting a disk is not permitted")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", path], capture_output=True)


def fill(disk: Path) -> None:
    """Leave not a byte."""
    with (disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(4096))


class MountedDisk:
    """A disk of 4 MB that is really full."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        fill(self.path)

    def free(self) -> None:
        (self.path / "ballast").unlink()


class FakedDisk:
    """A folder whose files can't be made or written while it is full, as on a full disk."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.path, self.is_full = path, False
        path.mkdir()
        touch, open_path, disk_usage = Path.touch, Path.open, shutil.disk_usage
        disk = self

        class File:
            """An open file that refuses to be written while the disk is full."""

            def __init__(self, file) -> None:
                self._file = file

            def __getattr__(self, name: str):
                return getattr(self._file, name)

            def write(self, data):
                disk.check()
                return self._file.write(data)

        def touch_or_fail(path: Path, *args, **options) -> None:
            if disk.path in path.parents:
                disk.check()
            touch(path, *args, **options)

        def open_or_fail(path: Path, mode: str = "r", *args, **options):
            file = open_path(path, mode, *args, **options)
            return File(file) if mode == "a" and disk.path in path.parents else file

        def usage(path):
            found = disk_usage(path)
            return found._replace(free=0) if disk.is_full else found

        patch.setattr(Path, "touch", touch_or_fail)
        patch.setattr(Path, "open", open_or_fail)
        patch.setattr(shutil, "disk_usage", usage)

    def check(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(self) -> None:
        self.is_full = True

    def free(self) -> None:
        self.is_full = False


@pytest.fixture(params=["mounted", "faked"])
def small_disk(request, tmp_path, monkeypatch) -> MountedDisk | FakedDisk:
    """Mounting needs root; the faked one runs everywhere."""
    if request.param == "faked":
        return FakedDisk(tmp_path / "disk", monkeypatch)
    return MountedDisk(request.getfixturevalue("disk")(4000))


def test_checkpoints_that_do_not_fit_warn_once_and_the_run_ends_with_the_same_bits(short_scene, disk, whole, capsys):
    out = disk(400) / "out"
    train(make_config(short_scene, out))
    assert result_of(out) == whole
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "warning: a checkpoint can't be written: " in said
    assert "the disk is full: " in said and "free; free some space there" in said
    assert not (out / "checkpoints").exists() or not list((out / "checkpoints").iterdir())


def test_a_full_disk_at_the_end_is_one_line_and_the_run_is_finished_once_there_is_room(
    short_scene, small_disk, whole, at_step, capsys
):
    """Full from step 26 on: the log, the model of step 30, checkpoints and the last model can't be written."""
    out = small_disk.path / "out"
    config = make_config(short_scene, out)
    at_step({26: small_disk.fill})
    with pytest.raises(InputError) as error:
        train(config)
    said = "iteration_60/point_cloud.ply can't be written, the disk is full: 73 KiB needed, 0 KiB free; free some space"
    assert said in str(error.value)
    assert str(error.value).endswith("--resume continues after step 21")
    said = capsys.readouterr().err.splitlines()
    whats = ("a checkpoint", "the model of step 30", "the log")
    assert sorted(line.split(" can't be written: ")[0] for line in said) == sorted(f"warning: {what}" for what in whats)
    small_disk.free()
    at_step({})
    train(dataclasses.replace(config, resume=True))
    assert result_of(out) == whole


def test_what_could_not_be_written_for_a_while_is_made_up_for(short_scene, small_disk, whole, at_step, capsys):
    out = small_disk.path / "out"
    at_step({8: small_disk.fill, 45: small_disk.free})
    train(make_config(short_scene, out))
    assert result_of(out) == {name: content for name, content in whole.items() if name != "iteration_30"}
    said = capsys.readouterr().err
    assert "the model of step 30 can't be written" in said
    assert "the log can be written again" in said and "a checkpoint can be written again" in said


def test_tensorboard_on_a_full_disk_is_given_up_with_a_line(disk, monkeypatch, capfd):
    """Its thread, which would print a traceback, says nothing; log.jsonl has all."""
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    monkeypatch.setattr(tensorboard, "SummaryWriter", partial(tensorboard.SummaryWriter, flush_secs=0))
    path = disk(100)
    run = Run(path, tensorboard=True)
    run.log("step", 1, {"loss": 0.5})
    fill(path)
    for step in range(2, 200):
        run.log("step", step, {f"value {number}": 0.25 for number in range(20)})
        if "TensorBoard" in (said := capfd.readouterr().err):
            break
        time.sleep(0.01)
    assert "no more TensorBoard events are written ([Errno 28] No space left on device); log.jsonl holds" in said
    (path / "ballast").unlink()
    run.finish(step, {})
    assert "Traceback" not in said + capfd.readouterr().err
    assert len((path / "log.jsonl").read_text().splitlines()) == step + 1


# ---- folders that vanish ----


def test_a_folder_that_is_removed_is_made_again(short_scene, tmp_path, whole, at_step, capsys):
    out = tmp_path / "out"
    at_step({20: lambda: shutil.rmtree(out)})
    train(make_config(short_scene, out))
    assert result_of(out) == whole
    assert {"config.json", "cfg_args", "cameras.json", "input.ply", "summary.json"} <= set(os.listdir(out))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{out} was removed; it is made again" in said


def test_a_folder_that_is_emptied_but_for_hidden_files_is_filled_again(short_scene, tmp_path, whole, at_step):
    out = tmp_path / "out"

    def empty() -> None:
        for path in out.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    at_step({35: empty})
    train(make_config(short_scene, out))
    assert result_of(out) == {name: content for name, content in whole.items() if name != "iteration_30"}
    assert (out / "config.json").exists()


def test_a_disk_that_vanishes_is_one_line_and_nothing_is_written_in_its_place(short_scene, disk, at_step, capsys):
    out = disk(4000) / "out"
    at_step({20: lambda: subprocess.run(["umount", "-l", out.parent], check=True)})
    with pytest.raises(InputError, match="its disk is not mounted any more; mount it again"):
        train(make_config(short_scene, out))
    assert not list(out.parent.iterdir())
    assert all(line.startswith("warning: ") for line in capsys.readouterr().err.splitlines())


# ---- photos ----


def test_photos_are_not_read_again_once_the_run_has_begun(short_scene, tmp_path, whole, at_step):
    """All gone and one of them cut off: the run does not notice. It does when continued, and loses nothing."""
    scene, out = shutil.copytree(short_scene, tmp_path / "scene"), tmp_path / "out"
    at_step({31: lambda: (scene / "images").rename(tmp_path / "images")})  # after that of step 30 is saved
    train(make_config(scene, out))
    assert result_of(out) == whole


@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_a_photo_that_is_lost_before_a_run_is_continued_is_one_line(short_scene, tmp_path, monkeypatch, whole, damage):
    scene = shutil.copytree(short_scene, tmp_path / "scene")
    config = run_until(make_config(scene, tmp_path / "out"), 28, monkeypatch)
    photo = sorted((scene / "images").iterdir())[5]
    content = photo.read_bytes()
    photo.unlink()
    if damage == "cut off":
        photo.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=photo.name if damage == "cut off" else "views that the run began with"):
        train(config)
    photo.write_bytes(content)
    train(config)
    assert result_of(config.model_path) == whole


# ---- memory ----


@pytest.fixture
def limit_memory() -> Iterator[Callable[[int], None]]:
    """Let the process take so many bytes more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    def limit(more: int) -> None:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        resource.setrlimit(resource.RLIMIT_AS, (int(status["VmSize"].split()[0]) * 1024 + more, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the limit is set by Linux's names")


@needs_linux
def test_a_training_that_does_not_fit_is_refused_before_it_begins(short_scene, tmp_path, limit_memory):
    """A million Gaussians, of which the set would have three at its largest."""
    limit_memory(2 << 30)
    with pytest.raises(InputError) as error:
        train(make_config(short_scene, tmp_path / "out", final_budget=1_000_000))
    said = str(error.value)
    assert re.match(r"memory: expected 3\.76 GiB at least, found (1\.[89]\d|2\.00) GiB free; ", said), said
    assert said.endswith("ask for less by -r/--resolution, --photo-memory, --final-budget or --sh-degree")
    assert not (tmp_path / "out").exists()


@needs_linux
def test_growth_for_which_there_is_no_memory_ends_the_run_with_a_checkpoint(
    short_scene, tmp_path, monkeypatch, limit_memory, whole
):
    """The limit comes at the check itself, as other parts of the process would run into it too."""
    config = make_config(short_scene, tmp_path / "out", checkpoint_every="0")
    with monkeypatch.context() as patch:
        calls = []

        def crowded() -> int:
            calls.append(1)
            if len(calls) < 4:
                return free_memory()
            limit_memory(1 << 12)
            free = free_memory()
            limit_memory(1 << 40)
            return free

        patch.setattr("compact_splats.training.memory.free_memory", crowded)
        with pytest.raises(
            InputError, match="memory: expected .* more for [0-9]+ Gaussians, found .* --resume continues"
        ):
            train(config)
    train(dataclasses.replace(config, resume=True))
    assert result_of(config.model_path) == whole


def test_nothing_is_asked_of_memory_but_before_growth(short_scene, tmp_path):
    config = make_config(short_scene, tmp_path / "out")
    schedule = config.make_schedule()
    scene = load(config)
    model = GaussianModel.from_points(scene.points, 3, CPU)
    training = Training(scene, model, schedule, standard_strategies(scene, schedule, config.final_budget))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compact_splats.training.memory.free_memory", lambda: 0)
        refused = [step for step in range(STEPS) if no_room_to_grow(config, training, SINGLE_PROCESS, step)]
    densification = schedule.densification_rounds[0]
    assert refused and all(densification.is_due(step + 1) for step in refused)


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container_counts(tmp_path, version):
    """Its caches do not; and of nested groups the tightest."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   8000000 kB\n")
    (tmp_path / "proc/self/status").write_text("Name: python\nVmSize:\t   1000 kB\n")
    assert free_memory(tmp_path) == 8_192_000_000
    group = "0::/outer/inner" if version == 2 else "5:cpu,memory:/outer/inner\n3:pids:/elsewhere"
    (tmp_path / "proc/self/cgroup").write_text(group + "\n")
    base = tmp_path / "sys/fs/cgroup" / ("" if version == 2 else "memory")
    limit, usage = (
        ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    for folder, most, used in (
        (base / "outer/inner", "max" if version == 2 else 2**63 - 4096, 1),
        (base / "outer", 5000, 4000),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f"{most}\n")
        (folder / usage).write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 3000\ninactive_file 600\nactive_file 100\n")
    assert free_memory(tmp_path) == 5000 - 4000 + 700
