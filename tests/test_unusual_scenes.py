"""What other programs write differently: text models, point clouds, places, sizes, orientation, single bad values."""

import codecs
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scene_writers import (
    PINHOLE,
    ply_of,
    write_cameras,
    write_colmap,
    write_images,
    write_photo,
    write_points,
    write_transforms,
)

from compact_splats.arguments.config import TrainConfig
from compact_splats.scene import load_scene
from compact_splats.scene.points import read_points_ply
from compact_splats.training.loading import first_gaussians
from compact_splats.utils.errors import InputError

NUM = 10
UPRIGHT_POSE = (1, 0, 0, 0)
XYZ = [("float", name) for name in "xyz"]


def write_text(tmp_path, images: str | None = None, cameras: str = "1 PINHOLE 40 30 35 36 20.5 14.5\n"):
    """The text model of NUM photos, with observations unless ``images`` is given; returns the model's folder."""
    model = write_colmap(tmp_path, num_images=NUM)
    for path in model.iterdir():
        path.unlink()
    if images is None:
        images = "".join(f"{i + 1} 1 0 0 0 {-i} 0 0 1 {i:03}.png\n1.5 2.5 -1 3.5 4.5 7\n" for i in range(NUM))
    (model / "cameras.txt").write_text(cameras)
    (model / "images.txt").write_text(images)
    (model / "points3D.txt").write_text("1 1 2 3 10 20 30 0.1 1 0\n2 4 5 6 255 0 7 0.1\n")
    return model


def names(cameras) -> list[str]:
    return [camera.name for camera in cameras]


ALL = [f"{i:03}.png" for i in range(NUM)]

# ---- text models ----

SECOND_LINES = {
    "none": lambda i: "",
    "empty": lambda i: "\n",
    "observations": lambda i: "1.5 2.5 -1 3.5 4.5 7\n",
    "more words than an image": lambda i: "1.5 2.5 -1 " * 40 + "\n",
    "some": lambda i: ["", "\n", "1 2 3 4 5 6 7 8 9 10 11 12\n"][i % 3],
}


@pytest.mark.parametrize("what", SECOND_LINES)
@pytest.mark.parametrize("header", ["", "# Image list\n#   IMAGE_ID, ...\n"])
def test_images_with_and_without_a_second_line(tmp_path, what, header):
    """COLMAP writes observations in a second line; other programs leave it empty, or out."""
    lines = (f"{i + 1} 1 0 0 0 {-i} 0 0 1 {i:03}.png\n{SECOND_LINES[what](i)}" for i in range(NUM))
    write_text(tmp_path, header + "".join(lines))
    assert names(load_scene(tmp_path, eval=False).train) == ALL


@pytest.mark.parametrize("name", ["a b.png", "1 2 3.png", "2024-05-01 10.20.30.png", "7"])
def test_names_with_spaces_and_numbers_are_no_observations(tmp_path, name):
    """Whether there are second lines or not; a file of that name is found."""
    for second in ("", "\n", "1 2 3\n"):
        folder = tmp_path / f"{len(second)}"
        write_text(
            folder, "".join(f"{i} 1 0 0 0 {-i} 0 0 1 {each}\n{second}" for i, each in enumerate(["000.png", name]))
        )
        write_photo(folder / "images" / (name if "." in name else f"{name}.png"))
        assert len(load_scene(folder, eval=False).train) == 2


@pytest.mark.parametrize("line", ["1 2", "1.5 2.5 word", "a b c"])
def test_a_second_line_that_is_neither(tmp_path, line):
    """One line that says which."""
    model = write_text(tmp_path, f"1 1 0 0 0 0 0 0 1 000.png\n{line}\n")
    with pytest.raises(InputError, match=rf"images\.txt: expected .* or X Y POINT3D_ID .* in line 2, found '{line}'"):
        load_scene(tmp_path, eval=False)
    assert model


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["cameras.txt", "images.txt", "points3D.txt"])
def test_byte_order_marks(tmp_path, name, encoding):
    """Editors of Windows write them, PowerShell writes UTF-16."""
    model = write_text(tmp_path)
    text = (model / name).read_text()
    (model / name).write_bytes(text.encode(encoding))
    scene = load_scene(tmp_path, eval=False)
    assert names(scene.train) == ALL and len(scene.points.xyz) == 2


