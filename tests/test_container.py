"""The .gsz container: what goes in comes out, and whatever is not as it was written is told in one line."""

import lzma
import pickle
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from gsz_cases import model_rows, raw_file, same_bits, table_entry, with_right_checksum

import compact_splats
from compact_splats.compression import FormatError, decode, encode, formats, read_model, write_gsz
from compact_splats.compression.container import MAX_HEADER, MAX_STREAMS, lzma_pack, lzma_unpack, pack, unpack
from compact_splats.compression.morton import morton_cells, morton_codes, morton_order
from compact_splats.scene import ply
from compact_splats.utils.errors import InputError

ROOT = Path(__file__).parent.parent
HEADER = {"profile": "none", "numbers": [1, 2.5, -3], "text": "é\n", "nothing": None}
STREAMS = {"a": b"", "b": b"\x00\xff" * 20, "a_stream.with-a name": b"x"}


def refused(data: bytes) -> str:
    """The one line that says why a file is refused."""
    with pytest.raises(FormatError) as caught:
        unpack(data)
    message = str(caught.value)
    assert message.startswith("expected ") and ", found " in message and "\n" not in message and len(message) < 400
    return message


# ---- the container ----


@pytest.mark.parametrize("streams", [{}, STREAMS])
@pytest.mark.parametrize("header", [{}, HEADER])
def test_what_is_packed_is_unpacked(header, streams):
    data = pack(header, streams)
    for given in (data, bytearray(data), memoryview(data)):
        assert unpack(given) == ({**header, "version": 1}, streams)
    assert list(unpack(data)[1]) == list(streams)
    assert pack(header, streams) == data


def test_the_bytes_are_those_of_the_specification():
    """Guards against a change of writer and reader alike: docs/gsz.md, put together by hand."""
    text, stream = b'{"profile":"x"}', b"content"
    assert pack({"profile": "x"}, {"s": stream}) == raw_file(text, table_entry(b"s", stream), 1, stream)


def test_every_prefix_is_refused():
    data = pack(HEADER, STREAMS)
    for size in range(len(data)):
        refused(data[:size])


def test_every_flipped_bit_is_refused():
    data = pack(HEADER, STREAMS)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        refused(bytes(damaged))


@pytest.mark.parametrize("data", [b"", b"ply\nformat ascii 1.0\n", b"\x89PNG\r\n\x1a\n" + bytes(99), bytes(5000)])
def test_other_files_are_refused(data):
    assert "a .gsz file" in refused(data)


def test_a_newer_version_is_named_whatever_follows():
    data = bytearray(pack(HEADER, STREAMS))
    data[8] = 4
    assert "version 4; this program reads up to 3" in refused(bytes(data))
    assert "version 4; this program reads up to 3" in refused(bytes(data[:28]) + b"another layout")


def test_bytes_behind_the_end_are_refused():
    assert "appended" in refused(pack(HEADER, STREAMS) + b"\0")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":[1e999]}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"{}" + b" " * MAX_HEADER,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_header_that_is_no_json_object_is_refused(text):
    """With a right checksum: the one who made the file meant it so."""
    refused(raw_file(text, b"", 0))


@pytest.mark.parametrize("size", [2, 2**31, 2**32, 2**63, 2**64 - 1])
def test_a_stream_that_claims_more_than_there_is_is_refused_without_making_room(size):
    tracemalloc.start()
    assert "cut off" in refused(raw_file(b"{}", table_entry(b"s", b"x", size), 1, b"x"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6


@pytest.mark.parametrize(
    "table, num_streams",
    [
        (table_entry(b"s", b"") * 2, 2),  # twice the same name
        (table_entry(b"", b""), 1),
        (table_entry(b"\xff", b""), 1),
        (table_entry(b"n" * 65, b""), 1),
        (table_entry(b"s", b""), 2),
        (table_entry(b"s", b""), 0),
        (table_entry(b"s", b"") + b"\x05", 2),
        (table_entry(b"s", b"")[:-1], 1),
        (b"", 1),
        (b"", MAX_STREAMS),
        (b"", MAX_STREAMS + 1),
        (b"", 2**32 - 1),
        (bytes(1000), 3),
    ],
)
def test_a_table_that_does_not_add_up_is_refused(table, num_streams):
    refused(raw_file(b"{}", table, num_streams))


@pytest.mark.parametrize("position", [12, 16, 20])
@pytest.mark.parametrize("number", [0, 1, 2**31, 2**32 - 1])
def test_sizes_of_the_head_that_lie_are_refused(position, number):
    data = bytearray(pack(HEADER, STREAMS))
    data[position : position + 4] = struct.pack("<I", number)
    refused(with_right_checksum(bytes(data)))


def test_errors_survive_a_process_boundary_and_are_value_errors():
    error = pickle.loads(pickle.dumps(FormatError("this\nand", "that")))
    assert isinstance(error, ValueError) and str(error) == "expected this and, found that"


# ---- LZMA ----


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 700_000])
@pytest.mark.parametrize("kind", ["zeros", "noise", "steps"])
def test_lzma_round_trip(kind, size):
    rng = np.random.default_rng(size)
    content = {"zeros": bytes(size), "noise": rng.bytes(size), "steps": rng.geometric(0.1, size).astype("u1").tobytes()}
    packed = lzma_pack(content[kind])
    assert lzma_unpack(packed, size) == content[kind] and lzma_pack(content[kind]) == packed
    assert len(packed) <= size + 16 + size // 1000


