"""The integers that the profile "compact" stores of a model, and the values that they stand for.

Every number that decoding computes with comes from integers and IEEE additions, multiplications, divisions and roots,
so that all machines decode the same bits. Leaves out how the integers become bytes (``compact_streams.py``) and how
steps and basis are chosen (``compact.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compact_splats.compression.quantizer import Parameters
from compact_splats.compression.viewpoints import CELL_BITS, Frames, Viewpoints, unfolded

# Integers. Of size and place: "cells" (N,3), "opacity" (N,1), "order" (N,1), of the axes from the longest to the
# shortest, "size" (N,1), of the longest, "ratios" (N,2), to the others. What follows from these: "weights" (N,) and
# "quat_weights" (N,3), the indices of the weights, "depths" (N,), bits of a place in its cell, and "frames" (N,), the
# index of the functions in which colours are stored. The rest: "places" (N,3) in the cells, "quats", "dc" (N,3), "rest"
# (N,K).
Codes = dict[str, Tensor]

MAX_CODE = (1 << 15) - 1  # of all codes but those of positions: they fit 16 bits
THINNEST = 5.5  # natural log of the largest ratio of a Gaussian's axes that is kept; more is not to be seen
BENDS = (0.2, 0.4)  # of the second and the third axis: how much faster steps of the log ratio grow with it
MAX_DEPTH = 7
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_OCTAVE = 369.3299304675746  # 256 / ln 2
_HUGE = 1e5  # of a log-scale; more makes no difference to weights
WEIGHT_STEPS = 4  # per octave
WEIGHT_LIMIT = 24  # of the weight's index, either way: a factor of 64
FRACTION_BITS = 8  # behind the point of a weight's index while it is summed
_ROOTS = (1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429)  # 2^(i / WEIGHT_STEPS)
_DC_STEPS = (1.0, 1.5, 1.5)  # of the luma and the differences of colours, times that of the luma
_BASIS_SCALE = 127


@dataclass(frozen=True, eq=False)
class CompactCode:
    """What a decoder has to know besides the codes.

    Attributes:
        position_bits: of a cell on each axis.
        centre: world units; the middle of the grid.
        spread: world units; within this of the centre lies half of the grid on each axis.
        scale_step: natural log; of ratios, for axes of about one length.
        opacity_step: of the logit.
        quat_step: of the imaginary parts, for a weight of 1.
        dc_step: of the luma, for a weight of 1.
        rest_step: of the components of the other spherical harmonics, for a weight of 1.
        opacity_low: the lowest opacity code.
        opacity_weights: the share of each opacity code, from the lowest on, in the weight's index; fixed point.
        weight_offset: added to the index; fixed point.
        turn_weights: what the index of a rotation has besides, by how many eighths of an octave the two axes that turn
            differ; more are as the last entry; fixed point.
        depth_offset: added to the number of bits of a place in its cell; fixed point.
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
    weight_offset: int
    turn_weights: tuple[int, ...]
    depth_offset: int
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
        return {"frames": frames.rows_of(codes["cells"] >> (self.position_bits - CELL_BITS))}

    def limits(self, name: str, column: int) -> tuple[int, int]:
        """The lowest and the highest code of a column."""
        if name == "opacity":
            return self.opacity_low, self.opacity_low + len(self.opacity_weights) - 1
        if name == "order":
            return 0, len(_ORDERS) - 1
        if name == "ratios":
            return 0, min(MAX_CODE, math.floor(_bent(THINNEST, BENDS[column]) / self.scale_step))
        if name == "ends":
            return 0, self.num_components
        return -MAX_CODE, MAX_CODE

    # ---- rows to codes ----

    def size_codes(self, rows: Parameters) -> Codes:
        """Codes of cells, opacities and sizes, and "folded" (N,3), double: where on the grid a position lies."""
        inside = (rows["means"].double() - rows["means"].new_tensor(self.centre, dtype=torch.float64)) / self.spread
        folded = (inside / (1 + inside.abs()) + 1) * (1 << (self.position_bits - 1))
        scales, order = torch.sort(rows["log_scales"].double(), dim=1, descending=True, stable=True)
        size = _code(scales[:, :1] / self.scale_step)
        thinner = (size * self.scale_step - scales[:, 1:]).clamp(0, THINNEST)
        bends = thinner.new_tensor(BENDS)
        highest = torch.tensor([self.limits("ratios", column)[1] for column in range(2)], device=thinner.device)
        ratios = torch.round(_bent(thinner, bends) / self.scale_step).long()
        opacity = torch.round(rows["opacity_logits"].double() / self.opacity_step)
        return {
            "folded": folded,
            "cells": folded.floor().long().clamp(0, (1 << self.position_bits) - 1),
            "opacity": opacity.clamp(*self.limits("opacity", 0)).long(),
            "order": (2 * order[:, :1] + (order[:, 1:2] > order[:, 2:])),
            "size": size,
            "ratios": torch.minimum(ratios, highest),
        }

    def shape_codes(self, rows: Parameters) -> Codes:
        """Codes of positions, opacities and sizes, and what follows from them."""
        codes = self.size_codes(rows)
        folded = codes.pop("folded")
        codes |= self.derived(codes)
        parts = (1 << codes["depths"].long())[:, None]
        codes["places"] = ((folded - codes["cells"]) * parts).floor().long().clamp_min(0).minimum(parts - 1)
        return codes

    def codes(self, rows: Parameters, frames: Frames, inverse: Tensor, dead_zone: float) -> Codes:
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
            "dc": _code(_to_luma(seen[:, 0]) / (self.dc_step * seen.new_tensor(_DC_STEPS)) * weights[:, None]),
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

    # ---- how much finer than the step a Gaussian is stored ----

    def derived(self, codes: Codes) -> Codes:
        """What follows from the cell, opacity and size: "weights", "quat_weights" and "depths", all int32.

        A weight is the root of the opacity times the fourth root of the area in view; with a rotation goes besides what
        its turns change: those of two axes of one length nothing, but with needles they show. The indices of weights
        run from 0 to 2 WEIGHT_LIMIT.
        """
        weight, depth, apart = self.raw_indices(codes)
        weight = weight + self.weight_offset
        table = _integers(self.turn_weights, weight)
        turns = _looked_up(table, (apart >> 5).clamp_max_(len(table) - 1))
        return {
            "weights": _limited(weight),
            "quat_weights": _limited(weight[:, None] + turns),
            "depths": ((depth + self.depth_offset) // (WEIGHT_STEPS << FRACTION_BITS)).clamp_(0, MAX_DEPTH),
        }

    def raw_indices(self, codes: Codes) -> tuple[Tensor, Tensor, Tensor]:
        """Before offsets and limits, int32: weight and depth (N,), and how far apart the axes are that turn (N,3).

        These are the two that a turn about the x, y and z axis moves, and their distance is in 256ths of an octave.
        The finest places are those of opaque and thin Gaussians; distance from the centre stands for that from the
        cameras, which makes Gaussians small in view, and for the size of the cells.
        """
        weights = _integers(self.opacity_weights, codes["cells"])
        opacity = _looked_up(weights, codes["opacity"][:, 0].int() - self.opacity_low)
        longest = _octaves(codes["size"][:, 0].double() * self.scale_step)
        second, third = _of_ratios(codes, map(_octaves, self._thinner))
        distance = self._distances(codes["cells"])
        weight = opacity + 2 * longest - second - distance
        depth = opacity - (7 * longest - 5 * second - 2 * third) // 2 + 3 * distance
        apart = torch.stack([(third - second).abs(), third, second], 1)  # about the longest axis to the shortest
        return weight, depth, self._by_axis(codes, apart)

    def _distances(self, cells: Tensor) -> Tensor:
        """(N,) int32, from the centre: the log2 of 1 + their squares, 256 to an octave, linear between powers of 2."""
        squares = unfolded(torch.arange(1 << self.position_bits).double() + 0.5, self.position_bits) ** 2
        x, y, z = _looked_up(squares.to(cells.device), cells.int()).unbind(1)
        bits = (1 + x + y + z).view(torch.int64)  # 52 of a linear part below the exponent, 1023 for 1
        return ((bits - (1023 << 52) + (1 << 43)) >> 44).int()

    @cached_property
    def _thinner(self) -> tuple[Tensor, Tensor]:
        """For each code of a ratio, natural log, double: by how much an axis is shorter than the longest one."""
        highest = (self.limits("ratios", column)[1] for column in range(2))
        steps = (torch.arange(high + 1).double() * self.scale_step for high in highest)
        second, third = (step / (1 - step * bend) for step, bend in zip(steps, BENDS, strict=True))
        return second, third

    def _log_sizes(self, codes: Codes) -> Tensor:
        """(N,3) double, log-scales of the longest axis to the shortest."""
        size = codes["size"][:, 0].double() * self.scale_step
        second, third = _of_ratios(codes, self._thinner)
        return torch.stack([size, size - second, size - third], 1)

    def _by_axis(self, codes: Codes, from_longest: Tensor) -> Tensor:
        """(N,3) in the order x, y, z."""
        axes = _looked_up(torch.tensor(_ORDERS, device=from_longest.device), codes["order"][:, 0].int())
        return torch.empty_like(from_longest).scatter_(1, axes, from_longest)

    # ---- codes to rows ----

    def values(self, codes: Codes, frames: Frames) -> Parameters:
        """float32 rows; the same bits on all machines.

        Args:
            codes: of any Gaussians.
            frames: of :meth:`frames`.
        """
        values = self.shape_values(codes) | self.color_values(codes, frames)
        return {name: value.float() for name, value in values.items()}

    def shape_values(self, codes: Codes) -> Parameters:
        """Those rows of :meth:`values` that are no colours, not rounded yet: double."""
        imaginary = codes["quats"] * _finer(self.quat_step, codes["quat_weights"])
        squares = imaginary[:, 0] ** 2 + imaginary[:, 1] ** 2 + imaginary[:, 2] ** 2
        folded = codes["cells"] + (codes["places"].double() + 0.5) / (1 << codes["depths"].long())[:, None]
        inside = unfolded(folded, self.position_bits)
        return {
            "means": inside * self.spread + inside.new_tensor(self.centre),
            "log_scales": self._by_axis(codes, self._log_sizes(codes)),
            "quats": torch.cat([(1 - squares).clamp_min(0).sqrt()[:, None], imaginary], 1),
            "opacity_logits": codes["opacity"].double() * self.opacity_step,
        }

    def color_values(self, codes: Codes, frames: Frames) -> Parameters:
        """Those rows of :meth:`values` that are colours, not rounded yet: double."""
        colors = frames.from_seen(codes["frames"], codes["rest"].double(), self.basis)
        unit = self.rest_step / (frames.denominator * (1 if self.basis is None else _BASIS_SCALE))
        colors *= _finer(unit, codes["weights"])[:, None, None]
        luma = codes["dc"] * _finer(self.dc_step, codes["weights"])[:, None]
        colors[:, 0] += _from_luma(luma * luma.new_tensor(_DC_STEPS))
        return {"sh_dc": colors[:, :1], "sh_rest": colors[:, 1:]}


def seen_colors(rows: Parameters, frames: Frames, indices: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
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
    return _looked_up(_weights(index.device), index)


def _finer(step: float, index: Tensor) -> Tensor:
    """double, the step over the weight."""
    return _looked_up(step / _weights(index.device), index)


def _weights(device: torch.device) -> Tensor:
    table = [_ROOTS[i % WEIGHT_STEPS] * 2.0 ** (i // WEIGHT_STEPS) for i in range(-WEIGHT_LIMIT, WEIGHT_LIMIT + 1)]
    return torch.tensor(table, dtype=torch.float64, device=device)


def _limited(octaves: Tensor) -> Tensor:
    """From fixed point to an index."""
    return (octaves >> FRACTION_BITS).clamp_(-WEIGHT_LIMIT, WEIGHT_LIMIT).add_(WEIGHT_LIMIT)


def _octaves(log_sizes: Tensor) -> Tensor:
    """int32 of natural logs, 256 to an octave."""
    return torch.round(log_sizes.clamp(-_HUGE, _HUGE) * _OCTAVE).int()


def _of_ratios(codes: Codes, tables: Iterable[Tensor]) -> Iterator[Tensor]:
    """(N,) each: what stands in the table of a column for its codes."""
    ratios = codes["ratios"].int().unbind(1)
    return (_looked_up(table.to(column.device), column) for table, column in zip(tables, ratios, strict=True))


def _looked_up(table: Tensor, indices: Tensor) -> Tensor:
    """``table[indices]``, in a third of the time."""
    return table.index_select(0, indices.reshape(-1)).reshape(*indices.shape, *table.shape[1:])


def _integers(values: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=like.device)


def _bent(log_ratio: Any, bend: Any) -> Any:
    """What is stored of a log ratio: it, but bent, so that it stays below 1 / bend."""
    return log_ratio / (1 + bend * log_ratio)


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
