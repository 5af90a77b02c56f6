"""The .gsz container: a JSON header and named streams of bytes, with checksums; and LZMA for streams.

``docs/gsz.md`` specifies the bytes. The profiles define header and streams, see ``compression/codec.py``.
"""

from __future__ import annotations

import json
import lzma
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from usable_processors import default_threads

from compact_splats.scene.parameters import Vector, is_antialiased, offset_of
from compact_splats.utils.errors import InputError

MAGIC = b"\x89GSZ\r\n\x1a\n"  # as in PNG: detects transfer as text
VERSIONS = (1, 2, 3)  # a profile names the version of its files; those before the first change have version 1
MAX_HEADER = 1 << 20  # bytes of JSON
MAX_STREAMS = 1 << 12
MAX_GAUSSIANS = 1 << 27  # in every profile
MAX_NAME = 64  # bytes
MAX_DICTIONARY = 1 << 22  # bytes, of LZMA, for the reader
# The writer searches a small window for repetitions and takes the first: most repetitions in models are chance. Presets
# with windows of megabytes took five times as long and gave larger files.
_WINDOW = 1 << 12  # bytes, the minimum of LZMA
_DEPTH = 1
PROFILE_KEY = "profile"  # in the header: the profile's name
VERSION_KEY = "version"  # in headers that are read or to be written; the file has it before its header
ANTIALIASED_KEY = "antialiased"  # in the header: true for a model of the anti-aliased rasterizer, else missing
OFFSET_KEY = "offset"  # in the header: three numbers that were subtracted from the coordinates, else missing
LEVELS_KEY = "levels"  # in the header, from version 3 on: where each level of a nested model ends
BOUNDS_KEY = "bounds"  # in the header: least and greatest x, y, z of the Gaussians, rounded; for information
_PRELUDE = struct.Struct("<8sIIIII")  # magic, version, bytes of JSON, of the table, streams, CRC-32 of all before data
_ENTRY = struct.Struct("<QI")  # bytes, CRC-32; before it a byte with the name's length, and the name
_WORTH_THREADS = 1 << 16  # bytes of streams
_SAMPLE = 1 << 18  # bytes of a long stream on which its LZMA parameters are chosen


class FormatError(ValueError):
    """Bytes or arrays that break the format; the message is a single line.

    Args:
        expected: by the format.
        found: instead.
    """

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(" ".join(f"expected {expected}, found {found}".split()))
        self.expected, self.found = expected, found

    def __reduce__(self) -> tuple:  # the default would rebuild it from the message alone
        return FormatError, (self.expected, self.found)


@contextmanager
def input_errors(path: str | Path, fix: str) -> Iterator[None]:
    """Turn a FormatError in the block into an InputError about ``path``, with what the user can do."""
    try:
        yield
    except FormatError as error:
        raise InputError(path, _shortened(error.expected), _shortened(error.found), fix) from error


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:80]} ... {text[-30:]}"


