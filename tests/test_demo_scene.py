"""The demo scene: its files against what they claim, and the ray tracer against geometry."""

import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from compact_splats.demo.ray_tracer import Box, Material, Quad, Rod, Sphere, trace, unit
from compact_splats.demo.scene import LIGHTING, Lens, make_poses, make_shapes, render_view, write_demo_scene
from compact_splats.demo.textures import noise, plain
from compact_splats.utils.errors import InputError

WHITE = Material(plain((1.0, 1.0, 1.0)))


def array(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


SHAPES = {
    "quad": Quad(array(-1, -1, 0.2), array(2, 0, 0), array(0, 2, 0), WHITE),
    "sphere": Sphere(array(0.1, 0, 0.3), 0.5, WHITE),
    "box": Box(array(0, 0.2, 0), array(0.5, 0.2, 0.3), 0.7, WHITE),
    "rod": Rod(array(-0.3, 0, -0.5), array(0.4, 0.1, 0.6), 0.1, WHITE),
}


def on_surface(shape: Quad | Sphere | Box | Rod, point: np.ndarray) -> np.ndarray:
    """How far points (3,N) are from the surface, by its implicit equation in float64."""
    point = point.astype(np.float64)
    if isinstance(shape, Quad):
        return point[2] - shape.corner[2]
    if isinstance(shape, Sphere):
        return np.linalg.norm(point - shape.centre[:, None], axis=0) - shape.radius
    if isinstance(shape, Box):
        x, y, z = point - shape.centre[:, None]
        cos, sin = np.cos(shape.angle), np.sin(shape.angle)
        local = np.abs([cos * x + sin * y, cos * y - sin * x, z])
        return (local - shape.half[:, None]).max(0)
    axis = unit(shape.end.astype(np.float64) - shape.start)
    return np.linalg.norm(np.cross(axis, (point - shape.start[:, None]).T), axis=1) - shape.radius


@pytest.mark.parametrize("name", SHAPES)
def test_rays_hit_the_surface_from_outside_and_no_nearer(name):
    """A hit lies on the surface, its normal faces the eye, and a march along the ray meets nothing before it."""
    shape, rng = SHAPES[name], np.random.default_rng(0)
    eye = array(0.4, -1.1, 2.0)
    direction = unit(rng.normal(0, 0.35, (3, 4000)).astype(np.float32) - eye[:, None])
    with np.errstate(invalid="ignore", divide="ignore"):
        t = shape.hit(eye[:, None], direction)
    hits = np.isfinite(t)
    assert 200 < hits.sum() < 4000
    t, direction = t[hits], direction[:, hits]
    point = eye[:, None] + t * direction
    # Worst measured: 1.6e-5 (rod), else 1.4e-6.
    np.testing.assert_allclose(on_surface(shape, point), 0, atol=1e-4)
    normal = shape.normal(point)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=0), 1, atol=1e-3)
    assert (np.einsum("in,in->n", normal, direction) <= 1e-3).all()
    before = eye[:, None] + np.linspace(0, 0.99, 100)[:, None, None] * (t * direction)
    if name != "rod":  # a ray may pass through the open end of a rod
        distance = on_surface(shape, before.transpose(1, 0, 2).reshape(3, -1))
        assert (distance > 0).all()


def test_rays_that_miss_have_no_hit():
    eye, away = array(0, 0, 5)[:, None], array(0, 0, 1)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        assert all(np.isinf(shape.hit(eye, away)).all() for shape in SHAPES.values())


def test_shadow_lies_where_an_object_hides_the_lamp():
    floor = Quad(array(-9, -9, 0), array(18, 0, 0), array(0, 18, 0), WHITE)
    ball = Sphere(LIGHTING.lamp * array(1, 1, 0.5), 0.2, WHITE)
    beside = unit(LIGHTING.lamp * array(1, 1, 0) + array(1, 0, 0) - array(0, 0, 4))
    eye = array(0, 0, 4)
    below = unit(LIGHTING.lamp * array(1, 1, 0) - eye + array(-0.1, 0.1, 0))
    seen = trace([floor, ball], LIGHTING, eye, np.stack([below, beside], axis=1))[0]
    alone = trace([floor], LIGHTING, eye, np.stack([below, beside], axis=1))[0]
    assert (seen[:, 0] < 0.9 * alone[:, 0]).all() and (seen[:, 1] == alone[:, 1]).all()


