"""Profile "seed" of .gsz, as published: spherical harmonics in 8 bits, all else in 16-bit floats, Morton order, LZMA.

Bytes that are alike stand together: the high and the low bytes of floats apart, colours as differences to green, places
as steps along the Morton curve. ``docs/gsz.md`` has the layout. [GNS, arXiv:2511.16980]
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from compact_splats.compression.arrays import REST_COUNTS, SHAPES, Arrays, checked, refuse_not_finite
from compact_splats.compression.container import (
    MAX_GAUSSIANS,
    PROFILE_KEY,
    FormatError,
    header_integer,
    lzma_pack,
    lzma_unpack,
    on_all_cores,
    pack,
)
from compact_splats.compression.morton import morton_cells, morton_codes

if TYPE_CHECKING:
    from torch import Tensor

NAME = "seed"
# Of SH degrees 1 to 3: the finest step between two levels. Trained coefficients mostly lie close to 0, so that a range
# from the smallest to the largest gives steps finer than can be seen, and these cost a byte where half of it would do.
SH_STEP = 0.02
HALF_MAX = 65504.0  # largest finite 16-bit float; what is beyond is stored as this
_HALVES = ("log_scales", "quats", "opacity_logits")
_CHANNELS = ("g", "r", "b")  # in the order of the streams; red and blue as differences to green
_ZERO = 128  # a difference of 0
_CODE_BYTES = 6  # of a place on the Morton curve: 16 bits an axis
_PART = 1 << 13  # Gaussians whose colours are computed at a time: few enough for the cache


class SeedQuantizer:
    """The profile as a ``compression.quantizer.Quantizer``; its state are the ranges of the SH coefficients.

    Args:
        sh_step: least step between two levels of the SH coefficients of degrees 1 to 3; 0: only the range counts.
    """

    def __init__(self, sh_step: float = SH_STEP) -> None:
        self._sh_step = sh_step
        self._ranges: dict[str, np.ndarray] = {}  # "sh_dc", "sh_rest": (K,3,2) float32, lowest and highest level

    def fit(self, rows: dict[str, Tensor] | Arrays) -> None:
        """Choose the ranges by the extremes of the coefficients.

        Raises:
            FormatError: a coefficient is not finite.
        """
        for name in ("sh_dc", "sh_rest"):
            row = rows[name]
            low, high = (float(row.min()), float(row.max())) if math.prod(row.shape) else (0.0, 0.0)
            if not math.isfinite(high - low):
                refuse_not_finite(name, row if isinstance(row, np.ndarray) else row.detach().cpu().numpy())
            if name == "sh_rest":
                low, high = _around_zero(low, high, self._sh_step)
            self._ranges[name] = np.broadcast_to(np.float32([low, high]), (*row.shape[1:], 2))

    def quantized(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The values that decoding gives back, see ``compression.quantizer.Quantizer.quantized``.

        Raises:
            FormatError: a value is not finite.
        """
        stored = {}
        for name, row in rows.items():
            if not row.isfinite().all():
                refuse_not_finite(name, row.detach().cpu().numpy())
            if name not in self._ranges:
                stored[name] = row.clip(-HALF_MAX, HALF_MAX).half().float()
                continue
            low, high = (row.double().new_tensor(self._ranges[name][..., i]) for i in (0, 1))
            stored[name] = _values(_levels(row, low, high), low, high).float()
        return stored

    def encode(self, rows: Arrays) -> bytes:
        """The file. Its bytes do not depend on the order of the Gaussians.

        Raises:
            FormatError: not the rows of a model, see ``compression.arrays.checked``, or too many Gaussians.
        """
        return pack(*self.encode_parts(checked(rows)))

    def encode_parts(self, rows: Arrays) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Header and streams of the rows of :func:`compression.arrays.checked`, stored as the last :meth:`fit` says.

        Raises:
            FormatError: too many Gaussians.
        """
        num = len(rows["means"])
        if num > MAX_GAUSSIANS:
            raise FormatError(f"at most {MAX_GAUSSIANS:,} Gaussians", f"{num:,}")
        bits = {name: _half_bits(rows[name]) for name in ("means", *_HALVES)}
        colors = {}
        for name, ranges in self._ranges.items():
            low, high = np.moveaxis(ranges.astype(np.float64), -1, 0)
            columns = [_levels(rows[name][:, k], low[k], high[k]).astype(np.uint8) for k in range(len(ranges))]
            colors[name] = _from_green(np.stack(columns, 1) if columns else np.zeros((num, 0, 3), np.uint8))

        codes = morton_codes(_ordered(bits.pop("means")))
        order = _total_order(codes, [*bits.values(), *colors.values()])
        steps = np.diff(codes[order], prepend=np.uint64(0)).astype("<u8")
        planes = {"means": np.ascontiguousarray(steps.view(np.uint8).reshape(num, 8)[:, :_CODE_BYTES].T)}
        for name in _HALVES:
            columns = np.ascontiguousarray(bits[name][order].T)
            planes[f"{name}.high"] = (columns >> 8).astype(np.uint8)
            planes[f"{name}.low"] = columns.astype(np.uint8)
        for name, color in colors.items():
            for i, channel in enumerate(_CHANNELS):
                planes[f"{name}.{channel}"] = color[order, :, i]
        ranges = np.concatenate([self._ranges["sh_dc"], self._ranges["sh_rest"]])
        planes["sh_ranges"] = np.ascontiguousarray(ranges.transpose(2, 0, 1), "<f4")
        packed = on_all_cores(lzma_pack, {name: (plane.tobytes(),) for name, plane in planes.items()})
        return {PROFILE_KEY: NAME, "gaussians": num, "sh_rest": rows["sh_rest"].shape[1]}, packed


def encode_seed(rows: Arrays, sh_step: float = SH_STEP) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header and streams of a model.

    Args:
        rows: of :func:`compression.arrays.checked`.
        sh_step: see :class:`SeedQuantizer`.

    Raises:
        FormatError: too many Gaussians.
    """
    quantizer = SeedQuantizer(sh_step)
    quantizer.fit(rows)
    return quantizer.encode_parts(rows)


