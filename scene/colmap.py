"""COLMAP's sparse models: read, binary and text, and written as text.

Every count and offset is checked against the size of the file. The images file contains the full poses, so rigs and
frames are skipped. Which points a photo observes is read when asked for, from the images file; where the point lies in
the photo follows from the pose.
Format: https://colmap.github.io/format.html; camera models: https://colmap.github.io/cameras.html.
"""

import codecs
import io
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from compact_splats.scene.cameras import Camera
from compact_splats.scene.lens import Lens, panorama
from compact_splats.scene.names import Found, SceneFiles
from compact_splats.scene.normalization import Units
from compact_splats.scene.points import Points, checked_points, colours_to_bytes, points_beside
from compact_splats.scene.posed_photo import DataSet, PosedPhoto, checked_lens, rigid_motion, usable_photos
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import open_file
from compact_splats.utils.geometry import rotation_matrices_of_unit

_Camera = tuple[str, int, int, tuple[float, ...]]  # model, width, height, parameters


class _Image(NamedTuple):
    name: str
    camera_id: int
    pose: tuple[float, ...]  # qw qx qy qz tx ty tz
    observed: np.ndarray = np.empty(0, np.int64)  # (K,) ids of the points that are observed


_MODELS = {  # name: (number in the binary file, number of parameters)
    "SIMPLE_PINHOLE": (0, 3),
    "PINHOLE": (1, 4),
    "SIMPLE_RADIAL": (2, 4),
    "RADIAL": (3, 5),
    "OPENCV": (4, 8),
    "OPENCV_FISHEYE": (5, 8),
    "FULL_OPENCV": (6, 12),
    "FOV": (7, 5),
    "SIMPLE_RADIAL_FISHEYE": (8, 4),
    "RADIAL_FISHEYE": (9, 5),
    "THIN_PRISM_FISHEYE": (10, 12),
    "RAD_TAN_THIN_PRISM_FISHEYE": (11, 16),
    "SIMPLE_DIVISION": (12, 4),
    "DIVISION": (13, 5),
    "SIMPLE_FISHEYE": (14, 3),
    "FISHEYE": (15, 4),
    "EUCM": (16, 6),
    "EQUIRECTANGULAR": (17, 2),
}
_MAX_PARAMS = max(num_params for _, num_params in _MODELS.values())
_MIN_PARAMS = min(num_params for _, num_params in _MODELS.values())
_ONE_FOCAL_LENGTH = ("RADIAL", "RADIAL_FISHEYE")  # and all SIMPLE_ ones
_BROKEN = "copy the file again or rerun COLMAP"
_MAX_WORDS = 32  # of a line of images.txt that are looked at


def read_colmap(model: Path, files: SceneFiles, *, tracks: bool = False) -> DataSet:
    """Read a sparse model.

    Args:
        model: folder with cameras, images and points3D, each .bin or .txt; .bin is preferred. The points may also be
            points3D.ply.
        files: of the scene, for the photos.
        tracks: also which points each photo observes.

    Raises:
        InputError: a file is missing, broken, or contains impossible values.
    """
    path, is_binary = _find(model, "cameras")
    cameras = (_read_cameras_binary if is_binary else _read_cameras_text)(path)
    if not cameras:
        raise InputError(path, "at least one camera", "none", _BROKEN)
    images_path, is_binary = _find(model, "images")
    images = (_read_images_binary if is_binary else _read_images_text)(images_path, tracks=tracks)
    lenses = _Lenses(path, cameras, images_path, images)

    def posed(found: Found, image: _Image) -> PosedPhoto:
        rotation = _rotation_from_quaternion(np.array(image.pose[:4]))
        motion = rigid_motion(images_path, found.name, rotation, np.array(image.pose[4:]))
        return PosedPhoto(found, lenses[image.camera_id], motion, observed=image.observed)

    found = files.match(images_path, [image.name for image in images])
    photos, left_out = usable_photos(found, posed, images)
    return DataSet(images_path, photos, _read_points(model), left_out=left_out)


