"""The point cloud that training starts from: read from a PLY, or random points. For models see ``scene.ply``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compact_splats.scene.cameras import Camera
from compact_splats.scene.normalization import EXTENT, camera_centres
from compact_splats.scene.parameters import SH_C0
from compact_splats.scene.ply_file import read_element
from compact_splats.utils.errors import InputError, note
from compact_splats.utils.floats import to_float32

_BOX_SHARE = 0.9  # of the distance from the middle to the border of a picture
MAX_BAD = 0.1  # share of the photos or points that are left out where their numbers can't be used; more is an error
_FAR = ((0.9, 1e3), (0.5, 1e6))  # share of the points, and how many times their distance is too far
_SH_DC = ("f_dc_0", "f_dc_1", "f_dc_2")  # of 3DGS
_MAX_MEASURED = 1000  # points that are looked at to say how many are in view
_CLOUDS = ("points3d.ply", "sparse_pc.ply")  # of COLMAP's converters and 3DGS; of nerfstudio
# Properties of colours in PLY files: 3DGS and others, MeshLab, CloudCompare.
_COLOURS = [
    tuple(f"{prefix}{name}" for name in names)
    for names in (("red", "green", "blue"), ("r", "g", "b"))
    for prefix in ("", "diffuse_", "scalar_", "ambient_", "vertex_", "color_", "colour_")
]


@dataclass(frozen=True, eq=False)
class Points:
    """A coloured point cloud.

    Attributes:
        xyz: (P,3) float32 in world units; from a reader float64 in scene coordinates.
        rgb: (P,3) uint8.
        ids: (P,) int64, by which a COLMAP model names them; None: they have no names.
    """

    xyz: Tensor
    rgb: Tensor
    ids: Tensor | None = None

    def chosen(self, which: Tensor) -> Points:
        """Those at an index or mask (P,)."""
        return Points(self.xyz[which], self.rgb[which], None if self.ids is None else self.ids[which])


def checked_points(source: Path, xyz: np.ndarray, rgb: np.ndarray, ids: np.ndarray | None = None) -> Points:
    """Make points of (P,3) coordinates and (P,3) colours in [0,255] of any dtype; a note says how many are left out.

    ``ids`` (P,) int64 are as in :class:`Points`.

    Raises:
        InputError: more than one point and more than 10 % have coordinates that are not finite as float32, or colours
            out of range.
    """
    bad = ~(np.isfinite(to_float32(xyz)).all(axis=1) & ((rgb >= 0) & (rgb <= 255)).all(axis=1))
    if bad.sum() > max(1, MAX_BAD * len(bad)) or (len(bad) and bad.all()):
        found = f"{bad.sum()} of {len(bad)} points otherwise, the first at index {np.flatnonzero(bad)[0]}"
        raise InputError(source, "finite positions and colours in 0..255", found, "copy the file again or rebuild it")
    if bad.any():
        note(f"{bad.sum():,} of {len(bad):,} points in {source} have no finite position and colour and are left out")
        xyz, rgb, ids = xyz[~bad], rgb[~bad], None if ids is None else ids[~bad]
    if len(rgb) and not rgb.any():
        note(f"all points in {source} are black, most often because their colours are missing: they become grey")
        rgb = np.full(rgb.shape, 128)
    xyz = np.array(xyz, np.float64)  # a copy: torch refuses the strides of a field of a table
    colours = torch.from_numpy(np.ascontiguousarray(np.rint(rgb), dtype=np.uint8))
    return Points(torch.from_numpy(xyz), colours, None if ids is None else torch.from_numpy(ids))


def colours_to_bytes(rgb: np.ndarray) -> np.ndarray:
    """(P,3) colours in [0,255] from floats in [0,1], 16-bit integers, or what is in [0,255] already; NaN stays."""
    highest = rgb[np.isfinite(rgb)].max(initial=0)
    if rgb.dtype.kind == "f" and highest <= 2:  # a little more than 1 is overexposed
        return np.clip(rgb.astype(np.float64), 0, 1) * 255
    return rgb / 257 if rgb.dtype.kind in "iu" and 255 < highest <= 65535 else rgb


def without_far(points: Points, motions: np.ndarray) -> tuple[Points, int]:
    """Leave out points more than 1,000 times as far from the cameras as 90 % of the points, or 10^6 times as half.

    Structure from motion finds such points for rays that are nearly parallel. One at 1e20 overflows float32 squares.

    Args:
        points: in scene coordinates.
        motions: (V,4,4) float64, world to camera in scene coordinates.

    Returns:
        The other points, and the number of those left out.
    """
    centres = torch.from_numpy(camera_centres(motions))
    middle = centres.mean(dim=0)
    distances = (points.xyz - middle).norm(dim=1)
    spread = (centres - middle).norm(dim=1).max()
    ranked = distances.sort().values
    limit = min(factor * max(ranked[int(share * (len(ranked) - 1))], spread) for share, factor in _FAR)
    is_near = distances <= limit
    return points.chosen(is_near), int((~is_near).sum())


def share_in_view(xyz: Tensor, cameras: Sequence[Camera]) -> float:
    """Which share of points (P,3) in world units at least one camera sees, measured on up to 1,000 of them."""
    xyz = xyz[:: -(-len(xyz) // _MAX_MEASURED)]
    seen = torch.zeros(len(xyz), dtype=torch.bool)
    for camera in cameras:
        x, y, z = (xyz @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]).unbind(dim=1)
        u, v = x * camera.fx / z + camera.cx, y * camera.fy / z + camera.cy
        seen |= (z > 0) & (u >= 0) & (u <= camera.width) & (v >= 0) & (v <= camera.height)
    return float(seen.float().mean())


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
    """Read a point cloud: an element ``vertex`` with x y z, and red green blue (see ``_COLOURS``), f_dc, or else grey.

    Names are compared without regard to case. Colours are floats in [0,1], 16-bit, or in [0,255].

    Raises:
        InputError: the file is missing or broken, or has no x, y and z.
    """
    fix = "export it again or remove it"
    vertices = {name.lower(): values for name, values in read_element(path, "vertex", fix).items()}
    missing = [name for name in "xyz" if name not in vertices]
    if missing:
        raise InputError(path, "vertices with x, y and z", f"no {', '.join(missing)}", fix)
    xyz = np.stack([vertices[name] for name in "xyz"], axis=1)
    names = next((names for names in _COLOURS if all(name in vertices for name in names)), None)
    if names is None and all(name in vertices for name in _SH_DC):  # a 3DGS model as a point cloud
        colours = 0.5 + SH_C0 * np.stack([vertices[name] for name in _SH_DC], axis=1)
        return checked_points(path, xyz, colours.clip(0, 1) * 255)
    if names is None:
        note(f"{path} has no colours red, green and blue: its points are grey")
        return checked_points(path, xyz, np.full(xyz.shape, 128))
    return checked_points(path, xyz, colours_to_bytes(np.stack([vertices[name] for name in names], axis=1)))


def points_beside(folder: Path) -> Points | None:
    """The point cloud in a folder by one of its usual names, in upper or lower case; None if there is none.

    Raises:
        InputError: as for :func:`read_points_ply`.
    """
    files = {path.name.lower(): path for path in folder.iterdir() if path.suffix.lower() == ".ply"}
    path = next((files[name] for name in _CLOUDS if name in files), None)
    return None if path is None else read_points_ply(path)