def decode_seed(header: dict[str, Any], streams: dict[str, bytes]) -> Arrays:
    """Undo :func:`encode_seed`.

    Returns:
        Rows in Morton order.

    Raises:
        FormatError: a number is out of its range, a stream is missing, too much or of the wrong size, or a value is
            not finite.
    """
    num = header_integer(header, "gaussians", range(MAX_GAUSSIANS + 1))
    rest = header_integer(header, "sh_rest", REST_COUNTS)
    sizes = _sizes(num, rest)
    if set(streams) != set(sizes):
        raise FormatError(f"the streams {', '.join(sizes)}", ", ".join(streams) or "none")
    contents = on_all_cores(lzma_unpack, {name: (streams[name], size) for name, size in sizes.items()})
    rows = {"means": _means(contents.pop("means"), num)}
    for name in _HALVES:
        columns = _plane(contents.pop(f"{name}.high"), SHAPES[name][0], num).astype(np.uint16) << 8
        columns |= _plane(contents.pop(f"{name}.low"), SHAPES[name][0], num)
        rows[name] = _floats(name, columns.T.copy())
    ranges = np.frombuffer(contents["sh_ranges"], "<f4").reshape(2, 1 + rest, 3)
    if not np.isfinite(ranges).all():
        raise FormatError("finite ranges of SH coefficients", "others")
    low, high = ranges.astype(np.float64)
    for name, part in (("sh_dc", slice(0, 1)), ("sh_rest", slice(1, None))):
        levels = [_plane(contents.pop(f"{name}.{channel}"), num, len(low[part])) for channel in _CHANNELS]
        rows[name] = _colors(levels, low[part], high[part])
    return rows


def _sizes(num: int, rest: int) -> dict[str, int]:
    """Bytes of each stream when unpacked."""
    sizes = {"means": _CODE_BYTES * num}
    sizes |= {f"{name}.{half}": SHAPES[name][0] * num for name in _HALVES for half in ("high", "low")}
    sizes |= {f"{name}.{c}": count * num for name, count in (("sh_dc", 1), ("sh_rest", rest)) for c in _CHANNELS}
    return sizes | {"sh_ranges": 2 * (1 + rest) * 3 * 4}


def _plane(content: bytes, num_rows: int, num_columns: int) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(num_rows, num_columns)


# ---- 16-bit floats and positions ----


