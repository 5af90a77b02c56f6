"""Where a model was photographed from, and the colours of Gaussians as they are seen from there.

Spherical harmonics that differ on paper may look the same from wherever a camera has been. So they are stored as
coefficients of other functions of the direction, orthonormal over the directions in which a Gaussian is seen: the first
is its mean colour, and an error in the others is as large in pictures as in numbers. What no camera saw costs nothing.

As in ``compact_code.py`` all numbers come from integers and IEEE additions, multiplications, divisions and roots.
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
from compact_splats.scene.spherical_harmonics import sh_basis

MAX_VIEWPOINTS = 32  # more hardly change the functions
CELL_BITS = 5  # Gaussians of one cell of a grid of 2^5 on each axis share their functions
_FRACTION = 1 << 12  # matrices and harmonics are integers over this
_PRIOR = 1  # a Gaussian is taken to be seen as if from so many viewpoints all around besides
_UNIT = 127  # of a viewpoint's direction
_PART = 1 << 11  # matrices made or copied at a time
_MANY = 32  # Gaussians to a matrix, from which on a copy for each of them takes longer than a product for each matrix
_RECORD = np.dtype([("position", "<f4", 3), ("direction", "i1", 3)])


@dataclass(frozen=True, eq=False)
class Viewpoints:
    """Some of the cameras that took the photos.

    Attributes:
        positions: (V,3) float64, world units, exact in single precision.
        directions: (V,3) float64, integers, ``_UNIT`` times the direction of view.
        cosine: of half the angle of view; what lies further off an axis is not seen.
    """

    positions: Tensor
    directions: Tensor
    cosine: float

    @classmethod
    def none(cls) -> Viewpoints:
        """No viewpoint: as if each Gaussian was seen from all around."""
        return cls(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64), 1.0)

    @classmethod
    def of_cameras(cls, cameras: Sequence[Camera]) -> Viewpoints:
        """At most ``MAX_VIEWPOINTS`` of them, far from each other in place and direction."""
        if not cameras:
            return cls.none()
        positions = torch.stack([camera.centre for camera in cameras]).double()
        directions = torch.stack([camera.world_to_camera[2, :3] for camera in cameras]).double()
        chosen = _far_apart(torch.cat([positions / positions.std().clamp_min(1e-6), directions], 1))
        return cls(positions[chosen], (directions[chosen] * _UNIT).round(), min(map(_cosine_to_corner, cameras)))

    @classmethod
    def from_bytes(cls, data: bytes, cosine: float) -> Viewpoints:
        """Undo :meth:`to_bytes`.

        Raises:
            FormatError: there are too many, or it is not a whole number of them, or a position is not finite.
        """
        if len(data) % _RECORD.itemsize or len(data) > MAX_VIEWPOINTS * _RECORD.itemsize:
            raise FormatError(f"up to {MAX_VIEWPOINTS} viewpoints of {_RECORD.itemsize} bytes", f"{len(data)} bytes")
        records = np.frombuffer(data, _RECORD)
        if not (np.abs(records["position"]) <= 1e30).all():
            raise FormatError("viewpoints within 1e30", "one outside")
        return cls(*(torch.from_numpy(records[name].astype(np.float64)) for name in _RECORD.names), cosine)

    def to_bytes(self) -> bytes:
        """15 bytes each."""
        records = np.empty(len(self.positions), _RECORD)
        records["position"], records["direction"] = self.positions.numpy(), self.directions.numpy()
        return records.tobytes()


class Frames:
    """For each cell of a coarse grid, the functions in which the colours of its Gaussians are stored.

    With Y the vector of the spherical harmonics times the root of 4 pi, G the mean of Y Y^T over the viewpoints that
    see the middle of the cell, and L L^T = G [Cholesky], coefficients c become L^T c. The first function is constant.

    Args:
        viewpoints: who sees; where there are none, coefficients stay what they are.
        centre: (3,), middle of the grid, world units.
        spread: half the grid on each axis lies within this of its middle, see ``compact_code.CompactCode``.
        num_coefficients: of spherical harmonics with the constant one, 1, 4, 9 or 16.
    """

    def __init__(self, viewpoints: Viewpoints, centre: Tensor, spread: float, num_coefficients: int) -> None:
        self._viewpoints, self._centre, self._spread = viewpoints, centre, spread
        self._is_identity = not len(viewpoints.positions) or num_coefficients == 1
        self.denominator = 1 if self._is_identity else _FRACTION
        self._row_of = torch.full((1 << 3 * CELL_BITS,), -1)  # of a cell, in the matrices; none yet
        # Integers and what is rounded anyway: single precision is enough to keep them in.
        self._to_seen = torch.zeros(0, num_coefficients, num_coefficients)
        self._from_seen = torch.zeros(0, num_coefficients, num_coefficients - 1)

    def rows_of(self, cells: Tensor) -> Tensor:
        """(N,) int64, where the matrices of Gaussians stand; those that were never asked for are made now.

        Args:
            cells: (N,3) int64, 0 to 2^CELL_BITS - 1.
        """
        if self._is_identity:
            return cells[:, 0]
        places = (cells[:, 0] << 2 * CELL_BITS | cells[:, 1] << CELL_BITS | cells[:, 2]).cpu()
        occurs = torch.bincount(places, minlength=len(self._row_of)) > 0
        new = torch.nonzero(occurs & (self._row_of < 0))[:, 0]
        if len(new):
            self._row_of[new] = torch.arange(len(new)) + len(self._to_seen)
            made = [self._matrices(part) for part in new.split(_PART)]
            to_seen, from_seen = (torch.cat(parts) for parts in zip(*made, strict=True))
            self._to_seen = torch.cat([self._to_seen, to_seen])
            self._from_seen = torch.cat([self._from_seen, from_seen])
        return self._row_of.index_select(0, places).to(cells.device)

    def to_seen(self, rows: Tensor, colors: Tensor) -> Tensor:
        """L^T c; differentiable with respect to ``colors``.

        Args:
            rows: (N,), of :meth:`rows_of`.
            colors: (N,C,3) floats, coefficients of spherical harmonics.
        """
        return colors if self._is_identity else _Product.apply(self._to_seen, rows, colors)

    def from_seen(self, rows: Tensor, rest: Tensor, basis: Tensor | None = None) -> Tensor:
        """(N,C,3): ``denominator`` times the spherical harmonics that the coefficients as seen but the first make.

        What the first makes is the first of these, as it is. The inverse of L^T is rounded to integers over the
        denominator, below 2^16, so that sums are exact in any order where ``rest`` and ``basis`` hold integers.

        Args:
            rows: (N,), of :meth:`rows_of`.
            rest: (N, 3 (C-1)) float64, red, green, blue of a coefficient together; or (N,K), by the basis.
            basis: (K, 3 (C-1)), what K components mean.
        """
        if self._is_identity:
            rest = rest if basis is None else rest @ basis.to(rest)
            return torch.nn.functional.pad(rest.unflatten(1, (-1, 3)), (0, 0, 1, 0))
        return _product(self._from_seen, rows, rest, basis)

    def _matrices(self, places: Tensor) -> tuple[Tensor, Tensor]:
        mask = (1 << CELL_BITS) - 1
        cells = torch.stack([places >> 2 * CELL_BITS, places >> CELL_BITS & mask, places & mask], 1)
        middles = unfolded(cells.double() + 0.5, CELL_BITS) * self._spread + self._centre
        lower = _cholesky(self._moments(middles).permute(1, 2, 0).contiguous())
        from_seen = torch.round(_inverse_of_lower(lower) * _FRACTION)
        return lower.permute(2, 1, 0).float().contiguous(), from_seen[1:].permute(2, 1, 0).float().contiguous()

    def _moments(self, middles: Tensor) -> Tensor:
        """(U,C,C): G for (U,3) places, with the prior in it."""
        num = self._to_seen.shape[1]
        x, y, z = (middles[:, None] - self._viewpoints.positions).unbind(2)  # each (U,V)
        distances = (x * x + y * y + z * z).sqrt()
        axis_x, axis_y, axis_z = self._viewpoints.directions.unbind(1)
        along = (x * axis_x + y * axis_y + z * axis_z) / _UNIT
        seen = (distances > 0) & (along >= self._viewpoints.cosine * distances)
        towards = torch.stack([x, y, z], 2) / torch.where(seen, distances, 1.0)[:, :, None]
        harmonics = sh_basis(towards.reshape(-1, 3), math.isqrt(num) - 1).reshape(*seen.shape, num)
        # Of integers, so that sums are exact in any order.
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
    def forward(ctx: Any, matrices: Tensor, rows: Tensor, vectors: Tensor) -> Tensor:
        ctx.save_for_backward(matrices, rows)
        return _product(matrices, rows, vectors.flatten(1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        matrices, rows = ctx.saved_tensors
        return None, None, _product(matrices.transpose(1, 2), rows, grad.flatten(1))


def _product(matrices: Tensor, rows: Tensor, vectors: Tensor, basis: Tensor | None = None) -> Tensor:
    """(N,A,3), for each of the ``vectors`` the product with that of (U,A,B) ``matrices`` that its row names.

    Args:
        matrices: (U,A,B).
        rows: (N,).
        vectors: (N, 3 B), or (N,K) that the (K, 3 B) ``basis`` makes such of.
        basis: see there.
    """
    matrices = matrices.to(vectors.device)
    basis = None if basis is None else basis.to(vectors)
    order = None
    present, counts = torch.unique_consecutive(rows, return_counts=True)
    if len(rows) < _MANY * len(present):  # in a file, Gaussians of a cell lie together, here they do not
        order = rows.argsort(stable=True)
        present, counts = torch.unique_consecutive(rows[order], return_counts=True)
    if len(rows) < _MANY * len(present):
        vectors = (vectors if basis is None else vectors @ basis).unflatten(1, (-1, 3))
        matrices = matrices.to(vectors).contiguous()
        parts = zip(rows.split(_PART), vectors.split(_PART), strict=True)
        return torch.cat([matrices.index_select(0, part_rows) @ part for part_rows, part in parts])
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
    """(C,C,U) lower triangular L with L L^T = the positive definite (C,C,U) ``matrices``.

    In place of them; each difference is rounded by itself, in the order of columns, which fixes the bits.
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
    """The first of (M,D) points, and again and again the one furthest from those chosen, ``MAX_VIEWPOINTS`` at most."""
    chosen = [0]
    distances = (points - points[0]).square().sum(1)
    while len(chosen) < min(len(points), MAX_VIEWPOINTS):
        chosen.append(int(distances.argmax()))
        distances = torch.minimum(distances, (points - points[chosen[-1]]).square().sum(1))
    return chosen


def _cosine_to_corner(camera: Camera) -> float:
    """Cosine of the angle between the axis and the corner furthest from it."""
    x = max(camera.cx, camera.width - camera.cx) / camera.fx
    y = max(camera.cy, camera.height - camera.cy) / camera.fy
    return 1 / math.sqrt(1 + x * x + y * y)
