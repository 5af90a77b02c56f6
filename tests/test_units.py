"""World units: a scene of any unit and place gives the same model, and its files have its own coordinates."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from kill_runs import BUDGET, make_config
from scene_writers import write_cameras, write_images, write_points
from scipy.spatial.transform import Rotation

from compact_splats.arguments.schedule import QUICK
from compact_splats.arguments.view import ViewConfig
from compact_splats.commands.render import main as render_main
from compact_splats.commands.view import find_cameras
from compact_splats.gaussian_renderer import render
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.gaussian_renderer.maps import depth_step
from compact_splats.scene import Camera, load_scene, ply
from compact_splats.scene.colmap import read_colmap
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.names import SceneFiles
from compact_splats.scene.normalization import EXTENT, Units, camera_centres
from compact_splats.scene.points import random_points_around_object, random_points_in_view, read_points_ply
from compact_splats.scene.saved_cameras import camera_entries, read_cameras
from compact_splats.training.run import train
from compact_splats.training.run_folder import RunFolder
from compact_splats.training.training import Training
from compact_splats.utils.errors import InputError

FAR = (5_000_000.25, -391_000.5, 137.0)
ZERO = (0.0, 0.0, 0.0)


def moved(source: Path, out: Path, scale: float = 1.0, offset=ZERO, keep: int | None = None) -> Path:
    """A copy of a COLMAP scene whose coordinates are ``scale * x + offset``, with the first ``keep`` photos."""
    model = out / "sparse" / "0"
    model.mkdir(parents=True)
    (out / "images").symlink_to(source / "images")
    data = read_colmap(source / "sparse" / "0", SceneFiles(source))
    photos, points = data.photos, data.points
    photos = sorted(photos, key=lambda photo: photo.name)[:keep]
    lens = photos[0].lens
    write_cameras(model, [(1, "PINHOLE", lens.width, lens.height, (lens.fx, lens.fy, lens.cx, lens.cy))])
    images = []
    for photo in photos:
        rotation, translation = photo.world_to_camera[:3, :3], photo.world_to_camera[:3, 3]
        x, y, z, w = Rotation.from_matrix(rotation).as_quat()
        images.append((photo.name, 1, (w, x, y, z), scale * translation - rotation @ offset))
    write_images(model, images)
    write_points(model, points.xyz.numpy() * scale + offset, points.rgb.numpy())
    return out


@pytest.fixture(scope="module")
def plain(short_scene, tmp_path_factory) -> Path:
    """The scene as it is, written as the moved ones are."""
    return moved(short_scene, tmp_path_factory.mktemp("plain") / "scene")


@pytest.fixture(scope="module")
def plain_run(plain, tmp_path_factory, short_schedules_in_use) -> Path:
    return trained(plain, tmp_path_factory.mktemp("run") / "plain")


def trained(scene: Path, out: Path) -> Path:
    config = make_config(scene, out, "quick")
    train(dataclasses.replace(config, random_background=False, alpha="auto", resume=False, depth_loss="off"))
    return out


def model_of(run: Path) -> GaussianModel:
    folder = RunFolder(run)
    return GaussianModel.load_ply(folder.find_ply()[0], "cpu", units=folder.units())


# ---- the law: a similarity of the scene changes nothing ----


@pytest.mark.parametrize("exponent", [-10, 10])
def test_a_power_of_two_as_unit_gives_the_same_bits(
    short_scene, plain, plain_run, tmp_path, short_schedules_in_use, exponent
):
    """Cameras, points, and all of the model after a training, divided by that power."""
    there = load_scene(plain)
    scaled = load_scene(moved(short_scene, tmp_path / "scene", 2.0**exponent))
    assert scaled.units.scale == there.units.scale * 2.0**exponent and scaled.extent == there.extent == EXTENT
    for one, other in zip(there.train + there.test, scaled.train + scaled.test, strict=True):
        assert torch.equal(one.world_to_camera, other.world_to_camera)
    assert torch.equal(there.points.xyz, scaled.points.xyz)

    run = trained(tmp_path / "scene", tmp_path / "run")
    one, other = (ply.read(RunFolder(each).find_ply()[0]) for each in (plain_run, run))
    assert np.array_equal(one["means"] * np.float32(2.0**exponent), other["means"])
    assert all(np.array_equal(one[name], other[name]) for name in one if name not in ("means", "log_scales"))
    # Worst measured: 4.8e-7, the rounding of the logarithm.
    np.testing.assert_allclose(one["log_scales"] + exponent * np.log(2), other["log_scales"], atol=2e-6)


@pytest.mark.parametrize(("scale", "offset"), [(1e-3, ZERO), (1e3, ZERO), (1.0, FAR), (0.02, (30.0, -7.0, 2.0))])
def test_any_unit_and_place_gives_the_same_quality(short_scene, plain, tmp_path, scale, offset):
    """To 0.1 dB after a training; and the file that it leaves shows the same."""
    psnr = []
    for source in (plain, moved(short_scene, tmp_path / "scene", scale, np.array(offset))):
        scene = load_scene(source)
        model = GaussianModel.from_points(scene.points, 1, "cpu")
        for _ in Training(scene, model, QUICK.scaled(60 / QUICK.iterations)):  # without edits, which draw by chance
            pass
        psnr.append(evaluate(scene.test, model)["psnr"])
        model.save_ply(tmp_path / "model.ply")
        again = GaussianModel.load_ply(tmp_path / "model.ply", "cpu", units=scene.units)
        # Worst measured: 8e-5 dB, the rounding of the file.
        assert evaluate(scene.test, again)["psnr"] == pytest.approx(psnr[-1], abs=0.01)
    assert psnr[0] > 18 and abs(psnr[0] - psnr[1]) < 0.1  # worst measured: 0.002 dB, at the offset


@pytest.mark.parametrize(("scale", "offset"), [(1.0, FAR), (1e-3, (391.0, 5720.0, 0.0)), (1.0, (12.0, 3.0, -4.0))])
def test_points_land_where_they_belong_to_a_tenth_of_a_pixel(short_scene, plain, tmp_path, scale, offset):
    """Far from the origin, projected points are where they are without the offset; in float32 they are px away."""
    there, far = load_scene(plain), load_scene(moved(short_scene, tmp_path / "scene", scale, np.array(offset)))
    off = [
        (projected(one, there.points.xyz) - projected(other, far.points.xyz)).abs().max()
        for one, other in zip(there.train, far.train, strict=True)
    ]
    assert max(off) < 0.1  # worst measured: 0.004 px at the offset, of an image of 48 px


def projected(camera: Camera, xyz: torch.Tensor) -> torch.Tensor:
    """(P,2) px, of the points well in front of a camera."""
    local = xyz.double() @ camera.world_to_camera[:3, :3].T.double() + camera.world_to_camera[:3, 3].double()
    local = local[local[:, 2] > 1.0]
    return local[:, :2] / local[:, 2:] * torch.tensor([camera.fx, camera.fy])


# ---- files have the scene's own coordinates ----


@pytest.mark.parametrize(
    ("scale", "offset", "taken"),
    [(1.0, ZERO, ZERO), (1e-3, (0.1, 0.02, 0.0), ZERO), (1.0, FAR, (5_000_000.0, -391_000.0, 137.0))],
)
def test_files_of_a_run_hold_the_scenes_coordinates(
    short_scene, tmp_path, short_schedules_in_use, capsys, scale, offset, taken
):
    """Minus an offset only where float32 could not hold them: a comment of the PLY and config.json say which."""
    scene = moved(short_scene, tmp_path / "scene", scale, np.array(offset))
    run = trained(scene, tmp_path / "run")
    said = capsys.readouterr().err
    assert ("far from its origin" in said) == any(taken) and said.count("note") <= 1

    data = read_colmap(scene / "sparse" / "0", SceneFiles(scene))
    photos, points = data.photos, data.points
    offset_found = ply.read_offset(RunFolder(run).find_ply()[0])
    assert offset_found == (None if not any(taken) else tuple(RunFolder(run).units().offset))
    subtracted = np.array(RunFolder(run).units().offset)
    assert np.abs(subtracted - taken).max() <= 140 and any(subtracted) == any(taken)

    # Worst measured: 4e-6 of the extent, at an origin 55 extents away on one axis.
    close = 1e-5 * EXTENT * RunFolder(run).units().scale
    found = read_points_ply(run / "input.ply").xyz.numpy() + subtracted
    np.testing.assert_allclose(found, points.xyz.numpy(), rtol=0, atol=close)
    centres = {photo.name: camera_centres(photo.world_to_camera[None])[0] for photo in photos}
    for entry in json.loads((run / "cameras.json").read_text()):
        np.testing.assert_allclose(np.array(entry["position"]) + subtracted, centres[entry["img_name"]], atol=close)
    means = ply.read(RunFolder(run).find_ply()[0])["means"] + subtracted
    low, high = points.xyz.numpy().min(0), points.xyz.numpy().max(0)
    assert ((means > low - 0.2 * (high - low)) & (means < high + 0.2 * (high - low))).mean() > 0.9


def test_a_model_comes_back_from_its_file(short_scene, tmp_path):
    """PLY and back in world units: float32 rounds once in either direction."""
    scene = load_scene(moved(short_scene, tmp_path / "scene", 37.0, np.array([100.0, -50.0, 20.0])))
    model = GaussianModel.from_points(scene.points, 1, "cpu")
    model.units = scene.units
    model.save_ply(tmp_path / "model.ply")
    again = GaussianModel.load_ply(tmp_path / "model.ply", "cpu", units=scene.units)
    # Worst measured: 1.2e-7 of the extent, and 7e-7 of the logarithm.
    torch.testing.assert_close(again.means, model.means, rtol=0, atol=1e-6 * EXTENT)
    torch.testing.assert_close(again.parameters["log_scales"], model.parameters["log_scales"], rtol=0, atol=3e-6)
    assert torch.equal(again.sh_dc, model.sh_dc) and again.units == scene.units


def test_a_model_of_another_tool_is_rendered_in_the_units_of_the_scene(short_scene, plain, plain_run, tmp_path):
    """A PLY in the coordinates of a small scene, without config.json, looks as the model of the usual scene does."""
    small = moved(short_scene, tmp_path / "small", 1e-3)
    arrays = ply.read(RunFolder(plain_run).find_ply()[0])
    arrays["means"], arrays["log_scales"] = arrays["means"] * 1e-3, arrays["log_scales"] + np.float32(np.log(1e-3))
    path = tmp_path / "run" / "point_cloud" / "iteration_7" / "point_cloud.ply"
    path.parent.mkdir(parents=True)
    ply.write(path, {name: each.astype(np.float32) for name, each in arrays.items()})
    shutil.copytree(plain_run, tmp_path / "plain_run")
    pictures = []
    for run, scene in ((tmp_path / "plain_run", plain), (tmp_path / "run", small)):
        render_main(["-m", str(run), "-s", str(scene), "--eval", "--skip-train", "--depth", "--quiet"])
        (folder,) = (run / "test").iterdir()
        step = json.loads((folder / "depth.json").read_text())["world_units_per_step"]
        depth = cv2.imread(str(folder / "depth" / "00000.png"), cv2.IMREAD_UNCHANGED) * step
        pictures.append((cv2.imread(str(folder / "renders" / "00000.png")).astype(int), depth))
    (image, depth), (small_image, small_depth) = pictures
    assert image.std() > 20 and np.abs(image - small_image).max() <= 1
    assert (depth > 0).mean() > 0.5
    # Worst measured: one step of the depth map, a thousandth.
    np.testing.assert_allclose(small_depth * 1e3, depth, atol=2e-3)


def test_viewers_find_model_and_cameras_in_the_same_units(plain_run):
    """From cameras.json alone, as where the scene is on another machine: the cameras are those of the scene."""
    config = ViewConfig.from_command_line(["-m", str(plain_run)])
    splits, units = find_cameras(config)
    others, same_units = find_cameras(dataclasses.replace(config, source_path=None))
    assert units == same_units == RunFolder(plain_run).units()
    by_name = {camera.name: camera for camera in others[""]}
    for camera in splits["train"]:
        # Worst measured: 5e-7, the rounding to float32.
        torch.testing.assert_close(camera.world_to_camera, by_name[camera.name].world_to_camera, rtol=0, atol=3e-6)


def test_cameras_of_3dgs_make_their_own_units(short_scene, tmp_path):
    """Without config.json the units come from cameras.json, and writing the cameras again gives the same file."""
    scene = load_scene(moved(short_scene, tmp_path / "scene", 1e3), eval=False)
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps(camera_entries(scene.train, scene.units)))
    cameras, units = read_cameras(path)
    assert units.scale == pytest.approx(scene.units.scale, rel=1e-6)
    again, before = camera_entries(cameras, units), json.loads(path.read_text())
    np.testing.assert_allclose(
        [entry["position"] for entry in again], [entry["position"] for entry in before], atol=2e-3
    )  # worst measured: 5e-4 of positions in the thousands


def test_a_model_alone_is_seen_from_the_usual_distance():
    """Without any camera the units come from the means, whatever their unit and place."""
    means = np.random.default_rng(0).normal(size=(500, 3))
    radii = []
    for scale, offset in ((1.0, 0.0), (1e-4, 3.0), (1e5, 1e6)):
        world = Units.of_points(means * scale + offset).world_points(means * scale + offset)
        assert np.abs(np.median(world, axis=0)).max() < 1e-6
        radii.append(np.quantile(np.linalg.norm(world, axis=1), 0.9))
    assert radii == pytest.approx([EXTENT / 2.5] * 3, rel=1e-6)


@pytest.mark.parametrize(
    "broken", [{}, [], {"origin": [0, 0], "scale": 1, "offset": [0, 0, 0]}, {"origin": [0, 0, 0], "scale": 0.0,
    "offset": [0, 0, 0]}, {"origin": [0, 0, "x"], "scale": 1, "offset": [0, 0, 0]},
    {"origin": [0, 0, float("nan")], "scale": 1, "offset": [0, 0, 0]}],
)  # fmt: skip
def test_broken_units_of_a_run_are_one_line(broken, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"units": broken}))
    with pytest.raises(InputError, match=r"config.json: units are broken"):
        RunFolder(tmp_path).units()


def test_units_survive_json():
    units = Units((1 / 3, -5e6 / 7, 1e-9), 0.1 + 0.2, (0.0, -714_280.0, 0.0))
    assert Units.from_json(json.loads(json.dumps(units.to_json()))) == units


# ---- cameras at one place ----


@pytest.mark.parametrize("offset", [ZERO, FAR])
def test_one_camera_has_units_by_the_points_that_it_sees(short_scene, tmp_path, offset):
    """Their median distance is the extent; so the means learn, and depth maps reach ten times as far."""
    scene = load_scene(moved(short_scene, tmp_path / "scene", 1e-2, np.array(offset), keep=1), eval=False)
    (camera,) = scene.train
    local = scene.points.xyz @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
    x, y = (camera.fx * local[:, 0] / local[:, 2] + camera.cx), (camera.fy * local[:, 1] / local[:, 2] + camera.cy)
    seen = (local[:, 2] > 0) & (x >= 0) & (x <= camera.width) & (y >= 0) & (y <= camera.height)
    assert local[seen].norm(dim=1).median() == pytest.approx(EXTENT, rel=0.02)
    depths = local[seen, 2] * scene.units.scale
    steps = depths / depth_step(scene.extent * scene.units.scale)
    assert 0 < steps.min() and steps.median() < 65535 / 5 and steps.median() > 300


def test_one_camera_without_points_starts_from_points_that_it_sees(tmp_path):
    """At the usual distance, whatever the origin."""
    pose = np.eye(4)
    pose[:3, 3] = 1e4
    lens = Camera("a", 40, 30, 35.0, 35.0, 20.0, 15.0, torch.eye(4), None)
    units = Units.of_views([lens], pose[None])
    camera = dataclasses.replace(lens, world_to_camera=torch.from_numpy(units.world_motion(pose)).float())
    points = random_points_in_view((camera,), 1000, torch.Generator().manual_seed(0)).xyz
    assert camera.centre.abs().max() < 1e-3 and 0.5 * EXTENT < points[:, 2].median() < 4 * EXTENT


# ---- random points around an object ----


def synthetic_cameras(scale: float, offset) -> tuple[tuple[Camera, ...], Units]:
    """On a sphere of radius 4.03 with the lens of NeRF's synthetic scenes, in world units."""
    rng, motions = np.random.default_rng(0), []
    for rotation in Rotation.random(40, random_state=rng).as_matrix():
        motion = np.eye(4)
        motion[:3, :3] = rotation
        motion[:3, 3] = (0, 0, 4.0311 * scale) - rotation @ offset
        motions.append(motion)
    focal = 100 / np.tan(0.6911 / 2)
    lens = Camera("a", 200, 200, focal, focal, 100.0, 100.0, torch.eye(4), None)
    units = Units.of_views([lens] * 40, np.stack(motions))
    world = (torch.from_numpy(units.world_motion(motion)).float() for motion in motions)
    return tuple(dataclasses.replace(lens, world_to_camera=each) for each in world), units


