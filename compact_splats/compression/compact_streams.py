"""The codes of the profile "compact" as the header and streams of a .gsz, and back; ``docs/gsz.md`` has the layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch

from compact_splats.compression.arrays import REST_COUNTS, SHAPES, Arrays
from compact_splats.compression.compact_code import MAX_CODE, MAX_DEPTH, Codes, CompactCode
from compact_splats.compression.container import MAX_GAUSSIANS, PROFILE_KEY, FormatError, header_integer
from compact_splats.compression.entropy import Contexts, SymbolReader, SymbolWriter, pack_bits, unpack_bits
from compact_splats.compression.morton import morton_cells, morton_codes
from compact_splats.compression.viewpoints import Viewpoints

NAME = "compact"
POSITION_BITS = range(8, 15)
GAUSSIANS_PER_BYTE = 256  # at most, so that a small file cannot claim a large model
BLOCK = 1 << 18  # Gaussians that one core reads, at most
_STREAMS, _BLOCK_STREAMS = ("viewpoints", "basis", "padding"), ("tables", "symbols", "positions", "places")
_PART = 1 << 14  # Gaussians whose values are computed at a time: few enough for the cache
Field = tuple[str, int, slice, Contexts | None]  # code, column, Gaussians, contexts of their symbols
_LARGEST_STEP = 1e20  # with it, and with positions within 1e30, no code stands for more than a float32 holds
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
    order = torch.from_numpy(np.argsort(places_on_curve(codes), kind="stable"))
    codes = {name: each[order] for name, each in codes.items()}
    streams = {
        "viewpoints": code.viewpoints.to_bytes(),
        "basis": b"" if code.basis is None else code.basis.numpy().tobytes(),
    }
    with _workers() as pool:
        blocks = pool.map(
            lambda block: _write_block({name: each[block] for name, each in codes.items()}), blocks_of(num)
        )
        for index, block in enumerate(blocks):
            streams |= {f"{name}.{index}": stream for name, stream in block.items()}
    streams["padding"] = bytes(max(0, num // GAUSSIANS_PER_BYTE - sum(map(len, streams.values()))))
    values = {field.name: getattr(code, field.name) for field in fields(code) if field.name not in _STREAMS}
    values |= {"view_cosine": code.viewpoints.cosine, "basis": "none" if code.basis is None else code.num_components}
    return {PROFILE_KEY: NAME, "gaussians": num, **values}, streams


def _write_block(codes: Codes) -> dict[str, bytes]:
    """The streams of a block, its Gaussians in the order of the file."""
    steps = np.diff(morton_codes(codes["cells"].numpy()), prepend=np.uint64(0))
    lengths = _bit_lengths(steps)
    codes["ends"] = _ends(codes["rest"])
    codes["sorted_rest"] = codes["rest"][torch.from_numpy(_longest_first(codes["ends"]))]
    writer = SymbolWriter()
    writer.write(lengths)
    for name, column, some, contexts in chain(_size_fields(codes), _turn_fields(codes), _color_fields(codes)):
        writer.write(codes[name].numpy()[some, column], contexts)
    return {
        **writer.streams(),
        "positions": pack_bits(steps, _low_bits(lengths)),
        "places": _pack_places(codes),
    }


def blocks_of(num: int) -> list[slice]:
    """Runs of Gaussians, each stored by itself; of about one size, so that cores are done together."""
    count = -(-num // BLOCK)
    return [slice(num * i // count, num * (i + 1) // count) for i in range(count)]


def places_on_curve(codes: Codes) -> np.ndarray:
    """(N,) uint64, by which the file is sorted: the Morton codes of cells, and of places in them behind."""
    fine = codes["cells"] << MAX_DEPTH | codes["places"] << (MAX_DEPTH - codes["depths"].long())[:, None]
    return morton_codes(fine.numpy())


def read(header: dict[str, Any], streams: dict[str, bytes]) -> Arrays:
    """The rows of a model, in Morton order.

    Raises:
        FormatError: header or streams are none that :func:`write` makes.
    """
    num = _read_count(header, streams)
    blocks = blocks_of(num)
    names = [*_STREAMS, *(f"{name}.{index}" for index in range(len(blocks)) for name in _BLOCK_STREAMS)]
    if set(streams) != set(names):
        raise FormatError(f"the streams {', '.join(names)}"[:99], ", ".join(streams)[:99] or "none")
    code = _read_header(header, streams)
    shapes = {**SHAPES, "sh_rest": (code.num_rest, 3)}
    rows = {name: torch.empty(num, *shape) for name, shape in shapes.items()}

    def fill(index: int, block: slice) -> None:
        own_streams = {name: streams[f"{name}.{index}"] for name in _BLOCK_STREAMS}
        _read_block(code, own_streams, {name: row[block] for name, row in rows.items()})

    with _workers() as pool:
        list(pool.map(fill, range(len(blocks)), blocks))
    return {name: row.numpy() for name, row in rows.items()}


def _read_block(code: CompactCode, streams: dict[str, bytes], rows: dict[str, torch.Tensor]) -> None:
    """Fill ``rows`` with the Gaussians of a block."""
    num = len(rows["means"])
    reader = SymbolReader(streams)
    widths = {"opacity": 1, "order": 1, "size": 1, "ratios": 2, "quats": 3, "dc": 3, "ends": 1}
    widths["sorted_rest"] = code.num_components
    # A column lies together in memory, since one is read at a time.
    codes = {name: torch.zeros(width, num, dtype=torch.int16).T for name, width in widths.items()}
    lengths = np.empty(num, np.uint8)
    reader.read(lengths, (0, 3 * code.position_bits))
    codes["cells"] = torch.from_numpy(_read_cells(lengths, streams["positions"], code.position_bits))
    _read_fields(reader, code, codes, _size_fields(codes))
    codes |= _in_parts(code.derived, codes)
    codes["places"] = _unpack_places(streams["places"], codes["depths"])
    _read_fields(reader, code, codes, _turn_fields(codes))
    _read_fields(reader, code, codes, _color_fields(codes))
    reader.finish()
    frames = code.frames()
    codes |= code.frame_indices(codes, frames)
    rank = torch.empty(num, dtype=torch.int64)
    rank[_longest_first(codes["ends"])] = torch.arange(num)
    components = codes.pop("sorted_rest").T
    for start in range(0, num, _PART):
        some = slice(start, start + _PART)
        part = {name: each[some] for name, each in codes.items()}
        part["rest"] = components.index_select(1, rank[some]).T
        for name, values in {**code.shape_values(part), **code.color_values(part, frames)}.items():
            rows[name][some] = values  # rounded to single precision


def _in_parts(derived: Callable[[Codes], Codes], codes: Codes) -> Codes:
    """What is derived, of ``_PART`` Gaussians at a time."""
    num = len(codes["cells"])
    parts = [derived({name: each[i : i + _PART] for name, each in codes.items()}) for i in range(0, num, _PART)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """A thread for each core; torch, which works without Python's lock, takes no more of its own for them."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # else threads that are made later would have one, too


