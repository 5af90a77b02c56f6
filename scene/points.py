"""The points a scene starts from: read from a PLY file, or drawn at random where there is none.

The PLY files of trained models are another matter, see ``scene.ply``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scene.cameras import Camera
from utils.errors import InputError


@dataclass(frozen=True, eq=False)
class Points:
    """A coloured point cloud.

    Attributes:
        xyz: (P,3) float32, world units.
        rgb: (P,3) uint8.
    """

    xyz: Tensor
    rgb: Tensor


def checked_points(source: Path, xyz: np.ndarray, rgb: np.ndarray) -> Points:
    """Make points of (P,3) coordinates and (P,3) colours in [0,255] of any dtype.

    Raises:
        InputError: a coordinate is not finite as float32, or a colour is out of range.
    """
    with np.errstate(over="ignore"):
        xyz = np.ascontiguousarray(xyz, dtype=np.float32)
    bad = ~(np.isfinite(xyz).all(axis=1) & ((rgb >= 0) & (rgb <= 255)).all(axis=1))
    if bad.any():
        found = f"{bad.sum()} others of {len(bad)}, the first at index {np.flatnonzero(bad)[0]}"
        raise InputError(source, "finite positions and colours in 0..255", found, "copy the file again or rebuild it")
    return Points(torch.from_numpy(xyz), torch.from_numpy(np.ascontiguousarray(rgb, dtype=np.uint8)))


def random_points_in_box(num_points: int, half_side: float, generator: torch.Generator) -> Points:
    """Grey points, uniform in the cube of +-``half_side`` around the origin."""
    xyz = (torch.rand(num_points, 3, generator=generator) * 2 - 1) * half_side
    return Points(xyz, torch.full((num_points, 3), 128, dtype=torch.uint8))


def random_points_in_view(cameras: tuple[Camera, ...], num_points: int, generator: torch.Generator) -> Points:
    """Grey points in the volume that the cameras see, each drawn from a random camera, pixel and depth.

    Depths reach to twice the distance of the point that the cameras look at: the one closest to all optical axes. For
    cameras that do not look at it (all look outwards, or in parallel), twice the cameras' spread takes its place.

    Args:
        cameras: at least one.
        num_points: how many.
        generator: on the CPU.
    """
    motions = torch.stack([camera.world_to_camera for camera in cameras]).double()
    centres = torch.stack([camera.centre for camera in cameras]).double()
    axes = motions[:, 2, :3]
    focus_depth = ((_closest_to_axes(centres, axes) - centres) * axes).sum(dim=1)
    spread = float((centres - centres.mean(dim=0)).norm(dim=1).max())
    fallback = 2 * spread if spread > 0 else 1.0
    reach = 2 * torch.where((focus_depth > 0.1 * fallback) & (focus_depth < 50 * fallback), focus_depth, fallback)

    which = torch.randint(len(cameras), (num_points,), generator=generator)
    u, v, w = torch.rand(3, num_points, dtype=torch.float64, generator=generator)
    width, height, fx, fy, cx, cy = torch.tensor(
        [(c.width, c.height, c.fx, c.fy, c.cx, c.cy) for c in cameras], dtype=torch.float64
    )[which].T
    # The cubic root spreads them evenly over the volume of the frustum.
    depth = reach[which] * w.pow(1 / 3)
    local = torch.stack([(u * width - cx) / fx, (v * height - cy) / fy, torch.ones_like(u)], dim=1) * depth[:, None]
    xyz = torch.einsum("nji,nj->ni", motions[which, :3, :3], local) + centres[which]
    return Points(xyz.float(), torch.full((num_points, 3), 128, dtype=torch.uint8))


def _closest_to_axes(centres: Tensor, axes: Tensor) -> Tensor:
    """(3,) point with the least squared distance to the lines; for parallel ones, one far from all."""
    across = torch.eye(3, dtype=axes.dtype) - axes[:, :, None] * axes[:, None, :]
    return torch.linalg.pinv(across.sum(dim=0), rtol=1e-6) @ torch.einsum("nij,nj->i", across, centres)


_PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_PLY_BYTE_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "<"}


def read_points_ply(path: Path) -> Points:
    """Read a point cloud: the first element must be ``vertex`` with scalar x y z and, if coloured, red green blue.

    Raises:
        InputError: the file is missing, broken, or laid out otherwise.
    """
    try:
        data = path.read_bytes()
        vertices = _ply_vertices(data)
        xyz = np.stack([vertices[name] for name in "xyz"], axis=1)
        coloured = {"red", "green", "blue"} <= set(vertices.dtype.names)
        rgb = np.stack([vertices[c] if coloured else np.full(len(xyz), 128) for c in ("red", "green", "blue")], axis=1)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(path, "a PLY point cloud", f"'{error}'", "export it again or remove it") from error
    return checked_points(path, xyz, rgb)


def _ply_vertices(data: bytes) -> np.ndarray:
    """(P,) structured array of the first element."""
    header = re.match(rb"ply\r?\n(.*?)end_header\r?\n", data[: 1 << 16], re.DOTALL)
    if not header:
        raise ValueError("no PLY header")
    lines = [line.split() for line in header[1].decode("ascii").splitlines() if line.strip()]
    lines = [words for words in lines if words[0] not in ("comment", "obj_info")]
    if len(lines) < 2 or lines[0][0] != "format" or lines[1][:2] != ["element", "vertex"] or len(lines[1]) != 3:
        raise ValueError("the header does not begin with format and element vertex")
    layout, num_vertices, fields = lines[0][1], int(lines[1][2]), []
    for words in lines[2:]:
        if words[0] == "element":
            break
        if len(words) != 3 or words[0] != "property":
            raise ValueError(f"the line '{' '.join(words)}'")
        fields.append((words[2], _PLY_BYTE_ORDER[layout] + _PLY_TYPES[words[1]]))
    dtype, body = np.dtype(fields), data[header.end() :]
    if layout == "ascii":
        rows = body.decode("ascii").split("\n", num_vertices)[:num_vertices]
        if len(rows) != num_vertices:
            raise ValueError(f"{num_vertices} vertices announced, {len(rows)} lines there")
        return np.array([tuple(row.split()) for row in rows], dtype=dtype)
    if not 0 <= num_vertices <= len(body) // dtype.itemsize:
        raise ValueError(f"{num_vertices} vertices of {dtype.itemsize} bytes announced, {len(body)} bytes there")
    return np.frombuffer(body, dtype, num_vertices)
