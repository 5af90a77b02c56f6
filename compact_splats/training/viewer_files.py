"""``cfg_args`` and ``input.ply`` of a run folder, which viewers and scripts made for 3DGS read."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from compact_splats.utils.files import atomic_write


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
