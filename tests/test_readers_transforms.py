"""The JSON readers: Blender, nerfstudio and instant-ngp conventions; point clouds in PLY."""

import json
import math

import numpy as np
import pytest
from scene_writers import ply_of, write_colmap, write_photo, write_transforms

from compact_splats.scene import load_scene
from compact_splats.scene.normalization import Units
from compact_splats.scene.points import read_points_ply
from compact_splats.utils.errors import InputError

# A camera at (1, 2, 3) in Blender's axes that looks along world +x with world +z up: its columns are right = -y,
# up = +z, backward = -x.
LOOKS_ALONG_X = [[0, 0, -1, 1], [-1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]]


def test_opengl_axes_become_opencv_axes(tmp_path):
    """What is ahead gets positive depth, what is above a smaller row, what is right a larger column."""
    write_transforms(tmp_path, num_frames=2, frame=lambda i: {"transform_matrix": LOOKS_ALONG_X})
    camera = load_scene(tmp_path, units=Units()).train[0]
    assert camera.centre.tolist() == pytest.approx([1, 2, 3])

    def local(x, y, z):
        motion = camera.world_to_camera.numpy()
        return (motion[:3, :3] @ np.array([x, y, z]) + motion[:3, 3]).tolist()

    assert local(6, 2, 3) == pytest.approx([0, 0, 5])
    assert local(6, 2, 4) == pytest.approx([0, -1, 5])
    assert local(6, 1, 3) == pytest.approx([1, 0, 5])


def test_blender_layout(tmp_path):
    """Files name the split; paths come without suffix; the focal length comes from the field of view."""
    frames = {"train": ["./train/r_1", "./train/r_0"], "test": ["./test/r_0"]}
    for split, names in frames.items():
        for name in names:
            write_photo(tmp_path / f"{name}.png", 40, 30, "RGBA")
        entries = [{"file_path": name, "rotation": 0.1, "transform_matrix": LOOKS_ALONG_X} for name in names]
        table = {"camera_angle_x": 0.7, "frames": entries}
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps(table))
    scene = load_scene(tmp_path)
    assert [c.name for c in scene.train] == ["train/r_0.png", "train/r_1.png"]
    assert [c.name for c in scene.test] == ["test/r_0.png"]
    camera = scene.train[0]
    assert camera.fx == camera.fy == pytest.approx(20 / math.tan(0.35))
    assert (camera.cx, camera.cy) == (20, 15)
    assert scene.points.xyz.shape == (100_000, 3)
    everything = load_scene(tmp_path, eval=False)
    assert len(everything.train) == 3 and everything.test == ()


def test_fields_of_view_of_instant_ngp_are_in_degrees(tmp_path):
    write_transforms(tmp_path, fl_x=None, x_fov=90.0, y_fov=60.0)
    camera = load_scene(tmp_path, eval=False).train[0]
    assert camera.fx == pytest.approx(camera.width / 2)
    assert camera.fy == pytest.approx(camera.height / 2 / math.tan(math.pi / 6))


def test_global_and_per_frame_intrinsics(tmp_path):
    """A frame's own numbers go before those of the file."""
    write_transforms(
        tmp_path, num_frames=3, frame=lambda i: {"fl_x": 50.0, "cx": 18.0} if i == 1 else {}, fl_y=36.0, cy=14.0
    )
    scene = load_scene(tmp_path, eval=False)
    intrinsics = [(c.fx, c.fy, c.cx, c.cy) for c in scene.train]
    assert intrinsics == [(35, 36, 20, 14), (50, 36, 18, 14), (35, 36, 20, 14)]


@pytest.mark.parametrize(
    "table, distortion",
    [
        ({}, None),
        ({"camera_model": "PINHOLE", "k1": 0.0, "distortion_params": [0, 0, 0, 0, 0, 0]}, None),
        ({"camera_model": "OPENCV", "k1": 0, "k2": 0.0, "p1": 0, "p2": 0}, None),
        ({"camera_model": "OPENCV", "k1": 0.1, "k2": 0.2, "p1": 0.01, "p2": 0.02}, (0.1, 0.2, 0.01, 0.02, 0)),
        ({"k1": 0.1, "k3": 0.3}, (0.1, 0, 0, 0, 0.3)),
        ({"distortion_params": [0.1, 0.2, 0.3, 0, 0.01, 0.02], "k1": 9}, (0.1, 0.2, 0.01, 0.02, 0.3)),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.4}, (0.1, 0, 0, 0.4)),
        ({"is_fisheye": True}, (0, 0, 0, 0)),
    ],
)
def test_distortion_of_every_kind(tmp_path, table, distortion):
    """Coefficients arrive in OpenCV's order, missing ones as zero, and all zero is no distortion but for a fisheye."""
    write_transforms(tmp_path, num_frames=2, **table)
    lens = load_scene(tmp_path).train[0].photo.lens
    assert lens.is_pinhole == (distortion is None)
    assert distortion is None or lens.distortion == distortion
    assert (lens.model == "OPENCV_FISHEYE") == (table.get("camera_model") == "OPENCV_FISHEYE" or "is_fisheye" in table)


