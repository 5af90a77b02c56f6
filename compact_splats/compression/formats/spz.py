"""Niantic's .spz, versions 2 and 3: a gzip stream of a 16-byte header and six arrays, SH degrees 0 to 3.

Positions are 24-bit fixed point, everything else is 8 bits a value, except for the rotations of version 3: 32 bits for
their three smallest parts. Version 4, which is no gzip stream, is not read.

[https://github.com/nianticlabs/spz, README "File Format"; https://deepwiki.com/Jackneill/spz/2.2-data-arrays-and-encoding]
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from compact_splats.compression.arrays import REST_COUNTS, Arrays
from compact_splats.compression.container import FormatError
from compact_splats.compression.formats.common import (
    MAX_PART,
    from_smallest_three,
    in_spatial_order,
    opacity_from_byte,
    opacity_to_byte,
    read_file,
    smallest_three,
    to_byte,
    unit,
    write_file,
)

AXES = ("RDF", "RUB")  # of the file: right, down, front, as in models; right, up, back
_HEADER = struct.Struct("<IIIBBBB")  # magic, version, number of Gaussians, SH degree, fractional bits, flags, reserved
_MAGIC = 0x5053474E
_ROTATION_BYTES = {2: 3, 3: 4}  # by version
_MAX_POSITION = 2**23 - 1
_MAX_FRACTIONAL_BITS = 23
_COLOR_SCALE = 0.15 * 255  # bytes for 1 of a coefficient of degree 0
_FLIP = np.array([1, -1, -1])  # half a turn about x takes RDF to RUB and back
_SH_VALUES = (np.arange(256, dtype=np.float32) - 128) / 128
# Signs of the SH functions of degrees 1 to 3 under that turn: -1 for those of odd degree in y and z together.
_SH_FLIP = np.array([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1])


def write(
    path: str | Path,
    arrays: Arrays,
    *,
    sh_bits: tuple[int, int] = (8, 8),
    fractional_bits: int | None = None,
    axes: str = "RDF",
) -> None:
    """Write a model as version 3.

    Args:
        path: the file; replaced in one move.
        arrays: by name and in the shapes of ``GaussianModel.parameters``, at least one Gaussian.
        sh_bits: 1 to 8 bits for SH degree 1 and for the higher degrees; Niantic's default is (5, 4).
        fractional_bits: of positions, in steps of 2^-bits world units; None: 12 as in Niantic's files, more for very
            small Gaussians, fewer if the farthest position needs the bits.
        axes: "RDF": the model's numbers as they are, as splat-transform and gsply do. "RUB": as Niantic documents
            files, half a turn about x. See docs/formats.md.

    Raises:
        InputError: not the arrays of a model, positions beyond 24 bits, or a file that cannot be written.
    """
    assert axes in AXES, axes

    def pack(arrays: Arrays) -> bytes:
        return _pack(arrays if axes == "RDF" else _turned(arrays), sh_bits, fractional_bits)

    write_file(path, arrays, pack)


def read(path: str | Path, *, axes: str = "RDF") -> Arrays:
    """Read a model from version 2 or 3.

    Args:
        path: the file.
        axes: of the file, which does not tell them; see :func:`write`.

    Raises:
        InputError: no such file, another version, or a file that is damaged.
    """
    assert axes in AXES, axes
    arrays = read_file(path, _unpack)
    return arrays if axes == "RDF" else _turned(arrays)


# ---- writing ----


def _pack(arrays: Arrays, sh_bits: tuple[int, int], fractional_bits: int | None) -> bytes:
    arrays = in_spatial_order(arrays)
    num, num_rest = arrays["sh_rest"].shape[:2]
    bits = _fractional_bits(arrays) if fractional_bits is None else fractional_bits
    fixed = np.rint(arrays["means"].astype(np.float64) * 2**bits)
    if np.abs(fixed).max() > _MAX_POSITION:
        reach = _MAX_POSITION / 2**bits
        raise FormatError(f"positions within {reach:.7g}, what .spz can hold", f"{np.abs(arrays['means']).max():.7g}")
    header = _HEADER.pack(_MAGIC, 3, num, REST_COUNTS.index(num_rest), bits, 0, 0)
    parts = [
        fixed.astype("<i4").view(np.uint8).reshape(num, 3, 4)[:, :, :3],
        opacity_to_byte(arrays["opacity_logits"]),
        to_byte(127.5 + _COLOR_SCALE * arrays["sh_dc"].astype(np.float64)),
        to_byte(16 * (arrays["log_scales"].astype(np.float64) + 10)),
        _pack_rotations(arrays["quats"]),
        _pack_rest(arrays["sh_rest"], sh_bits),
    ]
    return gzip.compress(header + b"".join(part.tobytes() for part in parts), 9, mtime=0)


def _fractional_bits(arrays: Arrays) -> int:
    """At least 12 bits, and steps of at most 1/16 of the median longest axis, if the farthest position has the room."""
    longest = float(np.median(arrays["log_scales"].max(axis=1))) / np.log(2)
    room = np.log2(_MAX_POSITION / max(float(np.abs(arrays["means"]).max()), 2.0**-30))
    return int(np.clip(min(max(12, np.ceil(4 - longest)), np.floor(room)), 0, _MAX_FRACTIONAL_BITS))


def _pack_rotations(quats: np.ndarray) -> np.ndarray:
    """(N,) uint32: index of the largest in (x, y, z, w), then three times a sign and 9 bits."""
    largest, parts = smallest_three(np.roll(quats, -1, axis=1))
    size = np.rint(np.minimum(np.abs(parts) / MAX_PART, 1) * 511).astype(np.uint32)
    fields = size | (parts < 0).astype(np.uint32) << 9
    packed = largest.astype(np.uint32) << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]
    return packed.astype("<u4")


def _pack_rest(sh_rest: np.ndarray, sh_bits: tuple[int, int]) -> np.ndarray:
    """Bytes (N,K,3) around 128, in steps that are multiples of 2^(8 - bits)."""
    stored = np.empty(sh_rest.shape, np.uint8)
    for coefficient in range(sh_rest.shape[1]):
        step = 2 ** (8 - sh_bits[coefficient >= REST_COUNTS[1]])
        around = 128 // step + np.rint(sh_rest[:, coefficient].astype(np.float64) * 128 / step)
        stored[:, coefficient] = np.clip(around, 0, 256 // step - 1) * step
    return stored


# ---- reading ----


def _unpack(data: bytes) -> Arrays:
    if data[:4] == struct.pack("<I", _MAGIC):
        version = int.from_bytes(data[4:8], "little")
        expected = ".spz of version 2 or 3, which splat-transform writes with --spz-version 3"
        raise FormatError(expected, f"version {version}")
    if data[:2] != b"\x1f\x8b":
        raise FormatError("an .spz file, a gzip stream", f"a file that starts with {data[:4].hex(' ') or 'nothing'}")
    stream = zlib.decompressobj(wbits=31)
    header = _inflate(stream, data, _HEADER.size)
    magic, version, num, degree, bits, _, _ = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise FormatError(f"the magic number {_MAGIC:#x} of .spz in the gzip stream", f"{magic:#x}")
    if version not in _ROTATION_BYTES:
        raise FormatError(".spz of version 2 or 3", f"version {version}")
    if degree >= len(REST_COUNTS):
        raise FormatError(".spz of SH degree 0 to 3", f"degree {degree}")
    if bits > _MAX_FRACTIONAL_BITS:
        raise FormatError(f"at most {_MAX_FRACTIONAL_BITS} fractional bits", f"{bits}")
    if not num:
        raise FormatError("at least one Gaussian", "none")
    sizes = [9, 1, 3, 3, _ROTATION_BYTES[version], 3 * REST_COUNTS[degree]]
    if num * sum(sizes) > 1032 * len(data):  # the largest ratio of deflate
        raise FormatError(f"{num} Gaussians, as the header says", f"{len(data)} bytes, too few for them")
    body = _inflate(stream, stream.unconsumed_tail, num * sum(sizes))
    _refuse_damage_after(stream)
    parts = np.split(np.frombuffer(body, np.uint8), num * np.cumsum(sizes)[:-1])
    columns = [part.reshape(num, size) for part, size in zip(parts, sizes, strict=True)]
    positions, opacities, colors, scales, rotations, rest = columns
    return {
        "means": _positions(positions, bits),
        "log_scales": scales.astype(np.float32) / 16 - 10,
        "quats": _rotations(rotations),
        "opacity_logits": opacity_from_byte(opacities),
        "sh_dc": ((colors[:, None] - 127.5) / _COLOR_SCALE).astype(np.float32),
        "sh_rest": _SH_VALUES[rest.reshape(num, REST_COUNTS[degree], 3)],
    }


def _inflate(stream: zlib._Decompress, data: bytes, size: int) -> bytes:
    """Exactly ``size`` bytes; no more are held in memory."""
    try:
        content = stream.decompress(data, size)
    except zlib.error as error:
        raise FormatError("a gzip stream", f"'{error}'") from error
    if len(content) < size:
        raise FormatError(f"{size} bytes in the gzip stream", f"{len(content)}, then its end")
    return content


def _refuse_damage_after(stream: zlib._Decompress) -> None:
    """Check the checksum at the end of the stream; what is before it, such as extensions, is ignored."""
    try:
        while not stream.eof:
            if not stream.decompress(stream.unconsumed_tail, 1 << 16) and not stream.eof:
                raise FormatError("a whole gzip stream", "one that ends early")
    except zlib.error as error:
        raise FormatError("a gzip stream", f"'{error}'") from error


def _positions(stored: np.ndarray, bits: int) -> np.ndarray:
    """float32 of signed 24-bit integers."""
    wide = np.zeros((len(stored), 3, 4), np.uint8)
    wide[:, :, 1:] = stored.reshape(-1, 3, 3)
    return ((wide.view("<i4")[:, :, 0] >> 8) / 2.0**bits).astype(np.float32)


def _rotations(stored: np.ndarray) -> np.ndarray:
    """(N,3) of version 2, or (N,4) of version 3, as quaternions with the real part first."""
    if stored.shape[1] == 3:
        parts = stored / 127.5 - 1
        real = np.sqrt(np.maximum(0, 1 - np.square(parts).sum(axis=1, keepdims=True)))
        return unit(np.concatenate([real, parts], axis=1)).astype(np.float32)
    packed = np.ascontiguousarray(stored).view("<u4")
    fields = packed >> np.array([20, 10, 0], np.uint32) & 1023
    size = (fields & 511) * (MAX_PART / 511)
    quats = from_smallest_three((packed >> 30)[:, 0], np.where(fields >> 9, -size, size))
    return np.roll(quats, 1, axis=1)


def _turned(arrays: Arrays) -> Arrays:
    """The model after half a turn about x; its own inverse."""
    rest = arrays["sh_rest"]
    return {
        **arrays,
        "means": arrays["means"] * _FLIP.astype(np.float32),
        # The turned rotation times half a turn about the Gaussian's own x axis, which leaves the Gaussian as it is.
        "quats": arrays["quats"] * np.array([1, 1, -1, -1], np.float32),
        "sh_rest": rest * _SH_FLIP[: rest.shape[1], None].astype(np.float32),
    }
