"""The integers that the profile "compact" stores of a model, and the values that they stand for.

Every number that decoding computes with comes from integers and IEEE additions, multiplications, divisions and roots,
so that all machines decode the same bits. Leaves out how the integers become bytes (``compact_streams.py``) and how
steps and basis are chosen (``compact.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compression.quantizer import Rows
from compression.viewpoints import CELL_BITS, Frames, Viewpoints

# Integers: "cells" (N,3), "opacity" (N,1), "scales", "quats", "dc" (N,3), "rest" (N,K), and what follows from the first
# three of them: "weights" (N,) and "quat_weights" (N,3), the indices of the weights, and "frames" (N,), that of the
# functions in which colours are stored.
Codes = dict[str, Tensor]

MAX_CODE = (1 << 15) - 1  # of all codes but those of positions: they fit 16 bits
THINNEST = 5.5  # natural log of the largest ratio of a Gaussian's axes that is kept; more is not to be seen
WEIGHT_STEPS = 4  # per octave
WEIGHT_LIMIT = 24  # of the weight's index, either way: a factor of 64
FRACTION_BITS = 8  # behind the point of a weight's index while it is summed
_ROOTS = (1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429)  # 2^(i / WEIGHT_STEPS)
_CHROMA = 1.5  # steps of the differences of colours, beside that of the luma
_BASIS_SCALE = 127


@dataclass(frozen=True, eq=False)
class CompactCode:
    """What a decoder has to know besides the codes.

    Attributes:
        position_bits: of a position on each axis.
        centre: world units; the middle of the grid.
        spread: world units; within this of the centre lies half of the grid on each axis.
        scale_step: natural log.
        opacity_step: of the logit.
        quat_step: of the imaginary parts, for a weight of 1.
        dc_step: of the luma, for a weight of 1.
        rest_step: of the components of the other spherical harmonics, for a weight of 1.
        opacity_low: the lowest opacity code.
        opacity_weights: the share of each opacity code, from the lowest on, in the weight's index; fixed point.
        scale_weight: the same for one step of the two longest axes.
        weight_offset: added to the index; fixed point.
        turn_weights: what the index of a rotation has besides, by how many steps of scale the two axes that turn
            differ; more steps are as the last entry; fixed point.
        num_rest: SH coefficients of degrees 1 and up, 0, 3, 8 or 15.
        viewpoints: from where the Gaussians are seen, which says in what functions their colours are stored.
        basis: (K, 3 num_rest) int8, components of the coefficients of these functions, times 127; None: each as it is.
    """

    position_bits: int
    centre: tuple[float, float, float]
    spread: float
    scale_step: float
    opacity_step: float
    quat_step: float
    dc_step: float
    rest_step: float
    opacity_low: int
    opacity_weights: tuple[int, ...]
    scale_weight: int
    weight_offset: int
    turn_weights: tuple[int, ...]
    num_rest: int
    viewpoints: Viewpoints
    basis: Tensor | None

    @property
    def num_components(self) -> int:
        """K."""
        return 3 * self.num_rest if self.basis is None else len(self.basis)

    def frames(self) -> Frames:
        """The functions in which colours are stored, none of them made yet."""
        centre = torch.tensor(self.centre, dtype=torch.float64)
        return Frames(self.viewpoints, centre, self.spread, 1 + self.num_rest)

    def frame_indices(self, codes: Codes, frames: Frames) -> Codes:
        """Of the cells of :meth:`frames` in which Gaussians lie, "frames" (N,) int64; those cells are made."""
        return {"frames": frames.rows_of(codes["cells"].long() >> (self.position_bits - CELL_BITS))}

    # ---- rows to codes ----

    def shape_codes(self, rows: Rows) -> Codes:
        """Codes of positions, scales and opacities, and the indices of the weights."""
        means, scales = rows["means"].double(), rows["log_scales"].double()
        half = 1 << (self.position_bits - 1)
        inside = (means - means.new_tensor(self.centre)) / self.spread
        cells = torch.round(inside / (1 + inside.abs()) * half).clamp(1 - half, half - 1)
        thickest = scales.amax(1, keepdim=True) if len(scales) else scales[:, :1]
        opacity_high = self.opacity_low + len(self.opacity_weights) - 1
        opacity = torch.round(rows["opacity_logits"].double() / self.opacity_step)
        codes = {
            "cells": cells.long() + half,
            "scales": _code(torch.maximum(scales, thickest - THINNEST) / self.scale_step),
            "opacity": opacity.clamp(self.opacity_low, opacity_high).long(),
        }
        return codes | self.weight_indices(codes)

    def codes(self, rows: Rows, frames: Frames, inverse: Tensor, dead_zone: float) -> Codes:
        """All codes.

        Args:
            rows: float32 tensors.
            frames: of :meth:`frames`.
            inverse: see :meth:`components`.
            dead_zone: components below this many steps become 0.
        """
        codes = self.shape_codes(rows)
        codes |= self.frame_indices(codes, frames)
        weights = weight_of(codes["weights"])
        quats = torch.nn.functional.normalize(rows["quats"].double(), dim=1)
        quats = quats * torch.where(quats[:, :1] < 0, -1.0, 1.0)
        seen = seen_colors(rows, frames, codes["frames"])
        rest = self.components(seen[:, 1:], weights, inverse)
        return {
            **codes,
            "quats": _code(quats[:, 1:] / self.quat_step * weight_of(codes["quat_weights"])),
            "dc": _code(_to_luma(seen[:, 0]) / self._dc_steps(weights) * weights[:, None]),
            "rest": _code(rest.sign() * torch.floor(rest.abs() + (1 - dead_zone))),
        }

    def components(self, rest: Tensor, weights: Tensor, inverse: Tensor) -> Tensor:
        """(N,K) components in steps; differentiable with respect to ``rest``.

        Args:
            rest: (N, num_rest, 3), as seen, all but the first.
            weights: (N,), of the same dtype.
            inverse: (3 num_rest, K), of the basis.
        """
        flat = rest.reshape(len(rest), 3 * self.num_rest) * weights[:, None]
        return flat @ inverse.to(flat) / self.rest_step

    # ---- the weights: how much finer than the step colours and rotation of a Gaussian are stored ----

    def weight_indices(self, codes: Codes) -> Codes:
        """Of colours, "weights" (N,), and of rotations, "quat_weights" (N,3); int32 from 0 to 2 WEIGHT_LIMIT.

        Turning two axes of one length changes nothing, but with needles it shows.
        """
        index = self.raw_weight_index(codes) + self.weight_offset
        x, y, z = codes["scales"].int().unbind(1)
        table = torch.tensor(self.turn_weights, device=index.device)
        turns = [table[(a - b).abs_().clamp_max_(len(table) - 1)] for a, b in ((y, z), (z, x), (x, y))]
        return {"weights": _limited(index), "quat_weights": torch.stack([_limited(index + turn) for turn in turns], 1)}

    def raw_weight_index(self, codes: Codes) -> Tensor:
        """(N,) int64, fixed point, before offset and limits: root of the opacity times fourth root of the area.

        The area is that in view, where distance from the centre stands for the distance from the cameras.
        """
        opacity = torch.tensor(self.opacity_weights, device=codes["opacity"].device)
        x, y, z = codes["scales"].long().unbind(1)
        longest = x + y + z - torch.minimum(torch.minimum(x, y), z)
        inside = self._inside(codes["cells"])
        mantissa, exponent = torch.frexp(1 + inside[:, 0] ** 2 + inside[:, 1] ** 2 + inside[:, 2] ** 2)
        log2_square = exponent.double() + (2 * mantissa - 2)  # linear between powers of two
        distance = torch.round(log2_square * (WEIGHT_STEPS << FRACTION_BITS) / 4).long()
        return opacity[codes["opacity"][:, 0].long() - self.opacity_low] + longest * self.scale_weight - distance

    # ---- codes to rows ----

    def values(self, codes: Codes, frames: Frames) -> Rows:
        """float32 rows; the same bits on all machines.

        Args:
            codes: of any Gaussians.
            frames: of :meth:`frames`.
        """
        values = self.shape_values(codes) | self.color_values(codes, frames)
        return {name: value.float() for name, value in values.items()}

    def shape_values(self, codes: Codes) -> Rows:
        """Those rows of :meth:`values` that are no colours, not rounded yet: double."""
        imaginary = codes["quats"].double() * self.quat_step / weight_of(codes["quat_weights"])
        squares = imaginary[:, 0] ** 2 + imaginary[:, 1] ** 2 + imaginary[:, 2] ** 2
        inside = self._inside(codes["cells"])
        return {
            "means": inside * self.spread + inside.new_tensor(self.centre),
            "log_scales": codes["scales"].double() * self.scale_step,
            "quats": torch.cat([(1 - squares).clamp_min(0).sqrt()[:, None], imaginary], 1),
            "opacity_logits": codes["opacity"].double() * self.opacity_step,
        }

    def color_values(self, codes: Codes, frames: Frames) -> Rows:
        """Those rows of :meth:`values` that are colours, not rounded yet: double."""
        weights = weight_of(codes["weights"])[:, None]
        colors = frames.from_seen(codes["frames"], codes["rest"].double(), self.basis)
        unit = self.rest_step / (frames.denominator * (1 if self.basis is None else _BASIS_SCALE))
        colors *= unit / weights[:, None]
        colors[:, 0] += _from_luma(codes["dc"].double() * self._dc_steps(weights) / weights)
        return {"sh_dc": colors[:, :1], "sh_rest": colors[:, 1:]}

    def _inside(self, cells: Tensor) -> Tensor:
        """(N,3) in units of the spread, from the centre."""
        half = 1 << (self.position_bits - 1)
        grid = (cells - half).double() / half
        return grid / (1 - grid.abs())

    def _dc_steps(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.dc_step, _CHROMA * self.dc_step, _CHROMA * self.dc_step])


def seen_colors(rows: Rows, frames: Frames, indices: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """(N, 1 + num_rest, 3): spherical harmonics as the coefficients of what is seen.

    Args:
        rows: with "sh_dc" and "sh_rest".
        frames: of :meth:`CompactCode.frames`.
        indices: of :meth:`CompactCode.frame_indices`.
        dtype: of the result; what becomes integers wants double precision, or they might differ from time to time.
    """
    return frames.to_seen(indices, torch.cat([rows["sh_dc"], rows["sh_rest"]], 1).to(dtype))


def inverse_of(basis: Tensor | None, num_columns: int) -> Tensor:
    """(num_columns, K) double: what takes rows to their components of least error."""
    if basis is None:
        return torch.eye(num_columns, dtype=torch.float64)
    return torch.linalg.pinv(basis.double() / _BASIS_SCALE)


def as_basis(vectors: Tensor) -> Tensor:
    """(K,C) int8 of K unit vectors."""
    return (vectors * _BASIS_SCALE).round().to(torch.int8)


def weight_of(index: Tensor) -> Tensor:
    """double, 2^-6 to 2^6."""
    table = [_ROOTS[i % WEIGHT_STEPS] * 2.0 ** (i // WEIGHT_STEPS) for i in range(-WEIGHT_LIMIT, WEIGHT_LIMIT + 1)]
    return torch.tensor(table, dtype=torch.float64, device=index.device)[index]


def _limited(octaves: Tensor) -> Tensor:
    """From fixed point to an index."""
    return (octaves >> FRACTION_BITS).clamp_(-WEIGHT_LIMIT, WEIGHT_LIMIT).add_(WEIGHT_LIMIT).int()


def _code(steps: Tensor) -> Tensor:
    return torch.round(steps).clamp(-MAX_CODE, MAX_CODE).long()


def _to_luma(colors: Tensor) -> Tensor:
    """(N,3) luma and two differences of (N,3) red, green, blue  [YCoCg, but with a luma of equal parts]."""
    red, green, blue = colors.unbind(1)
    return torch.stack([(red + green + blue) / 3, (red - blue) / 2, (2 * green - red - blue) / 4], 1)


def _from_luma(luma: Tensor) -> Tensor:
    luma, orange, green = luma.unbind(1)
    third = green * 2 / 3
    return torch.stack([luma - third + orange, luma + 2 * third, luma - third - orange], 1)