def colmap_model(cameras: Sequence[Camera], points: Points, units: Units) -> dict[str, str]:
    """A sparse model, in the scene's own coordinates, of pinhole cameras and points in world units.

    Returns:
        The text of each file by its name. Images have no observations, points no tracks.
    """
    from scipy.spatial.transform import Rotation  # takes a while to load

    units = units.without_offset()
    lenses = {(each.width, each.height, each.fx, each.fy, each.cx, each.cy): 0 for each in cameras}
    lenses = {lens: number for number, lens in enumerate(lenses, 1)}
    images = []
    for number, camera in enumerate(cameras, 1):
        motion = units.file_motion(camera.world_to_camera.double().numpy())
        x, y, z, w = Rotation.from_matrix(motion[:3, :3]).as_quat().tolist()
        lens = lenses[camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy]
        images += [_line(number, w, x, y, z, *motion[:3, 3].tolist(), lens, camera.name), ""]
    xyz = units.file_points(points.xyz.numpy()).tolist()
    colours = points.rgb.tolist()
    return {
        "cameras.txt": _lines_of(_line(number, "PINHOLE", *lens) for lens, number in lenses.items()),
        "images.txt": _lines_of(images),
        "points3D.txt": _lines_of(_line(i, *xyz[i], *colours[i], 0) for i in range(len(xyz))),
    }


def _line(*values: str | float) -> str:
    return " ".join(map(str, values))


def _lines_of(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def num_registered(model: Path) -> int:
    """The number of photos in a sparse model; 0 if it can't be read."""
    try:
        path, is_binary = _find(model, "images")
        if is_binary:
            return _Cursor(path).count(_MIN_IMAGE)
        return len(_read_images_text(path))
    except InputError:
        return 0


def has_colmap_model(folder: Path) -> bool:
    """Whether ``folder`` contains the cameras of a sparse model."""
    return any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))


def _find(model: Path, stem: str) -> tuple[Path, bool]:
    for suffix in (".bin", ".txt"):
        if (model / f"{stem}{suffix}").is_file():
            return model / f"{stem}{suffix}", suffix == ".bin"
    raise InputError(f"{model} contains neither {stem}.bin nor {stem}.txt; copy the whole sparse model there")


class _Lenses(dict[int, Lens]):
    """The lenses of the cameras that photos use; those of other cameras are not looked at."""

    def __init__(self, path: Path, cameras: dict[int, _Camera], images_path: Path, images: list[_Image]) -> None:
        self.path, self.cameras = path, cameras
        for image in images:
            if image.camera_id not in cameras:
                missing = f"camera {image.camera_id}, which the cameras file does not contain"
                raise InputError(f"{images_path}: '{image.name}' has {missing}; {_BROKEN}")

    def __missing__(self, camera_id: int) -> Lens:
        lens = self[camera_id] = _lens(self.path, *self.cameras[camera_id])
        return lens


def _rotation_from_quaternion(q: np.ndarray) -> np.ndarray:
    """(4,) real part first -> (3,3); all NaN for a zero quaternion."""
    with np.errstate(all="ignore"):
        unit = q / np.linalg.norm(q)
    return rotation_matrices_of_unit(torch.from_numpy(unit)[None])[0].numpy()


def _lens(path: Path, model: str, width: int, height: int, params: tuple[float, ...]) -> Lens:
    if model == "EQUIRECTANGULAR":  # its parameters repeat the size
        return checked_lens(path, panorama(width, height))
    if model in _ONE_FOCAL_LENGTH or model.startswith("SIMPLE_"):
        params = (params[0], *params)
    fx, fy, cx, cy, *distortion = params
    return checked_lens(path, Lens(width, height, fx, fy, cx, cy, model, tuple(distortion)))


def _unknown_model(path: Path, found: str) -> InputError:
    return InputError(path, f"a camera model of COLMAP ({', '.join(_MODELS)})", found, _BROKEN)


def _content(path: Path) -> bytes:
    with open_file(path, "a file of a COLMAP model", _BROKEN) as file:
        return file.read()


