"""Cameras without photos: ``cameras.json`` of a run folder, as in 3DGS, and the cameras of other files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compact_splats.scene.cameras import Camera
from compact_splats.scene.colmap import has_colmap_model, read_colmap
from compact_splats.scene.layout import read_data_set
from compact_splats.scene.lens import Lens
from compact_splats.scene.names import SceneFiles
from compact_splats.scene.normalization import Units, camera_centres
from compact_splats.scene.posed_photo import checked_lens, rigid_motion
from compact_splats.scene.transforms import read_transforms
from compact_splats.utils.errors import InputError, brief
from compact_splats.utils.files import read_json

_FILE = "the cameras of a run"
_FIX = "train again, or give the scene with -s"
_CAMERAS = "cameras: cameras.json, transforms.json, or the folder of a COLMAP model"
_GIVE = "give another file or folder with --cameras"
_COLMAP_FILES = ("cameras.bin", "cameras.txt", "images.bin", "images.txt")

_Posed = tuple[str, Lens, np.ndarray]  # name, lens, pose (4,4) world to camera


def camera_entries(cameras: Iterable[Camera], units: Units = Units()) -> list[dict[str, Any]]:  # noqa: B008
    """The content of ``cameras.json``, of cameras in world units.

    Returns:
        For each camera its centre in the coordinates of files, its camera-to-world rotation by rows, and the intrinsics
        in px. 3DGS has no cx and cy; its viewers ignore them.
    """
    return [
        {
            "id": index,
            "img_name": camera.name,
            "width": camera.width,
            "height": camera.height,
            "position": units.file_points(camera_centres(camera.world_to_camera.double().numpy()[None])[0]).tolist(),
            "rotation": camera.world_to_camera[:3, :3].T.tolist(),
            "fy": camera.fy,
            "fx": camera.fx,
            "cx": camera.cx,
            "cy": camera.cy,
        }
        for index, camera in enumerate(cameras)
    ]


def read_cameras(path: Path, units: Units | None = None) -> tuple[tuple[Camera, ...], Units]:
    """Read a ``cameras.json`` of this project or of 3DGS; without cx and cy the principal point is the centre.

    Args:
        path: the file.
        units: of the run; None: from the cameras.

    Returns:
        The cameras in world units, sorted by name, without photos; and the units.

    Raises:
        InputError: the file does not exist or does not hold cameras.
    """
    posed = sorted(_entries(path, read_json(path, _FILE, _FIX)), key=lambda each: each[0])
    return _in_world(posed, units)


def read_camera_file(path: Path, units: Units | None = None) -> tuple[tuple[Camera, ...], Units]:
    """Read the cameras of a file or folder: cameras.json, transforms.json, a COLMAP model or a scene.

    Args:
        path: the file or folder. Photos need not be there.
        units: of the run; None: from the cameras.

    Returns:
        The cameras in world units, in the order of the file, without photos and distortion; and the units.

    Raises:
        InputError: there is no such file, or it does not hold cameras.
    """
    content = None if path.is_dir() or path.suffix.lower() != ".json" else read_json(path, _CAMERAS, _GIVE)
    if isinstance(content, list):
        return _in_world(_entries(path, content), units)
    if isinstance(content, dict):
        data = read_transforms(path, SceneFiles(path.parent))
    elif path.is_dir() or path.name in _COLMAP_FILES:
        folder = path if path.is_dir() else path.parent
        is_model = has_colmap_model(folder)
        data = read_colmap(folder, SceneFiles(folder)) if is_model else read_data_set(folder, "images", None)
    else:
        raise InputError(path, _CAMERAS, "a file of another kind" if path.exists() else "no such file", _GIVE)
    posed = [(each.name, each.lens.pinhole(), each.world_to_camera) for each in (*data.photos, *(data.test or ()))]
    if not posed:
        raise InputError(path, _CAMERAS, "none", _GIVE)
    return _in_world(posed, units, of_files=False)


def _entries(path: Path, entries: Any) -> list[_Posed]:
    if not isinstance(entries, list) or not entries:
        raise InputError(path, _FILE, brief(entries), _FIX)
    return [_posed(path, entry) for entry in entries]


def _in_world(posed: Sequence[_Posed], units: Units | None, of_files: bool = True) -> tuple[tuple[Camera, ...], Units]:
    """Cameras in world units: those of the run, or else of the cameras. Poses are of files, or of the scene."""
    if units is None:
        lenses, motions = [lens for _, lens, _ in posed], np.stack([motion for *_, motion in posed])
        units = Units.of_views(lenses, motions).without_offset()
    similarity = units.of_files() if of_files else units
    cameras = tuple(
        Camera(
            name, lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy,
            torch.from_numpy(similarity.world_motion(motion)).float(), None,
        )
        for name, lens, motion in posed
    )  # fmt: skip
    return cameras, units


def _posed(path: Path, entry: Any) -> _Posed:
    try:
        name = entry["img_name"]
        width, height, fx, fy = (float(entry[key]) for key in ("width", "height", "fx", "fy"))
        cx, cy = float(entry.get("cx", width / 2)), float(entry.get("cy", height / 2))
        centre = np.array(entry["position"], np.float64).reshape(3)
        to_world = np.array(entry["rotation"], np.float64).reshape(3, 3)
        lens = Lens(int(width), int(height), fx, fy, cx, cy)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(path, "a camera with name, size, focal lengths and pose", brief(entry), _FIX) from error
    if not isinstance(name, str):
        raise InputError(path, "the name of a photo", brief(name), _FIX)
    checked_lens(path, lens)
    motion = rigid_motion(path, name, to_world.T, np.zeros(3))
    motion = rigid_motion(path, name, to_world.T, -motion[:3, :3] @ centre)
    return name, lens, motion