def test_byte_order_marks_of_json_and_ply(tmp_path):
    write_transforms(tmp_path, num_frames=2, ply_file_path="a.ply")
    path = tmp_path / "transforms.json"
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    (tmp_path / "a.ply").write_bytes(codecs.BOM_UTF8 + ply_of(XYZ, [(1, 2, 3)]))
    assert len(load_scene(tmp_path, eval=False).points.xyz) == 1


@pytest.mark.parametrize("size", ["40.0 30.0", "39.99999999 30.0000001", "4e1 3e1"])
def test_sizes_and_numbers_that_are_floats(tmp_path, size):
    """Exporters on numpy write floats where COLMAP has integers: sizes, numbers of cameras, colours."""
    model = write_text(
        tmp_path,
        "".join(f"{i + 1}.0 1 0 0 0 {-i} 0 0 1.0 {i:03}.png\n\n" for i in range(NUM)),
        f"1.0 PINHOLE {size} 35 36 20.5 14.5\n",
    )
    (model / "points3D.txt").write_text("1.0 1 2 3 10.0 20.0 255.0 0.1\n2.0 1 2 4 0.0 0.0 0.0 0.1\n")
    scene = load_scene(tmp_path, eval=False)
    assert (scene.train[0].width, scene.train[0].height) == (40, 30)
    assert scene.points.rgb.tolist() == [[10, 20, 255], [0, 0, 0]]
    (model / "points3D.txt").write_text("1 1 2 3 0.2 0.5 1.0 0.1\n2 1 2 4 0.0 0.0 0.0 0.1\n")
    assert load_scene(tmp_path, eval=False).points.rgb.tolist() == [[51, 128, 255], [0, 0, 0]]


@pytest.mark.parametrize("width, height", [(39.99999999, 30.0), (40.0000001, 29.9999)])
def test_sizes_in_transforms_are_rounded(tmp_path, width, height):
    """For the whole file and for a frame."""
    write_transforms(tmp_path, num_frames=2, w=width, h=height, frame=lambda i: {"w": width} if i else {})
    assert {(c.width, c.height) for c in load_scene(tmp_path, eval=False).train} == {(40, 30)}


# ---- point clouds ----


COLOURS = [
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("r", "g", "b"),
    ("Red", "Green", "Blue"),
    ("scalar_R", "scalar_G", "scalar_B"),
    ("scalar_Red", "scalar_Green", "scalar_Blue"),
]
TYPES = {  # of the colour 51, 255, 0
    "uchar": (51, 255, 0), "ushort": (51 * 257, 65535, 0), "float": (0.2, 1.0, 0.0), "double": (0.2, 1.0, 0.0),
    "int": (51, 255, 0),
}  # fmt: skip


@pytest.mark.parametrize("layout", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("colours", COLOURS)
def test_colours_of_point_clouds(tmp_path, colours, kind, layout):
    """Bytes, 16 bits, floats from 0 to 1, under the names of the usual programs."""
    properties = [*XYZ, *((kind, name) for name in colours)]
    (tmp_path / "a.ply").write_bytes(ply_of(properties, [(1, 2, 3, *TYPES[kind]), (4, 5, 6, *TYPES[kind])], layout))
    points = read_points_ply(tmp_path / "a.ply")
    assert points.rgb.tolist() == [[51, 255, 0]] * 2 and points.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("layout", ["ascii", "binary_little_endian"])
def test_colours_that_are_ambiguous_at_first_sight(tmp_path, layout):
    """Dark bytes in wider types, black and white, floats up to 255, a little above 1, a NaN in one of 20 points."""
    path, xyz = tmp_path / "a.ply", [("float", name) for name in ("X", "Y", "Z")]

    def read(kind, *colours):
        rows = [(1, 2, 3, *colour) for colour in colours]
        path.write_bytes(ply_of([*xyz, *((kind, name) for name in ("red", "green", "blue"))], rows, layout))
        return read_points_ply(path).rgb.tolist()

    assert read("ushort", (1, 200, 0)) == [[1, 200, 0]]
    assert read("uchar", (1, 0, 1)) == [[1, 0, 1]]
    assert read("float", (1.0, 200.0, 254.6)) == [[1, 200, 255]]
    assert read("float", (1.05, 0.2, -0.01)) == [[255, 51, 0]]
    assert len(read("float", *[(0.2, 0.2, 0.2)] * 19, (float("nan"), 0, 0))) == 19


def test_a_point_cloud_without_colours_is_grey_and_said(tmp_path, capsys):
    (tmp_path / "a.ply").write_bytes(ply_of(XYZ, [(1, 2, 3)]))
    assert read_points_ply(tmp_path / "a.ply").rgb.tolist() == [[128, 128, 128]]
    assert "no colours" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["sparse/0/points3D.ply", "sparse/0/points3d.ply", "points3D.ply", "sparse_pc.ply"])
