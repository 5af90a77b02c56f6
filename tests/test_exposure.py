"""Exposure of the training photos: gradients, the mean that is held, known gains, and what a run does with them."""

import json
import shutil
from collections.abc import Sequence
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from diff_gaussian_rasterization import photometric_loss
from kill_runs import BUDGET

from compact_splats.arguments import TrainConfig
from compact_splats.commands import compress
from compact_splats.scene import Scene, load_scene
from compact_splats.scene.cameras import Camera
from compact_splats.scene.photos import Planes
from compact_splats.scene.points import Points
from compact_splats.training import loading
from compact_splats.training.exposure import LARGEST, Exposure, difference_of_exposures
from compact_splats.training.run import train
from compact_splats.utils.errors import InputError

YES = torch.tensor(True)
GAINS = np.exp(0.3 * np.sin(np.arange(14)))  # of the photos of the short scene

pytestmark = pytest.mark.usefixtures("short_schedules_in_use")


def make_exposure(num: int, seed: int = 0) -> Exposure:
    draw = torch.Generator().manual_seed(seed)
    return Exposure(num, transforms=torch.eye(3, 4) + 0.1 * torch.randn(num, 3, 4, generator=draw))


def test_gradients_are_those_of_autograd():
    draw = torch.Generator().manual_seed(1)
    exposure, image, v = make_exposure(4), torch.rand(3, 9, 7, generator=draw), torch.randn(3, 9, 7, generator=draw)
    transform = exposure.transforms[2].clone().requires_grad_()
    pixels = image.clone().requires_grad_()
    applied = torch.einsum("ij,jhw->ihw", transform[:, :3], pixels) + transform[:, 3, None, None]
    assert torch.allclose(exposure.applied(2, image), applied, atol=1e-6)
    expected = torch.autograd.grad((applied * v).sum(), (pixels, transform))
    for found, wanted in zip(exposure.gradients(2, image, v), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)


def test_the_mean_over_the_photos_stays_the_identity_and_faults_change_nothing():
    exposure, draw = Exposure(5), torch.Generator().manual_seed(2)
    for step in range(40):
        exposure.update(step / 40, step % 5, torch.randn(3, 4, generator=draw), YES)
        assert torch.allclose(exposure.transforms.mean(dim=0), torch.eye(3, 4), atol=1e-6)
    before = exposure.transforms
    assert (before - torch.eye(3, 4)).abs().amax(dim=(1, 2)).min() > 1e-3
    fresh = Exposure(5)
    fresh.update(0, 1, torch.full((3, 4), torch.nan), torch.tensor(False))
    assert torch.equal(fresh.transforms, Exposure(5).transforms)


def test_what_diverges_is_bounded_and_named():
    exposure = Exposure(3)
    for _ in range(400):
        exposure.update(0, 1, torch.full((3, 4), -1.0), YES)
    assert (exposure.transforms - torch.eye(3, 4)).abs().max() <= LARGEST + 1e-6 and exposure.diverged() == [1]


def test_several_processes_update_as_one():
    """Each with a photo of its own: the sums are those of one process that has both."""

    class Other:
        count = 2

        def __init__(self, index: int, gradient: torch.Tensor) -> None:
            self.index, self.gradient = index, gradient

        def sum(self, gradients: torch.Tensor, seen: torch.Tensor) -> None:
            gradients[self.index] += self.gradient
            seen[self.index] += 1

    draw = torch.Generator().manual_seed(3)
    first, second = torch.randn(2, 3, 4, generator=draw)
    ours, theirs, alone = Exposure(4), Exposure(4), Exposure(4)
    ours.update(0.5, 1, first, YES, Other(3, second))
    theirs.update(0.5, 3, second, YES, Other(1, first))
    alone.update(0.5, 1, first, YES)
    alone.update(0.5, 3, second, YES)
    assert torch.equal(ours.transforms, theirs.transforms)
    assert torch.allclose(ours.transforms, alone.transforms, atol=1e-6)


