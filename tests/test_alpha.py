"""Photos with an alpha channel: a mask, or composited over the background of the step."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scene_writers import write_colmap, write_photo, write_transforms

from compact_splats.arguments import TrainConfig
from compact_splats.arguments.render import RenderConfig
from compact_splats.arguments.schedule import QUICK
from compact_splats.gaussian_renderer import render
from compact_splats.gaussian_renderer.evaluation import evaluate, ground_truth, view_pair
from compact_splats.scene import Scene, load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.importance import EdgeImportance
from compact_splats.training.processes import SINGLE_PROCESS
from compact_splats.training.run import make_training, train
from compact_splats.training.training import Training
from compact_splats.utils.errors import InputError

CPU = torch.device("cpu")
BACKGROUNDS = [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.3, 0.7, 0.55)]


@pytest.fixture
def cut_out(tmp_path) -> Path:
    """Ten RGBA photos of noise, colours of transparent pixels too, in COLMAP layout."""
    write_colmap(tmp_path, num_images=10, num_points=50)
    for i in range(10):
        write_photo(tmp_path / "images" / f"{i:03}.png", mode="RGBA", seed=i)
    return tmp_path


def rgba_of(scene: Scene) -> np.ndarray:
    return np.asarray(Image.open(scene.train[0].photo.path)).astype(float)


# ---- the compositing law ----


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_photo_is_composited_over_the_background(cut_out, background):
    """Colour * alpha + background * (1 - alpha), of straight alpha; no pixel is left out."""
    scene = load_scene(cut_out, alpha="composite")
    rgba = rgba_of(scene)
    opacity = rgba[..., 3:] / 255
    expected = (rgba[..., :3] * opacity + 255 * np.array(background) * (1 - opacity)).transpose(2, 0, 1)
    photo, mask = ground_truth(scene.train[0], CPU, torch.tensor(background))
    # Worst measured: 0.99, as colour and background are rounded one by one; 0.5 over black and white.
    assert mask is None and photo.dtype == torch.uint8 and np.abs(photo.numpy() - expected).max() < 1


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_smaller_photo_shows_the_same_over_any_background(cut_out, background):
    """Halving and compositing commute, so colours of transparent pixels do not bleed into the border."""
    scene = load_scene(cut_out, alpha="composite")
    camera, background = scene.train[0], torch.tensor(background)
    whole = ground_truth(camera, CPU, background)[0].float().unflatten(1, (15, 2)).unflatten(3, (20, 2))
    half = ground_truth(camera.smaller(2), CPU, background)[0]
    # Worst measured: 1.3 levels: of rounding before, and after.
    assert (half - whole.mean(dim=(2, 4))).abs().max() < 2
    assert half.shape == (3, 15, 20)


def test_undistortion_keeps_alpha_and_colour_together(tmp_path):
    """A grey object with colours around it that mean nothing stays grey at its border."""
    write_colmap(tmp_path, [(1, "OPENCV", 40, 30, (35.0, 36.0, 20.5, 14.5, 0.05, 0.0, 0.0, 0.0))], num_images=2)
    rgba = np.zeros((30, 40, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[8:22, 10:30] = 99, 99, 99, 255
    Image.fromarray(rgba).save(tmp_path / "images" / "001.png")
    (camera,) = load_scene(tmp_path, alpha="composite").train
    red, green, _ = camera.photo.pixels().int()
    assert (red - green).abs().max() <= 1 and red.max() == 99
    assert camera.photo.planes().alpha.unique().numel() > 2


def test_an_opaque_photo_needs_no_plane_of_alpha(tmp_path):
    write_colmap(tmp_path, num_images=2)
    rgba = write_photo(tmp_path / "images" / "001.png", mode="RGBA")
    rgba[..., 3] = 255
    Image.fromarray(rgba).save(tmp_path / "images" / "001.png")
    photo = load_scene(tmp_path, alpha="composite").train[0].photo
    assert photo.planes().alpha is None and np.array_equal(photo.pixels(), rgba[..., :3].transpose(2, 0, 1))


# ---- which it is ----


def test_what_alpha_is_depends_on_the_data_set(cut_out, tmp_path_factory):
    """By default a mask, but composited in Blender data sets; the flag decides otherwise."""
    assert load_scene(cut_out).train[0].photo.mask() is not None
    assert load_scene(cut_out, alpha="composite").train[0].photo.mask() is None
    blender = tmp_path_factory.mktemp("blender")
    write_transforms(blender, "transforms_train.json", num_frames=2)
    write_photo(blender / "images" / "000.png", mode="RGBA")
    assert load_scene(blender).train[0].photo.mask() is None
    assert load_scene(blender, alpha="mask").train[0].photo.mask() is not None
    with pytest.raises(InputError, match="--alpha must be auto, mask or composite, not 'premultiplied'"):
        load_scene(blender, alpha="premultiplied")


def test_a_random_background_composites_and_the_run_says_so(cut_out, tmp_path):
    """config.json holds it, from which render.py and compress.py take it; --alpha goes first."""
    flags = {"source_path": cut_out, "final_budget": 50, "quiet": True, "tensorboard": False}
    assert TrainConfig(**flags).alpha == "auto"
    assert TrainConfig(**flags, random_background=True).alpha == "composite"
    assert TrainConfig(**flags, random_background=True, alpha="mask").alpha == "mask"
    train(TrainConfig(**flags, random_background=True, model_path=tmp_path / "run", iterations=3))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["alpha"] == "composite"
    assert RenderConfig.from_command_line(["-m", str(tmp_path / "run")]).alpha == "composite"
    train(TrainConfig.from_command_line(["-m", str(tmp_path / "run"), "--resume"]))  # finished: the same flags


# ---- training, importance and metrics ----


@pytest.mark.parametrize("background", [None, torch.tensor([0.2, 0.9, 0.4])])
def test_a_step_compares_with_the_photo_over_its_own_background(cut_out, background):
    """Where alpha is zero, image and photo differ only by what the Gaussians add; no Gaussians: by nothing."""
    scene = load_scene(cut_out, alpha="composite")
    model = GaussianModel.from_points(scene.points, 0, "cpu")
    with torch.no_grad():
        model.parameters["opacity_logits"].fill_(-30)
    backgrounds = set()
    for step in Training(scene, model, QUICK.scaled(1e-3), background=background):
        clear = torch.from_numpy(np.array(Image.open(step.camera.photo.path))[..., 3])
        empty = (step.photo - 255 * step.image).abs()[:, clear == 0]
        assert not len(empty) or empty.max() < 1
        backgrounds.add(tuple(step.image[:, 0, 0].tolist()))
    assert len(backgrounds) == (3 if background is None else 1)


def test_what_is_transparent_stays_empty_with_a_random_background(cut_out):
    """Photos that show nothing at all: the Gaussians fade, where a fixed black background keeps them as they are."""
    for path in (cut_out / "images").iterdir():
        pixels = np.asarray(Image.open(path)).copy()
        pixels[..., 3] = 0
        Image.fromarray(pixels).save(path)
    left = {}
    for name, random_background in (("random", True), ("black", False)):
        config = TrainConfig(
            source_path=cut_out, final_budget=50, iterations=80, schedule="quick", random_background=random_background,
            alpha="composite", quiet=True,
        )  # fmt: skip
        scene = load_scene(cut_out, alpha=config.alpha)
        points = dataclasses.replace(scene.points, rgb=torch.zeros_like(scene.points.rgb))  # black: no loss over black
        model = GaussianModel.from_points(points, 0, "cpu")
        training = make_training(config, QUICK.scaled(80 / 3000), scene, model, SINGLE_PROCESS)
        training.strategies = []
        with torch.no_grad():
            start = 1 - render(scene.train[0], model).transmittance.mean()
            for _ in range(80):
                with torch.enable_grad():
                    next(training)
            left[name] = float(1 - render(scene.train[0], model).transmittance.mean()) / float(start)
    # Measured: 0.011 and 1.0.
    assert left["random"] < 0.1 and left["black"] > 0.5


def test_metrics_and_edges_are_over_the_background_that_is_rendered(cut_out):
    """White and black, as render.py and train.py measure; equal without Gaussians where all is transparent."""
    scene = load_scene(cut_out, alpha="composite")
    model = GaussianModel.from_points(scene.points, 0, "cpu")
    with torch.no_grad():
        model.parameters["opacity_logits"].fill_(-30)
    edges = []
    for background in (torch.zeros(3), torch.ones(3)):
        image, photo = view_pair(scene.test[0], model, background)
        rgba = np.asarray(Image.open(scene.test[0].photo.path)).astype(float)
        clear = torch.from_numpy(rgba[..., 3] == 0)
        assert torch.equal(image[:, clear], photo[:, clear])
        error = (image.float() - photo.float()) / 255
        assert evaluate(scene.test[:1], model, background)["l1"] == pytest.approx(error.abs().mean().item(), rel=1e-5)
        edges.append(EdgeImportance(views=None).edge_weights(scene.test[0], background))
    assert not torch.equal(*edges)
