"""The reader of .gsz in JavaScript: the same bits as the one in Python, and an error for each file that is refused."""

import hashlib
import json
import lzma
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from gsz_cases import OF_VERSIONS, basis_of_views, model_rows
from test_gsz_fuzz import base_files, damaged_file

from compact_splats import viewer
from compact_splats.compression import FormatError, decode, encode
from compact_splats.compression.codec import PROFILES
from compact_splats.compression.compact_streams import BLOCK
from compact_splats.compression.container import levels_in, pack, unpack
from compact_splats.scene.parameters import PARAMETER_NAMES, SavedArrays

READER = Path(viewer.__file__).parent / "web" / "src" / "gsz.js"
NODE = shutil.which("node")
NUM_DAMAGED = 600  # of each profile
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not found")


def by_javascript(files: list[bytes], folder: Path, *size: str) -> list:
    """What the reader makes of each file: number, marks and hash of the arrays, or an error.

    With a size, of files that arrive in parts of so many bytes: lists of these, one entry for each level.
    """
    path = folder / "files.bin"
    path.write_bytes(b"".join(struct.pack("<I", len(data)) + data for data in files))
    command = [NODE, str(Path(__file__).parent / "decode_gsz.mjs"), str(READER), str(path), *size]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def by_python(data: bytes) -> dict:
    arrays = decode(data)
    content = b"".join(arrays[name].tobytes() for name in PARAMETER_NAMES)
    offset = None if arrays.offset is None else list(arrays.offset)
    marks = {"antialiased": arrays.antialiased, "offset": offset}
    marks["levels"] = levels_in(unpack(data)[0]) or [len(arrays["means"])]
    return {"num": len(arrays["means"]), **marks, "hash": hashlib.sha256(content).hexdigest()}


def test_arrays_are_hashed_in_the_same_order():
    assert PARAMETER_NAMES == ("means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest")


@pytest.mark.parametrize("profile", PROFILES)
def test_both_readers_decode_the_same_bits(profile, tmp_path):
    files = base_files(profile)
    files += [encode(model_rows(2000, rest, seed=1), profile) for rest in (0, 3, 8, 15)]  # with a PCA basis
    files.append(encode(SavedArrays(model_rows(5), True, offset=(1e6, -2.5, 0.1)), profile))
    if profile == "compact":
        files += [encode(SavedArrays(model_rows(1500, 8), nested=True))]
        files += [encode(model_rows(1500, rest), color_basis=basis_of_views(30)) for rest in (3, 15)]
        files += [(Path(__file__).parent / name).read_bytes() for name in OF_VERSIONS]
        files.append(encode(model_rows(300), rest_step=1e-4, quat_step=1e-4, scale_step=1e-3))  # large codes
    assert by_javascript(files, tmp_path) == [by_python(data) for data in files]


def test_a_model_of_several_blocks(tmp_path):
    data = encode(model_rows(BLOCK + 1, 0))
    assert "tables.1" in unpack(data)[1]
    assert by_javascript([data], tmp_path) == [by_python(data)]


@pytest.mark.parametrize(
    "options",
    [{"lc": 3, "lp": 0, "pb": 2}, {"lc": 1, "lp": 3, "pb": 4}, {"mode": lzma.MODE_FAST, "nice_len": 273}],
    ids=["defaults of xz", "contexts by position", "fast"],
)
def test_lzma_of_other_writers(options, tmp_path):
    """Other parameters than our writer's, far repetitions, and several chunks, some of noise that is not compressed."""
    rows = model_rows(8000)
    rows["sh_rest"][4000:] = rows["sh_rest"][:4000]
    header, streams = unpack(encode(rows, "seed"))
    assert max(map(len, streams.values())) > 1 << 16  # more than a chunk of noise holds
    data = pack(header, {name: repacked(stream, options) for name, stream in streams.items()})
    assert by_javascript([data], tmp_path) == [by_python(data)]


def repacked(stream: bytes, options: dict) -> bytes:
    kind = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 22}
    content = lzma.decompress(stream, lzma.FORMAT_RAW, filters=[kind])
    return lzma.compress(content, lzma.FORMAT_RAW, filters=[{**kind, "preset": 0, **options}])


@pytest.mark.parametrize("profile", PROFILES)
def test_damaged_files_are_refused_as_in_python(profile, tmp_path):
    """Only numbers that JSON writes in two ways are read by one and refused by the other: 5.0 is an integer here."""
    rng = random.Random(0)
    bases = [(data, unpack(data)) for data in base_files(profile)]
    damaged = [damaged_file(bases, rng) for _ in range(NUM_DAMAGED)]
    refused = 0
    for (kind, data), found in zip(damaged, by_javascript([data for _, data in damaged], tmp_path), strict=True):
        try:
            expected = by_python(data)
        except FormatError as error:
            refused += "error" in found
            may_differ = kind in ("header_value", "head_byte", "several")
            assert "error" in found or may_differ, f"{kind}: {error}; {data.hex()}"
        else:
            assert found == expected, f"{kind}: {data.hex()}"
    assert refused > 0.8 * NUM_DAMAGED
