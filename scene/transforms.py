"""Reader of transforms.json: data sets of Blender (NeRF synthetic), nerfstudio and instant-ngp.

Their poses are camera to world with OpenGL axes (x right, y up, z backward). World axes are not changed.
"""

import math
from collections import ChainMap
from collections.abc import Mapping
from os.path import isfile  # not Path.is_file, which raises where a name is too long
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from compact_splats.scene.lens import Lens
from compact_splats.scene.posed_photo import PosedPhoto, checked_lens, rigid_motion, safe_name
from compact_splats.utils.errors import InputError, brief
from compact_splats.utils.files import read_json
from compact_splats.utils.pictures import picture_size

_SUFFIXES = (".png", ".jpg", ".jpeg", ".JPG", ".PNG")
_FLIP_YZ = np.diag([1.0, -1.0, -1.0])
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")
_BROWN = ("OPENCV", "FULL_OPENCV", "SIMPLE_RADIAL", "RADIAL")
_FIX = "correct the file or export it again"
_Default = TypeVar("_Default")


def read_transforms(path: Path, images: str) -> tuple[list[PosedPhoto], Path | None]:
    """Read a transforms file.

    Args:
        path: the JSON file; photos are relative to its folder.
        images: folder that replaces ``images/`` at the beginning of the paths in the file.

    Returns:
        The photos in the order of the file (the lens of a missing photo may be a dummy), and the path of the point
        cloud, None if the file names none.

    Raises:
        InputError: the file is broken or contains impossible values.
    """
    table = read_json(path, "JSON", _FIX)
    if not isinstance(table, dict) or not isinstance(table.get("frames"), list):
        raise InputError(f"{path} contains no list 'frames'; {_FIX}")
    photos = []
    for index, entry in enumerate(table["frames"]):
        if not isinstance(entry, dict):
            raise InputError(path, f"an object as frame {index}", brief(entry), _FIX)
        photos.append(_posed_photo(path, ChainMap(entry, table), images))
    points = table.get("ply_file_path")
    return photos, None if points is None else path.parent / _name(path, points)


def _posed_photo(path: Path, entry: Mapping[str, Any], images: str) -> PosedPhoto:
    name = _name(path, entry.get("file_path"))
    parts = PurePosixPath(name).parts
    in_images = parts[0] == "images" and len(parts) > 1
    photo = _with_suffix(path.parent / PurePosixPath(images if in_images else parts[0], *parts[1:]))
    name = str(PurePosixPath(*parts[in_images:-1], photo.name))
    mask = entry.get("mask_path")
    return PosedPhoto(
        name=name,
        path=photo,
        lens=_lens(path, entry, _with_suffix(path.parent / PurePosixPath(*parts)), photo),
        world_to_camera=_world_to_camera(path, name, entry.get("transform_matrix")),
        mask_path=None if mask is None else path.parent / _name(path, mask),
    )


def _name(path: Path, name: Any) -> str:
    if not isinstance(name, str):
        raise InputError(path, "a path for each photo", brief(name), _FIX)
    return str(PurePosixPath(safe_name(path, name.replace("\\", "/"))))


def _with_suffix(photo: Path) -> Path:
    """The path with its suffix, which Blender data sets leave out."""
    candidates = [photo, *(photo.with_name(photo.name + suffix) for suffix in _SUFFIXES)]
    missing = photo if photo.suffix in _SUFFIXES else candidates[1]
    return next((candidate for candidate in candidates if isfile(candidate)), missing)


def _world_to_camera(path: Path, name: str, matrix: Any) -> np.ndarray:
    try:
        camera_to_world = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # OverflowError: integers beyond the range of floats
        camera_to_world = np.empty(0)
    if camera_to_world.shape not in ((4, 4), (3, 4)):
        raise InputError(path, f"a 4x4 transform_matrix of '{name}'", brief(matrix), _FIX)
    with np.errstate(invalid="ignore"):  # rigid_motion refuses what is not finite
        rotation = camera_to_world[:3, :3] @ _FLIP_YZ
    pose = rigid_motion(path, name, rotation, camera_to_world[:3, 3])
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = pose[:3, :3].T
    world_to_camera[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return world_to_camera


def _lens(path: Path, entry: Mapping[str, Any], original: Path, photo: Path) -> Lens:
    """The lens of an entry, in which the file's global values are filled in.

    Without w and h, its size is that of the ``original`` photo named in the file, not of the reduced ``photo``.
    """

    def number(key: str, default: _Default) -> float | _Default:
        value = entry.get(key)
        if value is None:  # missing or null
            return default
        # The bound excludes infinities, NaN and integers beyond the range of floats, which Python's JSON reads.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise InputError(path, f"a number for '{key}'", brief(value), _FIX)
        return float(value)

    width, height = number("w", None), number("h", None)
    if width is None or height is None:
        if isfile(photo) and not isfile(original):
            raise InputError(f"{path} contains no w and h, and {original} does not exist; add w and h in px")
        # A missing photo is left out later: its lens does not matter.
        width, height = picture_size(original) if isfile(original) else (1, 1)
    fx = number("fl_x", _focal_length(number("camera_angle_x", None), width))
    fy = number("fl_y", _focal_length(number("camera_angle_y", None), height))
    fx = fy if fx is None else fx
    if fx is None:
        raise InputError(f"{path} contains neither fl_x nor camera_angle_x; add the focal length in px as fl_x")
    fy = fx if fy is None else fy
    fisheye, distortion = _distortion(path, entry, number)
    centre = number("cx", width / 2), number("cy", height / 2)
    return checked_lens(path, Lens(int(width), int(height), fx, fy, *centre, fisheye, distortion))


def _focal_length(angle: float | None, size: float) -> float | None:
    """px, from a field of view in radians; 0, which ``checked_lens`` refuses, if the angle is out of range."""
    return None if angle is None else 0.5 * size / math.tan(0.5 * angle) if 0 < angle < math.pi else 0.0


def _distortion(path: Path, entry: Mapping[str, Any], number: Any) -> tuple[bool, tuple[float, ...]]:
    model = entry.get("camera_model", "OPENCV_FISHEYE" if entry.get("is_fisheye") else "OPENCV")
    if model in _PINHOLES:
        return False, ()
    if model == "OPENCV_FISHEYE":
        return True, tuple(number(key, 0.0) for key in ("k1", "k2", "k3", "k4"))
    if model in _BROWN:
        return False, tuple(number(key, 0.0) for key in ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"))
    known = ", ".join((*_PINHOLES, *_BROWN, "OPENCV_FISHEYE"))
    raise InputError(path, f"a camera_model out of {known}", brief(model), "undistort the photos first")