class _Cursor:
    """Sequential reader of a binary file; an ``InputError`` beyond its end."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.offset = path, _content(path), 0

    def broken(self, expected: str, found: str) -> InputError:
        return InputError(self.path, expected, found, _BROKEN)

    def take(self, layout: str) -> tuple:
        size = struct.calcsize(f"<{layout}")
        self.skip(size)
        return struct.unpack_from(f"<{layout}", self.data, self.offset - size)

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.offset:
            raise self.broken(f"{size} more bytes at byte {self.offset}", f"the end at {len(self.data)} bytes")
        self.offset += size

    def count(self, item_size: int) -> int:
        """A 64-bit count of items of at least ``item_size`` bytes; refused if the rest of the file is shorter."""
        (count,) = self.take("Q")
        if count * item_size > len(self.data) - self.offset:
            raise self.broken(f"{count} items after byte {self.offset}", f"the end at {len(self.data)} bytes")
        return count

    def string(self) -> str:
        """A name; bytes that are not UTF-8 are kept as they are in Python's names of files."""
        end = self.data.find(b"\0", self.offset)
        if end < 0:
            raise self.broken(f"the end of a name after byte {self.offset}", "none")
        text = self.data[self.offset : end].decode("utf-8", "surrogateescape")
        self.offset = end + 1
        return text

    def finish(self) -> None:
        if self.offset != len(self.data):
            raise self.broken(f"the end at byte {self.offset}", f"{len(self.data)} bytes")


def _read_cameras_binary(path: Path) -> dict[int, _Camera]:
    cursor, cameras = _Cursor(path), {}
    names = {number: (name, num_params) for name, (number, num_params) in _MODELS.items()}
    for _ in range(cursor.count(24 + 8 * _MIN_PARAMS)):
        camera_id, number, width, height = cursor.take("IiQQ")
        if number not in names:
            raise _unknown_model(path, f"number {number}")
        model, num_params = names[number]
        cameras[camera_id] = model, width, height, cursor.take(f"{num_params}d")
    cursor.finish()
    return cameras


_MIN_IMAGE = 64 + 1 + 8  # bytes: head, name, number of observations


_OBSERVATION = np.dtype([("xy", "<f8", 2), ("id", "<i8")])  # id -1: of no point


def _read_images_binary(path: Path, *, tracks: bool = False) -> list[_Image]:
    cursor, images = _Cursor(path), []
    for _ in range(cursor.count(_MIN_IMAGE)):
        _, *pose, camera_id = cursor.take("I7dI")
        name = cursor.string()
        num = cursor.count(_OBSERVATION.itemsize)
        ids = np.frombuffer(cursor.data, _OBSERVATION, num if tracks else 0, cursor.offset)["id"]
        cursor.skip(num * _OBSERVATION.itemsize)
        images.append(_Image(name, camera_id, tuple(pose), ids[ids >= 0]))
    cursor.finish()
    return images


def _read_points(model: Path) -> Points | None:
    if (model / "points3D.bin").is_file():
        return _read_points_binary(model / "points3D.bin")
    if (model / "points3D.txt").is_file():
        return _read_points_text(model / "points3D.txt")
    return points_beside(model)


# "track" is the length of the track that follows, of two 32-bit numbers an item.
_POINT = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
_CHUNK = 1 << 16  # points gathered at once


def _read_points_binary(path: Path) -> Points:
    cursor = _Cursor(path)
    num_points = cursor.count(_POINT.itemsize)
    data, offset, last = cursor.data, cursor.offset, len(cursor.data) - _POINT.itemsize
    track_length = struct.Struct("<Q").unpack_from
    starts = np.empty(num_points, np.int64)
    for i in range(num_points):  # reads only the track lengths; the rest is gathered in bulk
        if offset > last:
            raise cursor.broken(f"{num_points} points", f"{i} before the end at {len(data)} bytes")
        starts[i] = offset
        offset += _POINT.itemsize + 8 * track_length(data, offset + _POINT.itemsize - 8)[0]
    if offset != len(data):
        raise cursor.broken(f"the end at byte {offset}", f"{len(data)} bytes")
    heads, content = np.empty(num_points, _POINT), np.frombuffer(data, np.uint8)
    for i in range(0, num_points, _CHUNK):
        places = starts[i : i + _CHUNK, None] + np.arange(_POINT.itemsize)
        heads[i : i + _CHUNK] = content[places].view(_POINT)[:, 0]
    return checked_points(path, heads["xyz"], heads["rgb"], heads["id"].astype(np.int64))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) without comments. An iterator, as a list of short lines takes many times the file's memory."""
    content = _content(path).removeprefix(codecs.BOM_UTF8)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # PowerShell
        content = content.decode("utf-16", "replace").encode()
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.startswith(b"#"):
            yield number, line.decode("utf-8", "surrogateescape").strip()


