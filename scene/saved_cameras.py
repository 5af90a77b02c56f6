"""The cameras of a run, read back from its ``cameras.json``, so that no photo has to be there for new views."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from compact_splats.scene.cameras import Camera
from compact_splats.scene.frames import checked_lens, rigid_motion
from compact_splats.scene.lens import Lens
from compact_splats.utils.errors import InputError, brief
from compact_splats.utils.files import read_json

_FILE = "the cameras of a run"
_FIX = "train again, or give the scene with -s"
_NUMBERS = ("width", "height", "fx", "fy")


def read_cameras(path: Path) -> tuple[Camera, ...]:
    """Read a ``cameras.json`` of ours or of 3DGS, which has no principal point: it is taken to be the centre.

    Args:
        path: of the file.

    Returns:
        The cameras in the order of their names, without photos.

    Raises:
        InputError: no such file, or it does not hold cameras.
    """
    entries = read_json(path, _FILE, _FIX)
    if not isinstance(entries, list) or not entries:
        raise InputError(path, _FILE, brief(entries), _FIX)
    return tuple(sorted((_camera(path, entry) for entry in entries), key=lambda camera: camera.name))


def _camera(path: Path, entry: Any) -> Camera:
    try:
        name = entry["img_name"]
        width, height, fx, fy = (float(entry[key]) for key in _NUMBERS)
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
    return Camera(name, lens.width, lens.height, fx, fy, cx, cy, torch.from_numpy(motion).float(), None)
