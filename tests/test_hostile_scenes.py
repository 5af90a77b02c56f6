"""Untrusted scenes and models: their claims are checked against the size of their files, in little memory and time.

Files that are broken by accident are in test_readers_bad_input.py; models in the formats of other tools in
test_formats_bad_input.py.
"""

import io
import json
import os
import re
import struct
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from scene_writers import write_colmap, write_images, write_photo, write_transforms

from compact_splats.arguments.config import TrainConfig
from compact_splats.arguments.options import from_json, read_json
from compact_splats.compression.files import read_model
from compact_splats.scene import load_scene, ply
from compact_splats.scene.colmap import read_colmap
from compact_splats.scene.names import SceneFiles
from compact_splats.scene.points import read_points_ply
from compact_splats.suite.pairs import Pair
from compact_splats.utils.errors import InputError
from compact_splats.utils.pictures import MAX_PIXELS, open_picture, picture_size

DEEP = (900, 100_000)  # levels: of which Python reads the first, but cannot print it
SECONDS = 5  # of the processor, for what takes milliseconds


def refused(where, call, *args, room: int = 16 << 20, **options) -> str:
    """The one line of the InputError that ``call`` raises soon, in ``room`` bytes."""
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            call(*args, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert peak < room, f"{peak:,} bytes"
    assert time.process_time() - start < SECONDS
    assert message.isprintable() and len(message) < 2500
    assert re.search(rf"{re.escape(str(where))}.*(; |: |must be |\(see -)\w", message)
    return message


# ---- names ----

CLIMBING = ["../a.png", "images/../../a.png", "a/../a.png", "/etc/passwd", "//host/a.png", "C:/a.png", "\\\\h\\a.png"]


_opened: list[str] = []
sys.addaudithook(lambda event, args: _opened.append(str(args[0])) if event == "open" else None)


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("key", ["file_path", "mask_path", "ply_file_path"])
def test_no_entry_of_a_transforms_file_leads_outside(tmp_path, key, name):
    """Such a name is that of a file in the scene folder or of none, and nothing outside is opened."""
    scene = tmp_path / "scene"
    write_photo(tmp_path / "a.png")
    entry = {key: name}
    write_transforms(scene, num_frames=2, frame=lambda i: entry, **(entry if key == "ply_file_path" else {}))
    _opened.clear()
    refused(scene, load_scene, scene)
    assert not [path for path in _opened if path.endswith("a.png") or path == "/etc/passwd"]


@pytest.mark.parametrize("name", CLIMBING)
def test_no_name_of_a_colmap_model_leads_outside(tmp_path, name):
    scene = tmp_path / "scene"
    model = write_colmap(scene, num_images=2)
    write_photo(tmp_path / "a.png")
    write_images(model, [(name, 1, (1, 0, 0, 0), (0, 0, 0)), ("001.png", 1, (1, 0, 0, 0), (0, 0, 0))])
    _opened.clear()
    assert load_scene(scene, eval=False).missing
    assert not [path for path in _opened if path.endswith("a.png") or path == "/etc/passwd"]


def test_usual_names_and_links_are_followed(tmp_path):
    """./ and folders are usual in names; scenes and their photos often are links to another disk."""
    disk = tmp_path / "disk"
    write_transforms(disk, num_frames=3, frame=lambda i: {"file_path": f"./images/00{i}.png"})
    scene = tmp_path / "scene"
    scene.mkdir()
    (scene / "images").symlink_to(disk / "images")
    (scene / "transforms.json").symlink_to(disk / "transforms.json")
    (tmp_path / "link").symlink_to(scene)
    train = load_scene(tmp_path / "link", eval=False).train
    assert [camera.name for camera in train] == ["000.png", "001.png", "002.png"]
    assert train[0].photo.pixels().shape == (3, 30, 40)


def test_names_that_no_disk_holds_are_photos_that_are_missing(tmp_path):
    """A name of 5,000 letters is no reason for a traceback."""
    model = write_colmap(tmp_path, num_images=3)
    names = ["0" * 5000, "a/" * 4000 + "b", "001.png"]
    write_images(model, [(name, 1, (1, 0, 0, 0), (-i, 0, 0)) for i, name in enumerate(names)])
    assert len(load_scene(tmp_path, eval=False).missing) == 2
    scene = tmp_path / "json"
    write_transforms(scene, num_frames=3, frame=lambda i: {"file_path": names[i] if i < 2 else "images/002.png"})
    assert len(load_scene(scene, eval=False).missing) == 2


@pytest.mark.parametrize("name", ["transforms.json", "points.ply", "mask.png", "images/000.png"])
def test_pipes_and_folders_are_not_read(tmp_path, name):
    """Opening a pipe would wait for ever."""
    write_transforms(tmp_path, num_frames=2, frame=lambda i: {"mask_path": "mask.png"}, ply_file_path="points.ply")
    write_photo(tmp_path / "mask.png", mode="L")
    (tmp_path / "points.ply").write_bytes(ply_header("ascii", f"element vertex 0\n{VERTEX}"))
    path = tmp_path / name
    path.unlink()
    os.mkfifo(path)
    if name == "images/000.png":
        assert load_scene(tmp_path, eval=False).missing == ("000.png",)
        return
    refused(tmp_path if name == "transforms.json" else path, load_scene, tmp_path, eval=False)


@pytest.mark.parametrize("name", ["model.ply", "model.gsz", "model.spz", "model.splat", "model.sog", "config.json"])
def test_models_and_configs_that_are_pipes_are_not_read(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, read_json if name.endswith("json") else read_model, tmp_path / name)


def test_what_a_file_says_does_not_steer_the_terminal(tmp_path):
    """Escape sequences of a file that is quoted are shown as question marks, and long ones in short."""
    model = write_colmap(tmp_path)
    (model / "points3D.bin").unlink()
    (model / "points3D.txt").write_text("\x1b[2J\x1b]0;owned\x07 " + "x" * 100_000)
    assert "?[2J?]0;owned?" in refused(model / "points3D.txt", load_scene, tmp_path)


# ---- JSON ----


@pytest.mark.parametrize("depth", DEEP)
@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}")])
def test_deep_json_is_refused_wherever_it_stands(tmp_path, depth, opening, closing):
    nested = opening * depth + "1" + closing * depth
    config = tmp_path / "config.json"
    for content in (nested, f'{{"iterations": {nested}}}'):
        config.write_text(content)
        where = config if depth > 1000 or content == nested else f"{config}: iterations"
        if content != nested or opening == "[" or depth > 1000:
            refused(where, lambda: from_json(TrainConfig, read_json(config), config))
    scene = tmp_path / "scene"
    table = json.dumps(write_transforms(scene, num_frames=2))
    for key in ('"fl_x": 35.0', '"file_path": "images/000.png"', '"frames": ['):
        (scene / "transforms.json").write_text(table.replace(key, f"{key[: key.index(':')]}: {nested}, {key}x", 1))
        refused(scene / "transforms.json", load_scene, scene)
    for key in ("camera_model", "transform_matrix", "mask_path", "file_path", "w"):
        entry = json.dumps({"file_path": "images/000.png", "transform_matrix": np.eye(4).tolist(), "fl_x": 35})
        text = f'{{"frames": [{entry[:-1]}, "{key}": {nested}}}]}}'
        (scene / "transforms.json").write_text(text)
        refused(scene / "transforms.json", load_scene, scene)
    (scene / "transforms.json").write_text(f'{{"frames": [{nested}]}}')
    refused(scene / "transforms.json", load_scene, scene)


