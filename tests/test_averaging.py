"""The mean of the last steps, and photos that are smaller at first."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compact_splats.arguments.schedule import QUICK
from compact_splats.scene import load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.averaging import MeanOfLastSteps
from compact_splats.training.training import Training


@pytest.fixture(scope="module")
def scene(tiny_scene_dir):
    return load_scene(tiny_scene_dir)


def test_the_result_is_the_mean_over_the_last_steps(scene):
    model = GaussianModel.from_points(scene.points, 1, "cpu")
    mean, kept = MeanOfLastSteps(3), []
    for step in range(1, 7):
        with torch.no_grad():
            for values in model.parameters.values():
                values += step**2
        kept.append(model.means.detach().double().clone())
        mean.after_step(SimpleNamespace(step=step, model=model, schedule=SimpleNamespace(iterations=6)))
    np.testing.assert_allclose(model.means.detach(), sum(kept[2:]) / 4, rtol=1e-5)


def test_a_mean_continues_from_its_state(scene):
    one, other = (GaussianModel.from_points(scene.points, 1, "cpu") for _ in range(2))
    strategies = MeanOfLastSteps(1), MeanOfLastSteps(1)
    for step in (1, 2, 3):
        for model, mean in zip((one, other), strategies, strict=True):
            with torch.no_grad():
                model.parameters["means"] += step
            mean.after_step(SimpleNamespace(step=step, model=model, schedule=SimpleNamespace(iterations=3)))
        if step == 2:
            strategies = strategies[0], MeanOfLastSteps(1)
            strategies[1].load_state_dict(strategies[0].state_dict())
    assert torch.equal(one.means, other.means)


def test_a_smaller_camera_shows_the_same_at_fewer_pixels(scene):
    """The area average of the photo; a point keeps its place in the image, in shares of its size."""
    camera = scene.train[0]
    small = camera.smaller(4)
    assert (small.width, small.height) == (camera.width // 4, camera.height // 4)
    expected = camera.required_photo.pixels().float().unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4))
    assert (small.required_photo.pixels() - expected).abs().max() <= 1
    point = scene.points.xyz.mean(0)
    x, y, z = (camera.world_to_camera[:3, :3] @ point + camera.world_to_camera[:3, 3]).tolist()
    places = [
        ((each.fx * x / z + each.cx) / each.width, (each.fy * y / z + each.cy) / each.height)
        for each in (camera, small)
    ]
    assert places[0] == pytest.approx(places[1], abs=1e-6)


@pytest.mark.parametrize("smallest", [8, 24, 64])
def test_a_training_shows_the_size_that_its_schedule_has(scene, monkeypatch, smallest):
    """But no photo becomes smaller than the smallest that is of use."""
    monkeypatch.setattr("compact_splats.training.training.SMALLEST_SIDE", smallest)
    schedule = QUICK.scaled(0.01)
    model = GaussianModel.from_points(scene.points, 0, "cpu")
    sizes = [tuple(step.photo.shape[1:]) for step in Training(scene, model, schedule)]
    width, height = scene.train[0].width, scene.train[0].height
    most = min(width, height) // smallest
    divisors = [min(schedule.photo_divisor(step), most) for step in range(1, 31)]
    assert sizes == [(height // divisor, width // divisor) for divisor in divisors]
    assert len(set(sizes)) == {8: 3, 24: 2, 64: 1}[smallest]
