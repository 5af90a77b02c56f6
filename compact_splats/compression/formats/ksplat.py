"""GaussianSplats3D's .ksplat, which is read only: sections of Gaussians in buckets, SH degrees 0 to 2.

A header of 4096 bytes; a header of 1024 bytes for each section; then of each section the numbers of Gaussians in its
partly filled buckets, the centres of all buckets, and the Gaussians. Compression level 0 is float32, 1 has 16 bits a
value, 2 also has 8 bits of SH.

[https://deepwiki.com/playcanvas/splat-transform/3.1.1-ksplat-format, and files of GaussianSplats3D 0.4.7]
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from compact_splats.compression.arrays import Arrays, joined
from compact_splats.compression.container import FormatError
from compact_splats.compression.formats.common import color_to_dc, from_scales, opacity_from_byte, read_file, unit
from compact_splats.scene.parameters import REST_COUNTS, SavedArrays

_HEADER_SIZE, _SECTION_SIZE = 4096, 1024
_HEADER = struct.Struct("<BBxxIIIIH14xff")  # version, sections with room, sections, room, Gaussians, level, SH bounds
_SECTION = struct.Struct("<IIIIfHxxIIIIH")
_FLOATS = {0: ("<f4", "<f4", "<f4"), 1: ("<u2", "<f2", "<f2"), 2: ("<u2", "<f2", "u1")}  # centre, shape, SH, by level
_MAX_DEGREE = 2
_DEFAULT_RANGE = 32767


class _Section(NamedTuple):
    num: int
    room: int
    bucket_size: int
    num_buckets: int
    block_size: float
    bucket_bytes: int
    scale_range: int
    num_bytes: int
    num_full: int
    num_partial: int
    degree: int


def read(path: str | Path, *, keep_nan: bool = False) -> SavedArrays:
    """Read a model of any compression level."""
    return read_file(path, _unpack, keep_nan)


def _unpack(data: bytes) -> Arrays:
    if len(data) < _HEADER_SIZE:
        raise FormatError(f"a .ksplat header of {_HEADER_SIZE} bytes", f"{len(data)} bytes")
    major, minor, num_headers, _, _, _, level, low, high = _HEADER.unpack_from(data)
    if (major, min(minor, 1)) != (0, 1):
        raise FormatError(".ksplat of version 0.1", f"{major}.{minor}")
    if level not in _FLOATS:
        raise FormatError("compression level 0, 1 or 2", f"{level}")
    start = _HEADER_SIZE + num_headers * _SECTION_SIZE
    if start > len(data):
        raise FormatError(f"{num_headers} section headers", f"{len(data)} bytes")
    parts = []
    for i in range(num_headers):
        section = _Section(*_SECTION.unpack_from(data, _HEADER_SIZE + i * _SECTION_SIZE))
        if section.num:
            arrays, start = _unpack_section(data, start, section, level, (low, high))
            parts.append(arrays)
    if not parts:
        raise FormatError("at least one Gaussian", "none")
    return joined(parts)


def _unpack_section(
    data: bytes, start: int, section: _Section, level: int, sh_bounds: tuple[float, float]
) -> tuple[Arrays, int]:
    """The Gaussians of a section, and where the next one starts."""
    num = section.num
    if section.degree > _MAX_DEGREE:
        raise FormatError(f"SH degree 0 to {_MAX_DEGREE} in a .ksplat", f"{section.degree}")
    kinds = _FLOATS[level]
    num_rest = REST_COUNTS[section.degree]
    record = np.dtype(
        [
            ("center", kinds[0], 3),
            ("scale", kinds[1], 3),
            ("quat", kinds[1], 4),
            ("color", "u1", 4),
            ("rest", kinds[2], 3 * num_rest),
        ]
    )
    first = start + section.num_partial * 4 + section.num_buckets * section.bucket_bytes
    end = first + max(section.room, num) * record.itemsize  # there is room for `room`, of which `num` are filled
    if first + num * record.itemsize > len(data):
        raise FormatError(f"{num} Gaussians in a section, as its header says", f"{len(data) - start} bytes")
    records = np.frombuffer(data, record, num, first)
    means = records["center"].astype(np.float64)
    if level:
        means = _from_buckets(data, start, section, means)
    rest = records["rest"].astype(np.float32)
    if level == 2:
        rest = (sh_bounds[0] + (sh_bounds[1] - sh_bounds[0]) * (rest / 255)).astype(np.float32)
    scales = records["scale"].astype(np.float32)
    if (scales < 0).any():
        raise FormatError("scales of 0 or more", f"{scales.min()}")
    arrays = {
        "means": means.astype(np.float32),
        "log_scales": from_scales(scales),
        "quats": unit(records["quat"]).astype(np.float32),
        "opacity_logits": opacity_from_byte(records["color"][:, 3:]),
        "sh_dc": color_to_dc(records["color"][:, None, :3] / 255),
        "sh_rest": _by_coefficient(rest),
    }
    return arrays, end


def _from_buckets(data: bytes, start: int, section: _Section, steps: np.ndarray) -> np.ndarray:
    """(N,3) float64 positions of steps around the centres of buckets: first full buckets, then partly filled ones."""
    if section.bucket_bytes != 12 or not section.bucket_size:
        raise FormatError("buckets with a centre of 12 bytes", f"{section.bucket_bytes} bytes")
    partial = np.frombuffer(data, "<u4", section.num_partial, start)
    centers = np.frombuffer(data, "<f4", 3 * section.num_buckets, start + partial.nbytes).reshape(-1, 3)
    num_in_full = section.num_full * section.bucket_size
    rest = section.num - min(section.num, num_in_full)
    if section.num_full + section.num_partial > section.num_buckets or partial.sum(dtype=np.uint64) < rest:
        raise FormatError(f"buckets for {section.num} Gaussians", f"{section.num_buckets} of them with room for fewer")
    full = np.arange(min(section.num, num_in_full)) // section.bucket_size
    ends = np.cumsum(partial, dtype=np.uint64)
    bucket = np.concatenate([full, section.num_full + np.searchsorted(ends, np.arange(rest), side="right")])
    scale_range = section.scale_range or _DEFAULT_RANGE
    return (steps - scale_range) * (0.5 * section.block_size / scale_range) + centers[bucket]


def _by_coefficient(rest: np.ndarray) -> np.ndarray:
    """(N,K,3) of (N,3K), in which the coefficients of a degree are red first, then green, then blue."""
    parts, start = [], 0
    for count in np.diff(REST_COUNTS):
        part = rest[:, start : start + 3 * count]
        if part.shape[1]:
            parts.append(part.reshape(len(rest), 3, count).swapaxes(1, 2))
        start += 3 * count
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(rest), 0, 3), np.float32)
