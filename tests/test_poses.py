"""Refinement of poses: its gradient, what all cameras have in common, known poses, and what a run does with them."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kill_runs import BUDGET, STEPS
from rasterizer_cases import random_rotation
from test_resume import make_config, ply, run_until

from compact_splats.arguments.config import SCHEDULES
from compact_splats.commands import compress, render
from compact_splats.gaussian_renderer import render_pass
from compact_splats.scene import load_scene
from compact_splats.scene.cameras import Camera
from compact_splats.scene.colmap import read_colmap
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.names import SceneFiles
from compact_splats.scene.normalization import EXTENT
from compact_splats.scene.points import Points
from compact_splats.scene.saved_cameras import read_cameras
from compact_splats.training import poses as module
from compact_splats.training.loading import poses_for
from compact_splats.training.poses import LARGEST, PoseRefinement, take_refined_poses, without_common_motion
from compact_splats.training.run import train
from compact_splats.training.strategies import standard_strategies
from compact_splats.training.training import Training
from compact_splats.utils.errors import InputError

YES = torch.tensor(True)
POINTS = 2.4 * torch.rand(120, 3, generator=torch.Generator().manual_seed(0)) - 1.2

pytestmark = pytest.mark.usefixtures("short_schedules_in_use")


def make_cameras(num: int, seed: int = 0) -> list[Camera]:
    """Cameras of 40 x 32 px, 4 units from the origin, that look there."""
    draw, cameras = torch.Generator().manual_seed(seed), []
    for index in range(num):
        pose = torch.eye(4)
        pose[:3, :3], pose[2, 3] = random_rotation(draw), 4.0
        cameras.append(Camera(f"{index}.jpg", 40, 32, 45.0, 47.0, 19.0, 17.0, pose, None))
    return cameras


def poses_of(cameras) -> torch.Tensor:
    return torch.stack([camera.world_to_camera for camera in cameras])


def test_the_gradient_is_that_of_the_pose_that_is_written():
    """Central differences in double of a linear loss, for a camera that has turned and moved already."""
    draw = torch.Generator().manual_seed(1)
    refinement, v = PoseRefinement(make_cameras(3)), torch.randn(4, 4, generator=draw, dtype=torch.float64)
    refinement._poses = refinement._poses.double()
    found = refinement.gradient(1, v)

    def loss(change: torch.Tensor) -> float:
        refinement._change[1] = change
        refinement._write()
        return float((refinement._poses[1] * v).sum())

    for i in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[i] = 1e-5
        assert found[i].item() == pytest.approx((loss(step) - loss(-step)) / 2e-5, rel=1e-8)


def test_what_all_cameras_have_in_common_is_taken_out():
    draw = torch.Generator().manual_seed(2)
    centres = torch.randn(5, 3, generator=draw, dtype=torch.float64)
    turn, shift = torch.randn(2, 3, generator=draw, dtype=torch.float64)
    moved = torch.linalg.cross(turn.expand(5, 3), centres) + shift + 0.3 * centres
    assert torch.cat(without_common_motion(turn.expand(5, 3), moved, centres)).abs().max() < 1e-12
    refinement = PoseRefinement(make_cameras(5))
    for step in range(30):
        refinement.update(0.5, step % 5, torch.randn(4, 4, generator=draw), YES)
    change = torch.cat(refinement.change)
    assert change.abs().amax(dim=1).min() > 1e-4
    again = without_common_motion(*refinement.change, refinement._centres)
    assert torch.allclose(torch.cat(again), change, atol=1e-12)


def test_poses_stay_rigid_and_faults_change_nothing():
    cameras = make_cameras(4)
    refinement, before = PoseRefinement(cameras), poses_of(cameras)
    refinement.update(0.5, 1, torch.full((4, 4), torch.nan), torch.tensor(False))
    refinement.update(0.5, 2, torch.full((4, 4), torch.inf), YES)
    assert torch.allclose(poses_of(cameras), before, atol=1e-6)
    smaller = dataclasses.replace(cameras[0], width=20)  # as of photos of another size
    for _ in range(20):
        refinement.update(0.5, 0, torch.randn(4, 4, generator=torch.Generator().manual_seed(3)), YES)
    after = poses_of(cameras)
    assert (after - before).abs().max() > 1e-3 and torch.equal(smaller.world_to_camera, after[0])
    assert torch.allclose(after[:, :3, :3] @ after[:, :3, :3].mT, torch.eye(3).expand(4, 3, 3), atol=1e-6)


def test_what_diverges_is_bounded_and_named(monkeypatch):
    monkeypatch.setattr(module, "RATES", (0.05, 0.05))
    cameras = make_cameras(20)
    refinement, v = PoseRefinement(cameras), torch.zeros(4, 4)
    v[0, 1], v[0, 3] = 1e3, 1e3
    for _ in range(300):
        refinement.update(0.5, 7, v, YES)
    turns, shifts = refinement.change
    assert refinement.diverged() == [7] and poses_of(cameras).isfinite().all()
    assert turns.norm(dim=1).max() < LARGEST + 1e-6 and (shifts / EXTENT).norm(dim=1).max() < LARGEST + 1e-6


def test_several_processes_update_as_one():
    """Each with a photo of its own: the sums are those of one process that has both."""

    class Other(SimpleNamespace):
        count = 2

        def sum(self, sums: torch.Tensor) -> None:
            sums[self.index] += torch.cat([self.gradient, torch.ones(1)])

    draw = torch.Generator().manual_seed(4)
    v = torch.randn(2, 4, 4, generator=draw)
    ours, theirs, alone = (PoseRefinement(make_cameras(4)) for _ in range(3))
    first, second = alone.gradient(1, v[0]), alone.gradient(3, v[1])
    ours.update(0.5, 1, v[0], YES, Other(index=3, gradient=second))
    theirs.update(0.5, 3, v[1], YES, Other(index=1, gradient=first))
    alone.update(0.5, 1, v[0], YES)
    alone.update(0.5, 3, v[1], YES)
    assert torch.equal(torch.cat(ours.change), torch.cat(theirs.change))
    assert torch.allclose(torch.cat(ours.change), torch.cat(alone.change), atol=1e-6)


def test_poses_of_a_model_that_is_known_are_found():
    """About one degree and one percent off: nine tenths of the difference of the images goes."""
    draw = torch.Generator().manual_seed(5)
    points = Points(2.4 * torch.rand(120, 3, generator=draw) - 1.2, torch.randint(255, (120, 3), generator=draw))
    model = GaussianModel.from_points(points, 0, "cpu")
    cameras = make_cameras(6, seed=6)
    photos = [render_pass(camera, model, torch.zeros(3), {}).image for camera in cameras]
    refinement = PoseRefinement(cameras)
    refinement._change = math.radians(1) * torch.randn(6, 6, generator=draw, dtype=torch.float64)
    refinement._take_out_common_motion()
    refinement._write()
    differences = []
    for step in range(360):
        index = step % 6
        view = render_pass(cameras[index], model, torch.zeros(3), {}, pose=True)
        view.v_image.copy_(view.image - photos[index])
        differences.append(float(view.v_image.abs().mean()))
        view.backward()
        refinement.update(0.1 + 0.9 * step / 360, index, view.v_world_to_camera, YES)
    assert sum(differences[-6:]) < 0.1 * sum(differences[:6])


def test_a_run_killed_in_between_ends_with_the_same_bits_and_writes_the_poses(short_scene, tmp_path, monkeypatch):
    """With the 3D smoothing filter, too. The files give back the poses; later commands use them."""
    flags = {"schedule": "quick", "refine_poses": True, "smoothing_3d": True, "checkpoint_every": "20"}
    whole = make_config(short_scene, tmp_path / "whole", **flags)
    train(whole)
    again = run_until(make_config(short_scene, tmp_path / "again", **flags), 40, monkeypatch)
    train(again)
    assert ply(again) == ply(whole)
    for name in ("cameras.json", "refined/sparse/0/images.txt", "refined/sparse/0/points3D.txt"):
        assert (again.model_path / name).read_bytes() == (whole.model_path / name).read_bytes(), name

    given, refined = load_scene(short_scene), load_scene(short_scene)
    take_refined_poses(refined, whole.model_path)
    moved = (poses_of(refined.train) - poses_of(given.train)).abs().amax(dim=(1, 2))
    assert moved.min() > 1e-5 and torch.equal(poses_of(refined.test), poses_of(given.test))
    cameras, _ = read_cameras(whole.model_path / "cameras.json", given.units)
    by_name = {camera.name: camera for camera in cameras}
    data = read_colmap(whole.model_path / "refined/sparse/0", SceneFiles(short_scene))
    assert len(data.photos) == len(by_name) == 14
    for photo in data.photos:
        camera, lens = by_name[photo.name], photo.lens
        assert (lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy) == (
            camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy
        )  # fmt: skip
        world = given.units.world_motion(photo.world_to_camera)
        np.testing.assert_allclose(world, camera.world_to_camera.numpy(), atol=1e-5)
    np.testing.assert_allclose(given.units.world_points(data.points.xyz.numpy()), given.points.xyz, atol=1e-5)
    render.main(["-m", str(whole.model_path), "--skip-test", "--quiet"])
    compress.main(["-m", str(whole.model_path), "--no-prune", "--steps", "0.01", "--threads", "1", "--quiet"])
    (whole.model_path / "cameras.json").write_text("[]")
    with pytest.raises(InputError, match="cameras.json"):
        render.main(["-m", str(whole.model_path), "--skip-test", "--quiet"])
    train(make_config(short_scene, whole.model_path, schedule="quick"))
    assert not list((whole.model_path / "refined").rglob("*.txt"))
    unrefined = load_scene(short_scene)
    take_refined_poses(unrefined, whole.model_path)
    assert torch.equal(poses_of(unrefined.train), poses_of(given.train))


def test_one_photo_keeps_its_pose_and_a_line_says_so(capsys):
    config = SimpleNamespace(refine_poses=True, say=print)
    assert poses_for(config, SimpleNamespace(train=make_cameras(1))) is None
    assert "one training photo" in capsys.readouterr().out
    assert isinstance(poses_for(config, SimpleNamespace(train=make_cameras(2))), PoseRefinement)


def test_before_their_time_poses_and_model_have_the_bits_of_a_training_without(short_scene):
    def run(refine: bool) -> tuple[Training, torch.Tensor]:
        scene = load_scene(short_scene)
        model = GaussianModel.from_points(scene.points, 3, "cpu")
        strategies = standard_strategies(scene, SCHEDULES["quick"], BUDGET)
        refinement = PoseRefinement(scene.train) if refine else None
        training = Training(scene, model, SCHEDULES["quick"], strategies, poses=refinement)
        for _ in range(int(module.START * STEPS)):
            next(training)
        return training, poses_of(scene.train)

    (plain, given), (refining, poses) = run(False), run(True)
    assert torch.equal(given, poses)
    assert torch.equal(plain.model.means, refining.model.means)
    next(refining)
    assert not torch.equal(given, poses_of(refining.scene.train))