def _bad_line(path: Path, number: int, expected: str, line: str) -> InputError:
    return InputError(path, f"{expected} in line {number}", f"'{line[:80]}'", _BROKEN)


def _whole(text: str) -> int:
    """An integer; other programs write 180.0 or 179.99999.

    Raises:
        ValueError: no number, or infinite.
    """
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not abs(number) < 2**63:
            raise ValueError from None
        return round(number)


def _read_cameras_text(path: Path) -> dict[int, _Camera]:
    cameras = {}
    for number, line in _lines(path):
        if not line:
            continue
        try:
            camera_id, model, width, height, *params = line.split(maxsplit=4 + _MAX_PARAMS)
            values = _whole(camera_id), _whole(width), _whole(height), tuple(map(float, params))
        except ValueError:
            raise _bad_line(path, number, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS", line) from None
        if model not in _MODELS:
            raise _unknown_model(path, model)
        if len(params) != _MODELS[model][1]:
            raise _bad_line(path, number, f"{_MODELS[model][1]} parameters", line)
        cameras[values[0]] = model, *values[1:]
    return cameras


def _read_images_text(path: Path, *, tracks: bool = False) -> list[_Image]:
    """Each image has a second line of observations, or an empty one; some programs leave it out."""
    images, follows_image = list[_Image](), False
    for number, line in _lines(path):
        if not line or (follows_image and _is_observations(line)):
            if tracks and follows_image:
                ids = np.array([_id(word) for word in line.split()[2::3]], np.int64)
                images[-1] = images[-1]._replace(observed=ids[ids >= 0])
            follows_image = False
            continue
        try:
            _, qw, qx, qy, qz, tx, ty, tz, camera_id, name = line.split(maxsplit=9)
            images.append(_Image(name, _whole(camera_id), tuple(map(float, (qw, qx, qy, qz, tx, ty, tz)))))
        except ValueError:
            expected = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            raise _bad_line(path, number, f"{expected}{' or X Y POINT3D_ID ...' * follows_image}", line) from None
        follows_image = True
    return images


def _id(word: str) -> int:
    """The id of a point; -1, as COLMAP writes for no point, if it is no 64-bit integer of 0 or more."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < 19 else -1


def _is_observations(line: str) -> bool:
    """Whether a line is a list of X Y POINT3D_ID; an image has the number of words of no such list, or a name."""
    words = line.split(maxsplit=_MAX_WORDS)
    if len(words) <= _MAX_WORDS and len(words) % 3:
        return False
    try:
        for word in words[:_MAX_WORDS]:
            float(word)
    except ValueError:
        return False
    return True


def _read_points_text(path: Path) -> Points:
    values, ids = array("d"), array("q")  # x y z r g b of each
    for number, line in _lines(path):
        if not line:
            continue
        try:
            number_of_point, *numbers = line.split(maxsplit=7)[:7]
            x, y, z, r, g, b = map(float, numbers)
            values.extend((x, y, z, r, g, b))
        except (ValueError, OverflowError):  # OverflowError: integers beyond the range of floats
            raise _bad_line(path, number, "POINT3D_ID X Y Z R G B ERROR TRACK", line) from None
        ids.append(_id(number_of_point))
    table = np.array(values).reshape(-1, 6)
    colours = table[:, 3:]
    is_whole = (colours == np.rint(colours)).all()
    return checked_points(path, table[:, :3], colours if is_whole else colours_to_bytes(colours), np.array(ids))
