"""The colour basis: functions of the viewing direction in which the profile "compact" stores colours.

They are orthonormal over the directions from which the cameras see a Gaussian. So the first coefficient is the mean
colour in the photos, an error in any coefficient is as large in the photos as in numbers, and what differs only in
directions without a camera costs almost no bits.

As in ``compact_code.py``, all numbers come from integers and IEEE additions, multiplications, divisions and roots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compact_splats.compression.container import FormatError
from compact_splats.scene.cameras import Camera
from compact_splats.scene.normalization import Units
from compact_splats.scene.spherical_harmonics import sh_basis

MAX_VIEWPOINTS = 32  # more hardly change the basis
CELL_BITS = 5  # Gaussians of one cell of a grid of 2^5 cells on each axis share a basis
_FRACTION = 1 << 12  # denominator of matrices and harmonics
_PRIOR = 1  # weight of all directions together, in viewpoints
_UNIT = 127  # of a viewpoint's direction
_PART = 1 << 11  # matrices made or copied at a time
_MANY = 32  # Gaussians per matrix from which on one product per matrix is faster than a matrix per Gaussian
_RECORD = np.dtype([("position", "<f4", 3), ("direction", "i1", 3)])


@dataclass(frozen=True, eq=False)
class ColorBasis:
    """The viewpoints that the colour basis is computed from: some of the cameras of the photos.

    Attributes:
        positions: (V,3) float64, in the coordinates of the model's file, exact in single precision.
        directions: (V,3) float64, optical axes times ``_UNIT``, rounded to integers.
        cosine: of half the angle of view; a viewpoint sees nothing beyond.
    """

    positions: Tensor
    directions: Tensor
    cosine: float

    @classmethod
    def of_all_directions(cls) -> ColorBasis:
        """No viewpoint: the basis is the spherical harmonics."""
        return cls(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64), 1.0)

    @classmethod
    def of_cameras(cls, cameras: Sequence[Camera], units: Units = Units()) -> ColorBasis:  # noqa: B008  frozen
        """That of at most ``MAX_VIEWPOINTS`` of the cameras, far apart in position and direction.

        Args:
            cameras: in world units.
            units: of their scene: the viewpoints are in the coordinates of its files.
        """
        if not cameras:
            return cls.of_all_directions()
        centres = torch.stack([camera.centre for camera in cameras])
        positions = torch.from_numpy(units.file_points(centres.numpy())).float().double()
        directions = torch.stack([camera.world_to_camera[2, :3] for camera in cameras]).double()
        chosen = _far_apart(torch.cat([positions / positions.std().clamp_min(1e-6), directions], 1))
        return cls(positions[chosen], (directions[chosen] * _UNIT).round(), min(map(_cosine_to_corner, cameras)))

    @classmethod
    def from_bytes(cls, data: bytes, cosine: float) -> ColorBasis:
        """Undo :meth:`to_bytes`.

        Raises:
            FormatError: too many viewpoints, part of one, or a position out of range.
        """
        if len(data) % _RECORD.itemsize or len(data) > MAX_VIEWPOINTS * _RECORD.itemsize:
            raise FormatError(f"up to {MAX_VIEWPOINTS} viewpoints of {_RECORD.itemsize} bytes", f"{len(data)} bytes")
        records = np.frombuffer(data, _RECORD)
        if not (np.abs(records["position"]) <= 1e30).all():
            raise FormatError("viewpoints within 1e30", "one outside")
        positions, directions = (records[name].astype(np.float64) for name in ("position", "direction"))
        return cls(torch.from_numpy(positions), torch.from_numpy(directions), cosine)

    def to_bytes(self) -> bytes:
        """15 bytes for each viewpoint."""
        records = np.empty(len(self.positions), _RECORD)
        records["position"], records["direction"] = self.positions.numpy(), self.directions.numpy()
        return records.tobytes()


class CellBases:
    """The colour basis of each cell of a coarse grid, as matrices from and to spherical harmonics.

    With Y the vector of the spherical harmonics times the root of 4 pi, G the mean of Y Y^T over the viewpoints that
    see the middle of the cell, and L L^T = G [Cholesky], coefficients c become L^T c. The first function is constant.

    Args:
        color_basis: its viewpoints; without any, coefficients stay as they are.
        centre: (3,), middle of the grid, world units.
        spread: half the grid on each axis lies within this of its middle, see ``compact_code.CompactCode``.
        num_coefficients: of spherical harmonics with the constant one, 1, 4, 9 or 16.

    Attributes:
        denominator: of the results of :meth:`from_basis`.
    """

    def __init__(self, color_basis: ColorBasis, centre: Tensor, spread: float, num_coefficients: int) -> None:
        self._color_basis, self._centre, self._spread = color_basis, centre, spread
        self._is_identity = not len(color_basis.positions) or num_coefficients == 1
        self.denominator = 1 if self._is_identity else _FRACTION
        self._index_of_cell = torch.full((1 << 3 * CELL_BITS,), -1)  # in the matrices; -1: not computed yet
        # float32 holds the integers exactly, and what the other matrix makes is rounded anyway.
        self._to_basis = torch.zeros(0, num_coefficients, num_coefficients)
        self._from_basis = torch.zeros(0, num_coefficients, num_coefficients - 1)

    def index_of(self, cells: Tensor) -> Tensor:
        """(N,) int64, index of each cell's matrices, which are computed here if they are new.

        Args:
            cells: (N,3) int64, 0 to 2^CELL_BITS - 1.
        """
        if self._is_identity:
            return cells[:, 0]
        places = (cells[:, 0] << 2 * CELL_BITS | cells[:, 1] << CELL_BITS | cells[:, 2]).cpu()
        occurs = torch.bincount(places, minlength=len(self._index_of_cell)) > 0
        new = torch.nonzero(occurs & (self._index_of_cell < 0))[:, 0]
        if len(new):
            self._index_of_cell[new] = torch.arange(len(new)) + len(self._to_basis)
            computed = [self._matrices(part) for part in new.split(_PART)]
            to_basis, from_basis = (torch.cat(parts) for parts in zip(*computed, strict=True))
            self._to_basis = torch.cat([self._to_basis, to_basis])
            self._from_basis = torch.cat([self._from_basis, from_basis])
        return self._index_of_cell.index_select(0, places).to(cells.device)

    def to_basis(self, index: Tensor, colors: Tensor) -> Tensor:
        """(N,C,3) coefficients in the colour basis, L^T c; differentiable with respect to ``colors``.

        Args:
            index: (N,), of :meth:`index_of`.
            colors: (N,C,3) floats, coefficients of spherical harmonics.
        """
        return colors if self._is_identity else _Product.apply(self._to_basis, index, colors)

    def from_basis(self, index: Tensor, rest: Tensor, pca_basis: Tensor | None = None) -> Tensor:
        """(N,C,3): ``denominator`` times the spherical harmonics of the coefficients without the first.

        The first coefficient is not among ``rest``: it is to be added to the first of the result. The inverse of L^T is
        rounded to integers over the denominator, below 2^16, so that sums are exact in any order where ``rest`` and
        ``pca_basis`` hold integers.

        Args:
            index: (N,), of :meth:`index_of`.
            rest: (N, 3 (C-1)) float64, red, green, blue of a coefficient together; or (N,K) components.
            pca_basis: (K, 3 (C-1)), the coefficients of each component.
        """
        if self._is_identity:
            rest = rest if pca_basis is None else rest @ pca_basis.to(rest)
            return torch.nn.functional.pad(rest.unflatten(1, (-1, 3)), (0, 0, 1, 0))
        return _product(self._from_basis, index, rest, pca_basis)

    def _matrices(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """(U,C,C) L^T and (U,C,C-1) of its inverse, for (U,) numbers of cells."""
        mask = (1 << CELL_BITS) - 1
        cells = torch.stack([places >> 2 * CELL_BITS, places >> CELL_BITS & mask, places & mask], 1)
        middles = unfolded(cells.double() + 0.5, CELL_BITS) * self._spread + self._centre
        lower = _cholesky(self._moments(middles).permute(1, 2, 0).contiguous())
        from_basis = torch.round(_inverse_of_lower(lower) * _FRACTION)
        return lower.permute(2, 1, 0).float().contiguous(), from_basis[1:].permute(2, 1, 0).float().contiguous()

    def _moments(self, middles: Tensor) -> Tensor:
        """(U,C,C): G at (U,3) points in world units, prior included."""
        num = self._to_basis.shape[1]
        x, y, z = (middles[:, None] - self._color_basis.positions).unbind(2)  # each (U,V)
        distances = (x * x + y * y + z * z).sqrt()
        axis_x, axis_y, axis_z = self._color_basis.directions.unbind(1)
        along = (x * axis_x + y * axis_y + z * axis_z) / _UNIT
        seen = (distances > 0) & (along >= self._color_basis.cosine * distances)
        towards = torch.stack([x, y, z], 2) / torch.where(seen, distances, 1.0)[:, :, None]
        harmonics = sh_basis(towards.reshape(-1, 3), math.isqrt(num) - 1).reshape(*seen.shape, num)
        # Rounded to integers, so that sums are exact in any order.
        harmonics = torch.round(harmonics * math.sqrt(4 * math.pi) * _FRACTION) * seen[:, :, None]
        moments = harmonics.transpose(1, 2) @ harmonics / _FRACTION**2
        prior = _PRIOR * torch.eye(num, dtype=torch.float64)
        return (moments + prior) / (seen.sum(1) + _PRIOR)[:, None, None]


def unfolded(places: Tensor, bits: int) -> Tensor:
    """Coordinates from the centre, in units of the spread, of double ``places`` between 0 and 2^bits on the grid."""
    half = 1 << (bits - 1)
    grid = (places - half) / half
    return grid / (1 - grid.abs())


class _Product(torch.autograd.Function):
    """:func:`_product`, differentiable with respect to the vectors."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
        ctx.save_for_backward(matrices, index)
        return _product(matrices, index, vectors.flatten(1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        matrices, index = ctx.saved_tensors
        return None, None, _product(matrices.transpose(1, 2), index, grad.flatten(1))


def _product(matrices: Tensor, index: Tensor, vectors: Tensor, basis: Tensor | None = None) -> Tensor:
    """(N,A,3): ``matrices[index] @ vectors``, for three columns each.

    Args:
        matrices: (U,A,B).
        index: (N,).
        vectors: (N, 3 B), or (N,K) where there is a basis: ``vectors @ basis`` are multiplied then.
        basis: (K, 3 B).
    """
    matrices = matrices.to(vectors.device)
    basis = None if basis is None else basis.to(vectors)
    order = None
    present, counts = torch.unique_consecutive(index, return_counts=True)
    if len(index) < _MANY * len(present):  # in a file, Gaussians of a cell are neighbours
        order = index.argsort(stable=True)
        present, counts = torch.unique_consecutive(index[order], return_counts=True)
    if len(index) < _MANY * len(present):
        vectors = (vectors if basis is None else vectors @ basis).unflatten(1, (-1, 3))
        matrices = matrices.to(vectors).contiguous()
        parts = zip(index.split(_PART), vectors.split(_PART), strict=True)
        return torch.cat([matrices.index_select(0, part_index) @ part for part_index, part in parts])
    if order is not None:
        vectors = vectors[order]
    product = vectors.new_empty(len(vectors), 3 * matrices.shape[1])
    basis = torch.eye(vectors.shape[1]).to(vectors) if basis is None else basis
    by_coefficient = basis.unflatten(1, (-1, 3)).transpose(0, 1).flatten(1)  # (B, 3 K)
    sizes = counts.tolist()
    groups = zip(vectors.split(sizes), product.split(sizes), strict=True)
    for part in present.split(_PART):
        each = (matrices[part].to(vectors) @ by_coefficient).unflatten(2, (-1, 3)).transpose(1, 2).flatten(2)
        for matrix, (group, out) in zip(each.unbind(), groups, strict=False):
            torch.mm(group, matrix, out=out)
    if order is not None:
        product = torch.empty_like(product).index_copy_(0, order, product)
    return product.unflatten(1, (-1, 3))


def _cholesky(matrices: Tensor) -> Tensor:
    """(C,C,U) lower triangular L with L L^T = the positive definite (C,C,U) ``matrices``, in place.

    Column by column, every difference rounded on its own: the order fixes the bits.
    """
    for k in range(len(matrices)):
        column = matrices[k:, k]
        column /= column[0].sqrt()
        matrices[k + 1 :, k + 1 :] -= column[1:, None] * column[None, 1:]
        matrices[k, k + 1 :] = 0
    return matrices


def _inverse_of_lower(lower: Tensor) -> Tensor:
    """(C,C,U), by forward substitution in the order of columns."""
    inverse = torch.eye(len(lower)).to(lower)[:, :, None].repeat(1, 1, lower.shape[2])
    for k in range(len(lower)):
        inverse[k, : k + 1] /= lower[k, k]
        inverse[k + 1 :, : k + 1] -= lower[k + 1 :, k, None] * inverse[k, : k + 1]
    return inverse


def _far_apart(points: Tensor) -> list[int]:
    """Farthest point sampling of (M,D) points: indices of at most ``MAX_VIEWPOINTS``, the first point first."""
    chosen = [0]
    distances = (points - points[0]).square().sum(1)
    while len(chosen) < min(len(points), MAX_VIEWPOINTS):
        chosen.append(int(distances.argmax()))
        distances = torch.minimum(distances, (points - points[chosen[-1]]).square().sum(1))
    return chosen


def _cosine_to_corner(camera: Camera) -> float:
    """Cosine of the angle between the optical axis and the farthest corner of the image."""
    x = max(camera.cx, camera.width - camera.cx) / camera.fx
    y = max(camera.cy, camera.height - camera.cy) / camera.fy
    return 1 / math.sqrt(1 + x * x + y * y)