def marks_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The entries of the header for the marks of ``SavedArrays``, and the bounds of the Gaussians."""
    means, offset = arrays["means"], offset_of(arrays)
    marks: dict[str, Any] = {ANTIALIASED_KEY: True} if is_antialiased(arrays) else {}
    if offset is not None:
        marks[OFFSET_KEY] = list(offset)
    if len(means):
        marks[BOUNDS_KEY] = [[float(f"{each:.4g}") for each in edge] for edge in (means.min(axis=0), means.max(axis=0))]
    return marks


def counts_in(header: Mapping[str, Any]) -> tuple[Any, Any]:
    """Number of Gaussians, and of coefficients of SH degrees 1 to 3, that a header of any profile names; unchecked."""
    return header.get("gaussians"), header.get("num_rest", header.get("sh_rest"))


def bounds_in(header: Mapping[str, Any]) -> tuple[Vector, Vector] | None:
    """Least and greatest coordinates that a header names, within 0.05 %; None: it names none.

    Raises:
        FormatError: they are not two times three finite numbers.
    """
    match header.get(BOUNDS_KEY):
        case None:
            return None
        case [low, high]:
            return _three(low, BOUNDS_KEY), _three(high, BOUNDS_KEY)
    raise FormatError(f"two lists as {BOUNDS_KEY}", repr(header[BOUNDS_KEY])[:99])


def offset_in(header: Mapping[str, Any]) -> Vector | None:
    """The offset that a header names.

    Raises:
        FormatError: it is not three finite numbers.
    """
    offset = header.get(OFFSET_KEY)
    return None if offset is None else _three(offset, OFFSET_KEY)


def levels_in(header: Mapping[str, Any]) -> list[int]:
    """How many Gaussians of a nested model each level and those before it have, rising; empty: the model is not nested.

    Raises:
        FormatError: a file of version 3 names no two levels, or the last one does not end with the model.
    """
    if header[VERSION_KEY] < 3:
        return []
    ends = header.get(LEVELS_KEY)
    if (
        not isinstance(ends, list)
        or not 2 <= len(ends) <= MAX_STREAMS
        or not all(type(end) is int for end in ends)
        or not all(a < b for a, b in pairwise([0, *ends]))
        or ends[-1] != header.get("gaussians")
    ):
        raise FormatError(f"rising numbers of Gaussians as {LEVELS_KEY}, up to that of the model", repr(ends)[:99])
    return ends


def _three(values: Any, key: str) -> Vector:
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(type(each) in (int, float) and abs(each) < 1e39 for each in values)
    ):
        raise FormatError(f"three finite numbers as {key}", repr(values)[:99])
    x, y, z = map(float, values)
    return x, y, z


def pack(header: dict[str, Any], streams: dict[str, bytes], marks: Mapping[str, Any] | None = None) -> bytes:
    """Put a header and streams into one file.

    Args:
        header: JSON values without NaN and infinity, and the version if it is not the first.
        streams: by names of 1 to 64 ASCII characters, in the order of the file.
        marks: more entries of the header, see :func:`marks_of`.

    Returns:
        The bytes of a .gsz file; the same for the same arguments.
    """
    header = {**header, **(marks or {})}
    version = header.pop(VERSION_KEY, VERSIONS[0])
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    table = b"".join(_table_entry(name.encode("ascii"), stream) for name, stream in streams.items())
    assert len(text) <= MAX_HEADER and len(streams) <= MAX_STREAMS, "more than a reader accepts"
    checksum = _head_checksum(version, text, table, len(streams))
    prelude = _PRELUDE.pack(MAGIC, version, len(text), len(table), len(streams), checksum)
    return b"".join([prelude, text, table, *streams.values()])


def unpack(data: bytes | memoryview) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read a file of :func:`pack`; checksums are checked before anything they cover is used.

    Returns:
        header, with the version of the file; streams.

    Raises:
        FormatError: not a .gsz, a newer version, truncated, damaged, or with bytes behind its end.
    """
    data = memoryview(data)
    version, text, table, start = _read_head(data)
    header = {**_parse_header(text), VERSION_KEY: version}
    streams = {}
    for name, size, checksum in table:
        stream = bytes(data[start : start + size])
        if len(stream) != size:
            raise FormatError(f"{size:,} bytes in the stream '{name}'", f"{len(stream):,}: the file was cut off")
        if zlib.crc32(stream) != checksum:
            raise FormatError(f"the stream '{name}' as it was written", "a wrong checksum: the file is damaged")
        streams[name] = stream
        start += size
    if start != len(data):
        raise FormatError(f"{start:,} bytes", f"{len(data):,}: something was appended to the file")
    return header, streams


def header_integer(header: dict[str, Any], key: str, allowed: range | tuple[int, ...]) -> int:
    """An integer of a header.

    Raises:
        FormatError: it is missing, not an integer, or not allowed.
    """
    value = header.get(key)
    if type(value) is not int or value not in allowed:
        text = f"{allowed[0]:,} to {allowed[-1]:,}" if isinstance(allowed, range) else ", ".join(map(str, allowed))
        raise FormatError(f"{key} in the header from {text}", repr(value)[:99])
    return value


def lzma_pack(data: bytes) -> bytes:
    """Compress by LZMA2, with the parameters that gave the smallest files of trained models.

    Returns:
        A raw LZMA2 stream. It contains its parameters, but not the length of the data.
    """
    middle = max(0, (len(data) - _SAMPLE) // 2)
    sample = data[middle : middle + _SAMPLE]
    # The data are planes of bytes without a period of 2, 4, 8 or 16, so position bits (lp, pb) are 0.
    tried = {0: _compress(sample, 0)}
    if len(tried[0]) < len(sample):  # else noise, for which contexts are no use
        tried |= {bits: _compress(sample, bits) for bits in (2, 4)}
    bits = min(tried, key=lambda bits: len(tried[bits]))
    return tried[bits] if len(sample) == len(data) else _compress(data, bits)


def lzma_unpack(data: bytes, size: int) -> bytes:
    """Undo :func:`lzma_pack`.

    Args:
        data: a raw LZMA2 stream.
        size: of the result, bytes. At most one byte more is decompressed.

    Raises:
        FormatError: damaged, or of another size.
    """
    room = min(max(size, _WINDOW), MAX_DICTIONARY)
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": room}])
    try:
        content = decompressor.decompress(data, max_length=size + 1)
    except lzma.LZMAError as error:
        raise FormatError("LZMA data", f"'{error}'") from error
    if len(content) > size:
        raise FormatError(f"LZMA data for {size:,} bytes", "more")
    if not decompressor.eof or len(content) < size:
        raise FormatError(f"LZMA data for {size:,} bytes", f"{len(content):,} and no more")
    if decompressor.unused_data:
        raise FormatError("the end of the LZMA data", f"{len(decompressor.unused_data):,} bytes behind it")
    return content


def on_all_cores(function: Callable[..., bytes], arguments: dict[str, tuple]) -> dict[str, bytes]:
    """Call a function once for each stream, in a thread for each core.

    Args:
        function: :func:`lzma_pack` or :func:`lzma_unpack`, which release the GIL.
        arguments: of each call, by name of the stream.

    Returns:
        Results by name, in the same order.
    """
    if sum(len(data) for data, *_ in arguments.values()) < _WORTH_THREADS:
        return {name: function(*given) for name, given in arguments.items()}
    longest_first = sorted(arguments, key=lambda name: -len(arguments[name][0]))  # keeps all cores busy until the end
    with ThreadPoolExecutor(default_threads()) as pool:
        jobs = {name: pool.submit(function, *arguments[name]) for name in longest_first}
    return {name: jobs[name].result() for name in arguments}


def _compress(data: bytes, context_bits: int) -> bytes:
    bits = {"lc": context_bits, "lp": 0, "pb": 0}
    preset = {"preset": 9 | lzma.PRESET_EXTREME, "dict_size": _WINDOW, "depth": _DEPTH}
    return lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, **preset, **bits}])


