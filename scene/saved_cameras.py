"""``cameras.json`` of a run folder, as in 3DGS: the cameras without the scene and its photos."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compact_splats.scene.cameras import Camera
from compact_splats.scene.lens import Lens
from compact_splats.scene.normalization import Units, camera_centres
from compact_splats.scene.posed_photo import checked_lens, rigid_motion
from compact_splats.utils.errors import InputError, brief
from compact_splats.utils.files import read_json

_FILE = "the cameras of a run"
_FIX = "train again, or give the scene with -s"


def camera_entries(cameras: Iterable[Camera], units: Units = Units()) -> list[dict[str, Any]]:  # noqa: B008
    """The content of ``cameras.json``.

    Args:
        cameras: in world units.
        units: of their scene.

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
    entries = read_json(path, _FILE, _FIX)
    if not isinstance(entries, list) or not entries:
        raise InputError(path, _FILE, brief(entries), _FIX)
    posed = sorted((_posed(path, entry) for entry in entries), key=lambda each: each[0])
    motions = np.stack([motion for _, _, motion in posed])
    if units is None:
        units = Units.of_views([lens for _, lens, _ in posed], motions).without_offset()
    return tuple(
        Camera(
            name, lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy,
            torch.from_numpy(units.of_files().world_motion(motion)).float(), None,
        )
        for name, lens, motion in posed
    ), units  # fmt: skip


def _posed(path: Path, entry: Any) -> tuple[str, Lens, np.ndarray]:
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
