"""Ways of the camera for videos: where they lead, and which cameras they can't be made of."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from compact_splats.scene import load_scene
from compact_splats.scene.cameras import Camera
from compact_splats.scene.normalization import Units
from compact_splats.scene.paths import (
    MAX_KNOTS,
    closes,
    eased,
    look_at_point,
    orbit,
    path_times,
    spline,
    spline_through,
    thinned,
    views_along,
)
from compact_splats.scene.saved_cameras import camera_entries, read_cameras
from compact_splats.utils.errors import InputError


def camera(pose: np.ndarray, name: str = "0") -> Camera:
    return Camera(name, 96, 64, 80.0, 81.0, 49.0, 31.0, torch.from_numpy(pose).float(), None)


def pose_at(eye, target, up=(0.0, 0.0, 1.0), roll: float = 0.0) -> np.ndarray:
    """World to camera, OpenCV axes, looking at the target; rolled by so many radians."""
    forward = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("z", roll).as_matrix() @ np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ np.array(eye)
    return pose


def ring(num: int, share: float = 1.0, target=(0.3, -0.2, 0.5)) -> list[Camera]:
    """Cameras on an unsteady part of a circle, all of which look at one point."""
    rng = np.random.default_rng(0)
    angles = 2 * np.pi * share * np.arange(num) / num
    eyes = np.stack([2 * np.cos(angles), 2 * np.sin(angles), 1 + 0.2 * np.sin(3 * angles)], 1) + target
    eyes += rng.normal(0, 0.02, eyes.shape)
    return [camera(pose_at(eye, target, roll=0.05 * np.sin(i)), f"{i:03}") for i, eye in enumerate(eyes)]


def centres(poses: np.ndarray) -> np.ndarray:
    return -(poses[:, :3, :3].transpose(0, 2, 1) @ poses[:, :3, 3:])[:, :, 0]


def angles_between(poses: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Radians by which two lists of poses differ in rotation."""
    return Rotation.from_matrix(poses[:, :3, :3] @ others[:, :3, :3].transpose(0, 2, 1)).magnitude()


def matrices(cameras: list[Camera]) -> np.ndarray:
    return np.stack([each.world_to_camera.double().numpy() for each in cameras])


def test_the_look_at_point_is_where_the_axes_meet():
    # Worst measured: 4e-8, the rounding of float32 poses.
    np.testing.assert_allclose(look_at_point(ring(7)), (0.3, -0.2, 0.5), atol=1e-6)


def test_every_camera_of_an_orbit_sees_the_point_in_the_middle_and_stands_upright():
    cameras = ring(9)
    poses, target, up = orbit(cameras, 12), look_at_point(cameras), -matrices(cameras)[:, 1, :3].mean(0)
    seen = poses[:, :3, :3] @ target + poses[:, :3, 3]
    np.testing.assert_allclose(seen[:, :2], 0, atol=1e-12)
    assert (seen[:, 2] > 0).all()
    np.testing.assert_allclose(poses[:, 0, :3] @ up, 0, atol=1e-12)  # no roll
    assert (poses[:, 1, :3] @ up < 0).all()  # y points down


def test_an_orbit_keeps_the_cameras_mean_height_and_distance_and_starts_at_the_first():
    cameras = ring(9)
    target, up = look_at_point(cameras), -matrices(cameras)[:, 1, :3].mean(0)
    up /= np.linalg.norm(up)

    def height_and_distance(places):
        away = places - target
        return away @ up, np.linalg.norm(away - (away @ up)[:, None] * up, axis=1)

    height, distance = height_and_distance(centres(orbit(cameras, 8)))
    wanted_height, wanted_distance = height_and_distance(centres(matrices(cameras)))
    np.testing.assert_allclose(height, wanted_height.mean(), atol=1e-9)
    np.testing.assert_allclose(distance, wanted_distance.mean(), atol=1e-9)
    first, given = centres(orbit(cameras, 8))[0] - target, centres(matrices(cameras))[0] - target
    flat = [each - (each @ up) * up for each in (first, given)]
    np.testing.assert_allclose(np.cross(*flat), 0, atol=1e-9)