def _half_bits(row: np.ndarray) -> np.ndarray:
    return row.clip(-HALF_MAX, HALF_MAX).astype(np.float16).view(np.uint16)


def _ordered(bits: np.ndarray) -> np.ndarray:
    """Bits of 16-bit floats as integers in the floats' order, from 0; each has one of its own, -0 and +0 too."""
    return np.where(bits < 0x8000, bits | 0x8000, ~bits)


def _means(content: bytes, num: int) -> np.ndarray:
    steps = np.zeros((num, 8), np.uint8)
    steps[:, :_CODE_BYTES] = _plane(content, _CODE_BYTES, num).T
    codes = np.cumsum(steps.view("<u8").reshape(num), dtype=np.uint64)
    if num and codes.max() >> np.uint64(8 * _CODE_BYTES):  # no step can pass over all of the codes that are too large
        raise FormatError("positions on the Morton curve", "one behind its end")
    ordered = morton_cells(codes).astype(np.uint16)
    bits = np.where(ordered >= 0x8000, ordered & 0x7FFF, ~ordered)
    return _floats("means", bits)


def _floats(name: str, bits: np.ndarray) -> np.ndarray:
    halves = bits.view(np.float16)
    refuse_not_finite(name, halves)
    return halves.astype(np.float32)


def _total_order(codes: np.ndarray, contents: list[np.ndarray]) -> np.ndarray:
    """Morton order; where several Gaussians have one position, what else they store decides."""
    order = np.argsort(codes, kind="stable")
    same = codes[order][1:] == codes[order][:-1]
    tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    if len(tied):
        rows = order[tied]
        columns = [column for array in contents for column in array[rows].reshape(len(rows), -1).T]
        order[tied] = rows[np.lexsort([*columns, codes[rows]])]  # lexsort's first key is the last
    return order


# ---- spherical harmonics: the same lines serve numpy and torch, and give the same bits ----


def _around_zero(low: float, high: float, least_step: float) -> tuple[float, float]:
    """Levels -128 to 127 times a step; 0 is a level, so that bands which a model does not have stay 0.

    The step is rounded up to 16 bits, which makes both ends and 0 exact.
    """
    step = max(least_step, -low / 128, high / 127)
    mantissa, exponent = math.frexp(step)
    step = math.ldexp(math.ceil(math.ldexp(mantissa, 16)), exponent - 16)
    return -128 * step, 127 * step


def _levels(row: Any, low: Any, high: Any) -> Any:
    """The nearest of 256 levels, 0 to 255.

    Args:
        row: (..., 3) float32.
        low: float64 like the last axes of ``row``; the lowest level.
        high: likewise; the highest.
    """
    step = (high - low) / 255
    step = step + (step == 0)  # one level only, and nothing to divide by
    return ((row - low) / step).round().clip(0, 255)


def _values(levels: Any, low: Any, high: Any) -> Any:
    """What levels stand for, in double precision; 0 is exactly ``low`` and 255 exactly ``high``."""
    return (low * (255 - levels) + high * levels) / 255


def _from_green(levels: np.ndarray) -> np.ndarray:
    """(N,K,3) uint8 red, green, blue to green and the others' differences to it, modulo 256."""
    red, green, blue = np.moveaxis(levels, -1, 0)
    return np.stack([green, red - green + np.uint8(_ZERO), blue - green + np.uint8(_ZERO)], axis=-1)


def _colors(levels: list[np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Undo :func:`_from_green` and :func:`_levels`: planes (N,K) of each stream to (N,K,3) float32."""
    colors = np.empty((*levels[0].shape, 3), np.float32)
    tables = _values(np.arange(256.0)[:, None, None], low, high).astype(np.float32)
    tables = np.ascontiguousarray(tables.transpose(2, 1, 0)).reshape(3, -1)  # of each channel, the columns in a row
    columns = 256 * np.arange(len(low))

    def fill(start: int) -> None:
        part = slice(start, start + _PART)
        green, red, blue = (level[part] for level in levels)
        from_zero = green - np.uint8(_ZERO)
        for channel, level in enumerate((red + from_zero, green, blue + from_zero)):
            colors[part, :, channel] = tables[channel][level + columns]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, len(colors), _PART)))
    return colors