def test_noise_is_smooth_and_stays_in_range():
    u = np.linspace(-3, 3, 20001, dtype=np.float32)
    values = noise(u, np.full_like(u, 0.3), seed=1)
    assert values.min() >= 0 and values.max() <= 1 and values.std() > 0.05
    assert np.abs(np.diff(values)).max() < 6 * 8 * np.diff(u).max()


def test_same_seed_gives_the_same_files_and_another_seed_others(tmp_path, tiny_scene_dir):
    size = {"width": 96, "height": 64, "num_views": 12, "num_points": 1500}
    write_demo_scene(tmp_path / "again", **size)
    write_demo_scene(tmp_path / "other", **size, seed=1)
    files = sorted(path.relative_to(tiny_scene_dir) for path in tiny_scene_dir.rglob("*") if path.is_file())
    assert len(files) == 12 + 3
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tiny_scene_dir / file).read_bytes()
    for file in ("images/view_003.png", "sparse/0/images.bin", "sparse/0/points3D.bin"):
        assert (tmp_path / "other" / file).read_bytes() != (tiny_scene_dir / file).read_bytes()


def test_colmap_reads_the_scene(tiny_scene_dir):
    """COLMAP's own reader finds the cameras, the poses and the points that were meant."""
    pycolmap = pytest.importorskip("pycolmap")
    scene = pycolmap.Reconstruction(tiny_scene_dir / "sparse" / "0")
    (camera,) = scene.cameras.values()
    assert camera.model.name == "PINHOLE" and (camera.width, camera.height) == (96, 64)
    np.testing.assert_allclose(camera.params, Lens(96, 64).params)
    rng = np.random.default_rng(0)
    make_shapes(rng)
    poses = make_poses(12, rng)
    assert len(scene.images) == 12 and len(scene.points3D) == 1500
    for image in scene.images.values():
        expected = poses[int(image.name.removeprefix("view_").removesuffix(".png"))]
        np.testing.assert_allclose(image.cam_from_world().matrix(), expected[:3], atol=1e-12)


def test_points_project_onto_pixels_of_their_colour(tiny_scene_dir):
    """Ties poses, intrinsics and points together: seen where they claim to be, the photos show the points' colours."""
    rng = np.random.default_rng(0)
    shapes, lens, poses = make_shapes(rng), Lens(96, 64), make_poses(12, rng)
    data = (tiny_scene_dir / "sparse" / "0" / "points3D.bin").read_bytes()
    points = [struct.unpack_from("<Q3d3BdQ", data, 8 + i * 51) for i in range(1500)]
    first = np.array([p[1:7] for p in points[:125]])  # sampled from the first photo's pixels
    camera = poses[0][:3, :3] @ first[:, :3].T + poses[0][:3, 3:]
    fx, fy, cx, cy = lens.params
    column, row = (np.floor(fx * camera[0] / camera[2] + cx), np.floor(fy * camera[1] / camera[2] + cy))
    inside = (column >= 0) & (column < 96) & (row >= 0) & (row < 64)
    photo = render_view(shapes, lens, poses[0]).astype(float)
    blurred = cv2.blur(photo, (3, 3))[row[inside].astype(int), column[inside].astype(int)]
    errors = np.abs(blurred - first[inside, 3:6]).mean(1)
    shuffled = np.abs(blurred - rng.permutation(first[inside, 3:6])).mean(1)
    # Measured: 11.4 against 27.4; the noise of the points and the fine textures leave some error.
    assert np.median(errors) < 0.5 * np.median(shuffled)


def test_photo_is_what_the_ray_tracer_sees(tiny_scene_dir):
    rng = np.random.default_rng(0)
    shapes, poses = make_shapes(rng), make_poses(12, rng)
    stored = cv2.imread(str(tiny_scene_dir / "images" / "view_005.png"))[:, :, ::-1]
    np.testing.assert_array_equal(stored, render_view(shapes, Lens(96, 64), poses[5]))
    assert stored.std() > 25  # not a blank


def test_a_folder_with_content_is_left_alone(tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(InputError, match="is not an empty folder"):
        write_demo_scene(tmp_path, width=8, height=8, num_views=1, num_points=5)
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]


def test_the_command_refuses_sizes_below_one(tmp_path):
    command = [sys.executable, "-m", "compact_splats.demo.scene", str(tmp_path / "out"), "--views", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 2 and done.stderr.startswith("error: --views") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
