"""Nested models in .gsz: levels that are decoded one after the other, each without what follows."""

import hashlib
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gsz_cases import basis_of_views, model_rows, same_bits, sorted_rows
from test_gsz_javascript import NODE, by_javascript, by_python

from compact_splats.commands import compress
from compact_splats.compression import FormatError, compact_streams, decode, encode, read_model
from compact_splats.compression.compact import CompactQuantizer
from compact_splats.compression.compact_streams import parts_of
from compact_splats.compression.container import pack, unpack
from compact_splats.scene.parameters import PARAMETER_NAMES, SavedArrays

NUM, ENDS = 1010, [101, 253, 505, 1010]


def nested_file(num: int = NUM) -> bytes:
    return encode(SavedArrays(model_rows(num, 3), nested=True), color_basis=basis_of_views(9))


def rows_to(rows: dict[str, np.ndarray], end: int, start: int = 0) -> dict[str, np.ndarray]:
    return {name: rows[name][start:end] for name in PARAMETER_NAMES}


@pytest.mark.parametrize("block", [1 << 18, 100], ids=["a block each", "several blocks"])
def test_each_level_holds_the_next_gaussians_as_they_were_rendered(block, monkeypatch):
    """Bit for bit, in another order: the most opaque of a level first."""
    monkeypatch.setattr(compact_streams, "BLOCK", block)
    rows = SavedArrays(model_rows(NUM, 3), nested=True)
    quantizer = CompactQuantizer(color_basis=basis_of_views(9))
    quantizer.fit(rows_to(quantizer.prepared(_tensors(rows)), NUM))
    stored = {name: each.numpy() for name, each in quantizer.quantized(_tensors(rows)).items()}
    data = quantizer.encode(rows)
    decoded, (header, streams) = decode(data), unpack(data)
    assert decoded.nested and header["levels"] == ENDS and header["version"] == 3
    assert sum(name.startswith("tables.") for name in streams) == (4 if block > NUM else 2 + 2 + 3 + 6)
    for start, end in pairwise([0, *ENDS]):
        assert same_bits(*(sorted_rows(rows_to(each, end, start)) for each in (decoded, stored)))
        assert (np.diff(decoded["opacity_logits"][start:end, 0]) <= 0).all()


def _tensors(rows):
    import torch

    return {name: torch.from_numpy(each) for name, each in rows.items()}


def test_a_model_that_is_not_nested_has_no_levels():
    header, _ = unpack(encode(model_rows(50)))
    assert header["version"] == 2 and "levels" not in header and not decode(encode(model_rows(50))).nested


@pytest.mark.parametrize("num", [1, 2, 3, 10])
def test_models_of_few_gaussians_have_levels_that_are_not_empty(num):
    ends = sorted({math.ceil(share * num) for share in compact_streams.LEVELS})
    assert unpack(nested_file(num))[0].get("levels", [num]) == ends
    assert len(decode(nested_file(num))["means"]) == num


def test_a_file_that_ends_with_a_level_is_refused_in_one_sentence():
    parts = parts_of(nested_file())
    assert len(parts) == 4 and b"".join(parts) == nested_file()
    for count in range(1, 4):
        with pytest.raises(FormatError, match="the file was cut off"):
            decode(b"".join(parts[:count]))
    assert parts_of(encode(model_rows(50))) == [encode(model_rows(50))]


@pytest.mark.parametrize(
    "levels",
    [None, "x", [], [1010], [101, 505], [0, 1010], [505, 505, 1010], [505, 101, 1010], [505.0, 1010], [True, 1010]],
    ids=str,
)
def test_levels_that_are_none_are_refused(levels):
    header, streams = unpack(nested_file())
    with pytest.raises(FormatError, match="as levels, up to that of the model"):
        decode(pack({**header, "levels": levels}, streams))


def test_other_levels_than_those_of_the_streams_are_refused():
    header, streams = unpack(nested_file())
    for levels in ([505, 1010], [101, 253, 506, 1010], [*range(1, 1011)]):
        with pytest.raises(FormatError):
            decode(pack({**header, "levels": levels}, streams))


@pytest.mark.skipif(NODE is None, reason="node is not found")
@pytest.mark.parametrize("size", ["1", "1000", "stream"])
def test_a_level_is_decoded_before_the_next_one_arrives(size, tmp_path):
    """By the reader in JavaScript, from parts of any size; where the file ends, the levels before are there."""
    whole = nested_file(200) if size == "1" else nested_file()
    decoded, marks, ends = decode(whole), by_python(whole), unpack(whole)[0]["levels"]

    def level(end: int) -> dict:
        content = b"".join(row.tobytes() for row in rows_to(decoded, end).values())
        return marks | {"num": end, "hash": hashlib.sha256(content).hexdigest()}

    parts, cut_off = parts_of(whole), {"error": "the file was cut off"}
    files = [b"".join(parts[:count]) for count in (1, 2, 3)] + [b"".join(parts[:3])[:-1], whole]
    expected = [[*map(level, ends[:count]), cut_off] for count in (1, 2, 3, 2)] + [[*map(level, ends)]]
    others = [encode(model_rows(50), profile) for profile in ("compact", "seed")]
    assert by_javascript(files + others, tmp_path, size) == [*expected, *([by_python(data)] for data in others)]


def test_a_nested_gsz_is_nested_in_every_command(tmp_path, capsys):
    """``info`` names the levels; as PLY it has the mark, and its first Gaussians are those of the first levels."""
    path, out = tmp_path / "a.gsz", tmp_path / "out.ply"
    path.write_bytes(nested_file())
    compress.main(["info", str(path)])
    said = capsys.readouterr().out
    assert "nested" in said and "the first 101, 253, 505, 1,010 Gaussians" in said
    compress.main(["export", str(path), "--format", "ply", "--max-gaussians", "253", "-o", str(out), "--quiet"])
    found = read_model(out)
    assert found.nested and same_bits(rows_to(found, 253), rows_to(read_model(path), 253))


def test_the_levels_of_a_decoded_file_are_those_of_the_file():
    """Stored again, each level has the same Gaussians."""
    once = decode(nested_file())
    twice = decode(encode(once, color_basis=basis_of_views(9)))
    for start, end in pairwise([0, *ENDS]):
        means = [np.sort(each["means"][start:end], axis=0) for each in (once, twice)]
        np.testing.assert_allclose(*means, atol=0.02)


def test_files_of_the_fixture_have_the_levels_that_their_header_says():
    data = (Path(__file__).parent / "version_3.gsz").read_bytes()
    assert unpack(data)[0]["levels"] == [8, 20, 40, 80] and decode(data).nested
