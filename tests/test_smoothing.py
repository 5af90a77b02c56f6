"""The 3D smoothing filter: its formula, its gradient, which camera decides, and what is rendered and saved."""

import pytest
import torch
from kill_runs import BUDGET
from rasterizer_cases import CPU, make_case
from test_poses import make_cameras

from compact_splats.arguments.config import SCHEDULES
from compact_splats.gaussian_renderer import render, render_pass
from compact_splats.scene import load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.smoothing import SMOOTHING, VARIANCE_PX, filter_variances, smoothed
from compact_splats.training.smoothing import Smoothing3D
from compact_splats.training.strategies import standard_strategies
from compact_splats.training.training import Training

pytestmark = pytest.mark.usefixtures("short_schedules_in_use")


def random_rows(num: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    log_scales = 2 * torch.randn(num, 3, generator=draw, dtype=torch.float64) - 4
    logits = 5 * torch.randn(num, 1, generator=draw, dtype=torch.float64)
    return log_scales, logits, 1e-3 * torch.rand(num, generator=draw, dtype=torch.float64)


def test_variances_add_up_and_the_opacity_falls_with_the_volume():
    log_scales, logits, variance = random_rows(200)
    wide, lower = smoothed(log_scales, logits, variance)
    scales = (log_scales.exp().square() + variance[:, None]).sqrt()
    assert torch.allclose(wide.exp(), scales, rtol=1e-12, atol=0)
    expected = logits.sigmoid() * (log_scales.exp() / scales).prod(dim=1, keepdim=True)
    assert torch.allclose(lower.sigmoid(), expected, rtol=1e-6, atol=1e-8)


def test_no_filter_and_extreme_opacities_are_finite():
    log_scales, logits = torch.zeros(4, 3, requires_grad=True), torch.tensor([[1e3], [-1e3], [0.5], [1e3]])
    wide, lower = smoothed(log_scales, logits.requires_grad_(), torch.tensor([0.0, 1.0, 0.0, 1e-12]))
    (wide.sum() + lower.sum()).backward()
    assert torch.equal(wide[[0, 2]], torch.zeros(2, 3)) and lower[2].item() == pytest.approx(0.5, abs=1e-6)
    assert all(each.isfinite().all() for each in (wide, lower, log_scales.grad, logits.grad))


def test_the_nearest_camera_that_sees_a_gaussian_decides():
    far, near = make_cameras(2)
    for camera, distance in ((far, 4.0), (near, 2.0)):
        camera.world_to_camera.copy_(torch.eye(4))
        camera.world_to_camera[2, 3] = distance
    # In the middle of both; beside the image of the near one; behind the near plane of the near one; seen by none.
    means = torch.tensor([[0.0, 0, 0], [1.4, 0, 0], [0, 0, -1.9], [0, 0, -4]])
    variance = filter_variances(means, [far, near])
    focal = max(far.fx, far.fy)
    expected = VARIANCE_PX * (torch.tensor([2.0, 4.0, 2.1, 4.0]) / focal) ** 2
    assert torch.allclose(variance, expected)
    assert torch.equal(filter_variances(means, []), torch.zeros(4))
    assert filter_variances(means[:0], [far]).shape == (0,)


def test_gradients_of_a_step_are_those_of_autograd():
    case = make_case(3, 60, 40, 32, activated=False)
    rows = {name: values.float() for name, values in case.inputs.items()}
    model = GaussianModel({**rows, "sh_dc": rows["sh_dc"], "sh_rest": rows["sh_rest"]}, sh_degree=3)
    (camera,) = make_cameras(1)
    camera.world_to_camera.copy_(case.camera.world_to_camera)
    model.per_gaussian[SMOOTHING] = torch.linspace(0, 0.02, 60)
    weights = torch.randn(3, 32, 40, generator=torch.Generator().manual_seed(1))
    with CPU.active():
        names = list(model.parameters)
        (render(camera, model).image * weights).sum().backward()
        expected = {name: model.parameters[name].grad for name in names}
        view = render_pass(camera, model, torch.zeros(3), {})
        view.v_image.copy_(weights)
        view.backward()
        model.to_parameters(view.gradients)
    for name in names:
        assert torch.allclose(view.gradients[name], expected[name], rtol=1e-5, atol=1e-6), name
    assert expected["log_scales"].any()


@pytest.mark.parametrize("schedule", ["quick", "full"])
def test_what_is_saved_is_what_is_rendered_and_no_finer_than_the_filter(short_scene, tmp_path, schedule):
    """Through densification and selection, which change the number of Gaussians."""
    scene = load_scene(short_scene)
    model = GaussianModel.from_points(scene.points, 3, "cpu")
    strategies = standard_strategies(scene, SCHEDULES[schedule], BUDGET, smoothing=True)
    counts = set()
    for _ in Training(scene, model, SCHEDULES[schedule], strategies):
        counts.add(model.num_gaussians)
        variance = model.per_gaussian[SMOOTHING]
        assert len(variance) == model.num_gaussians and (variance > 0).all()
    assert len(counts) > 3 and model.num_gaussians == BUDGET
    model.parameters["log_scales"].data[::2] -= 9  # finer than a pixel
    model.save_ply(tmp_path / "model.ply")
    saved = GaussianModel.load_ply(tmp_path / "model.ply", "cpu", units=scene.units)
    assert (saved.scales.square() >= 0.999 * variance[:, None]).all()
    assert (model.scales.square() < 0.5 * variance[:, None]).any()
    camera = scene.test[0]
    assert torch.allclose(render(camera, saved).image, render(camera, model).image, rtol=1e-4, atol=1e-4)
    assert torch.equal(render(camera, model.drawn()).image, render(camera, model).image)


def test_without_the_filter_nothing_changes(short_scene):
    scene = load_scene(short_scene)
    model = GaussianModel.from_points(scene.points, 3, "cpu")
    assert model.drawn() is model and model.drawn_parameters() == dict(model.parameters)
    strategies = standard_strategies(scene, SCHEDULES["quick"], BUDGET)
    assert not any(isinstance(each, Smoothing3D) for each in strategies)
