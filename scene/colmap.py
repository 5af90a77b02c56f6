"""Reader of COLMAP's sparse models, binary and text. Every count and offset is checked against the size of the file.

Observations, tracks, rigs and frames are skipped: the images file contains the full poses.
Format: https://colmap.github.io/format.html; camera models: https://colmap.github.io/cameras.html.
"""

import io
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from compact_splats.scene.lens import Lens
from compact_splats.scene.points import Points, checked_points
from compact_splats.scene.posed_photo import PosedPhoto, checked_lens, rigid_motion, safe_name
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import open_file
from compact_splats.utils.geometry import rotation_matrices_of_unit

_Cameras = dict[int, Lens]
_Image = tuple[str, int, tuple[float, ...]]  # name, camera id, pose qw qx qy qz tx ty tz

_MODELS = {  # name: (number in the binary file, number of parameters)
    "SIMPLE_PINHOLE": (0, 3),
    "PINHOLE": (1, 4),
    "SIMPLE_RADIAL": (2, 4),
    "RADIAL": (3, 5),
    "OPENCV": (4, 8),
    "OPENCV_FISHEYE": (5, 8),
    "FULL_OPENCV": (6, 12),
}
_MAX_PARAMS = max(num_params for _, num_params in _MODELS.values())
_ONE_FOCAL_LENGTH = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
_BROKEN = "copy the file again or rerun COLMAP"


def read_colmap(model: Path, images: Path) -> tuple[list[PosedPhoto], Points | None]:
    """Read a sparse model.

    Args:
        model: folder with cameras, images and points3D, each .bin or .txt; .bin is preferred.
        images: folder of the photos.

    Returns:
        The photos in the order of the file, and the points, None without a points file.

    Raises:
        InputError: a file is missing, broken, or contains impossible values.
    """
    path, is_binary = _find(model, "cameras")
    lenses = (_read_cameras_binary if is_binary else _read_cameras_text)(path)
    if not lenses:
        raise InputError(path, "at least one camera", "none", _BROKEN)
    path, is_binary = _find(model, "images")
    registered = (_read_images_binary if is_binary else _read_images_text)(path)
    return [_posed_photo(path, image, lenses, images) for image in registered], _read_points(model)


def has_colmap_model(folder: Path) -> bool:
    """Whether ``folder`` contains the cameras of a sparse model."""
    return any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))


def _find(model: Path, stem: str) -> tuple[Path, bool]:
    for suffix in (".bin", ".txt"):
        if (model / f"{stem}{suffix}").is_file():
            return model / f"{stem}{suffix}", suffix == ".bin"
    raise InputError(f"{model} contains neither {stem}.bin nor {stem}.txt; copy the whole sparse model there")


def _posed_photo(path: Path, image: _Image, lenses: _Cameras, images: Path) -> PosedPhoto:
    name, camera_id, pose = image
    safe_name(path, name)
    if camera_id not in lenses:
        raise InputError(f"{path}: '{name}' has camera {camera_id}, which the cameras file does not contain; {_BROKEN}")
    rotation = _rotation_from_quaternion(np.array(pose[:4]))
    motion = rigid_motion(path, name, rotation, np.array(pose[4:]))
    return PosedPhoto(name, images / name, lenses[camera_id], motion)


def _rotation_from_quaternion(q: np.ndarray) -> np.ndarray:
    """(4,) real part first -> (3,3); all NaN for a zero quaternion."""
    with np.errstate(all="ignore"):
        unit = q / np.linalg.norm(q)
    return rotation_matrices_of_unit(torch.from_numpy(unit)[None])[0].numpy()


def _lens(path: Path, model: str, width: int, height: int, params: tuple[float, ...]) -> Lens:
    if model in _ONE_FOCAL_LENGTH:
        params = (params[0], *params)
    fx, fy, cx, cy, *distortion = params
    if model in ("SIMPLE_RADIAL", "RADIAL"):
        distortion = [*distortion, 0.0, 0.0, 0.0][:4]  # k1 k2 p1 p2
    return checked_lens(path, Lens(width, height, fx, fy, cx, cy, model == "OPENCV_FISHEYE", tuple(distortion)))