def test_prism_models(tmp_path):
    """FISHEYE624 of nerfstudio lists its numbers; THIN_PRISM_FISHEYE names them."""
    numbers = [0.01 * i for i in range(12)]
    write_transforms(tmp_path, num_frames=2, camera_model="FISHEYE624", distortion_params=numbers)
    lens = load_scene(tmp_path).train[0].photo.lens
    assert (lens.model, lens.distortion) == ("RAD_TAN_THIN_PRISM_FISHEYE", tuple(numbers))
    write_transforms(tmp_path, num_frames=2, camera_model="THIN_PRISM_FISHEYE", k1=0.1, p2=0.2, sx1=0.3)
    lens = load_scene(tmp_path).train[0].photo.lens
    assert (lens.model, lens.distortion) == ("THIN_PRISM_FISHEYE", (0.1, 0, 0, 0.2, 0, 0, 0.3, 0))


PARAMETERS = {  # of COLMAP's models behind the principal point, by the names in its documentation
    "PINHOLE": {},
    "RADIAL": {"k1": 0.1, "k2": -0.02},
    "OPENCV": {"k1": 0.1, "k2": -0.02, "p1": 0.01, "p2": 0.02},
    "FULL_OPENCV": {"k1": 0.1, "k2": 0.2, "p1": 0.01, "p2": 0.02, "k3": 0.03, "k4": 0.04, "k5": 0.05, "k6": 0.06},
    "FOV": {"omega": 0.9},
    "RADIAL_FISHEYE": {"k1": 0.1, "k2": -0.02},
    "OPENCV_FISHEYE": {"k1": 0.1, "k2": -0.02, "k3": 0.003, "k4": 0.004},
    "THIN_PRISM_FISHEYE": {k: 0.01 * i for i, k in enumerate(("k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1"), 1)},
    "DIVISION": {"k": -0.1},
    "FISHEYE": {},
    "EUCM": {"alpha": 0.6, "beta": 1.1},
}


@pytest.mark.parametrize("model", PARAMETERS)
def test_every_camera_model_is_that_of_colmap(tmp_path, model):
    """The names of COLMAP and of its parameters give the lens that its own files give."""
    values = PARAMETERS[model]
    focal = (35.0,) if model in ("RADIAL", "RADIAL_FISHEYE") else (35.0, 35.0)
    write_colmap(tmp_path / "colmap", [(1, model, 40, 30, (*focal, 20.0, 15.0, *values.values()))], num_images=2)
    write_transforms(tmp_path / "json", num_frames=2, camera_model=model, **values)
    expected, found = (load_scene(tmp_path / name).train[0].photo.lens for name in ("colmap", "json"))
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 5), np.linspace(-0.4, 0.4, 5))
    np.testing.assert_array_equal(found.project(x, y), expected.project(x, y))
    assert found.is_pinhole == (model == "PINHOLE")


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"camera_model": "PINHOLE", "k1": 0.1}, "k1"),
        ({"k1": 0.1, "k4": 0.1}, "k4"),
        ({"distortion_params": [0.1, 0, 0, 0.1, 0, 0]}, "k4"),
        ({"camera_model": "OPENCV_FISHEYE", "p1": -0.1}, "p1"),
        ({"camera_model": "OPENCV", "is_fisheye": True}, "is_fisheye"),
        ({"camera_model": "EQUIRECTANGULAR", "w": 40, "h": 20, "k1": 0.1}, "k1"),
        ({"camera_model": "FOV", "k1": 0.1, "omega": 0.9}, "k1"),
        ({"camera_model": "FOV"}, "omega"),
        ({"camera_model": "EUCM", "alpha": 0.5}, "beta"),
        ({"ftheta_p0": 0.0, "ftheta_p1": 1e-3}, "ftheta_p1"),
        ({"latlong": True}, "latlong"),
        ({"b2": 1.5}, "b2"),
        ({"distortion": [0.1, 0.2]}, "distortion"),
    ],
)
def test_no_coefficient_is_passed_over(tmp_path, table, key):
    """A key that the camera model does not have, or one that it lacks, is an error that names it."""
    write_transforms(tmp_path, num_frames=2, **table)
    with pytest.raises(InputError, match=f"'{key}' (with|for) the camera_model"):
        load_scene(tmp_path)


def test_panoramas(tmp_path):
    """The size decides, whatever the focal length."""
    write_transforms(tmp_path, num_frames=2, camera_model="EQUIRECTANGULAR", w=40, h=30, fl_x=None)
    camera = load_scene(tmp_path, eval=False).train[0]
    assert (camera.name, camera.width, camera.fx, camera.photo.lens.model) == (
        "000_front.png",
        10,
        5,
        "EQUIRECTANGULAR",
    )


