"""Damaged and hostile .gsz files by the ten thousand: each ends in a FormatError or a finite model, in little memory.

Half of the damage is done behind right checksums, where only the profile's own checks are left. Every profile that is
registered is tested. By hand, with more files or another seed:

    PYTHONPATH=.:tests python tests/test_gsz_fuzz.py seed 200000 1
"""

import functools
import json
import math
import os
import random
import struct
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
NUM_FILES = 10_000  # of each profile
SECONDS = 400  # a multiple of what it takes: machines differ, and what else runs on them
ROOM = 64 << 20  # bytes of address space beyond those in use before the first file; no model of a file takes 100 kB

HOSTILE = (
    *(None, True, False, "", "seed", "\x00", [], {}, [[]], -1, 0, 1, 2, 3, 4, 7, 15, 255, 256, 65535, 65536),
    *(2**27, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(2**31), -(2**63), -(10**30)),
    *(0.0, -0.0, 0.5, -1.5, 1e-320, 1e38, 3.5e38, -1e308, 1e308, math.inf, math.nan),
)

Parts = tuple[dict, dict[str, bytes]]


# ---- damage to the bytes, which the checksums find ----


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    fill = rng.choice((bytes, lambda size: b"\xff" * size, rng.randbytes))
    return (data[:start] + fill(rng.randrange(1, 64)) + data[start + rng.randrange(1, 64) :])[: len(data)]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def splice(data: bytes, rng: random.Random) -> bytes:
    """Leave a piece out, or put one in a second time."""
    a, b = rng.randrange(len(data)), rng.randrange(len(data))
    return data[:a] + data[b:]


# ---- damage behind right checksums ----


def head_byte(data: bytes, rng: random.Random) -> bytes:
    """Another byte, or a whole other size, before the streams; the head's checksum is right again."""
    from gsz_cases import PRELUDE, with_right_checksum

    _, _, text_size, table_size, _, _ = PRELUDE.unpack_from(data)
    damaged = bytearray(data)
    if rng.random() < 0.2:
        size = rng.choice((0, 1, 2, 255, 2**16, 2**31, 2**32 - 1))
        struct.pack_into("<I", damaged, rng.choice((8, 12, 16, 20)), size)
    else:
        position = rng.randrange(8, PRELUDE.size + text_size + table_size)
        damaged[position] = rng.choice((rng.randrange(256), 0, 255, *b"9-"))
    return with_right_checksum(bytes(damaged))


def header_value(parts: Parts, rng: random.Random) -> Parts:
    """Something else at any depth of the header: another value, a key or item less, one more."""
    header = json.loads(json.dumps(parts[0]))
    places = list(walk(header))
    container, key = rng.choice(places)
    change = rng.random()
    if change < 0.7:
        container[key] = near(container[key], rng) if rng.random() < 0.4 else rng.choice(HOSTILE)
    elif change < 0.85:
        del container[key]
    elif isinstance(container, dict):
        container[rng.choice(("more", "profile", "gaussians", key + " "))] = rng.choice(HOSTILE)
    else:
        container.insert(key, rng.choice(HOSTILE))
    return header, parts[1]


def walk(node: dict | list) -> Iterator[tuple[dict | list, str | int]]:
    """All (container, key) of a JSON tree, however deep."""
    nodes = [node]
    while nodes:
        node = nodes.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            if isinstance(node[key], dict | list):
                nodes.append(node[key])


def near(value: object, rng: random.Random) -> object:
    """A value of the same type that is not far off."""
    if isinstance(value, str | list):
        return value[:-1]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return value  # infinities, NaN, and integers that are no float
    return rng.choice((value + 1, value - 1, -value, 2 * value, value * 1000, value // 2, float(value), value + 0.5))


def stream_bytes(parts: Parts, rng: random.Random) -> Parts:
    """A stream with damage of its own."""
    header, streams = parts
    name = rng.choice([name for name in streams if streams[name]] or list(streams))
    if not streams[name]:
        return header, {**streams, name: rng.randbytes(rng.randrange(1, 40))}
    return header, {**streams, name: rng.choice((flip_bits, overwrite, truncate, splice))(streams[name], rng)}


def stream_table(parts: Parts, rng: random.Random) -> Parts:
    """Streams that are exchanged, missing, new, renamed, of noise, or a bomb."""
    header, streams = parts[0], dict(parts[1])
    a, b = rng.choice(list(streams)), rng.choice(list(streams))
    change = rng.randrange(6)
    if change == 0:
        streams[a], streams[b] = streams[b], streams[a]
    elif change == 1:
        del streams[a]
    elif change == 2:
        streams[rng.choice(("more", a + "2", "~"))] = streams[b]
    elif change == 3:
        streams = {(b + "x" if name == b else name): stream for name, stream in streams.items()}
    elif change == 4:
        streams[a] = rng.choice((rng.randbytes(rng.randrange(200)), bomb()))
    else:
        streams[a] = streams[a] + rng.choice((b"\0", streams[b], bytes(50)))
    return header, streams


@functools.cache
def bomb() -> bytes:
    """100 MB of zeros in some kB of LZMA2."""
    import lzma

    return lzma.compress(bytes(100_000_000), lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])


def compressed_content(parts: Parts, rng: random.Random) -> Parts:
    """Other content in a stream of LZMA, which is packed again: right in form, wrong in what it says."""
    import lzma

    from compact_splats.compression.container import MAX_DICTIONARY

    header, streams = parts
    kind = {"id": lzma.FILTER_LZMA2, "dict_size": MAX_DICTIONARY, "preset": 0}
    name = rng.choice(list(streams))
    try:
        content = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[kind]).decompress(streams[name], max_length=10_000)
    except lzma.LZMAError:
        return stream_bytes(parts, rng)  # not of LZMA
    change = rng.random()
    if content and change < 0.8:
        content = rng.choice((flip_bits, overwrite))(content, rng)
    elif change < 0.9:
        content = content + bytes(rng.choice((1, 2, 1000)))
    else:
        content = content[:-1]
    return header, {**streams, name: lzma.compress(content, lzma.FORMAT_RAW, filters=[kind])}