@pytest.mark.parametrize("is_colmap", [True, False])
def test_places_of_point_clouds(tmp_path, place, is_colmap):
    """Beside the model where it has no points3D.bin or .txt, or in the scene folder."""
    if is_colmap:
        (write_colmap(tmp_path) / "points3D.bin").unlink()
    elif "/" in place:
        return
    else:
        write_transforms(tmp_path)
    (tmp_path / place).write_bytes(ply_of(XYZ, [(1, 2, 3)]))
    assert len(load_scene(tmp_path).points.xyz) == 1


def test_binary_points_come_first(tmp_path):
    model = write_colmap(tmp_path, num_points=5)
    (model / "points3D.ply").write_bytes(ply_of(XYZ, [(1, 2, 3)]))
    assert len(load_scene(tmp_path).points.xyz) == 5


# ---- places of models ----


@pytest.mark.parametrize("place", ["sparse", "sparse/0", "sparse/3", "colmap/sparse/0", "colmap/sparse", "."])
def test_places_of_models(tmp_path, place):
    """Those of 3DGS, nerfstudio, RealityScan and Metashape."""
    model = write_colmap(tmp_path)
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    shutil.rmtree(tmp_path / "sparse")
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (tmp_path / place / name).write_bytes(content)
    assert len(load_scene(tmp_path, eval=False).train) == 10


def test_transforms_go_before_colmaps_folder_of_nerfstudio(tmp_path):
    """Nerfstudio keeps the COLMAP model, whose axes are others, in colmap/ beside transforms.json."""
    write_colmap(tmp_path)
    (tmp_path / "colmap").mkdir()
    (tmp_path / "sparse").rename(tmp_path / "colmap/sparse")
    write_transforms(tmp_path, num_frames=3)
    assert len(load_scene(tmp_path, eval=False).train) == 3


@pytest.mark.parametrize("is_text", [False, True])
def test_the_largest_of_several_models(tmp_path, is_text, capsys):
    """COLMAP writes a model for each part it can't connect. The one with most photos is used, and said."""
    model = write_colmap(tmp_path, num_images=NUM)
    model.rename(tmp_path / "sparse/1")
    for number, count in ((0, 2), (10, 3)):
        folder = tmp_path / f"sparse/{number}"
        folder.mkdir()
        write_cameras(folder, [PINHOLE])
        write_images(folder, [(f"{i:03}.png", 1, UPRIGHT_POSE, (-i, 0, 0)) for i in range(count)])
        if is_text:
            (folder / "images.bin").unlink()
            lines = (f"{i} 1 0 0 0 {-i} 0 0 1 {i:03}.png\n\n" for i in range(count))
            (folder / "images.txt").write_text("".join(lines))
    assert len(load_scene(tmp_path, eval=False).train) == NUM
    (line,) = capsys.readouterr().err.splitlines()
    assert "sparse/1 is used, which has 10 photos (model 0 has 2, 10 has 3); --sparse N" in line
    assert len(load_scene(tmp_path, eval=False, sparse=10).train) == 3
    assert len(load_scene(tmp_path, eval=False, sparse=0).train) == 2
    with pytest.raises(InputError, match=r"sparse/7 is no COLMAP model; --sparse can be 0, 1, 10"):
        load_scene(tmp_path, sparse=7)
    assert TrainConfig.from_command_line(["-s", "a", "--final-budget", "9", "--sparse", "1"]).sparse == 1


# ---- photos ----


