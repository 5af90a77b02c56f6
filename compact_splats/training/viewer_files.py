"""``cfg_args`` and ``input.ply`` of a run folder, which viewers and scripts made for 3DGS read."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from compact_splats.scene.ply_file import write_elements


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
