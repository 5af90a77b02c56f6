"""Tracks of COLMAP models, and the term of the loss that holds the rendered depth at their points."""

import shutil
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from scene_writers import PINHOLE, write_cameras, write_colmap, write_photo

from benchmarks.quality import with_photos
from compact_splats.arguments import TrainConfig
from compact_splats.arguments.config import SCHEDULES
from compact_splats.gaussian_renderer import render, render_pass
from compact_splats.scene import Scene, load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.points import Points
from compact_splats.scene.tracks import in_view
from compact_splats.training.run import train
from compact_splats.training.sparse_depth import FIRST, LAST, SparseDepth
from compact_splats.training.strategies import standard_strategies
from compact_splats.training.training import Training
from compact_splats.utils.errors import InputError

pytestmark = pytest.mark.usefixtures("short_schedules_in_use")
BUDGET, STEPS = 300, 60
NONE = 2**64 - 1  # COLMAP's id of no point


@pytest.fixture(scope="module")
def tracked_scene(short_scene, tmp_path_factory):
    """The short scene; each photo observes every third point that is in view."""
    out = shutil.copytree(short_scene, tmp_path_factory.mktemp("tracked") / "scene")
    scene = load_scene(out, eval=False)
    path = out / "sparse" / "0" / "images.bin"
    (num,), rest = struct.unpack_from("<Q", path.read_bytes()), path.read_bytes()[8:]
    images = [struct.pack("<Q", num)]
    for camera in scene.train:  # the records end with a count of no observations
        end = rest.index(b"\0", 64) + 1
        seen = in_view(camera, scene.points.xyz)[-1].nonzero().flatten()[::3]
        observed = b"".join(struct.pack("<ddQ", 0, 0, each) for each in (*scene.points.ids[seen].tolist(), NONE))
        images += [rest[:end], struct.pack("<Q", len(seen) + 1), observed]
        rest = rest[end + 8 :]
    path.write_bytes(b"".join(images))
    return out


def text_of(model, tmp_path):
    """The binary model of ``write_colmap`` as text: ids and observations by hand."""
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 40 30 35.0 36.0 20.5 14.5\n")
    (tmp_path / "images.txt").write_text(
        "1 1 0 0 0 0 0 0 1 000.png\n1.5 2.5 7 3 4 -1 5 5 9 1 1 7.5\n2 1 0 0 0 -1 0 0 1 001.png\n\n"
    )
    (tmp_path / "points3D.txt").write_text("9 0 0 2 1 2 3 0.5\n7 0.1 0 3 4 5 6 0.5 1 0\nx 0 0.1 4 4 5 6 0.5 1 0\n")


def test_points_are_found_by_their_ids_in_any_order_of_a_text_model(tmp_path):
    """A photo observes the points that its line names; what is no integer is no point."""
    for i in range(2):
        write_photo(tmp_path / "images" / f"00{i}.png")
    model = tmp_path / "sparse" / "0"
    model.mkdir(parents=True)
    text_of(model, model)
    scene = load_scene(tmp_path, eval=False, max_tracked=99)
    assert scene.points.ids.tolist() == [9, 7, -1]
    assert [each.tolist() for each in scene.observed] == [[0, 1], []]
    assert load_scene(tmp_path, eval=False).observed == ()


def test_observations_are_those_that_pycolmap_finds(test_data):
    pycolmap = pytest.importorskip("pycolmap")
    source = test_data / "scenes" / "monstree_small"
    theirs = pycolmap.Reconstruction(source / "sparse" / "0")
    scene = load_scene(source, eval=False, max_tracked=99)
    wanted = {
        image.name: {each.point3D_id for each in image.points2D if each.has_point3D()}
        for image in theirs.images.values()
    }
    for camera, observed in zip(scene.train, scene.observed, strict=True):
        found = set(scene.points.ids[observed].tolist())
        assert found <= wanted[camera.name] and len(wanted[camera.name] - found) <= 3  # those at the border
        # Projected, a point is where the photo has it, up to the error of the reconstruction.
        image = next(each for each in theirs.images.values() if each.name == camera.name)
        places = {each.point3D_id: each.xy for each in image.points2D if each.has_point3D()}
        rows, columns, _, _ = in_view(camera, scene.points.xyz[observed])
        pixels = np.array([places[int(each)] for each in scene.points.ids[observed]])
        assert np.median(np.abs(pixels - 0.5 - np.stack([columns, rows], axis=1))) < 1


def test_what_can_not_be_used_is_left_out_and_counted(tmp_path, capsys):
    """An id of no point, a point behind the camera, one outside of the photo; the last point is fine."""
    model = write_colmap(tmp_path, num_images=1)
    write_cameras(model, [PINHOLE])
    xyz = [(0, 0, -2), (9, 0, 2), (0, 0, 2)]
    points = [struct.pack("<Q3d3BdQ", i + 5, *each, 1, 2, 3, 0.5, 0) for i, each in enumerate(xyz)]
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 3) + b"".join(points))
    head = (model / "images.bin").read_bytes()[: 8 + 64 + 8]
    ids = (5, 6, 7, 7, 4, 2**63 + 1, NONE)
    observed = b"".join(struct.pack("<ddQ", np.nan, np.inf, each) for each in ids)
    (model / "images.bin").write_bytes(head + struct.pack("<Q", len(ids)) + observed)
    scene = load_scene(tmp_path, eval=False, max_tracked=99)
    assert [each.tolist() for each in scene.observed] == [[2]]
    assert "3 of 4 observations of points can't be used" in capsys.readouterr().err