ON_BYTES = (flip_bits, overwrite, truncate, splice, head_byte)
ON_PARTS = (header_value, stream_bytes, stream_table, compressed_content)


def raw_pack(header: dict, streams: dict[str, bytes]) -> bytes:
    """The file, NaN and infinity in its header not excepted."""
    from gsz_cases import raw_file, table_entry

    from compact_splats.compression.container import VERSION_KEY

    table = b"".join(table_entry(name.encode(), stream) for name, stream in streams.items())
    header = dict(header)
    version = header.pop(VERSION_KEY, 1)
    version = version if type(version) is int and 0 <= version < 1 << 32 else 1
    return raw_file(json.dumps(header).encode(), table, len(streams), b"".join(streams.values()), version)


# ---- the run, in a process of its own ----


def base_files(profile: str) -> list[bytes]:
    from gsz_cases import basis_of_views, model_rows

    from compact_splats.compression import encode
    from compact_splats.scene.parameters import SavedArrays

    sizes = ((0, 15), (1, 15), (2, 0), (3, 8), (40, 15), (40, 3), (200, 15))
    files = [encode(model_rows(num, num_rest, seed), profile) for seed, (num, num_rest) in enumerate(sizes)]
    if profile == "compact":
        files += [encode(model_rows(num), profile, color_basis=basis_of_views(num)) for num in (1, 20)]
        files += [encode(SavedArrays(model_rows(num, 3), nested=True), profile) for num in (10, 250)]
    return files


def damaged_file(files: list[tuple[bytes, Parts]], rng: random.Random) -> tuple[str, bytes]:
    """What was done to a file, and what came of it."""
    data, parts = rng.choice(files)
    if rng.random() < 0.4:
        kind = rng.choice(ON_BYTES)
        return kind.__name__, kind(data, rng)
    kinds = [rng.choice(ON_PARTS) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    for kind in kinds:
        if parts[0] and parts[1]:
            parts = kind(parts, rng)
    return kinds[0].__name__ if len(kinds) == 1 else "several", raw_pack(*parts)


def fuzz(profile: str, num_files: int, seed: int) -> dict:
    """Decode damaged files.

    Returns:
        Seconds, and how many files of each kind of damage were refused ("no") and read ("yes").

    Raises:
        Exception: whatever but a FormatError a file caused; the file is on stderr, in hexadecimal.
    """
    from compact_splats.compression import FormatError, compact_streams, decode
    from compact_splats.compression.arrays import checked
    from compact_splats.compression.container import unpack

    compact_streams.BLOCK = 100  # the largest model has two blocks, the largest level, too
    rng, counts = random.Random(seed), Counter()
    files = [(data, unpack(data)) for data in base_files(profile)]
    for data, _ in files:
        decode(data)
    bomb()
    warnings.simplefilter("error")
    limit_memory()
    start = time.perf_counter()
    for i in range(num_files):
        kind, data = damaged_file(files, rng)
        try:
            rows = decode(data)
        except FormatError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, str(error)[:2000]
            counts[kind + ": no"] += 1
        except BaseException:
            print(f"file {i} of seed {seed}, {kind}: {data.hex()}", file=sys.stderr)
            raise
        else:
            assert all(np.array_equal(row, rows[name]) for name, row in checked(rows).items())
            counts[kind + ": yes"] += 1
    return {"seconds": time.perf_counter() - start, "counts": counts}


def limit_memory() -> None:
    """Let this process have little more than it has now, where the system can do that."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def profiles() -> list[str]:
    from compact_splats.compression.codec import PROFILES

    return sorted(PROFILES)


@pytest.mark.parametrize("profile", profiles())
@pytest.mark.timeout(SECONDS + 60)
def test_no_damaged_file_does_harm(profile):
    """10,000 of them: only FormatError, no more than 64 MB, and all kinds of damage reach what they are meant for."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, __file__, profile, str(NUM_FILES), "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-5000:]
    counts = json.loads(done.stdout)["counts"]
    assert sum(counts.values()) == NUM_FILES
    by_kind: dict[Callable, Counter] = {kind: Counter() for kind in (*ON_BYTES, *ON_PARTS)}
    for kind in by_kind:
        for answer in ("yes", "no"):
            by_kind[kind][answer] = counts.get(f"{kind.__name__}: {answer}", 0)
        assert sum(by_kind[kind].values()) > 500 and by_kind[kind]["no"] > 150
    for kind in (flip_bits, truncate):
        assert by_kind[kind]["yes"] == 0, "a checksum has missed it"
    # What is harmless shows that the others are refused for what they say, not because the file is put together wrong.
    assert by_kind[stream_table]["yes"] + by_kind[header_value]["yes"] > 5
    assert by_kind[stream_bytes]["no"] > 500


if __name__ == "__main__":
    print(json.dumps(fuzz(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