def _unknown_model(path: Path, found: str) -> InputError:
    fix = "undistort the photos with COLMAP's image_undistorter"
    return InputError(path, f"a camera model out of {', '.join(_MODELS)}", found, fix)


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
        end = self.data.find(b"\0", self.offset)
        try:
            if end < 0:
                raise ValueError
            text = self.data[self.offset : end].decode()
        except ValueError:
            raise self.broken(f"a name in UTF-8 at byte {self.offset}", "other bytes") from None
        self.offset = end + 1
        return text

    def finish(self) -> None:
        if self.offset != len(self.data):
            raise self.broken(f"the end at byte {self.offset}", f"{len(self.data)} bytes")


def _read_cameras_binary(path: Path) -> _Cameras:
    cursor, lenses = _Cursor(path), {}
    names = {number: (name, num_params) for name, (number, num_params) in _MODELS.items()}
    for _ in range(cursor.count(24 + 3 * 8)):
        camera_id, number, width, height = cursor.take("IiQQ")
        if number not in names:
            raise _unknown_model(path, f"number {number}")
        model, num_params = names[number]
        lenses[camera_id] = _lens(path, model, width, height, cursor.take(f"{num_params}d"))
    cursor.finish()
    return lenses


def _read_images_binary(path: Path) -> list[_Image]:
    cursor, images = _Cursor(path), []
    for _ in range(cursor.count(64 + 1 + 8)):
        _, *pose, camera_id = cursor.take("I7dI")
        name = cursor.string()
        cursor.skip(24 * cursor.count(24))  # observations: x, y, point
        images.append((name, camera_id, tuple(pose)))
    cursor.finish()
    return images


def _read_points(model: Path) -> Points | None:
    if (model / "points3D.bin").is_file():
        return _read_points_binary(model / "points3D.bin")
    if (model / "points3D.txt").is_file():
        return _read_points_text(model / "points3D.txt")
    return None


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
    return checked_points(path, heads["xyz"], heads["rgb"])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) without comments. An iterator, as a list of short lines takes many times the file's memory."""
    for number, line in enumerate(io.BytesIO(_content(path)), 1):
        if line.startswith(b"#"):
            continue
        try:
            yield number, line.decode().strip()
        except ValueError:
            raise InputError(path, f"text in UTF-8 in line {number}", "other bytes", _BROKEN) from None


def _bad_line(path: Path, number: int, expected: str, line: str) -> InputError:
    return InputError(path, f"{expected} in line {number}", f"'{line[:80]}'", _BROKEN)


def _read_cameras_text(path: Path) -> _Cameras:
    lenses = {}
    for number, line in _lines(path):
        if not line:
            continue
        try:
            camera_id, model, width, height, *params = line.split(maxsplit=4 + _MAX_PARAMS)
            values = int(camera_id), int(width), int(height), tuple(map(float, params))
        except ValueError:
            raise _bad_line(path, number, "CAMERA_ID MODEL WIDTH HEIGHT PARAMS", line) from None
        if model not in _MODELS:
            raise _unknown_model(path, model)
        if len(params) != _MODELS[model][1]:
            raise _bad_line(path, number, f"{_MODELS[model][1]} parameters", line)
        lenses[values[0]] = _lens(path, model, *values[1:])
    return lenses


def _read_images_text(path: Path) -> list[_Image]:
    images, lines = [], _lines(path)
    for number, line in lines:
        if not line:
            continue
        try:
            _, qw, qx, qy, qz, tx, ty, tz, camera_id, name = line.split(maxsplit=9)
            images.append((name, int(camera_id), tuple(map(float, (qw, qx, qy, qz, tx, ty, tz)))))
        except ValueError:
            raise _bad_line(path, number, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", line) from None
        next(lines, None)  # the observations, possibly an empty line
    return images


def _read_points_text(path: Path) -> Points:
    values = array("d")  # x y z r g b of each
    for number, line in _lines(path):
        if not line:
            continue
        try:
            _, x, y, z, r, g, b, *_ = line.split(maxsplit=7)
            values.extend((float(x), float(y), float(z), int(r), int(g), int(b)))
        except (ValueError, OverflowError):  # OverflowError: integers beyond the range of floats
            raise _bad_line(path, number, "POINT3D_ID X Y Z R G B ERROR TRACK", line) from None
    table = np.array(values).reshape(-1, 6)
    return checked_points(path, table[:, :3], table[:, 3:])
