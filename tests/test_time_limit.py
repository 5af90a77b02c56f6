"""``--minutes``: the training ends in time with the exact budget, however the speed of the machine changes."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from compact_splats.arguments import TrainConfig
from compact_splats.arguments.schedule import FAST, FULL, QUICK, Schedule
from compact_splats.training import time_limit
from compact_splats.training.run import train
from compact_splats.training.run_folder import RunFolder
from compact_splats.training.time_limit import FEWEST_STEPS, MOST_STEPS, TimeLimit
from compact_splats.utils.errors import InputError

BUDGET, POINTS, PIXELS = 20_000, 10_000, 640 * 480


class Machine:
    """A training without a model: its set is as large as is allowed, and its clock runs by what a step costs.

    Args:
        speed: of the machine, as a function of the seconds trained; 1: 1e-7 s for a pixel, five pixels for a Gaussian,
            which is not what the limit expects.
        views_of_a_cut: as a selection by removal error renders, in time.
    """

    def __init__(self, speed: Callable[[float], float], schedule: Schedule = QUICK, views_of_a_cut: int = 0) -> None:
        self.scene = SimpleNamespace(train=[SimpleNamespace(width=640, height=480)])
        self.model = SimpleNamespace(num_gaussians=POINTS)
        self.schedule, self.speed, self.seconds = schedule, speed, 0.0
        self.strategies, self.views_of_a_cut, self.cuts = [self], views_of_a_cut, 0
        self.ended_at: list[int] = []

    def change_schedule(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def views_left(self, training: "Machine") -> int:
        return self.views_of_a_cut * (self.schedule.selection_rounds[0].num_cuts - self.cuts)

    def cost(self, divisor: int) -> float:
        return 1e-7 * (PIXELS / divisor**2 + 5 * self.model.num_gaussians) / self.speed(self.seconds)

    def train(self, limit: TimeLimit) -> int:
        step = 0
        while step < self.schedule.iterations:
            step += 1
            self.seconds += self.cost(self.schedule.photo_divisor(step))
            for each in self.schedule.densification_rounds:
                if each.is_due(step):
                    self.model.num_gaussians = max(self.model.num_gaussians, each.allowance(step, BUDGET))
            for selection in self.schedule.selection_rounds:
                if self.cuts < selection.cuts_by(step):
                    self.cuts += 1
                    self.seconds += self.views_of_a_cut * self.cost(1)
                if step == selection.window.end:
                    self.model.num_gaussians = BUDGET
                    self.ended_at.append(step)
            limit.after_step(step, self.seconds)
        return step


@pytest.fixture
def limited(monkeypatch):
    """Train for so many seconds on a machine; the first view takes as long as any."""

    def run(machine: Machine, seconds: float) -> int:
        monkeypatch.setattr(time_limit, "seconds_of_a_view", lambda training: training.cost(1))
        return machine.train(TimeLimit(machine, machine.schedule, BUDGET, seconds))

    return run


SPEEDS = {
    "steady": lambda seconds: 1.0,
    "a third from the middle on": lambda seconds: 1.0 if seconds < 60 else 1 / 3,
    "a third from the end of densification on": lambda seconds: 1.0 if seconds < 30 else 1 / 3,
    "three times as fast later": lambda seconds: 1.0 if seconds < 60 else 3.0,
    "in turns": lambda seconds: 1.0 if int(seconds) % 10 < 5 else 0.5,
}


@pytest.mark.parametrize("schedule", [QUICK, FAST, FULL], ids=["quick", "fast", "full"])
@pytest.mark.parametrize("speed", SPEEDS)
def test_a_training_ends_in_time_with_all_rounds_done(limited, schedule, speed):
    machine = Machine(SPEEDS[speed], schedule)
    steps = limited(machine, 120.0)
    assert 117 < machine.seconds < 121.5  # worst measured: 119.0 to 120.9
    assert len(machine.ended_at) == len(schedule.selection_rounds) and max(machine.ended_at) < steps
    assert machine.model.num_gaussians == BUDGET


def test_views_that_strategies_render_take_from_the_time(limited):
    """Cuts that take a third of the time."""
    machine = Machine(SPEEDS["steady"], views_of_a_cut=100)
    steps = limited(machine, 120.0)
    assert 117 < machine.seconds < 121.5 and machine.cuts == 4
    assert steps < 0.9 * limited(Machine(SPEEDS["steady"]), 120.0)


def test_slower_machines_take_fewer_steps(limited):
    steps = [limited(Machine(SPEEDS[speed]), 120.0) for speed in list(SPEEDS)[:3]]
    assert steps[0] > steps[1] > FEWEST_STEPS and steps[0] > steps[2] > FEWEST_STEPS


def test_a_machine_that_nearly_stops_still_ends_with_the_budget(limited):
    """A hundred times slower from the middle on: the rest of the fewest steps, and the exact budget."""
    machine = Machine(lambda seconds: 1.0 if seconds < 20 else 0.01)
    steps = limited(machine, 40.0)
    assert len(machine.ended_at) == 1 and machine.model.num_gaussians == BUDGET
    assert steps < limited(Machine(SPEEDS["steady"]), 40.0)


def test_there_are_never_more_than_the_most_steps(limited):
    machine = Machine(lambda seconds: 1e4)
    assert limited(machine, 3600.0) == MOST_STEPS
    assert machine.seconds < 3600


def test_a_time_in_which_the_fewest_steps_do_not_fit_is_refused(limited):
    with pytest.raises(InputError, match=r"--minutes 0.01 is too short for this scene: 100 steps take about 0.\d+ min"):
        limited(Machine(SPEEDS["steady"]), 0.6)


def test_a_limit_continues_with_the_layout_it_had(limited, monkeypatch):
    machine = Machine(SPEEDS["steady"])
    monkeypatch.setattr(time_limit, "seconds_of_a_view", lambda training: training.cost(1))
    limit = TimeLimit(machine, QUICK, BUDGET, 60.0)
    for step in range(1, 41):
        limit.after_step(step, 0.04 * step)
    again = Machine(SPEEDS["in turns"])
    other = TimeLimit(again, QUICK, BUDGET, 60.0)
    assert again.schedule != machine.schedule
    other.load_state_dict(limit.state_dict())
    assert again.schedule == machine.schedule
    for each in (limit, other):
        for step in range(41, 61):
            each.after_step(step, 0.05 * step)
    assert again.schedule == machine.schedule


# ---- train.py ----


def config_of(scene, out, *flags: str) -> TrainConfig:
    words = ("-s", str(scene), "-m", str(out), "--final-budget", "700", "--eval", "--no-tensorboard", "--quiet", *flags)
    return TrainConfig.from_command_line(words)


def test_a_training_by_time_has_the_budget_and_can_be_read_back(tiny_scene_dir, tmp_path):
    config = config_of(tiny_scene_dir, tmp_path / "run", "--minutes", "0.05", "--checkpoint-every", "50")
    assert config.schedule == "quick"
    summary = train(config)
    assert summary["num_gaussians"] == 700 and FEWEST_STEPS <= summary["iterations"] <= MOST_STEPS
    run = RunFolder(tmp_path / "run")
    assert run.saved_iterations() == [summary["iterations"]]
    assert run.find_ply()[1] == summary["iterations"]
    again = train(config_of(tiny_scene_dir, tmp_path / "run", "--minutes", "0.05", "--resume"))
    assert again == summary  # finished: nothing left to do


def test_too_short_a_time_leaves_an_older_run_alone(tiny_scene_dir, tmp_path):
    out = tmp_path / "run"
    train(config_of(tiny_scene_dir, out, "--iterations", "12"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="too short"):
        train(config_of(tiny_scene_dir, out, "--minutes", "1e-6"))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "soon"])
def test_minutes_that_are_none_are_refused(tiny_scene_dir, tmp_path, value):
    with pytest.raises(InputError, match="minutes"):
        config_of(tiny_scene_dir, tmp_path, "--minutes", value)


@pytest.mark.parametrize("flag", ["--iterations", "--test-iterations", "--save-iterations"])
def test_step_numbers_are_refused_where_time_decides(tiny_scene_dir, tmp_path, flag):
    with pytest.raises(InputError, match=f"{flag} can't be given with --minutes"):
        config_of(tiny_scene_dir, tmp_path, "--minutes", "1", flag, "100")


def test_a_schedule_that_is_named_is_used(tiny_scene_dir, tmp_path):
    assert config_of(tiny_scene_dir, tmp_path, "--minutes", "1", "--schedule", "fast").schedule == "fast"
