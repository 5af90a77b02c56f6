"""The files of a run folder for viewers and scripts of 3DGS, besides the PLY of the Gaussians.

This project itself reads ``cameras.json`` only (``scene/saved_cameras.py``).
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from compact_splats.scene.ply_file import write_elements


def camera_entries(cameras: Iterable[Any]) -> list[dict[str, Any]]:
    """The content of ``cameras.json``.

    Args:
        cameras: of :class:`scene.cameras.Camera`.

    Returns:
        For each camera its centre in world units, its camera-to-world rotation as a list of rows, and sizes in px.
        ``cx`` and ``cy`` are not in the files of 3DGS; its viewers ignore them.
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
    """The content of ``cfg_args``: a ``Namespace(...)``, in which viewers look up the path and the background.

    Args:
        config: the run's ``config.json``.
        device: of the training.
    """
    shared = ("sh_degree", "source_path", "model_path", "images", "resolution", "white_background", "eval")
    unused = {"depths": "", "train_test_exp": False}  # some scripts need these
    return str(argparse.Namespace(**{name: config[name] for name in shared}, data_device=device, **unused))


def write_points(path: Path, xyz: Tensor, rgb: Tensor) -> None:
    """Write a coloured point cloud as a PLY.

    Args:
        path: of the file.
        xyz: (P,3) float32, world units.
        rgb: (P,3) uint8.

    Raises:
        InputError: the file can't be written.
    """
    columns = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    columns += [(name, "u1") for name in ("red", "green", "blue")]
    vertices = np.zeros(len(xyz), columns)
    for i in range(3):
        vertices["xyz"[i]] = xyz[:, i].cpu().numpy()
        vertices[("red", "green", "blue")[i]] = rgb[:, i].cpu().numpy()
    write_elements(path, {"vertex": vertices})
