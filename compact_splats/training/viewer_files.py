"""The files of a run folder that viewers and scripts made for 3DGS read, besides the PLY of the Gaussians.

Of these, this project reads back ``cameras.json`` (``scene/saved_cameras.py``).
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from compact_splats.utils.files import atomic_write


def camera_entries(cameras: Iterable[Any]) -> list[dict[str, Any]]:
    """The content of ``cameras.json``.

    Args:
        cameras: of :class:`scene.cameras.Camera`.

    Returns:
        For each camera its centre in world units, its camera-to-world rotation by rows, and sizes in px; 3DGS has
        no principal point there, viewers pass over it.
    """
    return [
        {
            "id": index,
            "img_name": camera.name,
            "width": camera.width,
            "height": camera.height,
            "position": camera.centre.tolist(),
            "rotation": camera.world_to_camera[:3, :3].T.tolist(),
            "fy": camera.fy,
            "fx": camera.fx,
            "cx": camera.cx,
            "cy": camera.cy,
        }
        for index, camera in enumerate(cameras)
    ]


def cfg_args(config: Mapping[str, Any], device: str) -> str:
    """The content of ``cfg_args``: a ``Namespace(...)`` that viewers search for the path and the background.

    Args:
        config: the run's ``config.json``.
        device: where it was trained.
    """
    shared = ("sh_degree", "source_path", "model_path", "images", "resolution", "white_background", "eval")
    unused = {"depths": "", "train_test_exp": False}  # scripts look these up, too
    return str(argparse.Namespace(**{name: config[name] for name in shared}, data_device=device, **unused))


def write_points(path: Path, xyz: Tensor, rgb: Tensor) -> None:
    """Write a coloured point cloud as a binary PLY.

    Args:
        path: where to.
        xyz: (P,3) float32, world units.
        rgb: (P,3) uint8.

    Raises:
        InputError: the file can't be written.
    """
    names = ["x", "y", "z", "nx", "ny", "nz"]
    rows = np.zeros(len(xyz), [(name, "<f4") for name in names] + [(name, "u1") for name in ("red", "green", "blue")])
    for axis, name in enumerate("xyz"):
        rows[name] = xyz[:, axis].cpu().numpy()
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = rgb[:, channel].cpu().numpy()
    kinds = {"<f4": "float", "|u1": "uchar"}
    properties = [f"property {kinds[kind]} {name}" for name, kind in rows.dtype.descr]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}", *properties, "end_header\n"]
    with atomic_write(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + rows.tobytes())