def test_known_gains_are_recovered_to_one_percent():
    """In the mean over the pixels, of photos of a picture that is known; the mean of the photos is the picture."""
    draw = torch.Generator().manual_seed(4)
    picture = cv2.resize(torch.rand(8, 8, 3, generator=draw).numpy(), (48, 40), interpolation=cv2.INTER_CUBIC)
    picture = torch.from_numpy(picture).permute(2, 0, 1).clamp(0.05, 0.7).contiguous()
    gains = 1 + 0.3 * (torch.rand(6, 3, generator=draw) - 0.5)
    gains /= gains.mean(dim=0)
    photos = [(255 * picture * each[:, None, None]).round().to(torch.uint8) for each in gains]
    exposure = Exposure(len(photos))
    steps = 600
    for step in range(steps):
        index = step % len(photos)
        image = exposure.applied(index, picture).requires_grad_()
        (v,) = torch.autograd.grad(photometric_loss(image, photos[index]).loss, image)
        exposure.update(step / steps, index, exposure.gradients(index, picture, v)[1], YES)
    for index, each in enumerate(gains):
        found = exposure.applied(index, picture).mean(dim=(1, 2)) / picture.mean(dim=(1, 2))
        assert torch.allclose(found, each, rtol=0.01)


@pytest.fixture(scope="module")
def uneven_scene(short_scene, tmp_path_factory):
    """The short scene in photos of different exposure."""
    out = shutil.copytree(short_scene, tmp_path_factory.mktemp("uneven") / "scene")
    for path, gain in zip(sorted((out / "images").iterdir()), GAINS, strict=True):
        pixels = cv2.imread(str(path)).astype(np.float64)
        cv2.imwrite(str(path), np.clip(pixels * gain, 0, 255).round().astype(np.uint8))
    return out


def wall(gains: Sequence[float]) -> Scene:
    """Photos of a coloured wall z = 0 from several places, each with its gain, and points of the wall."""
    draw = torch.Generator().manual_seed(5)
    xyz = torch.cat([2 * torch.rand(2000, 2, generator=draw) - 1, torch.zeros(2000, 1)], dim=1)
    cameras = []
    for i, gain in enumerate(gains):
        motion = torch.eye(4)
        motion[:3, 3] = torch.tensor([0.1 * i - 0.3, 0.2 - 0.05 * i, 2.0])
        y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
        world = torch.stack([(x - 32) / 50 * 2, (y - 24) / 50 * 2]) - motion[:2, 3, None, None]
        grey = 0.4 + 0.15 * (torch.sin(4 * world[0]) + torch.cos(5 * world[1]))
        pixels = (255 * gain * grey).clamp(0, 255).round().to(torch.uint8).expand(3, -1, -1)
        planes = Planes(pixels, None, None)
        photo = SimpleNamespace(planes=lambda planes=planes: planes, cache=SimpleNamespace(num_ahead=0))
        cameras.append(Camera(f"{i}", 64, 48, 50.0, 50.0, 32.0, 24.0, motion, photo))
    return Scene(tuple(cameras), (), Points(xyz, torch.randint(255, (2000, 3), generator=draw)), 1.0)


def test_photos_of_one_exposure_and_of_several_are_told_apart(short_scene):
    gains = np.exp(0.3 * np.sin(np.arange(7)))
    assert difference_of_exposures(wall(np.ones(7))) < 0.01
    assert difference_of_exposures(wall(gains)) == pytest.approx(np.log(gains).std(ddof=1), rel=0.05)
    assert difference_of_exposures(load_scene(short_scene)) == 0  # objects hide most of the points
    scene = wall(gains)
    scene.points.rgb.fill_(128)  # random points have one colour
    assert difference_of_exposures(scene) == 0


def run(scene, out, **changes) -> TrainConfig:
    config = TrainConfig(
        source_path=scene,
        model_path=out,
        final_budget=BUDGET,
        schedule="quick",
        eval=True,
        tensorboard=False,
        **changes,
    )
    train(config)
    return config


def test_a_run_switches_it_on_by_itself_and_leaves_the_transforms(uneven_scene, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "difference_of_exposures", lambda scene: 0.2)
    out = tmp_path / "run"
    run(uneven_scene, out, exposure="auto")
    assert "differ in brightness by 20%" in capsys.readouterr().out
    transforms = json.loads((out / "exposure.json").read_text())
    assert len(transforms) == 12 and np.shape(list(transforms.values())) == (12, 3, 4)
    compress.main(["-m", str(out), "--no-prune", "--steps", "0.01", "--threads", "1"])
    (out / "exposure.json").write_text(json.dumps(dict(list(transforms.items())[1:])))
    with pytest.raises(InputError, match="exposure.json has no 3x4 numbers"):
        compress.main(["-m", str(out), "--no-prune", "--steps", "0.01", "--threads", "1", "--overwrite"])
    run(uneven_scene, out, exposure="off")
    assert not (out / "exposure.json").exists()


def test_a_scene_of_one_exposure_is_trained_without(short_scene, tmp_path, capsys):
    run(short_scene, tmp_path / "run", exposure="auto")
    assert "brightness" not in capsys.readouterr().out and not (tmp_path / "run" / "exposure.json").exists()