@pytest.mark.parametrize("number", ["9" * 400, "-1" + "0" * 4000, "1" * 5000, "1e999", "NaN"])
def test_numbers_that_no_float_holds(tmp_path, number):
    table = json.dumps(write_transforms(tmp_path, num_frames=1))
    for key in ("1.0", "35.0"):
        (tmp_path / "transforms.json").write_text(table.replace(key, number, 1))
        refused(tmp_path / "transforms.json", load_scene, tmp_path, eval=False)


def test_null_is_the_same_as_nothing(tmp_path):
    """For every number of a lens that has a default."""
    nothing = dict.fromkeys(("w", "h", "cx", "cy", "k1", "k2", "p1", "p2", "fl_y", "camera_angle_x"))
    write_transforms(tmp_path, num_frames=1, frame=lambda i: nothing)
    camera = load_scene(tmp_path, eval=False).train[0]
    assert (camera.cx, camera.cy, camera.fx, camera.fy) == (20, 15, 35, 35)


def test_many_keys_and_many_frames_take_no_more_than_their_sum(tmp_path):
    """Each frame inherits the table's entries; with a copy of them for each frame this would take half a minute."""
    frame = {"file_path": "images/none.png", "transform_matrix": np.eye(4).tolist()}
    table = {"fl_x": 35.0, **dict.fromkeys(map(str, range(500_000)), 0), "frames": [frame] * 2000}
    (tmp_path / "transforms.json").write_text(json.dumps(table))
    start = time.process_time()
    with pytest.raises(InputError, match="none of the 2000 photos"):
        load_scene(tmp_path)
    assert time.process_time() - start < SECONDS


