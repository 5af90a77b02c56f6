"""Whatever is wrong with a scene ends in one line that names the file, and in nothing else."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from scene_writers import (
    MODEL_IDS,
    MODEL_PARAMS,
    PINHOLE,
    write_cameras,
    write_colmap,
    write_images,
    write_photo,
    write_transforms,
)

from compact_splats.scene import load_scene
from compact_splats.scene.colmap import read_colmap
from compact_splats.scene.names import SceneFiles
from compact_splats.scene.points import read_points_ply
from compact_splats.utils.errors import InputError

BINARIES = ["cameras.bin", "images.bin", "points3D.bin"]


def refused(where, call, *args, **options) -> str:
    """The message of the InputError that ``call`` must raise: one line, with the place and what to do."""
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    assert re.search(rf"{re.escape(str(where))}.*(; |: |must be |\(see -)\w", message)
    return message


def test_missing_folder(tmp_path):
    """A folder that is not there, a file in its place, and a folder without a scene are named."""
    assert "does not exist (see -s)" in refused(tmp_path / "no", load_scene, tmp_path / "no")
    (tmp_path / "file").touch()
    assert "is a file (see -s)" in refused(tmp_path / "file", load_scene, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    message = refused(tmp_path / "empty", load_scene, tmp_path / "empty")
    assert all(name in message for name in ("sparse/0", "transforms_train.json", "transforms.json"))


def test_missing_images_folder(tmp_path):
    """The folders that are there are suggested."""
    write_colmap(tmp_path)
    assert "['images', 'sparse']" in refused(tmp_path / "images_4", load_scene, tmp_path, images="images_4")


@pytest.mark.parametrize("resolution", [0, -2])
def test_resolution_that_cannot_be(tmp_path, resolution):
    """-r 0 and numbers below -1 are refused."""
    write_colmap(tmp_path)
    refused("--resolution", load_scene, tmp_path, resolution=resolution)


@pytest.mark.parametrize("name", BINARIES)
def test_every_truncation_is_noticed(tmp_path, name):
    """No prefix of a binary file passes for the whole."""
    model = write_colmap(tmp_path, num_images=3)
    data = (model / name).read_bytes()
    for length in range(len(data)):
        (model / name).write_bytes(data[:length])
        refused(model / name, read_colmap, model, SceneFiles(tmp_path))


@pytest.mark.parametrize("name", BINARIES)
def test_bytes_after_the_end_are_noticed(tmp_path, name):
    """A count that is too small leaves bytes behind, which is an error too."""
    model = write_colmap(tmp_path, num_images=3)
    with (model / name).open("ab") as file:
        file.write(b"\0")
    refused(model / name, read_colmap, model, SceneFiles(tmp_path))


def test_missing_files_of_a_model(tmp_path):
    """A model without images names what is missing."""
    model = write_colmap(tmp_path)
    (model / "images.bin").unlink()
    assert "neither images.bin nor images.txt" in refused(model, load_scene, tmp_path)


def test_no_cameras_and_no_images(tmp_path):
    """A file with a count of zero is well formed but no use."""
    model = write_colmap(tmp_path)
    write_images(model, [])
    assert "registers none" in refused(tmp_path, load_scene, tmp_path)
    write_cameras(model, [])
    assert "at least one camera" in refused(model / "cameras.bin", load_scene, tmp_path)


@pytest.mark.parametrize("model", ["OPENCV", "THIN_PRISM_FISHEYE", "FOV", "EUCM"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_camera_whose_numbers_are_not_finite(tmp_path, model, number):
    """It is refused, but not if no photo uses it."""
    params = (35.0, 36.0, 20.0, 15.0, *[0.1] * 12)[: MODEL_PARAMS[model] - 1]
    folder = write_colmap(tmp_path, cameras=[PINHOLE, (2, model, 40, 30, (*params, number))])
    assert "finite" in refused(folder, load_scene, tmp_path)
    write_images(folder, [(f"{i:03}.png", 1, (1, 0, 0, 0), (-i, 0, 0)) for i in range(10)])
    assert len(load_scene(tmp_path, eval=False).train) == 10


@pytest.mark.parametrize("number", [99, -1])
def test_a_camera_model_that_nobody_knows(tmp_path, number, monkeypatch):
    monkeypatch.setitem(MODEL_IDS, "FOV", number)
    model = write_colmap(tmp_path, cameras=[(1, "FOV", 40, 30, (35.0, 36.0, 20.0, 15.0, 0.9))])
    message = refused(model / "cameras.bin", load_scene, tmp_path)
    assert "FULL_OPENCV" in message and f"number {number}" in message
    (model / "cameras.bin").unlink()
    (model / "cameras.txt").write_text("1 NOBODYS_MODEL 40 30 35 36 20 15\n")
    assert "NOBODYS_MODEL" in refused(model / "cameras.txt", load_scene, tmp_path)


def test_our_table_of_camera_models_is_colmaps():
    """Numbers, and numbers of parameters."""
    pycolmap = pytest.importorskip("pycolmap")
    for name, number in MODEL_IDS.items():
        model = pycolmap.CameraModelId.__members__[name]
        assert int(model) == number
        assert len(pycolmap.Camera.create_from_model_id(1, model, 10, 10, 10).params) == MODEL_PARAMS[name]


def test_a_photo_of_a_camera_that_is_not_there(tmp_path):
    """An image that refers to a missing camera is refused."""
    model = write_colmap(tmp_path)
    write_images(model, [("000.png", 5, (1, 0, 0, 0), (0, 0, 0))])
    assert "'000.png' has camera 5" in refused(model / "images.bin", load_scene, tmp_path)


@pytest.mark.parametrize("focal", [0.0, -35.0, np.nan, np.inf, 1e300])
def test_intrinsics_that_cannot_be(tmp_path, focal):
    """Focal lengths that are not positive finite numbers are refused."""
    model = write_colmap(tmp_path, cameras=[(1, "PINHOLE", 40, 30, (35.0, focal, 20.0, 15.0))])
    refused(model / "cameras.bin", load_scene, tmp_path)


@pytest.mark.parametrize("size", [(0, 30), (2**40, 30)])
def test_camera_sizes_that_cannot_be(tmp_path, size):
    """A size of zero or of a trillion pixels is refused before anything is allocated."""
    model = write_colmap(tmp_path)
    write_cameras(model, [(1, "PINHOLE", *size, (35.0, 35.0, 20.0, 15.0))])
    refused(model / "cameras.bin", load_scene, tmp_path)


BAD_POSES = [
    ((np.nan, 0, 0, 0), (0, 0, 0)),
    ((1, 0, 0, 0), (0, np.inf, 0)),
    ((0, 0, 0, 0), (0, 0, 0)),
    ((1, 0, 0, 0), (1e300, 0, 0)),
]


@pytest.mark.parametrize("q, t", BAD_POSES)
def test_poses_that_are_not_finite(tmp_path, q, t):
    """NaN, infinity, a zero quaternion and what float32 cannot hold are refused with the photo's name."""
    model = write_colmap(tmp_path)
    write_images(model, [("003.png", 1, q, t)])
    assert "003.png" in refused(model / "images.bin", load_scene, tmp_path)


