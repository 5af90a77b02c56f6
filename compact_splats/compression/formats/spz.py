"""Niantic's .spz: a header and six arrays, positions in 24-bit fixed point, all else in 8 bits a value.

Versions 1 to 3 are a gzip stream, version 4 a header of 32 bytes and a zstd frame for each array. Version 1 has
positions as float16; rotations are three parts of 8 bits, from version 3 on the three smallest parts in 32 bits.

[https://github.com/nianticlabs/spz, README "File Format"; https://deepwiki.com/Jackneill/spz/2.2-data-arrays-and-encoding;
of version 4 https://github.com/sparkjsdev/spark/pull/332, and the files of splat-transform]
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from compact_splats.compression.arrays import Arrays
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
from compact_splats.scene.parameters import REST_COUNTS, SavedArrays, is_antialiased, is_nested, sh_degree
from compact_splats.utils.errors import InputError

AXES = ("RDF", "RUB")  # of the file: right, down, front, as in models; right, up, back
VERSIONS = (3, 4)  # that are written
MAGIC = b"NGSP"
_HEADER = struct.Struct("<4sIIBBBB")  # magic, version, Gaussians, SH degree, fractional bits, flags, 0 or streams
_FOURTH = struct.Struct("<I12x")  # the rest of the header of version 4: start of the table
_STREAM = struct.Struct("<QQ")  # an entry of the table: bytes of a stream, compressed and not
_ANTIALIASED = 1  # flag
_ROTATION_BYTES = {1: 3, 2: 3, 3: 4, 4: 4}  # by version
_MAX_POSITION = 2**23 - 1
_MAX_FRACTIONAL_BITS = 23
_MAX_DEGREE = 4
_COLOR_SCALE = 0.15 * 255  # bytes for 1 of a coefficient of degree 0
LIMITS = {
    "log_scales": (-10, 255 / 16 - 10),
    "sh_dc": (-127.5 / _COLOR_SCALE, 127.5 / _COLOR_SCALE),
    "sh_rest": (-1, 127 / 128),
}
_FAR_SHARE = 1e-3  # of the Gaussians, the farthest, for whom the positions of the others do not become coarser
_MIN_GAIN = 2  # bits of positions, less is not worth drawing in far Gaussians
_FEW_GAUSSIANS = 1 << 16  # that any file may claim
_LEVEL = 12  # of zstd, as good as gzip's 9 and faster
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
    version: int = 3,
) -> list[str]:
    """Write a model.

    Args:
        path: the file.
        arrays: of a model.
        sh_bits: 1 to 8 bits for SH degree 1 and for the higher degrees; Niantic's default is (5, 4).
        fractional_bits: of positions, in steps of 2^-bits world units; None: 12 as in Niantic's files, more for very
            small Gaussians, fewer if the farthest positions need the bits. Where very few Gaussians are far beyond all
            others, they are drawn in instead, see :func:`drawn_in`.
        axes: "RDF": the model's numbers as they are, as splat-transform and gsply do. "RUB": as Niantic documents
            files, half a turn about x. See docs/formats.md.
        version: 3, or 4, which is smaller and needs the package zstandard.

    Raises:
        InputError: as of every format, or positions beyond 24 bits, or no package zstandard.
    """
    assert axes in AXES and version in VERSIONS, (axes, version)
    notes: list[str] = []

    def pack(arrays: SavedArrays) -> bytes:
        if fractional_bits is None:
            arrays, bits, far = _fitted(arrays)
            notes.extend(far)
        else:
            bits = fractional_bits
        return _pack(arrays if axes == "RDF" else _turned(arrays), sh_bits, bits, version)

    return [*write_file(path, arrays, pack, LIMITS), *notes]


def read(path: str | Path, *, axes: str = "RDF", keep_nan: bool = False) -> SavedArrays:
    """Read a model from version 1 to 4.

    Args:
        path: the file.
        axes: of the file, which does not tell them; see :func:`write`.
        keep_nan: as of every format.

    Raises:
        InputError: as of every format, or no package zstandard for version 4.
    """
    assert axes in AXES, axes
    arrays = read_file(path, _unpack, keep_nan)
    return arrays if axes == "RDF" else _turned(arrays)


# ---- far Gaussians ----


def drawn_in(arrays: SavedArrays, reach: float) -> SavedArrays:
    """Far Gaussians moved to within ``reach`` (world units) of the origin on each axis, on their ray, and smaller.

    From near the origin they look as before; there the one step of all positions may now be finer.
    """
    far = np.abs(arrays["means"]).max(axis=1)
    factor = np.minimum(1, reach / np.maximum(far, np.float32(reach)))[:, None].astype(np.float32)
    moved = {"means": arrays["means"] * factor, "log_scales": arrays["log_scales"] + np.log(factor)}
    return arrays.replaced({**arrays, **moved})


def _fitted(arrays: SavedArrays) -> tuple[SavedArrays, int, list[str]]:
    """The model without far Gaussians that would cost all others precision, its fractional bits, and what was done.

    At least 12 bits, and steps of at most 1/16 of the median longest axis, if the farthest position has the room.
    """
    longest = float(np.median(arrays["log_scales"].max(axis=1))) / math.log(2)
    wanted = min(max(12, math.ceil(4 - longest)), _MAX_FRACTIONAL_BITS)
    far = np.sort(np.abs(arrays["means"]).max(axis=1))
    most = far[-1 - min(max(1, int(_FAR_SHARE * len(far))), len(far) - 1)]
    bits_for_all, bits_for_most = (min(wanted, _bits_within(float(value))) for value in (far[-1], most))
    if bits_for_most < 0 or bits_for_most - bits_for_all < _MIN_GAIN and bits_for_all >= 0:
        return arrays, max(bits_for_all, 0), []
    bits, reach = bits_for_most, _MAX_POSITION / 2**bits_for_most
    num_far = int((far > reach).sum())
    note = (
        f"{num_far:,} of {len(far):,} Gaussians lie beyond {reach:.4g} and up to {far[-1]:.4g} from the origin, which "
        f".spz could hold only in steps of {2.0**-bits_for_all:.2g}: they are drawn in to {reach:.4g} on their rays "
        "and become smaller by as much"
    )
    return drawn_in(arrays, reach), bits, [note]


def _bits_within(far: float) -> int:
    """Fractional bits that leave room for a coordinate."""
    return math.floor(math.log2(_MAX_POSITION / max(far, 2.0**-30)))


# ---- writing ----


def _pack(arrays: SavedArrays, sh_bits: tuple[int, int], bits: int, version: int) -> bytes:
    if not is_nested(arrays):
        arrays = in_spatial_order(arrays)
    num = len(arrays["means"])
    fixed = np.rint(arrays["means"].astype(np.float64) * 2**bits)
    if np.abs(fixed).max() > _MAX_POSITION:
        reach = _MAX_POSITION / 2**bits
        raise FormatError(f"positions within {reach:.7g}, what .spz can hold", f"{np.abs(arrays['means']).max():.7g}")
    parts = [
        fixed.astype("<i4").view(np.uint8).reshape(num, 3, 4)[:, :, :3],
        opacity_to_byte(arrays["opacity_logits"]),
        to_byte(127.5 + _COLOR_SCALE * arrays["sh_dc"].astype(np.float64)),
        to_byte(16 * (arrays["log_scales"].astype(np.float64) + 10)),
        _pack_rotations(arrays["quats"]),
        _pack_rest(arrays["sh_rest"], sh_bits),
    ]
    streams = [part.tobytes() for part in parts if part.size]
    flags = _ANTIALIASED * is_antialiased(arrays)
    header = _HEADER.pack(MAGIC, version, num, sh_degree(arrays), bits, flags, len(streams) if version == 4 else 0)
    if version == 3:
        return gzip.compress(header + b"".join(streams), 9, mtime=0)
    packed = [_zstandard().ZstdCompressor(level=_LEVEL).compress(stream) for stream in streams]
    table = b"".join(_STREAM.pack(len(each), len(stream)) for each, stream in zip(packed, streams, strict=True))
    return b"".join([header, _FOURTH.pack(_HEADER.size + _FOURTH.size), table, *packed])


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        text = "a .spz of version 4 needs the package zstandard: pip install zstandard, or use version 3"
        raise InputError(text) from None
    return zstandard


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
    if data[:4] == MAGIC:
        columns, version, bits, flags = _unpack_fourth(data)
    else:
        columns, version, bits, flags = _unpack_gzip(data)
    positions, opacities, colors, scales, rotations, rest = columns
    arrays = {
        "means": _positions(positions, bits) if version > 1 else positions.view("<f2"),
        "log_scales": scales.astype(np.float32) / 16 - 10,
        "quats": _rotations(rotations),
        "opacity_logits": opacity_from_byte(opacities),
        "sh_dc": ((colors[:, None] - 127.5) / _COLOR_SCALE).astype(np.float32),
        "sh_rest": _SH_VALUES[rest.reshape(len(rest), -1, 3)],
    }
    return SavedArrays(arrays, bool(flags & _ANTIALIASED))


def _unpack_gzip(data: bytes) -> tuple[list[np.ndarray], int, int, int]:
    """Columns, version, fractional bits and flags of versions 1 to 3."""
    if data[:2] != b"\x1f\x8b":
        raise FormatError("an .spz file, a gzip stream", f"a file that starts with {data[:4].hex(' ') or 'nothing'}")
    stream = zlib.decompressobj(wbits=31)
    num, sizes, version, bits, flags, _ = _read_header(_inflate(stream, data, _HEADER.size), (1, 2, 3))
    if num * sum(sizes) > 1032 * len(data):  # the largest ratio of deflate
        raise FormatError(f"{num} Gaussians, as the header says", f"{len(data)} bytes, too few for them")
    body = _inflate(stream, stream.unconsumed_tail, num * sum(sizes))
    _refuse_damage_after(stream)
    parts = np.split(np.frombuffer(body, np.uint8), num * np.cumsum(sizes)[:-1])
    return [part.reshape(num, size) for part, size in zip(parts, sizes, strict=True)], version, bits, flags


def _unpack_fourth(data: bytes) -> tuple[list[np.ndarray], int, int, int]:
    """The same of version 4; what is between header and table, such as extensions, is ignored."""
    if len(data) < _HEADER.size + _FOURTH.size:
        raise FormatError("a header of 32 bytes", f"{len(data)} bytes")
    num, sizes, version, bits, flags, num_streams = _read_header(data[: _HEADER.size], (4,))
    (start,) = _FOURTH.unpack_from(data, _HEADER.size)
    if num > max(_FEW_GAUSSIANS, 1032 * len(data) // sum(sizes)):  # as of gzip: zstd alone sets no limit
        raise FormatError(f"{num} Gaussians, as the header says", f"{len(data)} bytes, too few for them")
    filled = [size for size in sizes if size]
    end = start + num_streams * _STREAM.size
    if num_streams < len(filled) or end > len(data):
        raise FormatError(f"a table of {len(filled)} streams or more", f"{num_streams} in {len(data)} bytes")
    parts = []
    for i, size in enumerate(filled):
        packed_size, full_size = _STREAM.unpack_from(data, start + i * _STREAM.size)
        if full_size != num * size or packed_size > len(data) - end:
            raise FormatError(f"{num * size} bytes in stream {i}", f"{full_size} of {packed_size} compressed ones")
        parts.append(_decompress(data[end : end + packed_size], full_size))
        end += packed_size
    parts += [b""] * (len(sizes) - len(parts))
    columns = [np.frombuffer(part, np.uint8).reshape(num, size) for part, size in zip(parts, sizes, strict=True)]
    return columns, version, bits, flags


def _decompress(data: bytes, size: int) -> bytes:
    """Exactly ``size`` bytes of a zstd frame; no more are held in memory, and as many only if the frame holds them."""
    zstd = _zstandard()
    content = bytearray()
    try:
        with zstd.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data) as reader:
            while len(content) <= size and (part := reader.read(min(1 << 20, size + 1 - len(content)))):
                content += part
    except (zstd.ZstdError, MemoryError) as error:
        raise FormatError("a zstd frame", f"'{error}'") from error
    if len(content) != size:
        raise FormatError(f"{size} bytes in a zstd frame", f"{'more' if len(content) > size else len(content)}")
    return bytes(content)


def _read_header(header: bytes, versions: tuple[int, ...]) -> tuple[int, list[int], int, int, int, int]:
    """Gaussians, bytes of each column, version, fractional bits, flags and the last byte."""
    magic, version, num, degree, bits, flags, last = _HEADER.unpack(header)
    if magic != MAGIC:
        raise FormatError(f"the magic number {MAGIC!r} of .spz", f"{magic!r}")
    if version not in versions:
        raise FormatError(f".spz of version {versions[0]} to {versions[-1]} in this container", f"version {version}")
    if degree > _MAX_DEGREE:
        raise FormatError(f".spz of SH degree 0 to {_MAX_DEGREE}", f"degree {degree}")
    if bits > _MAX_FRACTIONAL_BITS and version > 1:
        raise FormatError(f"at most {_MAX_FRACTIONAL_BITS} fractional bits", f"{bits}")
    if not num:
        raise FormatError("at least one Gaussian", "none")
    sizes = [9 if version > 1 else 6, 1, 3, 3, _ROTATION_BYTES[version], 3 * ((degree + 1) ** 2 - 1)]
    return num, sizes, version, bits, flags, last


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


def _turned(arrays: SavedArrays) -> SavedArrays:
    """The model after half a turn about x; its own inverse."""
    rest = arrays["sh_rest"]
    turned = {
        **arrays,
        "means": arrays["means"] * _FLIP.astype(np.float32),
        # The turned rotation times half a turn about the Gaussian's own x axis, which leaves the Gaussian as it is.
        "quats": arrays["quats"] * np.array([1, 1, -1, -1], np.float32),
        "sh_rest": rest * _SH_FLIP[: rest.shape[1], None].astype(np.float32),
    }
    return arrays.replaced(turned)