# ---- COLMAP ----


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("content", [b"\n" * 300_000, b"1 " * 150_000, b"1 1 1 1 1 1 1 1\n" * 20_000, b"#\n" * 150_000])
def test_text_models_take_memory_by_their_size(tmp_path, name, content):
    """Short lines and long ones of 300 kB, in 6 MB: 20 times as much, most of it for the cameras and poses kept."""
    model = write_colmap(tmp_path)
    (model / f"{name}.bin").unlink()
    (model / f"{name}.txt").write_bytes(content)
    tracemalloc.start()
    try:
        read_colmap(model, SceneFiles(tmp_path))
    except InputError as error:
        assert str(error).isprintable()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(content), f"{peak:,} bytes"


@pytest.mark.parametrize("number", ["9" * 400, "1e999", "nan", "2147483648"])
@pytest.mark.parametrize("line", ["1 N 0 0 0 0 0 0", "1 0 0 0 N 0 0 0"])
def test_points_of_numbers_that_cannot_be(tmp_path, line, number):
    model = write_colmap(tmp_path)
    (model / "points3D.bin").unlink()
    (model / "points3D.txt").write_text(line.replace("N", number))
    if (line[2], number) == ("N", "2147483648"):
        assert read_colmap(model, SceneFiles(tmp_path)).points.xyz[0, 0] == 2147483648
    else:
        refused(model / "points3D.txt", read_colmap, model, SceneFiles(tmp_path))


# ---- PLY ----

VERTEX = "".join(f"property float {name}\n" for name in "xyz")
COUNTS = [2**31, 2**40, 2**63, 10**30, 30, -1]


def ply_header(kind: str, *lines: str) -> bytes:
    return "\n".join(["ply", f"format {kind} 1.0", *lines, "end_header", ""]).replace("\n\n", "\n").encode()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize(
    "lines", [f"element vertex N\n{VERTEX}", f"element other N\nproperty float a\nelement vertex 1\n{VERTEX}",
              f"element other N\nproperty list uchar int a\nelement vertex 1\n{VERTEX}",
              f"element other N\nelement vertex 1\n{VERTEX}", "element vertex N"]
)  # fmt: skip
def test_counts_of_a_ply_are_held_against_its_size(tmp_path, lines, kind, count):
    """No room is made, and no loop begun, for what cannot follow: two rows do."""
    path = tmp_path / "a.ply"
    body = b"0 0 0\n0 0 0\n" if kind == "ascii" else bytes(24)
    path.write_bytes(ply_header(kind, lines.replace("N", str(count))) + body)
    for read in (ply.read, read_points_ply, read_model):
        refused(path, read, path, room=4 << 20)


