"""The codes of the profile "compact" as the header and streams of a .gsz, and back; ``docs/gsz.md`` has the layout."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from compression.compact_code import MAX_CODE, Codes, CompactCode
from compression.container import MAX_GAUSSIANS, PROFILE_KEY, FormatError, header_integer
from compression.entropy import SymbolReader, SymbolWriter, pack_bits, unpack_bits
from compression.morton import morton_cells, morton_codes
from compression.rows import REST_COUNTS, Rows, refuse_not_finite
from compression.viewpoints import Frames, Viewpoints

NAME = "compact"
POSITION_BITS = range(8, 17)
GAUSSIANS_PER_BYTE = 256  # at most, so that a small file cannot claim a large model
_STREAMS = ("tables", "symbols", "positions", "viewpoints", "basis", "padding")
_PART = 1 << 13  # Gaussians whose values are computed at a time: few enough for the cache
_REST_CONTEXTS = 12
_LIVELY = 100  # above, a component's size says no more about those that follow


def write(code: CompactCode, codes: Codes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header and streams.

    Args:
        code: what the codes mean.
        codes: of N Gaussians, in any order.

    Raises:
        FormatError: too many Gaussians.
    """
    num = len(codes["cells"])
    if num > MAX_GAUSSIANS:
        raise FormatError(f"at most {MAX_GAUSSIANS:,} Gaussians", f"{num:,}")
    places = morton_codes(codes["cells"].numpy())
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order], prepend=np.uint64(0))
    lengths = _bit_lengths(steps)
    codes = {name: each[torch.from_numpy(order)] for name, each in codes.items()}
    writer = SymbolWriter()
    writer.write(lengths)
    for name, column, contexts in _fields(code, codes):
        writer.write(codes[name][:, column].numpy(), contexts)
    streams = {
        **writer.streams(),
        "positions": pack_bits(steps, _low_bits(lengths)),
        "viewpoints": code.viewpoints.to_bytes(),
        "basis": b"" if code.basis is None else code.basis.numpy().tobytes(),
    }
    streams["padding"] = bytes(max(0, num // GAUSSIANS_PER_BYTE - sum(map(len, streams.values()))))
    values = {field.name: getattr(code, field.name) for field in fields(code) if field.name not in _STREAMS}
    values |= {"view_cosine": code.viewpoints.cosine, "basis": "none" if code.basis is None else code.num_components}
    return {PROFILE_KEY: NAME, "gaussians": num, **values}, streams


def read(header: dict[str, Any], streams: dict[str, bytes]) -> Rows:
    """The rows of a model, in Morton order.

    Raises:
        FormatError: header or streams are none that :func:`write` makes.
    """
    if set(streams) != set(_STREAMS):
        raise FormatError(f"the streams {', '.join(_STREAMS)}", ", ".join(streams)[:99] or "none")
    code, num = _read_header(header, streams)
    reader = SymbolReader(streams)
    codes = {"cells": torch.from_numpy(_read_cells(reader.read(num), streams["positions"], code.position_bits))}
    widths = {"opacity": 1, "scales": 3, "quats": 3, "dc": 3, "rest": code.num_components}
    # A column lies together in memory, since one is read at a time.
    codes |= {name: torch.zeros(width, num, dtype=torch.int16).T for name, width in widths.items()}
    frames = code.frames()
    with ThreadPoolExecutor(1) as beside:  # the coder is one thread
        indices = beside.submit(code.frame_indices, {"cells": codes["cells"]}, frames)
        for name, column, contexts in _fields(code, codes):
            symbols = reader.read(num, contexts)
            low, high = -MAX_CODE, MAX_CODE
            if name == "opacity":
                low, high = code.opacity_low, code.opacity_low + len(code.opacity_weights) - 1
            if num and not low <= symbols.min() <= symbols.max() <= high:
                raise FormatError(f"{name} from {low} to {high}", f"{symbols.min()} to {symbols.max()}")
            codes[name][:, column] = torch.from_numpy(symbols)
        reader.finish()
        codes |= indices.result()
    return _values(code, codes, frames)


def _values(code: CompactCode, codes: Codes, frames: Frames) -> Rows:
    """The rows, some at a time: in double precision all together would take twice their memory."""
    num = len(codes["cells"])
    none = code.values({name: each[:0] for name, each in codes.items()}, frames)
    shapes = {name: values.shape[1:] for name, values in none.items()}
    rows = {name: np.empty((num, *shape), np.float32) for name, shape in shapes.items()}

    def fill(start: int) -> None:
        part = slice(start, start + _PART)
        for name, values in code.values({name: each[part] for name, each in codes.items()}, frames).items():
            rows[name][part] = values

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # torch works without Python's lock
        list(pool.map(fill, range(0, num, _PART)))
    for name, row in rows.items():
        refuse_not_finite(name, row)
    return rows


def _fields(code: CompactCode, codes: Codes) -> Iterator[tuple[str, int, np.ndarray | None]]:
    """The fields in the order of the file, each as name, column and the contexts of its symbols.

    The next one is asked for only when the one before it stands in ``codes``.
    """
    yield "opacity", 0, None
    yield "scales", 0, None
    yield "scales", 1, _contexts(codes["scales"][:, 0] // 2 + 48, 64)
    yield "scales", 2, _contexts(codes["scales"][:, :2].sum(1) // 4 + 48, 64)
    codes |= code.weight_indices(codes)
    for column in range(3):
        yield "quats", column, _contexts(codes["quat_weights"][:, column] // 2, 64)
    weight_index = codes["weights"]
    for column in range(3):
        yield "dc", column, _contexts(weight_index // 2, 64)
    activity = torch.zeros(len(weight_index), dtype=torch.int32)  # of the components before, the last ones most
    for column in range(code.num_components):
        yield "rest", column, _contexts(activity >> 3 if column else weight_index >> 2, _REST_CONTEXTS)
        activity = ((activity * 3) >> 2) + (codes["rest"][:, column].abs().clamp_max(_LIVELY).int() << 3)


def _contexts(values: torch.Tensor, count: int) -> np.ndarray:
    return values.clamp(0, count - 1).to(torch.uint8).numpy()


# ---- positions: the length of each step along the curve is a symbol, its bits but the first stand as they are ----


def _bit_lengths(steps: np.ndarray) -> np.ndarray:
    """(N,) bits of (N,) uint64 below 2^53."""
    return np.frexp(steps.astype(np.float64))[1].astype(np.int64)


def _low_bits(lengths: np.ndarray) -> np.ndarray:
    return np.maximum(lengths - 1, 0)


def _read_cells(lengths: np.ndarray, bits: bytes, position_bits: int) -> np.ndarray:
    """(N,3) int64."""
    if not len(lengths):
        return np.zeros((0, 3), np.int64)
    if not 0 <= lengths.min() <= lengths.max() <= 3 * position_bits:
        raise FormatError(f"steps of up to {3 * position_bits} bits", f"some of {lengths.min()} to {lengths.max()}")
    first_bits = np.where(lengths > 0, np.uint64(1) << _low_bits(lengths).astype(np.uint64), np.uint64(0))
    places = np.cumsum(first_bits | unpack_bits(bits, _low_bits(lengths)), dtype=np.uint64)
    # A sum of up to 2^27 steps of 48 bits could pass 2^64 only after it has been behind the end.
    if int(places.max()) >> (3 * position_bits):
        raise FormatError("positions on the Morton curve", "one behind its end")
    cells = morton_cells(places).astype(np.int32)
    if cells.min() < 1:
        raise FormatError("positions inside of the grid", "one at its end")
    return cells


# ---- the header ----


def _read_header(header: dict[str, Any], streams: dict[str, bytes]) -> tuple[CompactCode, int]:
    num_rest = header_integer(header, "num_rest", REST_COUNTS)
    position_bits = header_integer(header, "position_bits", POSITION_BITS)
    size = sum(map(len, streams.values()))
    num = header_integer(header, "gaussians", range(min(MAX_GAUSSIANS, GAUSSIANS_PER_BYTE * (size + 1)) + 1))
    centre = header.get("centre")
    if not isinstance(centre, list) or len(centre) != 3:
        raise FormatError("a centre of 3 numbers", repr(centre)[:99])
    steps = ("spread", "scale_step", "opacity_step", "quat_step", "dc_step", "rest_step")
    code = CompactCode(
        position_bits=position_bits,
        centre=tuple(_number(value, "centre", -1e30) for value in centre),
        **{name: _number(header.get(name), name, 1e-30) for name in steps},
        opacity_low=header_integer(header, "opacity_low", range(-MAX_CODE, MAX_CODE + 1)),
        opacity_weights=_weights(header, "opacity_weights"),
        scale_weight=_weight(header.get("scale_weight"), "scale_weight"),
        weight_offset=_weight(header.get("weight_offset"), "weight_offset"),
        turn_weights=_weights(header, "turn_weights"),
        num_rest=num_rest,
        viewpoints=Viewpoints.from_bytes(streams["viewpoints"], _number(header.get("view_cosine"), "view_cosine", -1)),
        basis=_read_basis(header.get("basis"), streams["basis"], 3 * num_rest),
    )
    return code, num


def _read_basis(components: object, data: bytes, num_columns: int) -> torch.Tensor | None:
    if components == "none" and not data:
        return None
    if type(components) is not int or not 0 <= components <= num_columns or len(data) != components * num_columns:
        raise FormatError("a basis of the size in the header", f"{len(data)} numbers for {components!r:.99}")
    return torch.from_numpy(np.frombuffer(data, np.int8).reshape(components, num_columns).copy())


def _weights(header: dict[str, Any], key: str) -> tuple[int, ...]:
    weights = header.get(key)
    if not isinstance(weights, list) or not 1 <= len(weights) <= 2 * MAX_CODE + 1:
        raise FormatError(f"{key} in the header", repr(weights)[:99])
    return tuple(_weight(value, key) for value in weights)


def _weight(value: object, key: str) -> int:
    if type(value) is not int or abs(value) > 1 << 30:
        raise FormatError(f"an integer below 2^30 as {key}", repr(value)[:99])
    return value


def _number(value: object, key: str, low: float) -> float:
    if type(value) not in (int, float) or not low <= value <= 1e30 or not math.isfinite(value):
        raise FormatError(f"{key} in the header from {low:g} to 1e30", repr(value)[:99])
    return float(value)
