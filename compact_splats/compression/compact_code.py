"""The integer codes of the profile "compact", from parameters and back.

Decoding uses only integers and IEEE additions, multiplications, divisions and roots, so that all machines decode the
same bits. ``compact_streams.py`` turns codes into bytes, ``compact.py`` chooses the steps and the PCA basis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compact_splats.compression.arrays import Parameters
from compact_splats.compression.color_basis import CELL_BITS, CellBases, ColorBasis, unfolded

MAX_CODE = (1 << 15) - 1  # of all codes but those of positions: they fit 16 bits
THINNEST = 5.5  # natural log of the largest ratio of axes that is kept; thinner Gaussians look the same
BENDS = (0.2, 0.4)  # of the second and the third axis, see `_bent`: steps of the log ratio grow with it
MAX_DEPTH = 7
VERSION = 2  # of the files that are written; the reader knows version 1, too
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_OCTAVE = 369.3299304675746  # 256 / ln 2
_HUGE = 1e5  # limit of log-scales in weights
WEIGHT_STEPS = 4  # per octave
WEIGHT_LIMIT = 24  # of the weight's index, either way: a factor of 64
FRACTION_BITS = 8  # of the fixed point numbers whose sum is a weight's index
# What these numbers are sums of: half the log2 of the opacity; a quarter of the log2 of each axis, the longest first,
# and of 1 + the squared distance from the centre, in spreads; for rotations also of how unlike the turned axes are.
FEATURES = ("opacity", "longest", "second", "third", "distance", "turn")
FACTOR = 64  # denominator of the factors of features
_EIGHTHS, _EIGHTH = 64, 0.08664339756999316  # of an octave: how many, and ln 2 / 8
_ROOTS = (1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429)  # 2^(i / WEIGHT_STEPS)
_DC_STEPS = (1.0, 1.5, 1.5)  # of luma and colour differences, relative to luma
_BASIS_SCALE = 127


class Codes:
    """The codes of N Gaussians: integer tensors. Those that are not known yet are not set.

    Attributes:
        cells: (N,3) of the position.
        opacity: (N,1).
        order: (N,1) of the axes, from the longest to the shortest.
        size: (N,1) of the longest axis.
        ratios: (N,2) of the longest axis to the second and the third.
        weights: (N,) index of the Gaussian's weight; this and the next two follow from those above.
        quat_weights: (N,3) indices of the weights of the quaternion's imaginary parts.
        depths: (N,) bits of a place in its cell, on each axis.
        places: (N,3) of the position in its cell.
        basis_index: (N,) of the cell's colour basis, in a :class:`CellBases`.
        quats: (N,3) imaginary parts.
        dc: (N,3) luma and two colour differences.
        rest: (N,K) components of the other coefficients.
        ends: (N,1) number of components up to the last one that is not 0.
        sorted_rest: (N,K) ``rest`` by falling ``ends``, the order of the file.
    """

    cells: Tensor
    opacity: Tensor
    order: Tensor
    size: Tensor
    ratios: Tensor
    weights: Tensor
    quat_weights: Tensor
    depths: Tensor
    places: Tensor
    basis_index: Tensor
    quats: Tensor
    dc: Tensor
    rest: Tensor
    ends: Tensor
    sorted_rest: Tensor

    def __init__(self, **codes: Tensor) -> None:
        vars(self).update(codes)

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, some: slice | Tensor) -> Codes:
        """The codes of some Gaussians."""
        return Codes(**{name: codes[some] for name, codes in vars(self).items()})


@dataclass(frozen=True, eq=False)
class CompactCode:
    """What decoding needs besides the codes.

    Attributes:
        version: of the file.
        position_bits: of a cell on each axis.
        centre: x, y and z of the middle of the grid, world units.
        spread: world units; within this of the centre lies half of the grid on each axis.
        scale_step: natural log; of ratios, for axes of about one length.
        opacity_step: of the logit.
        quat_step: of the imaginary parts, for a weight of 1.
        dc_step: of the luma, for a weight of 1.
        rest_step: of the components of the other spherical harmonics, for a weight of 1.
        opacity_low: the lowest opacity code.
        opacity_weights: summand of the weight's index for each opacity code, from the lowest; fixed point.
        turn_weights: the same of a rotation, by the number of eighths of an octave between the two axes that the
            rotation turns; the last entry serves all larger numbers; fixed point.
        color_weight: factors of ``FEATURES`` in the index of the weight of colours, in 64ths, and a summand, fixed
            point.
        quat_weight: the same for rotations.
        depth: the same for the number of bits of a place in its cell.
        num_rest: SH coefficients of degrees 1 and up, 0, 3, 8 or 15.
        color_basis: of the colours.
        pca_basis: (K, 3 num_rest) int8, principal components of the coefficients in the colour basis, times 127; None:
            the coefficients are stored as they are.
    """

    version: int
    position_bits: int
    centre: tuple[float, ...]
    spread: float
    scale_step: float
    opacity_step: float
    quat_step: float
    dc_step: float
    rest_step: float
    opacity_low: int
    opacity_weights: tuple[int, ...]
    turn_weights: tuple[int, ...]
    color_weight: tuple[int, ...]
    quat_weight: tuple[int, ...]
    depth: tuple[int, ...]
    num_rest: int
    color_basis: ColorBasis
    pca_basis: Tensor | None

    @property
    def num_components(self) -> int:
        """K."""
        return 3 * self.num_rest if self.pca_basis is None else len(self.pca_basis)

    def cell_bases(self) -> CellBases:
        """The colour basis of each cell; they are computed when they are needed."""
        centre = torch.tensor(self.centre, dtype=torch.float64)
        return CellBases(self.color_basis, centre, self.spread, 1 + self.num_rest)

    def basis_index(self, codes: Codes, bases: CellBases) -> Tensor:
        """(N,) int64, index of each Gaussian's cell in ``bases``."""
        return bases.index_of(codes.cells >> (self.position_bits - CELL_BITS))

    def limits(self, name: str, column: int) -> tuple[int, int]:
        """The lowest and the highest code of a column."""
        if name == "opacity":
            return self.opacity_low, min(MAX_CODE, self.opacity_low + len(self.opacity_weights) - 1)
        if name == "order":
            return 0, len(_ORDERS) - 1
        if name == "ratios":
            return 0, min(MAX_CODE, math.floor(_bent(THINNEST, BENDS[column]) / self.scale_step))
        if name == "ends":
            return 0, self.num_components
        return -MAX_CODE, MAX_CODE

    # ---- parameters to codes ----

    def size_codes(self, parameters: Parameters) -> tuple[Codes, Tensor]:
        """Codes of cells, opacities and sizes, and (N,3) double positions on the grid, in cells."""
        means = parameters["means"].double()
        inside = (means - means.new_tensor(self.centre)) / self.spread
        folded = (inside / (1 + inside.abs()) + 1) * (1 << (self.position_bits - 1))
        scales, order = torch.sort(parameters["log_scales"].double(), dim=1, descending=True, stable=True)
        size = _code(scales[:, :1] / self.scale_step)
        thinner = (size * self.scale_step - scales[:, 1:]).clamp(0, THINNEST)
        bends = thinner.new_tensor(BENDS)
        highest = torch.tensor([self.limits("ratios", column)[1] for column in range(2)], device=thinner.device)
        ratios = torch.round(_bent(thinner, bends) / self.scale_step).long()
        opacity = torch.round(parameters["opacity_logits"].double() / self.opacity_step)
        codes = Codes(
            cells=folded.floor().long().clamp(0, (1 << self.position_bits) - 1),
            opacity=opacity.clamp(*self.limits("opacity", 0)).long(),
            order=2 * order[:, :1] + (order[:, 1:2] > order[:, 2:]),
            size=size,
            ratios=torch.minimum(ratios, highest),
        )
        return codes, folded

    def shape_codes(self, parameters: Parameters) -> Codes:
        """Codes of positions, opacities and sizes, and what follows from them."""
        codes, folded = self.size_codes(parameters)
        codes.weights, codes.quat_weights, codes.depths = self.derived(codes)
        parts = (1 << codes.depths.long())[:, None]
        codes.places = ((folded - codes.cells) * parts).floor().long().clamp_min(0).minimum(parts - 1)
        return codes

    def codes(self, parameters: Parameters, bases: CellBases, inverse: Tensor, dead_zone: float) -> Codes:
        """All codes but those of the file's order.

        Args:
            parameters: float32.
            bases: of :meth:`cell_bases`.
            inverse: see :meth:`components`.
            dead_zone: components below this many steps become 0.
        """
        codes = self.shape_codes(parameters)
        codes.basis_index = self.basis_index(codes, bases)
        weights = weight_of(codes.weights)
        quats = torch.nn.functional.normalize(parameters["quats"].double(), dim=1)
        quats = quats * torch.where(quats[:, :1] < 0, -1.0, 1.0)
        colors = to_color_basis(parameters, bases, codes.basis_index)
        rest = self.components(colors[:, 1:], weights, inverse)
        codes.quats = _code(quats[:, 1:] / self.quat_step * weight_of(codes.quat_weights))
        codes.dc = _code(_to_luma(colors[:, 0]) / (self.dc_step * colors.new_tensor(_DC_STEPS)) * weights[:, None])
        codes.rest = _code(rest.sign() * torch.floor(rest.abs() + (1 - dead_zone)))
        return codes

    def components(self, rest: Tensor, weights: Tensor, inverse: Tensor) -> Tensor:
        """(N,K) components in steps; differentiable with respect to ``rest``.

        Args:
            rest: (N, num_rest, 3) coefficients in the colour basis, without the first.
            weights: (N,), of the same dtype.
            inverse: (3 num_rest, K), of the PCA basis, see :func:`inverse_of`.
        """
        flat = rest.reshape(len(rest), 3 * self.num_rest) * weights[:, None]
        return flat @ inverse.to(flat) / self.rest_step

    # ---- weights: how much finer than the step a Gaussian is stored ----

    def derived(self, codes: Codes) -> tuple[Tensor, Tensor, Tensor]:
        """``weights``, ``quat_weights`` and ``depths`` of the codes, int64, by cell, opacity and size.

        Indices of weights are 0 to 2 WEIGHT_LIMIT.
        """
        color, quat, depth = self.raw_indices(codes)
        depths = (depth // (WEIGHT_STEPS << FRACTION_BITS)).clamp_(0, MAX_DEPTH)
        return _limited(color), _limited(quat), depths

    def raw_indices(self, codes: Codes) -> tuple[Tensor, Tensor, Tensor]:
        """Before limits, fixed point, int64: of ``color_weight`` (N,), ``quat_weight`` (N,3), ``depth`` (N,).

        A rotation's weight grows with the ratio of the two axes that it turns: a turn of equal axes changes nothing.
        The distance from the centre replaces the unknown distance from the cameras, and accounts for the size of the
        cells.
        """
        opacity = _looked_up(_integers(self.opacity_weights, codes.cells), codes.opacity[:, 0].int() - self.opacity_low)
        longest = _octaves(codes.size[:, 0].double() * self.scale_step)
        second, third = _of_ratios(codes, map(_octaves, self._thinner))
        features = [opacity, longest, longest - second, longest - third, self._distances(codes.cells)]
        features = [feature.long() for feature in features]
        apart = torch.stack([(third - second).abs(), third, second], 1)  # about the longest axis to the shortest
        table = _integers(self.turn_weights, apart)
        turns = _looked_up(table, (self._by_axis(codes, apart) >> 5).clamp_max_(len(table) - 1)).long()
        columns = [feature[:, None] for feature in features]
        return (
            _combined(self.color_weight, features),
            _combined(self.quat_weight, [*columns, turns]),
            _combined(self.depth, features),
        )

    def _distances(self, cells: Tensor) -> Tensor:
        """(N,) int32: 256 log2(1 + squared distance from the centre), linear between powers of 2."""
        squares = unfolded(torch.arange(1 << self.position_bits).double() + 0.5, self.position_bits) ** 2
        x, y, z = _looked_up(squares.to(cells.device), cells.int()).unbind(1)
        return linear_log2(1 + x + y + z)

    @cached_property
    def _thinner(self) -> tuple[Tensor, Tensor]:
        """Natural log, double, of the longest axis over the second and the third, for each code of a ratio."""
        highest = (self.limits("ratios", column)[1] for column in range(2))
        steps = (torch.arange(high + 1).double() * self.scale_step for high in highest)
        second, third = (step / (1 - step * bend) for step, bend in zip(steps, BENDS, strict=True))
        return second, third

    def _log_sizes(self, codes: Codes) -> Tensor:
        """(N,3) double log-scales, from the longest axis to the shortest."""
        size = codes.size[:, 0].double() * self.scale_step
        second, third = _of_ratios(codes, self._thinner)
        return torch.stack([size, size - second, size - third], 1)

    def _by_axis(self, codes: Codes, from_longest: Tensor) -> Tensor:
        """From the longest axis first to the order x, y, z: (N,3)."""
        axes = _looked_up(torch.tensor(_ORDERS, device=from_longest.device), codes.order[:, 0].int())
        return torch.empty_like(from_longest).scatter_(1, axes, from_longest)

    # ---- codes to parameters ----

    def values(self, codes: Codes, bases: CellBases) -> Parameters:
        """float32 parameters; the same bits on all machines."""
        values = self.shape_values(codes) | self.color_values(codes, bases)
        return {name: value.float() for name, value in values.items()}

    def shape_values(self, codes: Codes) -> Parameters:
        """The parameters but colours, double: not rounded yet."""
        imaginary = codes.quats * _finer(self.quat_step, codes.quat_weights)
        squares = imaginary[:, 0] ** 2 + imaginary[:, 1] ** 2 + imaginary[:, 2] ** 2
        folded = codes.cells + (codes.places.double() + 0.5) / (1 << codes.depths.long())[:, None]
        inside = unfolded(folded, self.position_bits)
        return {
            "means": inside * self.spread + inside.new_tensor(self.centre),
            "log_scales": self._by_axis(codes, self._log_sizes(codes)),
            "quats": torch.cat([(1 - squares).clamp_min(0).sqrt()[:, None], imaginary], 1),
            "opacity_logits": codes.opacity.double() * self.opacity_step,
        }

    def color_values(self, codes: Codes, bases: CellBases) -> Parameters:
        """The colours, double: not rounded yet."""
        colors = bases.from_basis(codes.basis_index, codes.rest.double(), self.pca_basis)
        unit = self.rest_step / (bases.denominator * (1 if self.pca_basis is None else _BASIS_SCALE))
        colors *= _finer(unit, codes.weights)[:, None, None]
        luma = codes.dc * _finer(self.dc_step, codes.weights)[:, None]
        colors[:, 0] += _from_luma(luma * luma.new_tensor(_DC_STEPS))
        return {"sh_dc": colors[:, :1], "sh_rest": colors[:, 1:]}


def to_color_basis(
    parameters: Parameters, bases: CellBases, basis_index: Tensor, dtype: torch.dtype = torch.float64
) -> Tensor:
    """(N, 1 + num_rest, 3) coefficients in the colour basis.

    Args:
        parameters: with "sh_dc" and "sh_rest".
        bases: of :meth:`CompactCode.cell_bases`.
        basis_index: of :meth:`CompactCode.basis_index`.
        dtype: of the result; codes need double precision, or rounding could differ between two calls.
    """
    return bases.to_basis(basis_index, torch.cat([parameters["sh_dc"], parameters["sh_rest"]], 1).to(dtype))


def inverse_of(pca_basis: Tensor | None, num_columns: int) -> Tensor:
    """(num_columns, K) double pseudo-inverse: from coefficients to the components of least error."""
    if pca_basis is None:
        return torch.eye(num_columns, dtype=torch.float64)
    return torch.linalg.pinv(pca_basis.double() / _BASIS_SCALE)


def as_pca_basis(vectors: Tensor) -> Tensor:
    """(K,C) int8 of K unit vectors."""
    return (vectors * _BASIS_SCALE).round().to(torch.int8)


def weight_of(index: Tensor) -> Tensor:
    """double, 2^-6 to 2^6."""
    return _looked_up(_weights(index.device), index)


def _finer(step: float, index: Tensor) -> Tensor:
    """double, the step times the reciprocal of the weight: the format fixes these two roundings."""
    return _looked_up(_weights(index.device).reciprocal() * step, index)


def _weights(device: torch.device) -> Tensor:
    table = [_ROOTS[i % WEIGHT_STEPS] * 2.0 ** (i // WEIGHT_STEPS) for i in range(-WEIGHT_LIMIT, WEIGHT_LIMIT + 1)]
    return torch.tensor(table, dtype=torch.float64, device=device)


def _limited(octaves: Tensor) -> Tensor:
    """Index of a weight, from fixed point."""
    return (octaves >> FRACTION_BITS).clamp_(-WEIGHT_LIMIT, WEIGHT_LIMIT).add_(WEIGHT_LIMIT)


def opacity_weights(low: int, high: int, step: float) -> tuple[int, ...]:
    """About half the log2 of the opacity of each code from ``low`` to ``high``, fixed point."""
    logits = (torch.arange(low, high + 1).double() * step).clamp(-_HUGE, _HUGE)
    return tuple(_octaves(logits - (logits * logits + 4).sqrt()).tolist())


def turn_weights() -> tuple[int, ...]:
    """log2 of what a turn of two axes changes, their ratio less its inverse, by eighths of an octave; fixed point."""
    ratios = (torch.arange(_EIGHTHS).double() + 0.5) * _EIGHTH
    squares = ratios * ratios
    sizes = 0.15 + ratios * (2 + squares * (1 / 3 + squares * (1 / 60 + squares / 2520)))  # 2 sinh [Taylor]
    return tuple(linear_log2(sizes).tolist())


def _combined(factors: tuple[int, ...], features: list[Tensor]) -> Tensor:
    """The sum of features times factors, rounded, and the last entry of ``factors``."""
    terms = (feature * factor for feature, factor in zip(features, factors[:-1], strict=True) if factor)
    return (sum(terms, torch.zeros_like(features[-1])) + FACTOR // 2) // FACTOR + factors[-1]


def linear_log2(values: Tensor) -> Tensor:
    """int32: 256 log2 of double values, linear between powers of 2."""
    bits = values.view(torch.int64)  # 52 of a linear part below the exponent, 1023 for 1
    return ((bits - (1023 << 52) + (1 << 43)) >> 44).int()


def _octaves(log_sizes: Tensor) -> Tensor:
    """int32: 256 log2 of what the natural logs are of."""
    return torch.round(log_sizes.clamp(-_HUGE, _HUGE) * _OCTAVE).int()


def _of_ratios(codes: Codes, tables: Iterable[Tensor]) -> Iterator[Tensor]:
    """(N,) for each column of ``ratios``: its codes, looked up in its table."""
    ratios = codes.ratios.int().unbind(1)
    return (_looked_up(table.to(column.device), column) for table, column in zip(tables, ratios, strict=True))


def _looked_up(table: Tensor, indices: Tensor) -> Tensor:
    """``table[indices]``, in a third of the time."""
    return table.index_select(0, indices.reshape(-1)).reshape(*indices.shape, *table.shape[1:])


def _integers(values: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=like.device)


def _bent(log_ratio: Any, bend: Any) -> Any:
    """A log ratio compressed to below 1 / bend, as it is stored."""
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
