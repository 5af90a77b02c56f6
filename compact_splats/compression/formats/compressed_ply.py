"""PlayCanvas's .compressed.ply: 16 bytes a Gaussian, and one more for each coefficient of the higher SH degrees.

Three elements of a little-endian PLY: ``chunk`` (for each 256 Gaussians float32 bounds of positions, log-scales and
colours), ``vertex`` (packed_position 11 + 10 + 11 bits, packed_rotation 2 + 3 x 10, packed_scale 11 + 10 + 11,
packed_color 4 x 8) and ``sh``.

[https://blog.playcanvas.com/tags/compression, "Compressing Gaussian Splats"; https://github.com/sparkjsdev/spark/pull/82;
https://github.com/SethKitchen/ThreeMojo/wiki/Compressed-PLY-files]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compact_splats.compression.arrays import REST_COUNTS, Arrays
from compact_splats.compression.container import FormatError
from compact_splats.compression.formats.common import (
    MAX_PART,
    color_to_dc,
    dc_to_color,
    from_smallest_three,
    opacity_from_byte,
    opacity_to_byte,
    read_file,
    smallest_three,
    spatial_order,
    write_file,
)

_CHUNK = 256  # Gaussians
_AXIS_BITS = (11, 10, 11)
_ROTATION_BITS = (2, 10, 10, 10)
_COLOR_BITS = (8, 8, 8, 8)
_MAX_LOG_SCALE = 20.0  # beyond +-this, scales are cut off
_SH_RANGE = 8.0  # coefficients from -4 to 4
_MAX_HEADER = 1 << 16  # bytes
_BOUNDS = {
    "position": ("min_x", "min_y", "min_z", "max_x", "max_y", "max_z"),
    "scale": tuple(f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz"),
    "color": ("min_r", "min_g", "min_b", "max_r", "max_g", "max_b"),
}
_VERTEX = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4"},
    **{"float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8"},
}


def write(path: str | Path, rows: Mapping[str, np.ndarray]) -> None:
    """Write a model, in Morton order.

    Args:
        path: the file; replaced in one move.
        rows: arrays in the shapes of ``GaussianModel.parameters``, at least one Gaussian.

    Raises:
        InputError: rows that are not those of a model, or a file that cannot be written.
    """
    write_file(path, rows, _pack)


def read(path: str | Path) -> Arrays:
    """Read a model of SH degree 0 to 3, with or without bounds of colours.

    Raises:
        InputError: no such file, not a compressed PLY, or one that is damaged.
    """
    return read_file(path, _unpack)


# ---- writing ----


def _pack(rows: Arrays) -> bytes:
    rows = {name: row[order] for order in [spatial_order(rows["means"])] for name, row in rows.items()}
    num = len(rows["means"])
    measured = {
        "position": rows["means"],
        "scale": np.clip(rows["log_scales"], -_MAX_LOG_SCALE, _MAX_LOG_SCALE),
        "color": dc_to_color(rows["sh_dc"][:, 0]).astype(np.float32),
    }
    starts = np.arange(0, num, _CHUNK)
    chunks = np.empty(len(starts), [(name, "<f4") for names in _BOUNDS.values() for name in names])
    fractions = {}
    for key, values in measured.items():
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        for name, column in zip(_BOUNDS[key], np.concatenate([low, high], axis=1).T, strict=True):
            chunks[name] = column
        low, extent = (np.repeat(bound, _CHUNK, axis=0)[:num].astype(np.float64) for bound in (low, high - low))
        fractions[key] = (values - low) / np.where(extent > 0, extent, 1)
    # Without 0 and 1, of which splat-transform makes infinite logits; 1/255 is the first opacity that can be seen.
    opacity = np.clip(opacity_to_byte(rows["opacity_logits"]), 1, 254) / 255
    vertices = np.empty(num, [(name, "<u4") for name in _VERTEX])
    vertices["packed_position"] = _packed(fractions["position"], _AXIS_BITS)
    vertices["packed_rotation"] = _pack_rotations(rows["quats"])
    vertices["packed_scale"] = _packed(fractions["scale"], _AXIS_BITS)
    vertices["packed_color"] = _packed(np.concatenate([fractions["color"], opacity], axis=1), _COLOR_BITS)
    elements = {"chunk": chunks, "vertex": vertices}
    if num_rest := 3 * rows["sh_rest"].shape[1]:
        table = np.empty((num, num_rest), np.uint8)
        for i in range(num_rest):  # all of red, then green, then blue
            table[:, i] = _rest_to_bytes(rows["sh_rest"][:, i % (num_rest // 3), i // (num_rest // 3)])
        elements["sh"] = table.view([(f"f_rest_{i}", "u1") for i in range(num_rest)]).reshape(num)
    return _header(elements) + b"".join(element.tobytes() for element in elements.values())


def _header(elements: dict[str, np.ndarray]) -> bytes:
    names = {_TYPES[name]: name for name in ("uchar", "uint", "float")}
    lines = ["ply", "format binary_little_endian 1.0"]
    for name, table in elements.items():
        lines.append(f"element {name} {len(table)}")
        lines += [f"property {names[kind.lstrip('|')]} {column}" for column, kind in table.dtype.descr]
    return "\n".join([*lines, "end_header", ""]).encode("ascii")


def _packed(fractions: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """(N,) uint32 of fractions (N,C) from 0 to 1, the first in the highest bits."""
    packed = np.zeros(len(fractions), np.uint32)
    for column, width in zip(fractions.T, bits, strict=True):
        packed = packed << np.uint32(width) | np.rint(column * (2**width - 1)).astype(np.uint32)
    return packed


def _pack_rotations(quats: np.ndarray) -> np.ndarray:
    largest, parts = smallest_three(quats)
    fractions = np.clip(parts / (2 * MAX_PART) + 0.5, 0, 1)
    return _packed(np.concatenate([largest[:, None] / 3, fractions], axis=1), _ROTATION_BITS)


def _rest_to_bytes(values: np.ndarray) -> np.ndarray:
    """The step that each value is in; the first and the last step are read as the ends of the range."""
    steps = (values.astype(np.float64) / _SH_RANGE + 0.5) * 256
    middles = np.clip(np.floor(steps), 1, 254)
    return np.where(steps < 0.75, 0, np.where(steps > 255.25, 255, middles)).astype(np.uint8)


# ---- reading ----


def _unpack(data: bytes) -> Arrays:
    elements = _elements(data)
    chunks, vertices = _element(elements, "chunk", ()), _element(elements, "vertex", _VERTEX)
    num = len(vertices)
    if not num:
        raise FormatError("at least one Gaussian", "none")
    if len(chunks) != -(-num // _CHUNK):
        raise FormatError(f"{-(-num // _CHUNK)} chunks of {_CHUNK} for {num} vertices", f"{len(chunks)}")
    if any(vertices[name].dtype != np.uint32 for name in _VERTEX):
        raise FormatError(f"the uint properties {', '.join(_VERTEX)}", "other types")
    colors = _unpacked(vertices["packed_color"], _COLOR_BITS)
    if "min_r" in chunks.dtype.names:
        colors[:, :3] = _in_bounds(chunks, "color", colors[:, :3])
    rotations = _unpacked(vertices["packed_rotation"], _ROTATION_BITS)
    quats = from_smallest_three(np.rint(3 * rotations[:, 0]).astype(np.int64), (2 * rotations[:, 1:] - 1) * MAX_PART)
    positions = _in_bounds(chunks, "position", _unpacked(vertices["packed_position"], _AXIS_BITS))
    scales = _in_bounds(chunks, "scale", _unpacked(vertices["packed_scale"], _AXIS_BITS))
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
        return {
            "means": positions.astype(np.float32),
            "log_scales": scales.astype(np.float32),
            "quats": quats,
            "opacity_logits": opacity_from_byte(255 * colors[:, 3:]),
            "sh_dc": color_to_dc(colors[:, None, :3]),
            "sh_rest": _rest(elements, num),
        }


def _elements(data: bytes) -> dict[str, np.ndarray]:
    """The tables of the file by name. Less than plyfile does, and therefore nothing that a header could make large."""
    start = data[:_MAX_HEADER]
    end = start.find(b"end_header\n")
    if not start.startswith(b"ply") or end < 0:
        raise FormatError("a PLY file", f"one that starts with {start[:4]!r} or whose header does not end")
    lines = [line.split() for line in start[:end].decode("latin-1").splitlines()[1:]]
    if ["format", "binary_little_endian", "1.0"] not in lines:
        raise FormatError("a compressed PLY, format binary_little_endian 1.0", "another format")
    columns: dict[str, list[tuple[str, str]]] = {}
    counts: dict[str, int] = {}
    for line in lines:
        match line:
            case ["element", name, count] if name not in counts and count.isascii() and count.isdigit():
                columns[name], counts[name] = [], int(count[:20])
            case ["property", kind, column] if kind in _TYPES and columns:
                columns[name].append((column, _TYPES[kind]))
            case [] | ["comment" | "obj_info" | "format", *_]:
                pass
            case _:
                raise FormatError("elements and properties of a compressed PLY", f"'{' '.join(line)}'")
    position, tables = end + len(b"end_header\n"), {}
    for name, count in counts.items():
        try:
            kind = np.dtype(columns[name])
        except ValueError as error:  # a name twice
            raise FormatError("properties with names of their own", f"'{error}'") from error
        if not kind.itemsize or count * kind.itemsize > len(data) - position:
            raise FormatError(f"{count} rows of '{name}' as the header says", f"{len(data) - position} bytes")
        tables[name] = np.frombuffer(data, kind, count, position)
        position += count * kind.itemsize
    return tables


def _element(elements: dict[str, np.ndarray], name: str, columns: tuple[str, ...]) -> np.ndarray:
    if name not in elements:
        raise FormatError(f"the element '{name}' of a compressed PLY", f"{', '.join(elements) or 'none'}")
    return _with_columns(elements[name], columns)


def _with_columns(table: np.ndarray, columns: tuple[str, ...]) -> np.ndarray:
    missing = [column for column in columns if column not in (table.dtype.names or ())]
    if missing:
        raise FormatError("the properties of a compressed PLY", f"none named {', '.join(missing)}")
    return table


def _unpacked(packed: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """(N,C) float64 from 0 to 1."""
    fractions, shift = np.empty((len(packed), len(bits))), 32
    for column, width in enumerate(bits):
        shift -= width
        fractions[:, column] = (packed >> np.uint32(shift) & np.uint32(2**width - 1)) / (2**width - 1)
    return fractions


def _in_bounds(chunks: np.ndarray, key: str, fractions: np.ndarray) -> np.ndarray:
    """Fractions (N,3) of the bounds of their chunks."""
    table = _with_columns(chunks, _BOUNDS[key])
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by name in the end
        bounds = np.stack([table[name].astype(np.float64) for name in _BOUNDS[key]], axis=1)
        low, high = np.repeat(bounds, _CHUNK, axis=0)[: len(fractions)].reshape(-1, 2, 3).swapaxes(0, 1)
        return low + (high - low) * fractions


def _rest(elements: dict[str, np.ndarray], num: int) -> np.ndarray:
    if "sh" not in elements:
        return np.zeros((num, 0, 3), np.float32)
    table = elements["sh"]
    num_rest = len(table.dtype.names)
    _with_columns(table, tuple(f"f_rest_{i}" for i in range(num_rest)))
    if num_rest not in [3 * count for count in REST_COUNTS] or len(table) != num:
        expected = f"{num} rows of 9, 24 or 45 SH bytes"
        raise FormatError(expected, f"{len(table)} rows of {num_rest}")
    if any(table.dtype[i] != np.uint8 for i in range(num_rest)):
        raise FormatError("uchar f_rest properties", "other types")
    # Middles of the steps, but for the first and the last, which are the ends of the range.
    fractions = np.concatenate([[0], (np.arange(1, 255) + 0.5) / 256, [1]])
    values = ((fractions - 0.5) * _SH_RANGE).astype(np.float32)
    rest = np.empty((num, num_rest // 3, 3), np.float32)
    for i in range(num_rest):  # all of red, then green, then blue
        rest[:, i % (num_rest // 3), i // (num_rest // 3)] = values[table[f"f_rest_{i}"]]
    return rest
