"""Profile "seed" of .gsz: spherical harmonics in 8 bits, all else in 16-bit floats, LZMA [GNS, arXiv:2511.16980].

To help LZMA, Gaussians are in Morton order and positions are steps along it, high and low bytes of floats are separate,
and red and blue are differences to green. See ``docs/gsz.md`` for the layout.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from usable_processors import default_threads

from compact_splats.compression.arrays import Arrays, Parameters, checked, refuse_not_finite
from compact_splats.compression.container import (
    MAX_GAUSSIANS,
    PROFILE_KEY,
    FormatError,
    header_integer,
    lzma_pack,
    lzma_unpack,
    marks_of,
    on_all_cores,
    pack,
)
from compact_splats.compression.morton import morton_cells, morton_codes
from compact_splats.compression.quantizer import Quantizer
from compact_splats.scene.parameters import REST_COUNTS, SHAPES

NAME = "seed"
# The least step between two levels of SH degrees 1 to 3. Most trained coefficients are close to 0: the range from the
# smallest to the largest would give steps finer than visible, at twice the bits.
SH_STEP = 0.02
HALF_MAX = 65504.0  # largest finite 16-bit float; values beyond are clamped
_HALVES = ("log_scales", "quats", "opacity_logits")
_CHANNELS = ("g", "r", "b")  # in the order of the streams
_ZERO = 128  # a difference of 0
_CODE_BYTES = 6  # of a place on the Morton curve: 16 bits an axis
_PART = 1 << 13  # Gaussians whose colours are computed at a time: few enough for the cache


class SeedQuantizer(Quantizer):
    """The profile as a ``compression.quantizer.Quantizer``; its state is the ranges of the SH coefficients.

    Args:
        sh_step: least step between two levels of SH degrees 1 to 3; 0: the range alone decides.
    """

    def __init__(self, sh_step: float = SH_STEP) -> None:
        self._sh_step = sh_step
        self._ranges: dict[str, np.ndarray] = {}  # "sh_dc", "sh_rest": (K,3,2) float32, lowest and highest level

    def fit(self, model: Parameters | Arrays) -> None:
        """Choose the ranges by the extremes of the coefficients.

        Raises:
            FormatError: a coefficient is not finite.
        """
        for name in ("sh_dc", "sh_rest"):
            values = model[name]
            low, high = (float(values.min()), float(values.max())) if math.prod(values.shape) else (0.0, 0.0)
            if not math.isfinite(high - low):
                refuse_not_finite(name, values if isinstance(values, np.ndarray) else values.detach().cpu().numpy())
            if name == "sh_rest":
                low, high = _around_zero(low, high, self._sh_step)
            self._ranges[name] = np.broadcast_to(np.array([low, high], np.float32), (*values.shape[1:], 2))

    def quantized(self, parameters: Parameters) -> Parameters:
        """The values that decoding gives back, see ``compression.quantizer.Quantizer.quantized``.

        Raises:
            FormatError: a value is not finite.
        """
        stored = {}
        for name, values in parameters.items():
            if not values.isfinite().all():
                refuse_not_finite(name, values.detach().cpu().numpy())
            if name not in self._ranges:
                stored[name] = values.clip(-HALF_MAX, HALF_MAX).half().float()
                continue
            low, high = (values.double().new_tensor(self._ranges[name][..., i]) for i in (0, 1))
            stored[name] = _values(_levels(values, low, high), low, high).float()
        return stored

    def encode(self, arrays: Arrays) -> bytes:
        """The file. Its bytes do not depend on the order of the Gaussians.

        Raises:
            FormatError: not the arrays of a model, see ``compression.arrays.checked``, or too many Gaussians.
        """
        return pack(*self.encode_parts(checked(arrays)), marks_of(arrays))

    def encode_parts(self, arrays: Arrays) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Header and streams of arrays of :func:`compression.arrays.checked`, stored as the last :meth:`fit` says.

        Raises:
            FormatError: too many Gaussians.
        """
        num = len(arrays["means"])
        if num > MAX_GAUSSIANS:
            raise FormatError(f"at most {MAX_GAUSSIANS:,} Gaussians", f"{num:,}")
        bits = {name: _half_bits(arrays[name]) for name in ("means", *_HALVES)}
        colors = {}
        for name, ranges in self._ranges.items():
            low, high = np.moveaxis(ranges.astype(np.float64), -1, 0)
            columns = [_levels(arrays[name][:, k], low[k], high[k]).astype(np.uint8) for k in range(len(ranges))]
            colors[name] = _from_green(np.stack(columns, 1) if columns else np.zeros((num, 0, 3), np.uint8))

        codes = morton_codes(_ordered(bits.pop("means")))
        order = _total_order(codes, [*bits.values(), *colors.values()])
        steps = np.diff(codes[order], prepend=np.uint64(0)).astype("<u8")
        planes = {"means": np.ascontiguousarray(steps.view(np.uint8).reshape(num, 8)[:, :_CODE_BYTES].T)}
        for name in _HALVES:
            halves = np.ascontiguousarray(bits[name][order].T)
            planes[f"{name}.high"] = (halves >> 8).astype(np.uint8)
            planes[f"{name}.low"] = halves.astype(np.uint8)
        for name, color in colors.items():
            for i, channel in enumerate(_CHANNELS):
                planes[f"{name}.{channel}"] = color[order, :, i]
        ranges = np.concatenate([self._ranges["sh_dc"], self._ranges["sh_rest"]])
        planes["sh_ranges"] = np.ascontiguousarray(ranges.transpose(2, 0, 1), "<f4")
        packed = on_all_cores(lzma_pack, {name: (plane.tobytes(),) for name, plane in planes.items()})
        return {PROFILE_KEY: NAME, "gaussians": num, "sh_rest": arrays["sh_rest"].shape[1]}, packed