@pytest.mark.parametrize("kind", ["binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("length", ["uchar", "int", "uint", "short"])
def test_elements_of_lists_before_the_points_are_passed_over(tmp_path, kind, length):
    order = "<" if "little" in kind else ">"
    code = {"uchar": "B", "int": "i", "uint": "I", "short": "h"}[length]
    rows = b"".join(struct.pack(f"{order}{code}{n}hd", n, *range(n), 0.5) for n in (0, 3, 200))
    lines = [f"element face 3\nproperty list {length} short a\nproperty double b", f"element vertex 1\n{VERTEX}"]
    path = tmp_path / "a.ply"
    path.write_bytes(ply_header(kind, *lines) + rows + struct.pack(f"{order}3f", 1, 2, 3))
    assert read_points_ply(path).xyz.tolist() == [[1, 2, 3]]
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, read_points_ply, path)


@pytest.mark.parametrize("length", ["int -1", "uint 4294967295", "float 1"])
def test_lists_of_lengths_that_cannot_be(tmp_path, length):
    kind, number = length.split()
    lines = [f"element face 2\nproperty list {kind} double a", f"element vertex 1\n{VERTEX}"]
    code = {"int": "i", "uint": "I", "float": "f"}[kind]
    path = tmp_path / "a.ply"
    path.write_bytes(ply_header("binary_little_endian", *lines) + struct.pack(f"<{code}", int(number)) + bytes(60))
    refused(path, read_points_ply, path)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("kind", ["ascii", "binary_big_endian"])
def test_any_line_end_blank_lines_and_comments(tmp_path, kind, newline):
    header = ply_header(kind, "comment Grüße", f"element vertex 2\n{VERTEX}", "", "obj_info x", "property uchar red")
    body = b"1 2 3 9\n4 5 6 9\n" if kind == "ascii" else struct.pack(">3fB3fB", 1, 2, 3, 9, 4, 5, 6, 9)
    path = tmp_path / "a.ply"
    path.write_bytes(header.replace(b"\n", newline) + body)
    points = read_points_ply(path)
    assert points.xyz.tolist() == [[1, 2, 3], [4, 5, 6]] and (points.rgb == 128).all()


@pytest.mark.parametrize(
    "lines, found",
    [
        (f"element vertex 1\n{VERTEX}property list uchar float opacity", "lists"),
        ("element vertex 1\nproperty float x\nproperty float x", "'x' twice"),
        (f"element vertex 1\n{VERTEX}element vertex 1\n{VERTEX}", "element vertex"),
        (f"element points 1\n{VERTEX}", "the element 'vertex'"),
        (f"element vertex 1\n{VERTEX}property half w", "half w"),
        (f"element vertex 1_0\n{VERTEX}", "1_0"),
        ("property float x", "property float x"),
        ("format ascii 1.0", "format ascii"),
        ("nonsense", "nonsense"),
    ],
)
def test_headers_that_are_not_read(tmp_path, lines, found):
    path = tmp_path / "a.ply"
    path.write_bytes(ply_header("ascii", lines) + b"1 2 3\n" * 10)
    for read in (ply.read, read_points_ply):
        assert found in refused(path, read, path)


@pytest.mark.parametrize("how", ["elements", "properties", "comment", "count"])
def test_long_headers_take_no_time(tmp_path, how):
    lines = {
        "elements": "\n".join(f"element e{i} 0" for i in range(4000)),
        "properties": "element vertex 1\n" + "\n".join(f"property uchar p{i}" for i in range(3000)),
        "comment": "comment " + "x" * 10**6,
        "count": "element vertex " + "9" * 60_000,
    }
    path = tmp_path / "a.ply"
    path.write_bytes(ply_header("binary_little_endian", lines[how]) + bytes(10_000))
    refused(path, read_points_ply, path)


def test_a_header_without_an_end_is_refused(tmp_path):
    path = tmp_path / "a.ply"
    path.write_bytes(b"ply\n" + b"format " * 10**6)
    assert "end of a PLY header" in refused(path, read_points_ply, path)


def test_values_of_other_types_are_read_or_refused(tmp_path):
    """Coordinates beyond float32 and colours of 32 bits are refused, whole numbers as coordinates are fine."""
    path = tmp_path / "a.ply"
    for kind, value, fits in (("int", 2**31 - 1, True), ("double", 1e300, False), ("double", 1.5, True)):
        code = {"int": "i", "double": "d"}[kind]
        lines = f"element vertex 1\nproperty {kind} x\nproperty {kind} y\nproperty {kind} z"
        path.write_bytes(ply_header("binary_big_endian", lines) + struct.pack(f">3{code}", *[value] * 3))
        if fits:
            assert (read_points_ply(path).xyz == value).all()
        else:
            refused(path, read_points_ply, path)
    colours = "".join(f"property uint {name}\n" for name in ("red", "green", "blue"))
    path.write_bytes(ply_header("ascii", f"element vertex 1\n{VERTEX}{colours}") + b"1 2 3 65536 0 0")
    refused(path, read_points_ply, path)


# ---- pictures ----


def png(width: int, height: int, num_bytes: int = 0) -> bytes:
    """A PNG in grey whose header says so, and which has that many bytes of zeros, compressed."""
    chunks = [(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(num_bytes)))]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in [*chunks, (b"IEND", b"")]]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (16, 16)).save(data, "JPEG")
    start = data.getvalue().index(b"\xff\xc0") + 5
    return data.getvalue()[:start] + struct.pack(">2H", height, width) + data.getvalue()[start + 4 :]