@pytest.mark.parametrize("name", ["", "a\nb", ".", "/", "a/..", "\x1b[2J.png"])
def test_names_that_name_no_file(tmp_path, name):
    """Empty names and control characters are refused."""
    model = write_colmap(tmp_path)
    write_images(model, [(name, 1, (1, 0, 0, 0), (0, 0, 0))])
    refused(model / "images.bin", load_scene, tmp_path)
    json_scene = tmp_path / "json"
    write_transforms(json_scene, num_frames=1, frame=lambda i: {"file_path": name})
    refused(json_scene / "transforms.json", load_scene, json_scene)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_photos_that_are_no_pictures(tmp_path, content):
    """What cannot even be opened is refused while the scene is loaded."""
    write_colmap(tmp_path)
    photo = tmp_path / "images/003.png"
    photo.write_bytes(content)
    refused(photo, load_scene, tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_photos(tmp_path, suffix):
    """A photo with a sound header but half of its data is refused when it is decoded, not trained on half grey."""
    model = write_colmap(tmp_path, num_images=2)
    photo = tmp_path / f"images/half.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    photo.write_bytes(photo.read_bytes()[:-800])
    write_images(model, [(photo.name, 1, (1, 0, 0, 0), (0, 0, 0))])
    scene = load_scene(tmp_path, eval=False)
    refused(photo, scene.train[0].photo.pixels)
    refused(photo, scene.train[0].photo.mask)


@pytest.mark.parametrize("size", [(30, 40), (40, 20), (20, 20), (80, 50)])
def test_photo_size_that_disagrees_with_its_camera(tmp_path, size):
    """Turned and cropped photos are refused while the scene is loaded, with both sizes."""
    write_colmap(tmp_path)
    write_photo(tmp_path / "images/004.png", *size)
    message = refused(tmp_path / "images/004.png", load_scene, tmp_path)
    assert "40x30" in message and f"{size[0]}x{size[1]}" in message


def test_masks_that_do_not_fit(tmp_path):
    """A mask of other proportions, no picture at all, or one that is named but not there is refused."""
    write_colmap(tmp_path)
    mask = tmp_path / "masks/004.png"
    write_photo(mask, 30, 30, "L")
    refused(mask, load_scene, tmp_path)
    mask.write_bytes(b"no picture")
    refused(mask, load_scene, tmp_path)
    json_scene = tmp_path / "json"
    write_transforms(json_scene, num_frames=1, frame=lambda i: {"mask_path": "m/none.png"})
    refused(json_scene / "m/none.png", load_scene, json_scene, eval=False)


def test_zero_photos_left_for_training(tmp_path):
    """All photos missing, or the only one held out for testing, leaves nothing to train on."""
    write_colmap(tmp_path, num_images=1)
    assert "1 are test views" in refused(tmp_path, load_scene, tmp_path)
    (tmp_path / "images/000.png").unlink()
    message = refused(tmp_path, load_scene, tmp_path)
    assert f"{tmp_path / 'images/000.png'} does not exist" in message and "contains no photos" in message


BAD_TABLES = {
    "not JSON": "{",
    "not text": b"\xff\xfe\x00",
    "a list": "[]",
    "no frames": "{}",
    "frames of the wrong kind": json.dumps({"frames": {}}),
    "a frame of the wrong kind": json.dumps({"fl_x": 35, "frames": [3]}),
    "deeply nested": "[" * 100_000,
}
BAD_FRAMES = {
    "no file_path": {"file_path": None},
    "file_path of the wrong kind": {"file_path": 5},
    "no pose": {"transform_matrix": None},
    "a short pose": {"transform_matrix": [[1, 0], [0, 1]]},
    "a ragged pose": {"transform_matrix": [[1, 0], [0]]},
    "a pose of words": {"transform_matrix": [["a"] * 4] * 4},
    "NaN": {"transform_matrix": [[float("nan")] * 4] * 4},
    "zeros": {"transform_matrix": [[0] * 4] * 4},
    "a mirror": {"transform_matrix": np.diag([-1, 1, 1, 1]).tolist()},
    "a shear": {"transform_matrix": [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]},
    "an unknown model": {"camera_model": "ORTHOPHOTO"},
    "a focal length of words": {"fl_x": "long"},
    "no focal length": {"fl_x": None},
    "NaN focal length": {"fl_x": float("nan")},
    "a field of view of zero": {"fl_x": None, "camera_angle_x": 0},
    "a field of view of half a turn": {"fl_x": None, "x_fov": 180},
    "a size of words": {"w": "wide", "h": 30},
    "a size of NaN": {"w": float("nan"), "h": 30},
    "an infinite size": {"w": float("inf"), "h": 30},
    "a point cloud that is not there": {"ply_file_path": "none.ply"},
}


@pytest.mark.parametrize("what", BAD_TABLES)
def test_bad_transforms_file(tmp_path, what):
    """A file of the wrong shape is named, in both layouts."""
    content = BAD_TABLES[what]
    for name in ("transforms.json", "transforms_train.json"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        refused(tmp_path / name, load_scene, tmp_path)


@pytest.mark.parametrize("what", BAD_FRAMES)
def test_bad_frame(tmp_path, what):
    """Whatever is wrong with a frame is refused with the file that says so."""
    entry = BAD_FRAMES[what]
    table = {key: entry[key] for key in entry if key == "ply_file_path"}
    write_transforms(tmp_path, num_frames=2, frame=lambda i: entry, **table)
    where = tmp_path / ("none.ply" if table else "transforms.json")
    refused(where, load_scene, tmp_path)


def test_every_truncation_of_a_point_cloud(tmp_path):
    """No prefix of a PLY file is read, except one that ends between the last vertex and its line end."""
    path = tmp_path / "points.ply"
    header = b"ply\nformat %s 1.0\nelement vertex 2\n" + b"".join(b"property float %c\n" % axis for axis in b"xyz")
    for layout, body in ((b"binary_little_endian", bytes(24)), (b"ascii", b"1 2 3\n4 5 6")):
        data = header % layout + b"end_header\n" + body
        for length in range(len(data)):
            path.write_bytes(data[:length])
            refused(path, read_points_ply, path)
        path.write_bytes(data)
        assert len(read_points_ply(path).xyz) == 2


@pytest.mark.parametrize(
    "change",
    [("float x", "list uchar int x"), ("property float x\n", ""), ("vertex 2", "vertex -1"), ("float x", "f x")],
)
def test_point_clouds_of_another_layout(tmp_path, change):
    """A header that we do not read is refused instead of misread."""
    path = tmp_path / "points.ply"
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
    path.write_bytes((header + "property float z\nend_header\n").replace(*change).encode() + bytes(24))
    refused(path, read_points_ply, path)


def test_nothing_is_written_into_the_scene(tmp_path):
    """Reading leaves the data set as it was."""
    write_colmap(tmp_path, cameras=[PINHOLE])
    shutil.rmtree(tmp_path / "sparse")
    write_transforms(tmp_path, "transforms_train.json")
    before = sorted(path for path in tmp_path.rglob("*"))
    load_scene(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*")) == before
