"""Reader of transforms.json: data sets of Blender (NeRF synthetic), nerfstudio and instant-ngp.

Their poses are camera to world with OpenGL axes (x right, y up, z backward). World axes are not changed.
"""

import math
import re
from collections import ChainMap
from collections.abc import Mapping, Sequence
from os.path import isfile  # not Path.is_file, which raises where a name is too long
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from compact_splats.scene.lens import Lens, panorama
from compact_splats.scene.names import Found, SceneFiles
from compact_splats.scene.points import Points, points_beside, read_points_ply
from compact_splats.scene.posed_photo import BadPhoto, DataSet, PosedPhoto, checked_lens, rigid_motion, usable_photos
from compact_splats.utils.errors import InputError, brief
from compact_splats.utils.files import read_json
from compact_splats.utils.pictures import picture_size

_FLIP_YZ = np.diag([1.0, -1.0, -1.0])
_BROWN = "FULL_OPENCV", "k1", "k2", "p1", "p2", "k3"
_FISHEYE = "OPENCV_FISHEYE", "k1", "k2", "k3", "k4"
_PRISM = "RAD_TAN_THIN_PRISM_FISHEYE"
_PANORAMA = "EQUIRECTANGULAR"
_MODELS = {  # camera_model: (name in COLMAP, keys of its parameters in COLMAP's order)
    **dict.fromkeys(("PINHOLE", "SIMPLE_PINHOLE"), ("PINHOLE",)),
    **dict.fromkeys(("OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE"), _BROWN),
    "FULL_OPENCV": (*_BROWN, "k4", "k5", "k6"),
    **dict.fromkeys(("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"), _FISHEYE),
    **dict.fromkeys(("FISHEYE", "SIMPLE_FISHEYE"), ("FISHEYE",)),
    **dict.fromkeys(("FISHEYE624", _PRISM), (_PRISM, *(f"k{i}" for i in range(6)), "p0", "p1", "s0", "s1", "s2", "s3")),
    "THIN_PRISM_FISHEYE": ("THIN_PRISM_FISHEYE", "k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1"),
    "FOV": ("FOV", "omega"),
    "EUCM": ("EUCM", "alpha", "beta"),
    **dict.fromkeys(("DIVISION", "SIMPLE_DIVISION"), ("DIVISION", "k")),
}
_NEEDED = {"omega", "alpha", "beta", "k"}  # of the others, a missing one is 0
_LIST, _LISTED = "distortion_params", ("k1", "k2", "k3", "k4", "p1", "p2")  # the list of nerfstudio, and its order
# What must not be passed over: coefficients of any lens, among them those of Metashape and of instant-ngp's f-theta
# lenses, and marks of projections.
_OF_LENS = re.compile(
    r"[kpsb]\d+|s[xy]\d|k|skew|omega|xi|alpha|beta|ftheta_\w+|distortion\w*"
    r"|is_fisheye|latlong|equirectangular|orthographic"
)
_KEYS = {"w", "h", "cx", "cy", "camera_model", "is_fisheye", _LIST}
_KEYS |= {key for axis in "xy" for key in (f"fl_{axis}", f"{axis}_fov", f"camera_angle_{axis}")}
_KEYS |= {key for _, *keys in _MODELS.values() for key in keys}
_FIX = "correct the file or export it again"
_Default = TypeVar("_Default")


def read_transforms(path: Path, files: SceneFiles) -> DataSet:
    """Read a transforms file.

    Args:
        path: the JSON file, in the scene folder.
        files: of the scene. The photo folder replaces ``images/`` at the beginning of the paths in the file.

    Returns:
        The lens of a missing photo may be a dummy. The points come from the file that is named as ``ply_file_path``,
        else from points3d.ply or sparse_pc.ply.

    Raises:
        InputError: the file is broken or contains impossible values.
    """
    table = read_json(path, "JSON", _FIX)
    if not isinstance(table, dict) or not isinstance(table.get("frames"), list):
        raise InputError(f"{path} contains no list 'frames'; {_FIX}")
    for index, entry in enumerate(table["frames"]):
        if not isinstance(entry, dict):
            raise InputError(path, f"an object as frame {index}", brief(entry), _FIX)
    names = [_name(path, entry.get("file_path")) for entry in table["frames"]]
    found = originals = files.match(path, names, from_scene=True)
    if files.images != "images" and not all("w" in entry or "w" in table for entry in table["frames"]):
        originals = SceneFiles(files.source).match(path, names, from_scene=True, is_quiet=True)

    # Of the values for all frames only what a lens may have: each frame goes through them.
    shared = {key: value for key, value in table.items() if key in _KEYS or (value and _OF_LENS.fullmatch(key))}

    def posed(photo: Found, original_and_frame: tuple[Found, dict[str, Any]]) -> PosedPhoto:
        original, frame = original_and_frame
        mask = frame.get("mask_path")
        return PosedPhoto(
            photo,
            _lens(path, ChainMap(frame, shared), original.path, photo.path),
            _world_to_camera(path, photo.name, frame.get("transform_matrix")),
            None if mask is None else files.file(path, _name(path, mask)),
        )

    photos, left_out = usable_photos(found, posed, zip(originals, table["frames"], strict=True))
    points = _points(path, files, table.get("ply_file_path"))
    return DataSet(path, photos, points, left_out=left_out, splits=_splits(path, table))


def _points(path: Path, files: SceneFiles, named: Any) -> Points | None:
    if named is not None:
        return read_points_ply(files.file(path, _name(path, named)))
    return points_beside(files.source)


