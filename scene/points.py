"""The point cloud that training starts from: read from a PLY, or random points. For models see ``scene.ply``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compact_splats.scene.cameras import Camera
from compact_splats.scene.normalization import EXTENT
from compact_splats.scene.ply_file import read_element
from compact_splats.utils.errors import InputError
from compact_splats.utils.floats import to_float32

_BOX_SHARE = 0.9  # of the distance from the middle to the border of a picture


@dataclass(frozen=True, eq=False)
class Points:
    """A coloured point cloud.

    Attributes:
        xyz: (P,3) float32 in world units; from a reader float64 in scene coordinates.
        rgb: (P,3) uint8.
    """

    xyz: Tensor
    rgb: Tensor


def checked_points(source: Path, xyz: np.ndarray, rgb: np.ndarray) -> Points:
    """Make points of (P,3) coordinates and (P,3) colours in [0,255] of any dtype.

    Raises:
        InputError: a coordinate is not finite as float32, or a colour is out of range.
    """
    bad = ~(np.isfinite(to_float32(xyz)).all(axis=1) & ((rgb >= 0) & (rgb <= 255)).all(axis=1))
    if bad.any():
        found = f"{bad.sum()} of {len(bad)} points otherwise, the first at index {np.flatnonzero(bad)[0]}"
        raise InputError(source, "finite positions and colours in 0..255", found, "copy the file again or rebuild it")
    xyz = np.ascontiguousarray(xyz, np.float64)
    return Points(torch.from_numpy(xyz), torch.from_numpy(np.ascontiguousarray(rgb, dtype=np.uint8)))


def random_points_around_object(cameras: tuple[Camera, ...], num_points: int, generator: torch.Generator) -> Points:
    """Grey points, uniform in a cube that all cameras see: around the point that they look at.

    Half its side is 0.9 of the distance from that point to the border of the median picture: 1.3 scene units for NeRF's
    synthetic objects, as in 3DGS. Cameras that do not look at one point: see :func:`random_points_in_view`.

    Args:
        cameras: at least one, in world units.
        num_points: how many.
        generator: on the CPU.
    """
    motions = torch.stack([camera.world_to_camera for camera in cameras]).double()
    centres = torch.stack([camera.centre for camera in cameras]).double()
    focus = _closest_to_axes(centres, motions[:, 2, :3])
    local = torch.einsum("vij,vj->vi", motions[:, :3, :3], focus - centres)
    borders = torch.tensor([min(c.width / c.fx, c.height / c.fy) / 2 for c in cameras], dtype=torch.float64)
    half_sides = _BOX_SHARE * borders * local[:, 2]
    if not (local[:, :2].norm(dim=1) < 0.5 * half_sides).all():
        return random_points_in_view(cameras, num_points, generator)
    unit = torch.rand(num_points, 3, dtype=torch.float64, generator=generator) * 2 - 1
    return _grey(focus + unit * half_sides.median())


def random_points_in_view(cameras: tuple[Camera, ...], num_points: int, generator: torch.Generator) -> Points:
    """Grey points in the volume that the cameras see, each drawn from a random camera, pixel and depth.

    Depths reach to twice the distance of the point that the cameras look at: the one closest to all optical axes. For
    cameras that do not look at one point (outwards, or in parallel), depths reach to four times the cameras' spread.

    Args:
        cameras: at least one, in world units.
        num_points: how many.
        generator: on the CPU.
    """
    motions = torch.stack([camera.world_to_camera for camera in cameras]).double()
    centres = torch.stack([camera.centre for camera in cameras]).double()
    axes = motions[:, 2, :3]
    focus_depth = ((_closest_to_axes(centres, axes) - centres) * axes).sum(dim=1)
    fallback = 2 * EXTENT / 1.1  # twice the cameras' spread, also where they are at one place
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
    return _grey(xyz)


def _grey(xyz: Tensor) -> Points:
    return Points(xyz.float(), torch.full(xyz.shape, 128, dtype=torch.uint8))


def _closest_to_axes(centres: Tensor, axes: Tensor) -> Tensor:
    """(3,) point with the least squared distance to the lines; far away if they are parallel."""
    across = torch.eye(3, dtype=axes.dtype) - axes[:, :, None] * axes[:, None, :]
    return torch.linalg.pinv(across.sum(dim=0), rtol=1e-6) @ torch.einsum("nij,nj->i", across, centres)


def read_points_ply(path: Path) -> Points:
    """Read a point cloud: an element ``vertex`` with x y z, and red green blue or else grey.

    Raises:
        InputError: the file is missing or broken, or has no x, y and z.
    """
    fix = "export it again or remove it"
    vertices = read_element(path, "vertex", fix)
    missing = [name for name in "xyz" if name not in vertices]
    if missing:
        raise InputError(path, "vertices with x, y and z", f"no {', '.join(missing)}", fix)
    xyz = np.stack([vertices[name] for name in "xyz"], axis=1)
    colours = [vertices[name] for name in ("red", "green", "blue") if name in vertices]
    if len(colours) < 3:
        colours = [np.full(len(xyz), 128)] * 3
    return checked_points(path, xyz, np.stack(colours, axis=1))