@pytest.mark.parametrize(("scale", "offset"), [(1.0, ZERO), (1e-3, ZERO), (1e3, (2e6, 0.0, 5e6))])
def test_random_points_fill_the_cube_that_the_cameras_of_an_object_see(scale, offset):
    """For NeRF's synthetic objects +-1.3 scene units, as 3DGS has it; the same points in any unit."""
    cameras, units = synthetic_cameras(scale, np.array(offset))
    xyz = random_points_around_object(cameras, 5000, torch.Generator().manual_seed(0)).xyz.double().numpy()
    found = (units.origin + units.scale * xyz - offset) / scale
    assert np.abs(found).max() == pytest.approx(1.3, rel=0.01) and np.abs(found.mean(0)).max() < 0.05
    for camera in cameras:
        local = xyz @ camera.world_to_camera[:3, :3].T.double().numpy() + camera.world_to_camera[:3, 3].double().numpy()
        inside = np.abs(local[:, :2]).max(1) * camera.fx / local[:, 2] <= 100
        assert (local[:, 2] > 0.2).all() and inside.mean() > 0.8


def test_training_from_another_model_uses_its_coordinates(plain, plain_run, tmp_path, short_schedules_in_use):
    """--init-ply: a PLY in the coordinates of the scene starts where the scene is."""
    config = dataclasses.replace(
        make_config(plain, tmp_path / "run", "quick"), init_ply=RunFolder(plain_run).find_ply()[0], iterations=1,
        save_iterations=(), final_budget=BUDGET, random_background=False, alpha="auto", resume=False,
    )  # fmt: skip
    train(config)
    before, after = (ply.read(RunFolder(run).find_ply()[0])["means"] for run in (plain_run, tmp_path / "run"))
    assert np.abs(np.median(before, axis=0) - np.median(after, axis=0)).max() < 0.1
    scene = load_scene(plain, units=RunFolder(plain_run).units())
    with torch.no_grad():
        opacity = 1 - render(scene.test[0], model_of(tmp_path / "run")).transmittance
    assert opacity.mean() > 0.5