def test_an_orbit_is_evenly_paced_all_the_way_round():
    places = centres(orbit(ring(9), 16))
    steps = np.linalg.norm(np.roll(places, -1, axis=0) - places, axis=1)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_a_spline_passes_exactly_through_its_cameras(share):
    poses = matrices(ring(8, share))
    places, is_closed = centres(poses), share == 1
    assert closes(places) == is_closed
    times = path_times(places, is_closed)
    through = spline_through(places, poses[:, :3, :3], times, times[:8])
    np.testing.assert_allclose(centres(through), places, atol=1e-9)
    # Worst measured: 2e-15.
    assert angles_between(through, poses).max() < 1e-9


def test_a_closed_spline_goes_on_where_it_began():
    poses = matrices(ring(8))
    places = centres(poses)
    times = path_times(places, True)
    small = 1e-4
    at = np.array([1 - small, 1.0, 0.0, small])
    ends = spline_through(places, poses[:, :3, :3], times, at)
    np.testing.assert_allclose(centres(ends)[1], centres(ends)[2], atol=1e-9)
    before, _, _, after = (centres(ends) - places[0]) / small
    np.testing.assert_allclose(before, -after, atol=0.02)  # one speed, of about 13 units a lap; measured: 0.009
    turned = angles_between(ends, np.roll(ends, 1, axis=0))[[1, 3]] / small
    assert abs(turned[0] - turned[1]) < 0.02
    assert angles_between(ends[1:2], ends[2:3])[0] < 1e-6


def test_no_step_of_a_spline_jumps():
    frames = spline(ring(10), 200)
    places = centres(frames)
    around = np.concatenate([places, places[:1]])  # ring(10) is closed
    steps = np.linalg.norm(np.diff(around, axis=0), axis=1)
    assert steps.max() < 3 * np.median(steps)


def test_of_many_cameras_a_spline_takes_some_with_the_first_and_the_last():
    cameras = ring(100, share=0.5)
    chosen = thinned(cameras)
    assert len(chosen) == MAX_KNOTS and chosen[0] is cameras[0] and chosen[-1] is cameras[-1]
    ends = spline(cameras, 50)[[0, -1]]
    np.testing.assert_allclose(centres(ends), centres(matrices([cameras[0], cameras[-1]])), atol=1e-6)


def test_an_eased_path_visits_every_camera_and_rests_there():
    cameras = ring(5)
    poses = eased(cameras, 4 * 10 + 1)
    np.testing.assert_allclose(poses[::10], matrices(cameras), atol=1e-6)
    steps = np.linalg.norm(np.diff(centres(poses), axis=0), axis=1).reshape(4, 10)
    assert (steps[:, [0, 9]] < 0.35 * steps[:, [4]]).all()


def test_places_that_coincide_are_no_obstacle():
    """As in a capture that begins with the same photo twice, and in a panorama."""
    cameras = ring(4)
    for some in ([cameras[0], *cameras], [cameras[0]] * 3):
        for path in ("spline", "cameras"):
            poses = matrices(views_along(path, some, 7, (96, 64)))
            assert np.isfinite(poses).all()


@pytest.mark.parametrize("path", ["orbit", "spline", "cameras"])
@pytest.mark.parametrize("num_frames", [1, 2, 13])
def test_frames_are_as_many_and_as_large_as_asked_for(path, num_frames):
    views = views_along(path, ring(6), num_frames, (64, 62))
    assert len(views) == num_frames
    assert {(view.width, view.height, view.photo) for view in views} == {(64, 62, None)}
    for view in views:
        turn = view.world_to_camera[:3, :3].double()
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-5)


