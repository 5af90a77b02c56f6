"""Codes of the profile "compact" to the header and streams of a .gsz, and back. See ``docs/gsz.md`` for the layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from usable_processors import default_threads

from compact_splats.compression.arrays import Arrays, Parameters
from compact_splats.compression.color_basis import ColorBasis
from compact_splats.compression.compact_code import (
    MAX_CODE,
    MAX_DEPTH,
    Codes,
    CompactCode,
    linear_log2,
    opacity_weights,
    turn_weights,
)
from compact_splats.compression.container import (
    LEVELS_KEY,
    MAX_GAUSSIANS,
    PROFILE_KEY,
    VERSION_KEY,
    FormatError,
    header_integer,
    levels_in,
    unpack,
)
from compact_splats.compression.entropy import Contexts, SymbolReader, SymbolWriter, pack_bits, unpack_bits
from compact_splats.compression.morton import morton_cells, morton_codes
from compact_splats.scene.parameters import REST_COUNTS, SHAPES, SavedArrays

NAME = "compact"
POSITION_BITS = range(8, 15)
GAUSSIANS_PER_BYTE = 256  # at most: a small file cannot claim a large model
BLOCK = 1 << 18  # most Gaussians that one core reads
LEVELS = (0.1, 0.25, 0.5, 1.0)  # shares of the Gaussians of a nested model with which a level ends
_NESTED_VERSION = 3  # of a file with levels
_STREAMS, _BLOCK_STREAMS = ("viewpoints", "basis", "padding"), ("tables", "symbols", "positions", "places")
_PART = 1 << 14  # Gaussians whose values are computed at a time: few enough for the cache
Field = tuple[str, int, slice, Contexts | None]  # name in `Codes`, column, Gaussians, contexts of their symbols
_LARGEST_STEP = 1e20  # with it and with positions within 1e30, every code decodes to a finite float32
_LIVELY = 100  # limit of a component's size in the contexts of the next ones
# 96 log2 of 1 + the size of the components before, 0 to 4 _LIVELY in eighths
_ACTIVITY_LEVELS = (3 * linear_log2(1 + torch.arange(32 * _LIVELY + 1).double() / 8) >> 3).numpy().astype(np.int16)


def write(code: CompactCode, codes: Codes, nested: bool = False) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header and streams.

    Args:
        code: decodes the codes.
        codes: of N Gaussians, in any order.
        nested: the first Gaussians alone are a good model: make levels.

    Raises:
        FormatError: too many Gaussians.
    """
    num = len(codes)
    if num > MAX_GAUSSIANS:
        raise FormatError(f"at most {MAX_GAUSSIANS:,} Gaussians", f"{num:,}")
    ends = sorted({math.ceil(share * num) for share in LEVELS}) if nested else [num]
    places = places_on_curve(codes)
    order = [start + np.argsort(places[start:end], kind="stable") for start, end in pairwise([0, *ends])]
    codes = codes[torch.from_numpy(np.concatenate(order))]
    streams = {
        "viewpoints": code.color_basis.to_bytes(),
        "basis": b"" if code.pca_basis is None else code.pca_basis.numpy().tobytes(),
    }
    with _workers() as pool:
        for index, block in enumerate(pool.map(lambda block: _write_block(codes[block]), blocks_of(ends))):
            streams |= {f"{name}.{index}": stream for name, stream in block.items()}
    streams["padding"] = bytes(max(0, num // GAUSSIANS_PER_BYTE - sum(map(len, streams.values()))))
    others = ("version", "opacity_weights", "turn_weights", "color_basis", "pca_basis")
    values = {field.name: getattr(code, field.name) for field in fields(code) if field.name not in others}
    values["opacity_high"] = code.opacity_low + len(code.opacity_weights) - 1
    num_components = "none" if code.pca_basis is None else code.num_components
    values |= {"view_cosine": code.color_basis.cosine, "basis": num_components}
    header = {VERSION_KEY: code.version, PROFILE_KEY: NAME, "gaussians": num, **values}
    return (header | {VERSION_KEY: _NESTED_VERSION, LEVELS_KEY: ends} if len(ends) > 1 else header), streams


def _write_block(codes: Codes) -> dict[str, bytes]:
    """The streams of a block, its Gaussians in the order of the file."""
    steps = np.diff(morton_codes(codes.cells.numpy()), prepend=np.uint64(0))
    lengths = _bit_lengths(steps)
    codes.ends = _ends(codes.rest)
    codes.sorted_rest = codes.rest[torch.from_numpy(_longest_first(codes.ends))]
    writer = SymbolWriter()
    writer.write(lengths)
    for name, column, some, contexts in chain(_size_fields(codes), _turn_fields(codes), _color_fields(codes)):
        writer.write(getattr(codes, name).numpy()[some, column], contexts)
    if codes.ends.any():
        biases, components = _biases(codes), codes.sorted_rest.numpy()
        writer.write_bytes(biases.tobytes())
        found = _component_fields(codes, biases)
        writer.write_together([(components[some, column], contexts) for column, some, contexts in found])
    return {
        **writer.streams(),
        "positions": pack_bits(steps, _low_bits(lengths)),
        "places": _pack_places(codes),
    }


def blocks_of(ends: Sequence[int]) -> list[slice]:
    """Runs of Gaussians that are stored independently, those of a level of about equal size, one for each core."""
    blocks = []
    for start, end in pairwise([0, *ends]):
        num, count = end - start, -(-(end - start) // BLOCK)
        blocks += [slice(start + num * i // count, start + num * (i + 1) // count) for i in range(count)]
    return blocks


def parts_of(data: bytes) -> list[bytes]:
    """The pieces of a .gsz with which a reader can decode one more level each; a single one if there are none."""
    header, streams = unpack(data)
    ends = levels_in(header)
    last = {f"{_BLOCK_STREAMS[-1]}.{i}" for i, block in enumerate(blocks_of(ends)) if block.stop in ends[:-1]}
    at, cuts = len(data) - sum(map(len, streams.values())), [0]
    for name, stream in streams.items():
        at += len(stream)
        cuts += [at] if name in last else []
    return [data[start:end] for start, end in pairwise([*cuts, len(data)])]


def places_on_curve(codes: Codes) -> np.ndarray:
    """(N,) uint64 sort keys of the file: Morton codes of the cells, then of the places in them."""
    fine = codes.cells << MAX_DEPTH | codes.places << (MAX_DEPTH - codes.depths.long())[:, None]
    return morton_codes(fine.numpy())


def read(header: dict[str, Any], streams: dict[str, bytes]) -> Arrays:
    """The arrays of a model, in Morton order; level by level if it is nested, the most opaque of each first.

    Raises:
        FormatError: header or streams break the format.
    """
    num, ends = _read_count(header, streams), levels_in(header)
    blocks = blocks_of(ends or [num])
    names = [*_STREAMS, *(f"{name}.{index}" for index in range(len(blocks)) for name in _BLOCK_STREAMS)]
    if set(streams) != set(names):
        raise FormatError(f"the streams {', '.join(names)}"[:99], ", ".join(streams)[:99] or "none")
    code = _read_header(header, streams)
    shapes = {**SHAPES, "sh_rest": (code.num_rest, 3)}
    parameters = {name: torch.empty(num, *shape) for name, shape in shapes.items()}

    def fill(index: int, block: slice) -> None:
        own_streams = {name: streams[f"{name}.{index}"] for name in _BLOCK_STREAMS}
        _read_block(code, own_streams, {name: values[block] for name, values in parameters.items()})

    with _workers() as pool:
        list(pool.map(fill, range(len(blocks)), blocks))
    for level in (slice(*each) for each in pairwise([0, *ends])):
        order = parameters["opacity_logits"][level, 0].argsort(descending=True, stable=True)
        for values in parameters.values():
            values[level] = values[level][order]
    return SavedArrays({name: values.numpy() for name, values in parameters.items()}, nested=bool(ends))


def _read_block(code: CompactCode, streams: dict[str, bytes], parameters: Parameters) -> None:
    """Fill ``parameters`` with the Gaussians of a block."""
    num = len(parameters["means"])
    reader = SymbolReader(streams)
    widths = {"opacity": 1, "order": 1, "size": 1, "ratios": 2, "quats": 3, "dc": 3, "ends": 1}
    widths["sorted_rest"] = code.num_components
    # One column is read at a time: its numbers are neighbours in memory.
    columns = {name: torch.zeros(width, num, dtype=torch.int16).T for name, width in widths.items()}
    lengths = np.empty(num, np.uint8)
    reader.read(lengths, (0, 3 * code.position_bits))
    cells = torch.from_numpy(_read_cells(lengths, streams["positions"], code.position_bits))
    codes = Codes(cells=cells, **columns)
    _read_fields(reader, code, codes, _size_fields(codes))
    derived = [code.derived(codes[i : i + _PART]) for i in range(0, num, _PART)]
    codes.weights, codes.quat_weights, codes.depths = (torch.cat(parts) for parts in zip(*derived, strict=True))
    codes.places = _unpack_places(streams["places"], codes.depths)
    _read_fields(reader, code, codes, _turn_fields(codes))
    _read_fields(reader, code, codes, _color_fields(codes))
    _read_components(reader, code, codes)
    reader.finish()
    bases = code.cell_bases()
    codes.basis_index = code.basis_index(codes, bases)
    rank = torch.empty(num, dtype=torch.int64)
    rank[_longest_first(codes.ends)] = torch.arange(num)
    components = codes.sorted_rest.T
    del codes.sorted_rest  # it has an order of its own
    for start in range(0, num, _PART):
        some = slice(start, start + _PART)
        part = codes[some]
        part.rest = components.index_select(1, rank[some]).T
        for name, values in {**code.shape_values(part), **code.color_values(part, bases)}.items():
            parameters[name][some] = values  # rounded to single precision


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has, in which torch, which releases the GIL, uses no threads of its own."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(default_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # or threads that are made later would get one, too


def _read_fields(reader: SymbolReader, code: CompactCode, codes: Codes, fields: Iterator[Field]) -> None:
    for name, column, some, contexts in fields:
        reader.read(getattr(codes, name).numpy()[some, column], code.limits(name, column), contexts)


# ---- fields in the order of the file: the contexts of each need the codes of those before it ----


def _size_fields(codes: Codes) -> Iterator[Field]:
    everyone = slice(None)
    yield "opacity", 0, everyone, None
    yield "order", 0, everyone, None
    yield "size", 0, everyone, None
    yield "ratios", 0, everyone, _contexts(codes.size[:, 0] + 128)
    yield "ratios", 1, everyone, _contexts(codes.ratios[:, 0])


def _turn_fields(codes: Codes) -> Iterator[Field]:
    for column in range(3):
        yield "quats", column, slice(None), _contexts(codes.quat_weights[:, column])


def _color_fields(codes: Codes) -> Iterator[Field]:
    """A component's field holds only the Gaussians that have it, in the order of `_longest_first`."""
    weights = _contexts(codes.weights)
    for column in range(3):
        yield "dc", column, slice(None), weights
    yield "ends", 0, slice(None), weights


def _read_components(reader: SymbolReader, code: CompactCode, codes: Codes) -> None:
    limits = code.limits("sorted_rest", 0)
    if code.version == 1:
        for column, some, contexts in _component_fields(codes, None):
            reader.read(codes.sorted_rest.numpy()[some, column], limits, contexts)
    elif codes.ends.any():
        biases = np.frombuffer(reader.read_bytes(code.num_components), np.int8)
        tables = reader.tables_of_fields(limits)
        for column, some, contexts in _component_fields(codes, biases):
            reader.read_one(codes.sorted_rest.numpy()[some, column], tables, contexts)


def _component_fields(codes: Codes, biases: np.ndarray | None) -> Iterator[tuple[int, slice, Contexts]]:
    """Column, Gaussians and contexts of each field of ``sorted_rest``.

    A component's field holds only the Gaussians that have it, in the order of `_longest_first`.

    Args:
        codes: of a block.
        biases: (K,) int8, of the contexts of each component; None: of a file of version 1.
    """
    weights = codes.weights.numpy()[_longest_first(codes.ends)].astype(np.int16)
    for column, (num, longer, activity) in enumerate(_activities(codes)):
        if biases is None:
            numbers, last = activity >> 2 if column else weights[:num], 128
        else:
            numbers = _expected(activity, weights[:num]) + 32 * biases[column].astype(np.int16) >> 7
            last = 32
        numbers = np.clip(numbers, 0, last - 1).astype(np.uint8)
        numbers[longer:] += last  # their last component, so not 0
        yield column, slice(num), Contexts(numbers)


def _activities(codes: Codes) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each component how many Gaussians have it and a further one, and (num,) int16 the size of those before it."""
    components = codes.sorted_rest.numpy()
    ends = np.bincount(codes.ends[:, 0], minlength=components.shape[1] + 1)
    remaining = np.cumsum(ends[::-1])[-2::-1].tolist()
    activity = np.zeros(len(components), np.int16)  # the last components weigh most
    for column, (num, longer) in enumerate(pairwise([*remaining, 0])):
        activity = activity[:num]
        yield num, longer, activity
        activity = (activity * 3 >> 2) + (np.minimum(np.abs(components[:num, column]), _LIVELY) << 3)


def _expected(activity: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) int16, 256 log2 of the expected size of components, without the bias of their column."""
    return _ACTIVITY_LEVELS[activity] + 24 * weights


def _biases(codes: Codes) -> np.ndarray:
    """(K,) int8, 8 log2 of the mean size of each component, plus 3, less that of `_expected`."""
    components = codes.sorted_rest.numpy()
    weights = codes.weights.numpy()[_longest_first(codes.ends)].astype(np.int16)
    biases = np.zeros(components.shape[1], np.int8)
    for column, (num, _, activity) in enumerate(_activities(codes)):
        if num:
            size = np.abs(components[:num, column]).mean() + 0.15
            expected = np.exp2(_expected(activity, weights[:num]) / 256).mean()
            biases[column] = np.clip(round(8 * (math.log2(size / expected) + 3)), -128, 127)
    return biases


def _longest_first(ends: torch.Tensor) -> np.ndarray:
    """(N,) int64, the order of the Gaussians in the fields of components: by falling ``ends``."""
    return np.argsort(255 - ends[:, 0].numpy().astype(np.uint8), kind="stable")  # there are 45 at most


def _ends(components: torch.Tensor) -> torch.Tensor:
    """(N,1) int64: how many components a Gaussian has up to its last one that is not 0."""
    places = torch.arange(1, components.shape[1] + 1)
    ends = torch.where(components != 0, places, 0)
    return torch.cat([torch.zeros(len(ends), 1, dtype=ends.dtype), ends], 1).amax(1, keepdim=True)


def _contexts(values: torch.Tensor) -> Contexts:
    return Contexts(values.clamp(0, 255).to(torch.uint8).numpy())


# ---- positions: the bit length of each step along the curve is a symbol, its lower bits are stored as they are ----


def _bit_lengths(steps: np.ndarray) -> np.ndarray:
    """(N,) bits of (N,) uint64 below 2^53."""
    return np.frexp(steps.astype(np.float64))[1].astype(np.int64)


def _low_bits(lengths: np.ndarray) -> np.ndarray:
    return np.maximum(lengths, 1) - 1


def _read_cells(lengths: np.ndarray, bits: bytes, position_bits: int) -> np.ndarray:
    """(N,3) int32."""
    if not len(lengths):
        return np.zeros((0, 3), np.int32)
    first_bits = np.where(lengths > 0, np.uint64(1) << _low_bits(lengths).astype(np.uint64), np.uint64(0))
    places = np.cumsum(first_bits | unpack_bits(bits, _low_bits(lengths)), dtype=np.uint64)
    # Before a sum of up to 2^27 steps of 42 bits overflows 64 bits, one of the sums is behind the end of the curve.
    if int(places.max()) >> (3 * position_bits):
        raise FormatError("positions on the Morton curve", "one behind its end")
    return morton_cells(places).astype(np.int32)


def _pack_places(codes: Codes) -> bytes:
    depths = codes.depths.long()
    x, y, z = codes.places.unbind(1)
    return pack_bits((x | y << depths | z << 2 * depths).numpy().astype(np.uint64), 3 * depths.numpy())


def _unpack_places(bits: bytes, depths: torch.Tensor) -> torch.Tensor:
    """(N,3) int32."""
    packed = torch.from_numpy(unpack_bits(bits, 3 * depths.numpy()).astype(np.int32))
    mask = (1 << depths) - 1
    return torch.stack([packed >> axis * depths & mask for axis in range(3)], 1)


# ---- the header ----


def _read_count(header: dict[str, Any], streams: dict[str, bytes]) -> int:
    size = sum(map(len, streams.values()))
    return header_integer(header, "gaussians", range(min(MAX_GAUSSIANS, GAUSSIANS_PER_BYTE * (size + 1)) + 1))


def _read_header(header: dict[str, Any], streams: dict[str, bytes]) -> CompactCode:
    num_rest = header_integer(header, "num_rest", REST_COUNTS)
    position_bits = header_integer(header, "position_bits", POSITION_BITS)
    centre = header.get("centre")
    if not isinstance(centre, list) or len(centre) != 3:
        raise FormatError("a centre of 3 numbers", repr(centre)[:99])
    names = ("scale_step", "opacity_step", "quat_step", "dc_step", "rest_step")
    steps: dict[str, Any] = {name: _number(header.get(name), name, 1e-30, _LARGEST_STEP) for name in names}
    return CompactCode(
        version=header[VERSION_KEY],
        position_bits=position_bits,
        centre=tuple(_number(value, "centre", -1e30) for value in centre),
        spread=_number(header.get("spread"), "spread", 1e-30),
        **steps,
        **(_read_weights if header[VERSION_KEY] > 1 else _read_weights_of_version_1)(header),
        num_rest=num_rest,
        color_basis=ColorBasis.from_bytes(streams["viewpoints"], _number(header.get("view_cosine"), "view_cosine", -1)),
        pca_basis=_read_pca_basis(header.get("basis"), streams["basis"], 3 * num_rest),
    )


def _read_pca_basis(components: object, data: bytes, num_columns: int) -> torch.Tensor | None:
    if components == "none" and not data:
        return None
    if type(components) is not int or not 0 <= components <= num_columns or len(data) != components * num_columns:
        raise FormatError("a basis of the size in the header", f"{len(data)} numbers for {components!r:.99}")
    return torch.from_numpy(np.frombuffer(data, np.int8).reshape(components, num_columns).copy())


def _read_weights(header: dict[str, Any]) -> dict[str, Any]:
    low = header_integer(header, "opacity_low", range(-MAX_CODE, MAX_CODE + 1))
    high = header_integer(header, "opacity_high", range(low, MAX_CODE + 1))
    return {
        "opacity_low": low,
        "opacity_weights": opacity_weights(low, high, _number(header.get("opacity_step"), "opacity_step", 1e-30)),
        "turn_weights": turn_weights(),
        "color_weight": _factors(header, "color_weight", 5),
        "quat_weight": _factors(header, "quat_weight", 6),
        "depth": _factors(header, "depth", 5),
    }


def _read_weights_of_version_1(header: dict[str, Any]) -> dict[str, Any]:
    """There the header held tables, and the factors were fixed."""
    offset, depth_offset = (_within(header.get(key), 1 << 24, key) for key in ("weight_offset", "depth_offset"))
    return {
        "opacity_low": header_integer(header, "opacity_low", range(-MAX_CODE, MAX_CODE + 1)),
        "opacity_weights": _integers(header, "opacity_weights", 1 << 24, range(1, 2 * MAX_CODE + 2)),
        "turn_weights": _integers(header, "turn_weights", 1 << 24, range(1, 2 * MAX_CODE + 2)),
        "color_weight": (64, 64, 64, 0, -64, offset),
        "quat_weight": (64, 64, 64, 0, -64, 64, offset),
        "depth": (64, 0, -160, -64, 192, depth_offset),
    }


def _factors(header: dict[str, Any], key: str, count: int) -> tuple[int, ...]:
    """``count`` factors and a summand."""
    *factors, offset = _integers(header, key, 1 << 24, range(count + 1, count + 2))
    return (*(_within(factor, 1 << 10, key) for factor in factors), offset)


def _integers(header: dict[str, Any], key: str, limit: int, lengths: range) -> tuple[int, ...]:
    values = header.get(key)
    if not isinstance(values, list) or len(values) not in lengths:
        raise FormatError(f"{key} in the header", repr(values)[:99])
    return tuple(_within(value, limit, key) for value in values)


def _within(value: object, limit: int, key: str) -> int:
    if type(value) is not int or abs(value) > limit:
        raise FormatError(f"an integer within {limit:,} as {key}", repr(value)[:99])
    return value


def _number(value: Any, key: str, low: float, high: float = 1e30) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        raise FormatError(f"{key} in the header from {low:g} to {high:g}", repr(value)[:99])
    return float(value)