def _read_fields(reader: SymbolReader, code: CompactCode, codes: Codes, fields: Iterator[Field]) -> None:
    for name, column, some, contexts in fields:
        reader.read(codes[name].numpy()[some, column], code.limits(name, column), contexts)


# ---- fields in the order of the file; the next one is asked for only when the one before it stands in the codes ----
# Besides those of `CompactCode` there are the codes "ends" (N,1), of `_ends`, and "sorted_rest" (N,K), "rest" of the
# Gaussians in the order of `_longest_first`.


def _size_fields(codes: Codes) -> Iterator[Field]:
    everyone = slice(None)
    yield "opacity", 0, everyone, None
    yield "order", 0, everyone, None
    yield "size", 0, everyone, None
    yield "ratios", 0, everyone, _contexts(codes["size"][:, 0] + 128)
    yield "ratios", 1, everyone, _contexts(codes["ratios"][:, 0])


def _turn_fields(codes: Codes) -> Iterator[Field]:
    for column in range(3):
        yield "quats", column, slice(None), _contexts(codes["quat_weights"][:, column])


def _color_fields(codes: Codes) -> Iterator[Field]:
    """Of a component, it is those Gaussians whose components have not ended before, those with the most first."""
    weights = _contexts(codes["weights"])
    for column in range(3):
        yield "dc", column, slice(None), weights
    yield "ends", 0, slice(None), weights
    components = codes["sorted_rest"].numpy()
    ends = np.bincount(codes["ends"][:, 0], minlength=components.shape[1] + 1)
    remaining = np.cumsum(ends[::-1])[-2::-1].tolist()  # Gaussians that have each component
    like = codes["weights"].numpy()[_longest_first(codes["ends"])]
    activity = np.zeros(len(like), np.int16)  # of the components before, the last ones most
    for column, (num, longer) in enumerate(pairwise([*remaining, 0])):
        numbers = np.minimum(activity[:num] >> 2 if column else like[:num], 127).astype(np.uint8)
        numbers[longer:] += 128  # their last component, so not 0
        yield "sorted_rest", column, slice(num), Contexts(numbers)
        activity = (activity[:num] * 3 >> 2) + (np.minimum(np.abs(components[:num, column]), _LIVELY) << 3)