def test_a_photo_of_another_size_has_its_points_at_the_same_place(tracked_scene):
    """Halved, the pixel of a point is that which its old pixel has become."""
    scene = load_scene(tracked_scene, max_tracked=99)
    camera, xyz = scene.train[0], scene.points.xyz[scene.observed[0]]
    rows, columns, depth, seen = in_view(camera, xyz)
    halved = in_view(camera.smaller(2), xyz)
    assert seen.all() and halved[-1].all() and len(xyz) > 50
    assert torch.equal(halved[0], rows // 2) and torch.equal(halved[1], columns // 2)
    assert torch.equal(halved[2], depth)


def one_view(scene: Scene) -> tuple[Training, GaussianModel]:
    model = GaussianModel.from_points(scene.points, 3, "cpu")
    return Training(scene, model, SCHEDULES["quick"]), model


def test_the_gradient_is_that_of_autograd(tracked_scene):
    scene = load_scene(tracked_scene, max_tracked=99)
    training, model = one_view(scene)
    training.step, index = STEPS // 2, 3
    training.schedule = replace(training.schedule, photo_divisors=())
    camera, xyz = scene.train[index], scene.points.xyz[scene.observed[index]]
    rows, columns, depth, _ = in_view(camera, xyz)
    drawn = render(camera, model, inverse_depth=True).inverse_depth
    wanted = (FIRST * LAST) ** 0.5 / max(len(xyz), 100) * (drawn[rows, columns] * depth - 1).abs().sum()
    expected = torch.autograd.grad(wanted, model.parameters["means"])[0]
    view = render_pass(camera, model, torch.zeros(3), {}, inverse_depth=True)
    term = SparseDepth(scene).view_loss(training, index, view)
    view.v_image.zero_()
    view.backward()
    assert torch.equal(view.inverse_depth, drawn) and float(term) == pytest.approx(float(wanted.detach()), rel=1e-5)
    torch.testing.assert_close(view.gradients["means"], expected, rtol=1e-4, atol=1e-7)
    assert expected.abs().max() > 1e-4


def trained(scene: Scene, *, with_depth: bool) -> Training:
    strategies = standard_strategies(scene, SCHEDULES["quick"], BUDGET)
    model = GaussianModel.from_points(scene.points, 3, "cpu")
    return Training(scene, model, SCHEDULES["quick"], strategies + [SparseDepth(scene)] * with_depth)


@torch.no_grad()
def error_of_depth(scene: Scene, model: GaussianModel) -> float:
    errors = []
    for camera, observed in zip(scene.train, scene.observed, strict=True):
        rows, columns, depth, _ = in_view(camera, scene.points.xyz[observed])
        drawn = render(camera, model, inverse_depth=True).inverse_depth
        errors.append((drawn[rows, columns] * depth - 1).abs().median())
    return float(torch.stack(errors).mean())


def test_depths_come_closer_and_a_wrong_track_moves_no_other_thing_far(tracked_scene):
    """The error of the rendered depth falls; one point a thousand times too far leaves all numbers finite."""
    scene = load_scene(tracked_scene, max_tracked=99)
    errors = {}
    for with_depth in (False, True):
        training = trained(scene, with_depth=with_depth)
        for _ in training:
            pass
        errors[with_depth] = error_of_depth(scene, training.model)
    assert errors[True] < 0.8 * errors[False]
    xyz = scene.points.xyz.clone()
    xyz[scene.observed[0][0]] = scene.train[0].centre + 1e3 * (xyz[scene.observed[0][0]] - scene.train[0].centre)
    wrong = replace(scene, points=Points(xyz, scene.points.rgb, scene.points.ids))
    training = trained(wrong, with_depth=True)
    assert all(step.usable for step in training)
    assert training.model.num_gaussians == BUDGET
    assert error_of_depth(scene, training.model) < 1.2 * errors[True]


def test_a_scene_with_fewer_photos_has_the_points_that_two_of_them_observe(tracked_scene):
    scene = load_scene(tracked_scene, max_tracked=99)
    few = with_photos(scene, 4)
    assert [scene.train.index(camera) for camera in few.train] == [0, 4, 7, 11]
    of_all = dict(zip(scene.train, scene.observed, strict=True))
    ids = [set(scene.points.ids[of_all[camera]].tolist()) for camera in few.train]
    kept = set(few.points.ids.tolist())
    assert kept == {each for each in set.union(*ids) if sum(each in of_one for of_one in ids) >= 2}
    assert 0 < len(kept) < len(scene.points.xyz)
    for observed, of_one in zip(few.observed, ids, strict=True):
        assert set(few.points.ids[observed].tolist()) == of_one & kept
    assert with_photos(scene, 99).train == scene.train


def test_few_photos_switch_it_on_and_a_scene_without_tracks_does_not(tracked_scene, short_scene, tmp_path, capsys):
    def run(scene, **changes) -> str:
        train(TrainConfig(source_path=scene, model_path=tmp_path / "run", final_budget=BUDGET, schedule="quick",
                          tensorboard=False, **changes))  # fmt: skip
        return capsys.readouterr().out

    assert "only 12 training photos: the rendered depth is held" in run(tracked_scene, eval=True)
    assert "rendered depth" not in run(tracked_scene) + run(short_scene, eval=True)  # 14 photos; no tracks
    with pytest.raises(InputError, match="--depth-loss on needs a COLMAP model whose photos observe"):
        run(short_scene, depth_loss="on")