def _table_entry(name: bytes, stream: bytes) -> bytes:
    assert 1 <= len(name) <= MAX_NAME, name
    return bytes([len(name)]) + name + _ENTRY.pack(len(stream), zlib.crc32(stream))


def _head_checksum(version: int, text: bytes, table: bytes, num_streams: int) -> int:
    numbers = _PRELUDE.pack(MAGIC, version, len(text), len(table), num_streams, 0)
    return zlib.crc32(table, zlib.crc32(text, zlib.crc32(numbers)))


def _read_head(data: memoryview) -> tuple[int, bytes, list[tuple[str, int, int]], int]:
    """Check everything before the streams.

    Returns:
        The version; the JSON; name, size and CRC-32 of each stream; offset of the first stream.
    """
    if bytes(data[: len(MAGIC)]) != MAGIC:
        start = bytes(data[: len(MAGIC)])
        if start == MAGIC[: len(start)]:  # also of an empty file
            raise FormatError("a .gsz file", f"its first {len(start)} bytes and no more")
        raise FormatError("a .gsz file", f"one that starts with {start!r}")
    if len(data) < _PRELUDE.size:
        raise FormatError(f"{_PRELUDE.size} bytes before the header", f"{len(data)}: the file was cut off")
    _, version, text_size, table_size, num_streams, checksum = _PRELUDE.unpack_from(data)
    if version not in VERSIONS:
        raise FormatError("a .gsz file that can be read", f"version {version}; this program reads up to {VERSIONS[-1]}")
    if text_size > MAX_HEADER or num_streams > MAX_STREAMS or table_size > num_streams * (1 + MAX_NAME + _ENTRY.size):
        raise FormatError("a header of sensible size", f"{text_size:,} bytes, and {table_size:,} for {num_streams:,}")
    start = _PRELUDE.size + text_size + table_size
    if len(data) < start:
        raise FormatError(f"{start:,} bytes before the streams", f"{len(data):,}: the file was cut off")
    text = bytes(data[_PRELUDE.size : _PRELUDE.size + text_size])
    table = bytes(data[_PRELUDE.size + text_size : start])
    if _head_checksum(version, text, table, num_streams) != checksum:
        raise FormatError("the header as it was written", "a wrong checksum: the file is damaged")
    return version, text, _parse_table(table, num_streams), start


def _parse_table(table: bytes, num_streams: int) -> list[tuple[str, int, int]]:
    entries, names, position = [], set(), 0
    for _ in range(num_streams):
        name_end = position + 1 + (table[position] if position < len(table) else 0)
        end = name_end + _ENTRY.size
        name = table[position + 1 : name_end]
        if end > len(table) or not 1 <= len(name) <= MAX_NAME or not name.isascii() or name in names:
            raise FormatError("a table of streams with names of their own", f"{table[position:end][:99]!r} in it")
        names.add(name)
        entries.append((name.decode("ascii"), *_ENTRY.unpack_from(table, name_end)))
        position = end
    if position != len(table):
        raise FormatError(f"a table of {position:,} bytes", f"{len(table):,}")
    return entries


def _parse_header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, numbers too long, NaN
        raise FormatError("a header in JSON", f"'{error}'") from error
    if not isinstance(header, dict):
        raise FormatError("a JSON object as header", f"a {type(header).__name__}")
    return header


def _finite(text: str) -> float:
    number = float(text)  # Python's JSON knows NaN and Infinity, and makes the latter of 1e999
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not finite")
    return number
