"""``--robust``: parts of a photo that the model contradicts do not count."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.moving_box import paste_box
from compact_splats.arguments.config import SCHEDULES
from compact_splats.gaussian_renderer import render
from compact_splats.scene import load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.loss import PhotometricLoss, unmoved
from compact_splats.training.strategies import standard_strategies
from compact_splats.training.training import Training

pytestmark = pytest.mark.usefixtures("short_schedules_in_use")


def view(noise: float = 0.03, height: int = 61, width: int = 83) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth photo, and an image that is off by noise and has ill-fitted edges, one pixel wide."""
    draw = torch.Generator().manual_seed(3)
    x = torch.arange(width) / width
    photo = (120 + 60 * torch.sin(6 * x)).expand(3, height, width).round().to(torch.uint8).contiguous()
    image = photo / 255 + noise * torch.randn(3, height, width, generator=draw)
    image[:, ::16] += 0.3
    return image, photo


def test_a_box_is_left_out_and_edges_and_noise_are_not():
    image, photo = view()
    assert unmoved(image, photo).all()
    photo[:, 20:40, 50:75] = 255
    kept = unmoved(image, photo)
    assert not kept[24:32, 52:68].any()  # but for its border and corners, as patches lie
    kept[16:44, 46:79] = True
    assert kept.all()


def test_small_residuals_count_all_and_a_fifth_is_the_most_that_differs():
    """A good fit loses nothing, however its residuals are spread; where everything differs, most of it counts."""
    image, photo = view(noise=0.0)
    image, photo = photo / 255, photo.clone()
    image[:, 20:40, 50:75] += 0.09
    assert unmoved(image, photo).all()
    strange = torch.randint(0, 256, photo.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert unmoved(image, strange).float().mean() > 0.6


def test_masked_pixels_decide_nothing():
    image, photo = view()
    mask = torch.ones(photo.shape[1:], dtype=torch.bool)
    mask[:, 40:] = False
    photo[:, :, 40:] = 255 - photo[:, :, 40:]
    assert unmoved(image, photo, mask).all()
    assert torch.equal(PhotometricLoss(robust=True).counted(image, photo, mask), mask)
    assert PhotometricLoss().counted(image, photo, None) is None


def test_the_loss_has_no_gradient_inside_of_the_box_and_both_ways_to_it_agree():
    image, photo = view()
    photo[:, 20:40, 50:75] = 255
    leaf = image.clone().requires_grad_()
    PhotometricLoss(robust=True)(leaf, photo).backward()
    kept = unmoved(image, photo)
    assert (leaf.grad[:, ~kept] == 0).all() and (leaf.grad[:, kept] != 0).any()


def test_a_training_does_not_learn_what_is_in_one_photo_only(tiny_scene_dir):
    """Of a box in a photo the model shows less with ``robust``; a run that stops and continues has the same bits."""
    scene, schedule = load_scene(tiny_scene_dir, eval=False), SCHEDULES["quick"].scaled(4)
    camera = scene.train[4]
    planes = camera.photo.planes()
    boxed = planes.rgb.permute(1, 2, 0).flip(-1).numpy().copy()
    paste_box(boxed, np.random.default_rng(1))
    boxed = torch.from_numpy(boxed).flip(-1).permute(2, 0, 1).contiguous()
    changed = (boxed != planes.rgb).any(dim=0)
    planes.rgb.copy_(boxed)  # the cache has it now
    assert 0.04 < changed.float().mean() < 0.1

    def training(*, robust: bool) -> Training:
        model = GaussianModel.from_points(scene.points, 3, "cpu")
        strategies = standard_strategies(scene, schedule, 1500)
        whole = replace(schedule, photo_divisors=())
        return Training(scene, model, whole, strategies, loss=PhotometricLoss(robust=robust))

    @torch.no_grad()
    def learnt(model: GaussianModel) -> float:
        image = render(camera, model, torch.zeros(3)).image
        return float((image - boxed / 255).abs().mean(dim=0)[changed].mean())

    models = {}
    for robust in (False, True):
        for step in (run := training(robust=robust)):
            assert step.usable
        models[robust] = run.model
    assert learnt(models[True]) > 1.5 * learnt(models[False])  # measured: 0.30 and 0.14
    first, second = training(robust=True), training(robust=True)
    for _ in range(10):
        next(first)
    second.load_state_dict(deepcopy(first.state_dict()))
    for _ in range(10):
        next(first), next(second)
    assert torch.equal(second.model.parameters["means"], first.model.parameters["means"])