def _splits(path: Path, table: Mapping[str, Any]) -> dict[str, list[str]]:
    """The lists of photos that nerfstudio reads."""
    lists = {split: table.get(f"{split}_filenames") for split in ("train", "val", "test")}
    return {
        split: [_name(path, name) for name in names]
        for split, names in lists.items()
        if isinstance(names, list) and names
    }


def _name(path: Path, name: Any) -> str:
    if not isinstance(name, str):
        raise InputError(path, "a path for each photo", brief(name), _FIX)
    return name.replace("\\", "/").removeprefix("./")


def _world_to_camera(path: Path, name: str, matrix: Any) -> np.ndarray:
    try:
        camera_to_world = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # OverflowError: integers beyond the range of floats
        camera_to_world = np.empty(0)
    if camera_to_world.shape not in ((4, 4), (3, 4)):
        raise InputError(path, f"a 4x4 transform_matrix of '{name}'", brief(matrix), _FIX)
    last = camera_to_world[3:].ravel()  # of a transposed matrix, the position
    if np.isfinite(last).all() and len(last) and not np.allclose(last, (0, 0, 0, 1), atol=1e-3):
        expected = f"0 0 0 1 as the last row of the transform_matrix of '{name}'"
        raise BadPhoto(path, expected, brief(last.tolist()), "write the matrices by rows, not transposed")
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

    def number(key: str, default: _Default, value: Any = None) -> float | _Default:
        value = entry.get(key) if value is None else value
        if value is None:  # missing or null
            return default
        # The bound excludes infinities, NaN and integers beyond the range of floats, which Python's JSON reads.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            raise (BadPhoto if is_number else InputError)(path, f"a finite number for '{key}'", brief(value), _FIX)
        return float(value)

    def focal_length(axis: str, size: float) -> float | None:
        degrees = number(f"{axis}_fov", None)
        radians = number(f"camera_angle_{axis}", None if degrees is None else math.radians(degrees))
        length = number(f"fl_{axis}", None)
        if length is not None or radians is None:
            return length
        if not 0 < radians < math.pi:
            expected = f"a field of view of 0 to 180 degrees (camera_angle_{axis} in radians, {axis}_fov in degrees)"
            raise BadPhoto(path, expected, f"{radians:.6g} radians", _FIX)
        return 0.5 * size / math.tan(0.5 * radians)

    width, height = number("w", None), number("h", None)
    if width is None or height is None:
        if isfile(photo) and not isfile(original):
            raise InputError(f"{path} contains no w and h, and {original} does not exist; add w and h in px")
        # A missing photo is left out later: its lens does not matter.
        width, height = picture_size(original) if isfile(original) else (1, 1)
    if str(entry.get("camera_model")).upper() == _PANORAMA:  # whatever its focal length
        _refuse_unused(path, entry, _PANORAMA, ())
        return checked_lens(path, panorama(round(width), round(height)))
    fx, fy = focal_length("x", width), focal_length("y", height)
    fx = fy if fx is None else fx
    if fx is None:
        raise InputError(f"{path} contains none of fl_x, camera_angle_x and x_fov; add the focal length in px as fl_x")
    fy = fx if fy is None else fy
    model, distortion = _distortion(path, entry, number)
    centre = number("cx", width / 2), number("cy", height / 2)
    return checked_lens(path, Lens(round(width), round(height), fx, fy, *centre, model, distortion))


def _distortion(path: Path, entry: Mapping[str, Any], number: Any) -> tuple[str, tuple[float, ...]]:
    """The model's name in COLMAP, and its parameters after the principal point."""
    name = entry.get("camera_model", "OPENCV_FISHEYE" if entry.get("is_fisheye") else "OPENCV")
    if not isinstance(name, str) or name.upper() not in _MODELS:
        known = ", ".join((*_MODELS, _PANORAMA))
        raise InputError(path, f"a camera_model out of {known}", brief(name), "undistort the photos first")
    model, *keys = _MODELS[name.upper()]
    listed = entry.get(_LIST)
    if listed is not None or model == _PRISM:
        order = keys if model == _PRISM else _LISTED
        if not isinstance(listed, list) or len(listed) != len(order):
            raise InputError(path, f"'{_LIST}' with {len(order)} numbers for {name}", brief(listed), _FIX)
        values = [number(_LIST, 0.0, value) for value in listed]
        entry = ChainMap(dict(zip(order, values, strict=True)), dict(entry))
    _refuse_unused(path, entry, name, (*keys, _LIST, *(["is_fisheye"] if "FISHEYE" in model else [])))
    values = [number(key, None if key in _NEEDED else 0.0, entry.get(key)) for key in keys]
    if None in values:
        raise InputError(path, f"'{keys[values.index(None)]}' for the camera_model {name}", "none", _FIX)
    return model, tuple(values)


def _refuse_unused(path: Path, entry: Mapping[str, Any], name: str, used: Sequence[str]) -> None:
    """Raise if an entry has a key of a lens that is not zero and that ``camera_model`` does not have."""
    for key, value in entry.items():
        if _OF_LENS.fullmatch(key) and key not in used and (any(value) if isinstance(value, list) else value):
            hint = " (k4 to k6 of OpenCV: FULL_OPENCV)" if key in ("k4", "k5", "k6") else ""
            fix = f"name the camera_model that has it{hint}, undistort the photos, or set it to 0 to do without"
            raise InputError(path, f"no '{key}' with the camera_model {name}", brief(value), fix)