@pytest.mark.parametrize(("size", "scale"), [((96, 64), 1), ((192, 128), 2), ((192, 64), 2), ((48, 64), 1)])
def test_a_frame_of_other_proportions_shows_a_part_of_the_photo(size, scale):
    view = views_along("cameras", ring(3), 1, size)[0]
    assert (view.fx, view.fy) == (80 * scale, 81 * scale)
    assert (view.cx - size[0] / 2, view.cy - size[1] / 2) == (1 * scale, -1 * scale)


def line(num: int = 4) -> list[Camera]:
    """Cameras side by side that look in one direction."""
    return [camera(pose_at((i, 0, 0), (i, 5, 0)), str(i)) for i in range(num)]


@pytest.mark.parametrize(
    ("path", "cameras", "found"),
    [
        ("orbit", line(), "one direction"),
        ("orbit", ring(1), "one direction"),
        ("orbit", [camera(pose_at(2 * np.array(e), 3 * np.array(e))) for e in ((1, 0, 0), (0, 1, 0), (-1, -1, 0.3))],
         "outwards"),
        ("orbit", [camera(pose_at((x, 1e-5, 3), (x / 2, 0, 0), up=(0, x, 0))) for x in (-1, 1)], "common up"),
        ("spline", ring(1), "at least 2 cameras"),
    ],
)  # fmt: skip
def test_cameras_that_no_path_can_be_made_of_are_told_in_one_line(path, cameras, found):
    with pytest.raises(InputError, match=found) as error:
        views_along(path, cameras, 5, (96, 64))
    assert "\n" not in str(error.value) and "choose --path" in str(error.value)


def test_cameras_come_back_from_cameras_json_without_photos(tiny_scene_dir, tmp_path):
    scene = load_scene(tiny_scene_dir, eval=True)
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps(camera_entries(scene.test + scene.train)))
    given = sorted(scene.test + scene.train, key=lambda each: each.name)
    for back, there in zip(read_cameras(path, Units())[0], given, strict=True):
        assert dataclasses.replace(back, world_to_camera=None).__dict__ == {
            **there.__dict__, "world_to_camera": None, "photo": None
        }  # fmt: skip
        # Worst measured: 4e-7, as the file has the centre and not the translation.
        torch.testing.assert_close(back.world_to_camera, there.world_to_camera, atol=2e-6, rtol=0)


def test_a_cameras_json_of_3dgs_has_its_principal_point_in_the_centre(tmp_path):
    entry = camera_entries(ring(1))[0]
    del entry["cx"], entry["cy"]
    (tmp_path / "cameras.json").write_text(json.dumps([entry]))
    (back,), _ = read_cameras(tmp_path / "cameras.json", Units())
    assert (back.cx, back.cy) == (48, 32)


@pytest.mark.parametrize(
    "change",
    [
        {"img_name": 5}, {"width": 0}, {"width": "wide"}, {"height": 1e300}, {"fx": -1}, {"fx": None}, {"cx": []},
        {"position": [0, 0]}, {"position": [0, 0, "x"]}, {"position": [0, 0, 1e300]}, {"rotation": [[1, 0], [0, 1]]},
        {"rotation": [[0] * 3] * 3}, {"rotation": [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]}, {"rotation": None},
    ],
)  # fmt: skip
def test_a_broken_cameras_json_is_one_line(change, tmp_path):
    (tmp_path / "cameras.json").write_text(json.dumps([{**camera_entries(ring(1))[0], **change}]))
    with pytest.raises(InputError) as error:
        read_cameras(tmp_path / "cameras.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[5]", "[[]]", "null", '[{"id": 0}]'])
def test_a_cameras_json_without_cameras_is_one_line(text, tmp_path):
    (tmp_path / "cameras.json").write_text(text)
    with pytest.raises(InputError):
        read_cameras(tmp_path / "cameras.json")
    with pytest.raises(InputError, match="nothing"):
        read_cameras(tmp_path / "other.json")