@pytest.mark.parametrize("numbers", [None, 5, [0.0] * 6, [0.0] * 11 + ["a"], [0.0] * 11 + [float("inf")], [None] * 12])
def test_bad_lists_of_distortion(tmp_path, numbers):
    write_transforms(tmp_path, num_frames=2, camera_model="FISHEYE624", distortion_params=numbers)
    with pytest.raises(InputError, match="distortion_params"):
        load_scene(tmp_path)


def test_reduced_photos(tmp_path):
    """``-i images_2`` takes the place of images/ in the paths, and the intrinsics given for w x h are scaled."""
    write_transforms(tmp_path, num_frames=2, w=40, h=30, fl_y=36.0, cx=21.0, cy=14.0)
    for i in range(2):
        write_photo(tmp_path / f"images_2/{i:03}.png", 20, 15)
    camera = load_scene(tmp_path, images="images_2").train[0]
    assert (camera.name, camera.width, camera.height) == ("001.png", 20, 15)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (17.5, 18, 10.5, 7)


def test_reduced_photos_without_a_size_in_the_file(tmp_path):
    """Without w and h the intrinsics belong to the size of the whole photos; without these, that is an error."""
    write_transforms(tmp_path, num_frames=2)
    for i in range(2):
        write_photo(tmp_path / f"images_2/{i:03}.png", 20, 15)
    assert load_scene(tmp_path, images="images_2").train[0].fx == 17.5
    for i in range(2):
        (tmp_path / f"images/{i:03}.png").unlink()
    with pytest.raises(InputError, match="contains no w and h"):
        load_scene(tmp_path, images="images_2")


def test_mask_path(tmp_path):
    """The mask that a nerfstudio frame names is used; a photo outside images/ keeps its folder in its name."""
    values = write_photo(tmp_path / "m/mask.png", mode="L")
    write_photo(tmp_path / "elsewhere/a.png")
    write_transforms(
        tmp_path, num_frames=2, frame=lambda i: {"mask_path": "m/mask.png", "file_path": "./elsewhere/a.png"}
    )
    camera = load_scene(tmp_path, eval=False).train[0]
    assert camera.name == "elsewhere/a.png"
    assert np.array_equal(camera.photo.mask(), values >= 128)


def test_missing_photos_need_no_size(tmp_path, capsys):
    """A photo that is missing is left out even where its size would have been read from it."""
    write_transforms(tmp_path, num_frames=4)
    (tmp_path / "images/002.png").unlink()
    scene = load_scene(tmp_path)
    assert scene.missing == ("002.png",) and len(scene.train) == 2
    assert "002.png" in capsys.readouterr().err


COLOURS = ("red", "green", "blue")
FLOATS = [("float", axis) for axis in "xyz"]


@pytest.mark.parametrize("layout", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_point_clouds(tmp_path, layout):
    """Float and double coordinates, with and without normals and colours, in every byte order."""
    path = tmp_path / "points.ply"
    properties = FLOATS + [("float32", f"n{axis}") for axis in "xyz"] + [("uchar", name) for name in COLOURS]
    path.write_bytes(ply_of(properties, [(1, 2, 3, 0, 0, 1, 9, 8, 7), (4, 5, 6, 0, 0, 1, 1, 2, 3)], layout))
    points = read_points_ply(path)
    assert points.xyz.tolist() == [[1, 2, 3], [4, 5, 6]] and points.rgb.tolist() == [[9, 8, 7], [1, 2, 3]]
    path.write_bytes(ply_of([("double", axis) for axis in "xyz"], [(1.5, 2, 3)], layout))
    points = read_points_ply(path)
    assert points.xyz.tolist() == [[1.5, 2, 3]] and points.rgb.tolist() == [[128, 128, 128]]


def test_point_cloud_agrees_with_plyfile(tmp_path):
    """A cloud written by plyfile comes back as it was."""
    plyfile = pytest.importorskip("plyfile")
    rng = np.random.default_rng(0)
    dtype = [(name, "f4") for name in "xyz"] + [(name, "u1") for name in COLOURS]
    rows = np.array([(*rng.normal(size=3), *rng.integers(0, 256, 3)) for _ in range(50)], dtype)
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")]).write(tmp_path / "points.ply")
    points = read_points_ply(tmp_path / "points.ply")
    assert np.array_equal(points.xyz, np.stack([rows[name] for name in "xyz"], 1))
    assert np.array_equal(points.rgb, np.stack([rows[name] for name in COLOURS], 1))


@pytest.mark.parametrize("how", ["ply_file_path", "points3d.ply"])
def test_point_cloud_of_a_scene(tmp_path, how):
    """Points come from the file that is named, or from points3d.ply."""
    write_transforms(tmp_path, num_frames=2, **({"ply_file_path": "a.ply"} if how == "ply_file_path" else {}))
    (tmp_path / ("a.ply" if how == "ply_file_path" else how)).write_bytes(ply_of(FLOATS, [(1, 2, 3)]))
    assert load_scene(tmp_path, units=Units()).points.xyz.tolist() == [[1, 2, 3]]