def test_lzma_of_another_size_is_refused():
    packed = lzma_pack(b"abc" * 1000)
    for size in (0, 2999, 3001, 2**40):
        with pytest.raises(FormatError):
            lzma_unpack(packed, size)
    for damaged in (b"", packed[:-1], packed + b"\0", packed[:10], b"\xff" * 50, zlib.compress(b"abc" * 1000)):
        with pytest.raises(FormatError):
            lzma_unpack(damaged, 3000)


def test_a_decompression_bomb_takes_no_memory():
    """100 MB of zeros in a thousandth of that, declared as 1,000 bytes, and as more than there is."""
    bomb = lzma.compress(bytes(100_000_000), lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
    assert len(bomb) < 100_000 and len(lzma_unpack(bomb, 100_000_000)) == 100_000_000
    tracemalloc.start()
    with pytest.raises(FormatError, match="more"):
        lzma_unpack(bomb, 1000)
    with pytest.raises(FormatError):
        lzma_unpack(bomb[:1000], 2**40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Worst measured: 25 MB, while the 6 MB of zeros that 1,000 bytes of it hold grow; 2^40 bytes were asked for.
    assert peak < 40e6


# ---- Morton order ----


def test_morton_codes_interleave_bits():
    cells = np.random.default_rng(0).integers(0, 1 << 21, (500, 3))
    cells[0], cells[1] = 0, (1 << 21) - 1
    for (x, y, z), code in zip(cells.tolist(), morton_codes(cells).tolist(), strict=True):
        bits = [f"{value:021b}" for value in (z, y, x)]
        assert code == int("".join("".join(three) for three in zip(*bits, strict=True)), 2)
    np.testing.assert_array_equal(morton_cells(morton_codes(cells)), cells)


def test_morton_order_is_a_stable_permutation():
    cells = np.random.default_rng(1).integers(0, 4, (1000, 3))
    order = morton_order(cells)
    codes = morton_codes(cells)[order].astype(np.int64)
    assert order.dtype == np.int64 and sorted(order) == list(range(1000))
    assert (np.diff(codes) >= 0).all() and (np.diff(order)[np.diff(codes) == 0] > 0).all()
    np.testing.assert_array_equal(morton_order(np.zeros((5, 3), np.uint8)), range(5))
    assert morton_order(np.zeros((0, 3), np.int64)).shape == (0,)


# ---- files ----


def test_a_model_comes_back_from_a_file_whatever_its_name(tmp_path):
    rows = model_rows(50)
    data = encode(rows, "seed")
    for name in ("model.gsz", "model.GSZ", "model.ply", "model"):
        write_gsz(tmp_path / "deep" / name, data)
        assert same_bits(read_model(tmp_path / "deep" / name), decode(data))
    for name in ("point_cloud.ply", "ply.gsz"):
        ply.write(tmp_path / name, rows)
        assert same_bits(read_model(tmp_path / name), rows)


@pytest.mark.parametrize("ending", formats.WRITTEN)
def test_models_of_other_tools_are_read(tmp_path, ending):
    """By their bytes; .splat has nothing there that tells it, and is known by its name."""
    formats.writer_for(ending[1:])(tmp_path / f"model{ending}", model_rows(30))
    rows = read_model(tmp_path / f"model{ending}")
    assert len(rows["means"]) == 30
    if ending != ".splat":
        assert same_bits(read_model((tmp_path / f"model{ending}").rename(tmp_path / "model")), rows)


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("model.gsz", None, "found nothing"),
        ("model.gsz", b"", "a .gsz file"),
        ("model.gsz", b"plain text", "a .gsz file"),
        ("model.gsz", pack({"profile": "none"}, {})[:-1], "cut off"),
        ("model.gsz", pack({"profile": "none"}, {}), "'none'"),
        ("model.gsz", pack({"profile": ["seed"]}, {}), "profiles"),
        ("model.gsz", pack({}, {}), "profiles"),
        ("model.ply", b"", "PLY"),
        ("model.jpg", b"\xff\xd8\xff\xe0", "starts with"),
        ("model", b"", "starts with"),
    ],
)
def test_a_file_that_is_no_model_is_said_in_one_line(tmp_path, name, content, expected):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_model(path)
    assert str(path) in str(caught.value) and expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(InputError, match="saved Gaussians, found none"):
        read_model(tmp_path)


def test_an_old_file_stays_where_the_new_one_cannot_be_encoded_or_written(tmp_path, monkeypatch):
    path, rows = tmp_path / "model.gsz", model_rows(5)
    write_gsz(path, encode(rows, "seed"))
    before = path.read_bytes()
    rows["quats"][3, 1] = np.nan
    with pytest.raises(FormatError, match=r"quats\[1\] = nan in Gaussian 3"):
        write_gsz(path, encode(rows, "seed"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        write_gsz(path, b"new")
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["model.gsz"]


# ---- the package ----


def test_encode_and_decode_are_names_of_the_package():
    """As docs/gsz.md shows them."""
    assert compact_splats.encode is encode and compact_splats.decode is decode