def webp(width: int, height: int) -> bytes:
    """The extended format: a canvas, and no frame in it."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<IB3x", 10, 0) + sides + b"VP8L" + struct.pack("<I", 6) + b"\x2f" + bytes(5)
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = {
    "PNG, 4 gigapixels": png(2**16, 2**16),
    "PNG, 2^60 pixels": png(2**30, 2**30),
    "PNG, 100 megapixels in 100 kB": png(10_000, 10_000, 10_000 * 10_001),
    "JPEG, 4 gigapixels": jpeg(65_535, 65_535),
    "JPEG, 100 megapixels": jpeg(10_000, 10_000),
    "WebP, 268 megapixels": webp(16_384, 16_384),
    "PPM, 10^16 pixels": b"P6 100000000 100000000 255\n",
    "PPM, 100 megapixels": b"P6 10000 10000 255\n",
    "BMP, 4 gigapixels": b"BM" + struct.pack("<I4xIIiiHHIIiiII", 54, 54, 40, 2**16, 2**16, 1, 24, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("what", BOMBS)
def test_pictures_of_absurd_size_are_refused_by_their_header(tmp_path, what):
    path = tmp_path / "a.png"
    path.write_bytes(BOMBS[what])
    for read in (picture_size, lambda path: open_picture(path).__enter__(), lambda path: Pair(path, path).read()):
        refused(path, read, path)


@pytest.mark.parametrize("role", ["photo", "mask", "photo of a size not in the file"])
def test_a_scene_with_a_picture_of_absurd_size_is_refused(tmp_path, role):
    """Whether it is a photo or a mask."""
    size = {"w": 40, "h": 30} if role != "photo of a size not in the file" else {}
    write_transforms(tmp_path, num_frames=2, frame=lambda i: {"mask_path": "mask.png", **size})
    write_photo(tmp_path / "mask.png", mode="L")
    path = tmp_path / ("mask.png" if role == "mask" else "images/000.png")
    path.write_bytes(BOMBS["PNG, 4 gigapixels"])
    assert "65536 x 65536" in refused(path, load_scene, tmp_path, eval=False)


def test_large_photos_are_welcome(tmp_path, recwarn):
    """Masks of 63 megapixels and one colour, photos of 200 with the bytes of photos: neither refused nor warned of."""
    path = tmp_path / "a.png"
    path.write_bytes(png(9000, 7000, 9000 * 7001))
    assert picture_size(path) == (9000, 7000) and path.stat().st_size < 100_000
    path.write_bytes(png(16_000, 12_500) + bytes(16_000 * 12_500 // 256))
    assert picture_size(path) == (16_000, 12_500) and 16_000 * 12_500 < MAX_PIXELS
    assert not recwarn.list


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path):
    """Each of 10 bytes makes the decoder go over all pixels again."""
    data = io.BytesIO()
    Image.new("L", (2000, 2000)).save(data, "JPEG", progressive=True)
    whole = data.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:-2] + last * 20_000 + whole[-2:])
    assert picture_size(path) == (2000, 2000)
    assert "scans" in refused(path, lambda: open_picture(path).__enter__())
    path.write_bytes(whole)
    with open_picture(path) as picture:
        assert picture.convert("RGB").getpixel((5, 5)) == (0, 0, 0)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", b"SIMPLE  =  T" * 300]
)
def test_formats_that_start_programs_or_hold_no_photos_are_not_opened(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert "a file that starts with" in refused(path, picture_size, path)