def encode_seed(
    arrays: Arrays, nested: bool = False, sh_step: float = SH_STEP
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header and streams of a model.

    Args:
        arrays: of :func:`compression.arrays.checked`.
        nested: changes nothing: the Gaussians are sorted by place.
        sh_step: see :class:`SeedQuantizer`.

    Raises:
        FormatError: too many Gaussians.
    """
    quantizer = SeedQuantizer(sh_step)
    quantizer.fit(arrays)
    return quantizer.encode_parts(arrays)


def decode_seed(header: dict[str, Any], streams: dict[str, bytes]) -> Arrays:
    """Undo :func:`encode_seed`.

    Returns:
        Arrays in Morton order.

    Raises:
        FormatError: a number out of range, a missing, unknown or wrong stream, or a value that is not finite.
    """
    num = header_integer(header, "gaussians", range(MAX_GAUSSIANS + 1))
    rest = header_integer(header, "sh_rest", REST_COUNTS)
    sizes = _sizes(num, rest)
    if set(streams) != set(sizes):
        raise FormatError(f"the streams {', '.join(sizes)}", ", ".join(streams) or "none")
    contents = on_all_cores(lzma_unpack, {name: (streams[name], size) for name, size in sizes.items()})
    arrays = {"means": _means(contents.pop("means"), num)}
    for name in _HALVES:
        columns = _plane(contents.pop(f"{name}.high"), SHAPES[name][0], num).astype(np.uint16) << 8
        columns |= _plane(contents.pop(f"{name}.low"), SHAPES[name][0], num)
        arrays[name] = _floats(name, columns.T.copy())
    ranges = np.frombuffer(contents["sh_ranges"], "<f4").reshape(2, 1 + rest, 3)
    if not np.isfinite(ranges).all():
        raise FormatError("finite ranges of SH coefficients", "others")
    low, high = ranges.astype(np.float64)
    for name, part in (("sh_dc", slice(0, 1)), ("sh_rest", slice(1, None))):
        levels = [_plane(contents.pop(f"{name}.{channel}"), num, len(low[part])) for channel in _CHANNELS]
        arrays[name] = _colors(levels, low[part], high[part])
    return arrays


def _sizes(num: int, rest: int) -> dict[str, int]:
    """Bytes of each stream when unpacked."""
    sizes = {"means": _CODE_BYTES * num}
    sizes |= {f"{name}.{half}": SHAPES[name][0] * num for name in _HALVES for half in ("high", "low")}
    sizes |= {f"{name}.{c}": count * num for name, count in (("sh_dc", 1), ("sh_rest", rest)) for c in _CHANNELS}
    return sizes | {"sh_ranges": 2 * (1 + rest) * 3 * 4}


def _plane(content: bytes, num_rows: int, num_columns: int) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(num_rows, num_columns)


# ---- 16-bit floats and positions ----


def _half_bits(values: np.ndarray) -> np.ndarray:
    return values.clip(-HALF_MAX, HALF_MAX).astype(np.float16).view(np.uint16)


def _ordered(bits: np.ndarray) -> np.ndarray:
    """Bits of 16-bit floats as integers from 0 in the order of the floats, -0 before +0."""
    return np.where(bits < 0x8000, bits | 0x8000, ~bits)


def _means(content: bytes, num: int) -> np.ndarray:
    steps = np.zeros((num, 8), np.uint8)
    steps[:, :_CODE_BYTES] = _plane(content, _CODE_BYTES, num).T
    codes = np.cumsum(steps.view("<u8").reshape(num), dtype=np.uint64)
    if num and codes.max() >> np.uint64(8 * _CODE_BYTES):  # no step is large enough to overflow past all of these
        raise FormatError("positions on the Morton curve", "one behind its end")
    ordered = morton_cells(codes).astype(np.uint16)
    bits = np.where(ordered >= 0x8000, ordered & 0x7FFF, ~ordered)
    return _floats("means", bits)


def _floats(name: str, bits: np.ndarray) -> np.ndarray:
    halves = bits.view(np.float16)
    refuse_not_finite(name, halves)
    return halves.astype(np.float32)


def _total_order(codes: np.ndarray, contents: list[np.ndarray]) -> np.ndarray:
    """Morton order; Gaussians of equal position are sorted by their other stored values."""
    order = np.argsort(codes, kind="stable")
    same = codes[order][1:] == codes[order][:-1]
    tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    if len(tied):
        ties = order[tied]
        columns = [column for array in contents for column in array[ties].reshape(len(ties), -1).T]
        order[tied] = ties[np.lexsort([*columns, codes[ties]])]  # the last key of lexsort is the first to sort by
    return order


# ---- spherical harmonics: the same code runs on numpy and torch, with the same bits ----


def _around_zero(low: float, high: float, least_step: float) -> tuple[float, float]:
    """The lowest and the highest level: -128 and 127 times a step. 0 is a level, so that unused SH degrees stay 0.

    The step is rounded up to 16 significant bits, which makes both ends and 0 exact.
    """
    step = max(least_step, -low / 128, high / 127)
    mantissa, exponent = math.frexp(step)
    step = math.ldexp(math.ceil(math.ldexp(mantissa, 16)), exponent - 16)
    return -128 * step, 127 * step


def _levels(values: Any, low: Any, high: Any) -> Any:
    """The nearest of 256 levels, 0 to 255.

    Args:
        values: (..., 3) float32.
        low: float64, the lowest level, in the shape of the last axes of ``values``.
        high: the highest level, the same.
    """
    step = (high - low) / 255
    step = step + (step == 0)  # a single level: avoid 0 / 0
    return ((values - low) / step).round().clip(0, 255)


def _values(levels: Any, low: Any, high: Any) -> Any:
    """The values of levels, double; 0 is exactly ``low`` and 255 exactly ``high``."""
    return (low * (255 - levels) + high * levels) / 255


def _from_green(levels: np.ndarray) -> np.ndarray:
    """(N,K,3) uint8 red, green, blue to green and the others' differences to it, modulo 256."""
    red, green, blue = np.moveaxis(levels, -1, 0)
    return np.stack([green, red - green + np.uint8(_ZERO), blue - green + np.uint8(_ZERO)], axis=-1)


def _colors(levels: list[np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Undo :func:`_from_green` and :func:`_levels`: planes (N,K) of each stream to (N,K,3) float32."""
    colors = np.empty((*levels[0].shape, 3), np.float32)
    tables = _values(np.arange(256.0)[:, None, None], low, high).astype(np.float32)
    tables = np.ascontiguousarray(tables.transpose(2, 1, 0)).reshape(3, -1)  # (channel, column of the 256 levels)
    columns = 256 * np.arange(len(low))

    def fill(start: int) -> None:
        part = slice(start, start + _PART)
        green, red, blue = (level[part] for level in levels)
        from_zero = green - np.uint8(_ZERO)
        for channel, level in enumerate((red + from_zero, green, blue + from_zero)):
            colors[part, :, channel] = tables[channel][level + columns]

    with ThreadPoolExecutor(default_threads()) as pool:
        list(pool.map(fill, range(0, len(colors), _PART)))
    return colors
