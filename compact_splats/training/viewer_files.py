"""``cfg_args`` and ``input.ply`` of a run folder, which viewers and scripts made for 3DGS read."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compact_splats.scene.normalization import Units
from compact_splats.scene.ply import offset_comments
from compact_splats.scene.ply_file import write_elements
from compact_splats.scene.points import Points


def cfg_args(config: Mapping[str, Any], device: str) -> str:
    """The content of ``cfg_args``: a ``Namespace(...)``, in which viewers look up the path and the background."""
    shared = ("sh_degree", "source_path", "model_path", "images", "resolution", "white_background", "eval")
    unused = {"depths": "", "train_test_exp": False}  # some scripts need these
    return str(argparse.Namespace(**{name: config[name] for name in shared}, data_device=device, **unused))


def write_points(path: Path, points: Points, units: Units) -> None:
    """Write a coloured point cloud in world units as a PLY in the coordinates of files.

    Raises:
        InputError: the file can't be written.
    """
    columns = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    columns += [(name, "u1") for name in ("red", "green", "blue")]
    vertices = np.zeros(len(points.xyz), columns)
    xyz, rgb = units.file_points(points.xyz.numpy()), points.rgb.numpy()
    for i in range(3):
        vertices["xyz"[i]] = xyz[:, i]
        vertices[("red", "green", "blue")[i]] = rgb[:, i]
    write_elements(path, {"vertex": vertices}, offset_comments(units.offset))
