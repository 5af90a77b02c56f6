"""PlayCanvas's .compressed.ply: 16 bytes per Gaussian, and a byte per coefficient of the higher SH degrees.

Three elements of a little-endian PLY: ``chunk`` (for every 256 Gaussians float32 bounds of positions, log-scales and
colours), ``vertex`` (packed_position 11 + 10 + 11 bits, packed_rotation 2 + 3 x 10, packed_scale 11 + 10 + 11,
packed_color 4 x 8) and ``sh``.

[https://blog.playcanvas.com/tags/compression, "Compressing Gaussian Splats"; https://github.com/sparkjsdev/spark/pull/82;
https://github.com/SethKitchen/ThreeMojo/wiki/Compressed-PLY-files]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compact_splats.compression.arrays import Arrays
from compact_splats.compression.container import FormatError, input_errors
from compact_splats.compression.formats.common import (
    MAX_PART,
    READ_FIX,
    WRITE_FIX,
    checked_to_write,
    color_to_dc,
    cut_off,
    dc_to_color,
    from_smallest_three,
    in_spatial_order,
    opacity_from_byte,
    opacity_to_byte,
    smallest_three,
    unpacked,
)
from compact_splats.scene.parameters import REST_COUNTS, SavedArrays
from compact_splats.scene.ply import comments_of, marked_antialiased, read_offset
from compact_splats.scene.ply_file import Columns, read_elements, write_elements

_CHUNK = 256  # Gaussians
_AXIS_BITS = (11, 10, 11)
_ROTATION_BITS = (2, 10, 10, 10)
_COLOR_BITS = (8, 8, 8, 8)
_MAX_LOG_SCALE = 20.0  # larger and smaller scales are clamped
_SH_RANGE = 8.0  # coefficients from -4 to 4
LIMITS = {"log_scales": (-_MAX_LOG_SCALE, _MAX_LOG_SCALE), "sh_rest": (-_SH_RANGE / 2, _SH_RANGE / 2)}
_BOUNDS = {
    "position": ("min_x", "min_y", "min_z", "max_x", "max_y", "max_z"),
    "scale": tuple(f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz"),
    "color": ("min_r", "min_g", "min_b", "max_r", "max_g", "max_b"),
}
_VERTEX = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


def write(path: str | Path, arrays: Arrays) -> list[str]:
    """Write a model, in Morton order."""
    with input_errors(path, WRITE_FIX):
        saved = checked_to_write(arrays)
        elements = _pack(saved)
    write_elements(path, elements, comments_of(saved))
    return cut_off(saved, LIMITS)


def read(path: str | Path, *, keep_nan: bool = False) -> SavedArrays:
    """Read a model of SH degree 0 to 4, with or without bounds of colours."""

    def unpack() -> SavedArrays:
        elements = read_elements(path, ("chunk", "vertex", "sh"), READ_FIX)
        return SavedArrays(_unpack(elements), marked_antialiased(path), offset=read_offset(path))

    return unpacked(path, unpack, keep_nan)


# ---- writing ----


def _pack(arrays: SavedArrays) -> dict[str, np.ndarray]:
    arrays = in_spatial_order(arrays)
    num = len(arrays["means"])
    measured = {
        "position": arrays["means"],
        "scale": np.clip(arrays["log_scales"], -_MAX_LOG_SCALE, _MAX_LOG_SCALE),
        "color": dc_to_color(arrays["sh_dc"][:, 0]).astype(np.float32),
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
    # Not 0 and 1, from which splat-transform makes infinite logits; 1/255 is the lowest visible opacity.
    opacity = np.clip(opacity_to_byte(arrays["opacity_logits"]), 1, 254) / 255
    vertices = np.empty(num, [(name, "<u4") for name in _VERTEX])
    vertices["packed_position"] = _packed(fractions["position"], _AXIS_BITS)
    vertices["packed_rotation"] = _pack_rotations(arrays["quats"])
    vertices["packed_scale"] = _packed(fractions["scale"], _AXIS_BITS)
    vertices["packed_color"] = _packed(np.concatenate([fractions["color"], opacity], axis=1), _COLOR_BITS)
    elements = {"chunk": chunks, "vertex": vertices}
    if num_rest := 3 * arrays["sh_rest"].shape[1]:
        table = np.empty((num, num_rest), np.uint8)
        for i in range(num_rest):  # all of red, then green, then blue
            table[:, i] = _rest_to_bytes(arrays["sh_rest"][:, i % (num_rest // 3), i // (num_rest // 3)])
        elements["sh"] = table.view([(f"f_rest_{i}", "u1") for i in range(num_rest)]).reshape(num)
    return elements


def _packed(fractions: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """(N,) uint32 of fractions (N,C) in [0, 1], the first column in the highest bits."""
    packed = np.zeros(len(fractions), np.uint32)
    for column, width in zip(fractions.T, bits, strict=True):
        packed = packed << np.uint32(width) | np.rint(column * (2**width - 1)).astype(np.uint32)
    return packed


def _pack_rotations(quats: np.ndarray) -> np.ndarray:
    largest, parts = smallest_three(quats)
    fractions = np.clip(parts / (2 * MAX_PART) + 0.5, 0, 1)
    return _packed(np.concatenate([largest[:, None] / 3, fractions], axis=1), _ROTATION_BITS)


def _rest_to_bytes(values: np.ndarray) -> np.ndarray:
    """The step that holds each value; readers take the first and the last step for the ends of the range."""
    steps = (values.astype(np.float64) / _SH_RANGE + 0.5) * 256
    middles = np.clip(np.floor(steps), 1, 254)
    return np.where(steps < 0.75, 0, np.where(steps > 255.25, 255, middles)).astype(np.uint8)


# ---- reading ----


def _unpack(elements: dict[str, Columns]) -> Arrays:
    vertices = _element(elements, "vertex", _VERTEX)
    chunks = _element(elements, "chunk", _BOUNDS["position"] + _BOUNDS["scale"])
    num, num_chunks = len(vertices["packed_position"]), len(chunks["min_x"])
    if not num:
        raise FormatError("at least one Gaussian", "none")
    if num_chunks != -(-num // _CHUNK):
        raise FormatError(f"{-(-num // _CHUNK)} chunks of {_CHUNK} for {num} vertices", f"{num_chunks}")
    if any(vertices[name].dtype != np.dtype("<u4") for name in _VERTEX):
        raise FormatError(f"uint properties {', '.join(_VERTEX)} in binary_little_endian", "other types")
    colors = _unpacked(vertices["packed_color"], _COLOR_BITS)
    if "min_r" in chunks:
        _element(elements, "chunk", _BOUNDS["color"])
        colors[:, :3] = _in_bounds(chunks, "color", colors[:, :3])
    rotations = _unpacked(vertices["packed_rotation"], _ROTATION_BITS)
    quats = from_smallest_three(np.rint(3 * rotations[:, 0]).astype(np.int64), (2 * rotations[:, 1:] - 1) * MAX_PART)
    positions = _in_bounds(chunks, "position", _unpacked(vertices["packed_position"], _AXIS_BITS))
    scales = _in_bounds(chunks, "scale", _unpacked(vertices["packed_scale"], _AXIS_BITS))
    return {
        "means": positions.astype(np.float32),
        "log_scales": scales.astype(np.float32),
        "quats": quats,
        "opacity_logits": opacity_from_byte(255 * colors[:, 3:]),
        "sh_dc": color_to_dc(colors[:, None, :3]),
        "sh_rest": _rest(elements, num),
    }


def _element(elements: dict[str, Columns], name: str, columns: tuple[str, ...]) -> Columns:
    if name not in elements:
        raise FormatError(f"the element '{name}' of a compressed PLY", "none")
    missing = [column for column in columns if column not in elements[name]]
    if missing:
        raise FormatError(f"the properties of '{name}' in a compressed PLY", f"no {', '.join(missing)}")
    return elements[name]


def _unpacked(packed: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """(N,C) float64 in [0, 1]."""
    fractions, shift = np.empty((len(packed), len(bits))), 32
    for column, width in enumerate(bits):
        shift -= width
        fractions[:, column] = (packed >> np.uint32(shift) & np.uint32(2**width - 1)) / (2**width - 1)
    return fractions


def _in_bounds(chunks: Columns, key: str, fractions: np.ndarray) -> np.ndarray:
    """(N,3) float64 of fractions (N,3) between the bounds of their chunks."""
    bounds = np.stack([chunks[name].astype(np.float64) for name in _BOUNDS[key]], axis=1)
    low, high = np.repeat(bounds, _CHUNK, axis=0)[: len(fractions)].reshape(-1, 2, 3).swapaxes(0, 1)
    return low + (high - low) * fractions


def _rest(elements: dict[str, Columns], num: int) -> np.ndarray:
    if "sh" not in elements:
        return np.zeros((num, 0, 3), np.float32)
    columns = _element(elements, "sh", tuple(f"f_rest_{i}" for i in range(len(elements["sh"]))))
    num_rest, num_rows = len(columns), len(next(iter(columns.values()), ()))
    if num_rest not in [3 * count for count in (*REST_COUNTS, 24)] or num_rows != num:
        raise FormatError(f"{num} rows of 9, 24, 45 or 72 SH bytes", f"{num_rows} rows of {num_rest}")
    if any(column.dtype != np.uint8 for column in columns.values()):
        raise FormatError("uchar f_rest properties", "other types")
    # The middles of the steps; of the first and the last step, the ends of the range.
    fractions = np.concatenate([[0], (np.arange(1, 255) + 0.5) / 256, [1]])
    values = ((fractions - 0.5) * _SH_RANGE).astype(np.float32)
    rest = np.empty((num, num_rest // 3, 3), np.float32)
    for i in range(num_rest):  # all of red, then green, then blue
        rest[:, i % (num_rest // 3), i // (num_rest // 3)] = values[columns[f"f_rest_{i}"]]
    return rest
