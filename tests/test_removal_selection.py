"""Selection by removal error: what changes the images least goes, in cuts, and exactly the budget stays."""

import random
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from compact_splats.arguments.schedule import FAST, FEWEST_PHOTOS, MOST_STEPS_PER_PHOTO, QUICK, Pace
from compact_splats.gaussian_renderer import render
from compact_splats.scene import load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training import removal_selection
from compact_splats.training.natural_selection import NaturalSelection
from compact_splats.training.removal_selection import RemovalSelection
from compact_splats.training.strategies import standard_strategies
from compact_splats.training.training import Training

BUDGET = 300


@pytest.fixture(scope="module")
def scene(tiny_scene_dir):
    return load_scene(tiny_scene_dir)


def training_of(scene, selection: RemovalSelection, schedule=QUICK, step: int = 0) -> Training:
    training = Training(scene, GaussianModel.from_points(scene.points, 1, "cpu"), schedule, [selection])
    training.step = step
    return training


@pytest.mark.parametrize("schedule", [QUICK, FAST.scaled(0.1)], ids=["quick", "fast"])
def test_cuts_are_evenly_spaced_from_the_start_of_a_round_to_its_end(schedule):
    for each in schedule.selection_rounds:
        start, end = each.window.start, each.window.end
        due = [each.cuts_by(step) for step in range(schedule.iterations + 1)]
        cuts = [step for step in range(1, len(due)) if due[step] > due[step - 1]]
        assert due == sorted(due) and due[start - 1] == 0 and due[end - 1] == each.num_cuts - 1
        assert len(cuts) == each.num_cuts and cuts[0] == start and cuts[-1] == end
        spaces = [after - before for before, after in pairwise(cuts)]
        assert max(spaces) - min(spaces) <= 1


def test_each_cut_keeps_the_same_share_and_the_last_one_exactly_the_budget(scene, monkeypatch):
    selection = RemovalSelection(QUICK.selection_rounds, BUDGET)
    training = training_of(scene, selection)
    monkeypatch.setattr(selection, "scores", lambda training: torch.rand(training.model.num_gaussians))
    counts = [training.model.num_gaussians]
    for training.step in range(1, QUICK.iterations + 1):
        selection.after_step(training)
        if training.model.num_gaussians != counts[-1]:
            counts.append(training.model.num_gaussians)
    shares = [after / before for before, after in pairwise(counts)]
    assert counts[-1] == BUDGET and len(shares) == QUICK.selection_rounds[0].num_cuts
    assert max(shares) - min(shares) < 0.01


def test_a_set_within_the_budget_stays(scene):
    selection = RemovalSelection(QUICK.selection_rounds, 10**6)
    training = training_of(scene, selection, step=QUICK.selection_rounds[0].window.end)
    num = training.model.num_gaussians
    selection.after_step(training)
    assert training.model.num_gaussians == num


@pytest.mark.parametrize("seed", range(5))
def test_the_budget_is_exact_at_any_pace(scene, monkeypatch, seed):
    """The pace changes every few steps, so that cuts fall together."""
    draw = random.Random(seed)
    pace = Pace(0.05)
    selection = RemovalSelection(QUICK.at_pace(pace).selection_rounds, BUDGET)
    training = training_of(scene, selection, QUICK.at_pace(pace))
    monkeypatch.setattr(selection, "scores", lambda training: torch.rand(training.model.num_gaussians))
    while training.step < training.schedule.iterations:
        training.step += 1
        selection.after_step(training)
        if training.step % 7 == 0:
            pace = Pace(draw.uniform(0.01, 0.05), training.step, pace.position_of(training.step))
            training.change_schedule(QUICK.at_pace(pace))
    assert training.model.num_gaussians == BUDGET


def test_what_changes_the_images_least_goes(scene):
    """Against renders without one Gaussian at a time."""
    selection = RemovalSelection(QUICK.selection_rounds, BUDGET)
    training = training_of(scene, selection, step=QUICK.iterations)
    model, black = training.model, torch.zeros(3)
    model.keep(torch.arange(model.num_gaussians) < 40)
    with torch.no_grad():
        model.parameters["opacity_logits"].copy_(torch.linspace(-5, 5, 40)[:, None])
        model.parameters["log_scales"] += 1

    def images(without: int | None = None) -> torch.Tensor:
        logits = model.parameters["opacity_logits"]
        kept = logits.detach().clone()
        with torch.no_grad():
            if without is not None:
                logits[without] = -30
            found = torch.stack([render(camera, model, black).image for camera in scene.train]).double()
            logits.copy_(kept)
        return found

    whole = images()
    expected = torch.stack([(images(index) - whole).square().mean() for index in range(40)])
    scores = selection.scores(training).double()
    # Worst measured: 2e-4 of the largest; float32 and blending that stops early.
    torch.testing.assert_close(scores, expected, rtol=1e-2, atol=1e-3 * float(expected.max()))


def test_of_many_views_each_cut_takes_another_part(scene, monkeypatch):
    monkeypatch.setattr(removal_selection, "MOST_VIEWS", 4)
    selection = RemovalSelection(QUICK.selection_rounds, BUDGET)
    training = training_of(scene, selection, step=QUICK.iterations)
    taken = []
    monkeypatch.setattr(training, "mean_over_views", lambda indices, value: taken.append(list(indices)))
    for cuts in range(3):
        selection.load_state_dict({"cuts": [cuts]})
        selection.scores(training)
    assert all(0 < len(part) <= 4 for part in taken)
    assert sorted(sum(taken, [])) == list(range(len(scene.train)))


def test_a_selection_continues_from_its_state(scene, monkeypatch):
    schedule = QUICK.scaled(0.02)
    one = RemovalSelection(schedule.selection_rounds, BUDGET)
    training = training_of(scene, one, schedule, step=schedule.selection_rounds[0].window.start)
    one.after_step(training)
    num = training.model.num_gaussians
    other = RemovalSelection(schedule.selection_rounds, BUDGET)
    other.load_state_dict(one.state_dict())
    other.after_step(training)  # the cut of this step has been made
    assert training.model.num_gaussians == num > BUDGET


@pytest.mark.parametrize(
    ("schedule", "num_photos", "num_steps", "expected"),
    [
        (QUICK, FEWEST_PHOTOS, MOST_STEPS_PER_PHOTO, RemovalSelection),
        (QUICK, FEWEST_PHOTOS, MOST_STEPS_PER_PHOTO + 1, NaturalSelection),
        (QUICK, FEWEST_PHOTOS - 1, MOST_STEPS_PER_PHOTO, NaturalSelection),
        (FAST, FEWEST_PHOTOS, MOST_STEPS_PER_PHOTO, NaturalSelection),
        (replace(FAST, selection="error"), FEWEST_PHOTOS, MOST_STEPS_PER_PHOTO, RemovalSelection),
    ],
)
def test_auto_is_the_selection_of_the_schedule_with_many_photos_in_short_runs(
    schedule, num_photos, num_steps, expected
):
    """Short: few steps per training photo."""
    schedule = schedule.scaled(num_photos * num_steps / schedule.iterations)
    strategies = standard_strategies(SimpleNamespace(train=[None] * num_photos), schedule, BUDGET)
    assert isinstance(strategies[1], expected)