def _longest_first(ends: torch.Tensor) -> np.ndarray:
    """(N,) int64, the order of Gaussians in which their components stand in the file: first those that end last."""
    return np.argsort(255 - ends[:, 0].numpy().astype(np.uint8), kind="stable")  # there are 45 at most


def _ends(components: torch.Tensor) -> torch.Tensor:
    """(N,1) int64: how many components a Gaussian has up to its last one that is not 0."""
    places = torch.arange(1, components.shape[1] + 1)
    ends = torch.where(components != 0, places, 0)
    return torch.cat([torch.zeros(len(ends), 1, dtype=ends.dtype), ends], 1).amax(1, keepdim=True)


def _contexts(values: torch.Tensor) -> Contexts:
    return Contexts(values.clamp(0, 255).to(torch.uint8).numpy())


# ---- positions: the length of each step along the curve is a symbol, its bits but the first stand as they are ----


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
    # A sum of up to 2^27 steps of 42 bits could pass 2^64 only after it has been behind the end.
    if int(places.max()) >> (3 * position_bits):
        raise FormatError("positions on the Morton curve", "one behind its end")
    return morton_cells(places).astype(np.int32)


def _pack_places(codes: Codes) -> bytes:
    depths = codes["depths"].long()
    x, y, z = codes["places"].unbind(1)
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
    steps = ("scale_step", "opacity_step", "quat_step", "dc_step", "rest_step")
    return CompactCode(
        position_bits=position_bits,
        centre=tuple(_number(value, "centre", -1e30) for value in centre),
        spread=_number(header.get("spread"), "spread", 1e-30),
        **{name: _number(header.get(name), name, 1e-30, _LARGEST_STEP) for name in steps},
        opacity_low=header_integer(header, "opacity_low", range(-MAX_CODE, MAX_CODE + 1)),
        opacity_weights=_weights(header, "opacity_weights"),
        weight_offset=_weight(header.get("weight_offset"), "weight_offset"),
        turn_weights=_weights(header, "turn_weights"),
        depth_offset=_weight(header.get("depth_offset"), "depth_offset"),
        num_rest=num_rest,
        viewpoints=Viewpoints.from_bytes(streams["viewpoints"], _number(header.get("view_cosine"), "view_cosine", -1)),
        basis=_read_basis(header.get("basis"), streams["basis"], 3 * num_rest),
    )


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
    if type(value) is not int or abs(value) > 1 << 24:
        raise FormatError(f"an integer within 2^24 as {key}", repr(value)[:99])
    return value


def _number(value: object, key: str, low: float, high: float = 1e30) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        raise FormatError(f"{key} in the header from {low:g} to {high:g}", repr(value)[:99])
    return float(value)