@pytest.mark.parametrize("factor", [2, 1.5, 4])
def test_photos_larger_than_their_cameras(tmp_path, factor, capsys):
    """COLMAP ran on reduced photos: the cameras are scaled up, which keeps every ray."""
    write_colmap(tmp_path, num_images=2)
    for i in range(2):
        write_photo(tmp_path / f"images/{i:03}.png", round(40 * factor), round(30 * factor))
    camera = load_scene(tmp_path, eval=False).train[0]
    assert (camera.width, camera.fx, camera.cy) == pytest.approx((40 * factor, 35 * factor, 14.5 * factor))
    assert "2 photos are larger than their cameras" in capsys.readouterr().err


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("mask", [None, "upright", "stored"])
def test_photos_that_lie_on_their_side(tmp_path, orientation, mask, capsys):
    """Where only the upright size fits the camera, the orientation tag turns the photo, and if needed its mask."""
    write_colmap(tmp_path, num_images=2)
    upright = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    counts = upright[..., 0] > 127
    inverse = {5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, 1), 7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
               8: lambda x: np.rot90(x, -1)}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i in range(2):
        Image.fromarray(np.ascontiguousarray(inverse(upright))).save(tmp_path / f"images/{i:03}.png", exif=exif)
    if mask:
        (tmp_path / "masks").mkdir()
        values = counts if mask == "upright" else inverse(counts)
        Image.fromarray(np.ascontiguousarray(values).astype(np.uint8) * 255).save(tmp_path / "masks/000.png")
    photo = load_scene(tmp_path, eval=False).train[0].photo
    assert np.array_equal(photo.pixels(), upright.transpose(2, 0, 1))
    assert mask is None or np.array_equal(photo.mask(), counts)
    assert "2 photos are turned as their orientation tags say" in capsys.readouterr().err


def test_photos_on_their_side_without_a_tag(tmp_path):
    """The error says that the tag is missing."""
    write_colmap(tmp_path)
    write_photo(tmp_path / "images/004.png", 30, 40)
    with pytest.raises(InputError, match="turned by 90 degrees, and has no orientation tag"):
        load_scene(tmp_path)


JPEGS = {"baseline": {}, "progressive": {"progressive": True}, "restart markers": {"restart_marker_rows": 1}}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("missing", [1, 2, 3, 30, 400, 0.1, 0.5])
def test_jpegs_that_end_too_early(tmp_path, kind, missing, capsys):
    """A few bytes less are completed, with a note; without more than 1 % of the pixels the photo is refused."""
    write_colmap(tmp_path, num_images=2)
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90, **JPEGS[kind])
    whole = np.asarray(Image.open(out))
    content = out.getvalue()
    cut = missing if missing >= 1 else round(missing * len(content))
    (tmp_path / "images/000.png").write_bytes(content[:-cut])
    scene = load_scene(tmp_path, eval=False)
    assert "1 photos are JPEG files without an end marker" in capsys.readouterr().err
    photo = scene.train[0].photo
    if cut > 400:
        with pytest.raises(InputError, match="a whole JPEG"):
            photo.pixels()
    else:
        assert np.mean(photo.pixels().numpy() != whole.transpose(2, 0, 1)) < 0.01


def test_what_follows_the_end_of_a_jpeg_is_ignored(tmp_path, capsys):
    """Cameras put videos and previews there."""
    write_colmap(tmp_path, num_images=2)
    path = tmp_path / "images/000.png"
    Image.open(path).convert("RGB").save(path, "JPEG")
    path.write_bytes(path.read_bytes() + bytes(1000))
    assert load_scene(tmp_path, eval=False).train[0].photo.pixels().shape == (3, 30, 40)
    assert not capsys.readouterr().err


# ---- bad values ----

NAN = float("nan")


@pytest.mark.parametrize("num_bad", [1, 2, 3])
@pytest.mark.parametrize("what", ["pose", "camera"])
def test_photos_whose_pose_or_camera_is_broken(tmp_path, what, num_bad, capsys):
    """Up to 10 % of 20 are left out, with a note that quotes the first; more are an error."""
    cameras = [
        (i + 1, "PINHOLE", 40, 30, (NAN if what == "camera" and i < num_bad else 35.0, 36.0, 20, 15)) for i in range(20)
    ]
    model = write_colmap(tmp_path, cameras=cameras, num_images=20)
    poses = [
        (f"{i:03}.png", i + 1, (NAN if what == "pose" and i < num_bad else 1, 0, 0, 0), (-i, 0, 0)) for i in range(20)
    ]
    write_images(model, poses)
    if num_bad == 3:
        with pytest.raises(InputError, match=r"images\.bin.*000\.png" if what == "pose" else r"cameras\.bin"):
            load_scene(tmp_path)
        return
    assert names(load_scene(tmp_path, eval=False).train) == [f"{i:03}.png" for i in range(num_bad, 20)]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{num_bad} photos are left out" in line and ("'000.png'" in line or what == "camera")


@pytest.mark.parametrize(
    "entry", [{"transform_matrix": [[NAN] * 4] * 4}, {"fl_x": NAN}, {"fl_x": -3}, {"k1": float("inf")}]
)
def test_frames_that_are_broken(tmp_path, entry, capsys):
    write_transforms(tmp_path, num_frames=10, frame=lambda i: entry if i == 4 else {})
    assert len(load_scene(tmp_path, eval=False).train) == 9
    assert "1 photos are left out" in capsys.readouterr().err
    write_transforms(tmp_path, num_frames=10, frame=lambda i: entry if i in (4, 7) else {})
    with pytest.raises(InputError, match=r"transforms\.json"):
        load_scene(tmp_path)


@pytest.mark.parametrize("value", [NAN, float("inf"), 1e300])
def test_points_that_are_not_finite(tmp_path, value, capsys):
    """Up to 10 % are left out and counted, more are an error with the first."""
    model = write_colmap(tmp_path)
    xyz = np.random.default_rng(0).normal(size=(40, 3))
    xyz[7:11, 1] = value
    write_points(model, xyz, np.zeros((40, 3), int))
    assert len(load_scene(tmp_path).points.xyz) == 36
    assert "4 of 40 points" in capsys.readouterr().err
    xyz[20] = value
    write_points(model, xyz, np.zeros((40, 3), int))
    with pytest.raises(InputError, match="5 of 40 points otherwise, the first at index 7"):
        load_scene(tmp_path)


@pytest.mark.parametrize("far", [1e5, 1e8, 1e20, 1e37])
def test_points_at_infinity_are_left_out(tmp_path, far, capsys):
    """Points a thousand times as far as others, which overflow squares in float32; distant ones in view stay."""
    model = write_colmap(tmp_path)
    xyz = np.random.default_rng(0).normal(size=(40, 3))
    xyz[0] *= 300
    xyz[5], xyz[6] = (far, 0, 0), (0, -far, far)
    write_points(model, xyz, np.zeros((40, 3), int))
    scene = load_scene(tmp_path)
    assert len(scene.points.xyz) == 38 and scene.points.xyz.abs().max() < 1e4
    assert "2 of 40 points are over 1,000 times as far" in capsys.readouterr().err
    xyz[10:20] = far * 10
    write_points(model, xyz, np.zeros((40, 3), int))
    assert len(load_scene(tmp_path).points.xyz) == (28 if far > 1e7 else 40), "a quarter of the points"


def test_a_scene_far_from_its_origin_has_no_far_points(tmp_path):
    """Distances are from the cameras."""
    model = write_colmap(tmp_path)
    centre = np.array([5e6, 4e5, 100])
    write_images(model, [(f"{i:03}.png", 1, UPRIGHT_POSE, tuple(-centre - (i, 0, 0))) for i in range(10)])
    write_points(model, centre + np.random.default_rng(0).normal(size=(40, 3)), np.zeros((40, 3), int))
    assert len(load_scene(tmp_path).points.xyz) == 40


def test_a_note_is_one_line(tmp_path, capsys):
    """What a file says does not steer the terminal."""
    write_transforms(tmp_path, num_frames=3, test_filenames=["000.png", "\x1b[2J"])
    with pytest.raises(InputError) as error:
        load_scene(tmp_path)
    assert str(error.value).isprintable()
    assert json.loads((tmp_path / "transforms.json").read_text())


def test_black_points_become_grey(tmp_path, capsys):
    """A colour of exactly zero is at the clamp of the spherical harmonics, and most often none was written."""
    write_points(write_colmap(tmp_path), np.ones((5, 3)), np.zeros((5, 3), int))
    assert (load_scene(tmp_path).points.rgb == 128).all()
    assert "are black" in capsys.readouterr().err


@pytest.mark.parametrize("scale, is_refused", [(1 / 40, True), (1, False)])
def test_focal_lengths_in_widths_are_refused(tmp_path, scale, is_refused):
    """1.2 px for a picture of 40 px is no lens, but 1.2 widths."""
    write_transforms(tmp_path, fl_x=48 * scale)
    if is_refused:
        with pytest.raises(InputError, match="focal lengths in px"):
            load_scene(tmp_path)
    else:
        load_scene(tmp_path)


@pytest.mark.parametrize("centre, is_said", [((0.5, 0.5), True), ((40, 30), True), ((21, 16), False)])
def test_principal_points_far_from_the_middle_are_said(tmp_path, centre, is_said, capsys):
    """In shares of the picture, or of a picture twice as large."""
    write_transforms(tmp_path, cx=centre[0], cy=centre[1])
    load_scene(tmp_path)
    assert ("principal points of 10 photos" in capsys.readouterr().err) == is_said


def test_a_transposed_matrix_is_refused(tmp_path):
    """Its position would be in the last row, and all cameras at the origin."""
    matrix = np.eye(4)
    matrix[3, :3] = 1, 2, 3
    write_transforms(tmp_path, frame=lambda i: {"transform_matrix": matrix.tolist()})
    with pytest.raises(InputError, match=r"last row .* found \[1.0, 2.0, 3.0, 1.0\]; write the matrices by rows"):
        load_scene(tmp_path)


@pytest.mark.parametrize("depth, is_said", [(-5, True), (5, False)])
def test_points_that_no_photo_shows_are_said(tmp_path, depth, is_said, capsys):
    """Behind all cameras, as where poses are from camera to world; training would leave them as they are."""
    write_points(write_colmap(tmp_path), np.array([[i, 0, depth] for i in range(5)]), np.full((5, 3), 90))
    config = TrainConfig(source_path=tmp_path, model_path=tmp_path / "out", final_budget=5)
    first_gaussians(config, load_scene(tmp_path), torch.device("cpu"), None)
    assert ("only 0 % of the points are in a training photo" in capsys.readouterr().err) == is_said


@pytest.mark.parametrize("size, orientation, is_said", [((40, 30), 3, True), ((30, 30), 6, True), ((40, 30), 6, False)])
def test_orientation_tags_that_are_not_applied_are_said(tmp_path, size, orientation, is_said, capsys):
    """Where the photo would fit its camera turned as well: by 180 degrees, or a square one by 90."""
    write_colmap(tmp_path, [(1, "PINHOLE", *size, (35, 36, size[0] / 2, size[1] / 2))], num_images=2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for path in (tmp_path / "images").iterdir():
        Image.open(path).save(path, "JPEG", exif=exif)
    load_scene(tmp_path)
    assert ("2 photos have orientation tags, which are not applied" in capsys.readouterr().err) == is_said


@pytest.mark.parametrize("given", ["scene/images", "scene/sparse", ".", "scene/sparse/0/none"])
def test_a_folder_near_a_scene(tmp_path, given):
    """The error names the folder that is a scene; without one near it, none."""
    write_colmap(tmp_path / "a/b/c" if given.endswith("none") else tmp_path / "scene")
    (tmp_path / given).mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError) as error:
        load_scene(tmp_path / given)
    assert (f"give -s {tmp_path / 'scene'}" in str(error.value)) == (not given.endswith("none"))


@pytest.mark.parametrize("place, is_said", [("dense/fused.ply", True), ("sparse/0/lidar.laz", True), ("a.obj", False)])
def test_a_point_cloud_that_is_not_used_is_said(tmp_path, place, is_said, capsys):
    """Where random points are used instead; an empty cloud at its usual place was read."""
    write_points(write_colmap(tmp_path), np.empty((0, 3)), np.empty((0, 3)))
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(b"")
    load_scene(tmp_path)
    assert (f"{tmp_path / place} is not used" in capsys.readouterr().err) == is_said


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("000.png", b"", "an empty file"),
        ("000.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS"),
        ("000.png", b"<!DOCTYPE html><html>", "a web page"),
        ("000.png", b"\x76\x2f\x31\x01\2\0\0\0", "OpenEXR"),
        ("000.DNG", b"II*\0" + bytes(99), "a raw photo"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, name, content, said):
    model = write_colmap(tmp_path, num_images=1)
    write_images(model, [(name, 1, (1, 0, 0, 0), (0, 0, 0))])
    (tmp_path / "images/000.png").unlink()
    (tmp_path / "images" / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        load_scene(tmp_path, eval=False)


def test_a_model_as_point_cloud_has_its_colours(tmp_path):
    """f_dc is the colour, less 0.5 and over the constant of degree 0."""
    values = (np.array([255, 51, 0]) / 255 - 0.5) / 0.28209479177387814
    names = [("float", name) for name in ("f_dc_0", "f_dc_1", "f_dc_2")]
    (tmp_path / "a.ply").write_bytes(ply_of([*XYZ, *names], [(1, 2, 3, *values)], "binary_little_endian"))
    assert read_points_ply(tmp_path / "a.ply").rgb.tolist() == [[255, 51, 0]]


@pytest.mark.parametrize("model", ["opencv", "Pinhole", "PERSPECTIVE", "perspective"])
def test_spellings_of_camera_models(tmp_path, model):
    write_transforms(tmp_path, camera_model=model)
    assert load_scene(tmp_path).train[0].photo.lens.is_pinhole
