"""Profile "compact": what is decoded is what was rendered, bit for bit; small; the same Gaussians in other words."""

import contextlib
import hashlib
import struct
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_reference as reference
from gsz_cases import OF_VERSIONS, basis_of_views

from compact_splats.arguments.compress import QUALITIES
from compact_splats.compression import ColorBasis, compact_streams, decode, encode
from compact_splats.compression.axes import close_to_identity
from compact_splats.compression.compact import CompactQuantizer, CompactSettings
from compact_splats.compression.compact_code import BENDS, MAX_CODE, THINNEST, Codes, weight_of
from compact_splats.compression.compact_streams import places_on_curve
from compact_splats.compression.container import FormatError, lzma_pack, lzma_unpack, pack, unpack
from compact_splats.compression.entropy import MAX_TABLES, Contexts, SymbolReader, SymbolWriter, pack_bits, unpack_bits
from compact_splats.scene.gaussian_model import PARAMETER_NAMES


def random_rows(num: int, num_rest: int = 15, seed: int = 0) -> dict[str, torch.Tensor]:
    """Gaussians as training leaves them, roughly: a dense middle and far outliers, flat shapes, small harmonics."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    return {
        "means": normal(num, 3) * torch.exp(normal(num, 1)),
        "log_scales": normal(num, 3) - torch.tensor([3.0, 4.0, 6.0]),
        "quats": normal(num, 4),
        "opacity_logits": 1.2 * normal(num, 1) - 1,
        "sh_dc": normal(num, 1, 3),
        "sh_rest": 0.1 * normal(num, num_rest, 3),
    }


def arrays(rows: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: row.numpy() for name, row in rows.items()}


def fitted(
    rows: dict[str, torch.Tensor], color_basis: ColorBasis | None = None, **settings: float
) -> tuple[CompactQuantizer, dict[str, torch.Tensor]]:
    quantizer = CompactQuantizer(CompactSettings(**settings), color_basis)
    prepared = quantizer.prepared(rows)
    quantizer.fit(prepared)
    return quantizer, prepared


@pytest.mark.parametrize("viewpoints", [0, 20])
@pytest.mark.parametrize("num_rest", [0, 3, 8, 15])
@pytest.mark.parametrize("num", [0, 1, 2, 500, 3000])
def test_decoding_gives_what_was_rendered(num, num_rest, viewpoints):
    """decode(encode(rows)) is quantized(rows) in Morton order, equal in every bit, with and without a basis."""
    quantizer, rows = fitted(random_rows(num, num_rest), basis_of_views(viewpoints))
    decoded = decode(quantizer.encode(arrays(rows)))
    stored = quantizer.quantized(rows)
    order = np.argsort(places_on_curve(quantizer.code.shape_codes(rows)), kind="stable")
    for name in PARAMETER_NAMES:
        assert decoded[name].dtype == np.float32
        assert np.array_equal(decoded[name], stored[name].numpy()[order]), name


def test_blocks_hold_the_same_model(monkeypatch):
    """Bit for bit, and the file grows by little more than their tables: 3000 Gaussians in five blocks, and in one."""
    rows, color_basis = arrays(random_rows(3000)), basis_of_views(20)
    one = encode(rows, color_basis=color_basis)
    monkeypatch.setattr(compact_streams, "BLOCK", 700)
    five = encode(rows, color_basis=color_basis)
    decoded = decode(five)
    sizes = {name: len(stream) for name, stream in unpack(five)[1].items()}
    assert sizes["tables.4"] > 4 and sizes["symbols.4"] > 4 and "tables.5" not in sizes
    assert len(one) < len(five) < 1.2 * len(one)
    monkeypatch.setattr(compact_streams, "BLOCK", 3000)
    assert all(np.array_equal(decoded[name], row) for name, row in decode(one).items())


def test_blocks_are_of_about_one_size(monkeypatch):
    monkeypatch.setattr(compact_streams, "BLOCK", 10)
    for num, lengths in ((0, []), (1, [1]), (10, [10]), (11, [5, 6]), (31, [7, 8, 8, 8])):
        blocks = compact_streams.blocks_of([num])
        assert [block.stop - block.start for block in blocks] == lengths
        assert [index for block in blocks for index in range(num)[block]] == list(range(num))


def test_a_block_less_or_more_or_damaged_is_refused(monkeypatch):
    monkeypatch.setattr(compact_streams, "BLOCK", 200)
    header, streams = unpack(encode(arrays(random_rows(500))))
    left_out = {name: stream for name, stream in streams.items() if name != "places.1"}
    for wrong in (left_out, {**streams, "places.3": b""}, {**streams, "places": b""}):
        with pytest.raises(FormatError, match=r"the streams viewpoints, basis, padding, tables\.0"):
            decode(pack(header, wrong))
    with pytest.raises(FormatError, match="expected the streams .* found"):
        decode(pack({**header, "gaussians": 900}, streams))
    for index in range(3):
        shorter = {**streams, f"symbols.{index}": streams[f"symbols.{index}"][:-8]}
        with pytest.raises(FormatError):
            decode(pack(header, shorter))


def test_later_threads_have_as_many_of_torch_as_before():
    """The workers have one each, which torch gives to every new thread from then on."""
    before, found = torch.get_num_threads(), []
    try:
        torch.set_num_threads(3)
        data = encode(arrays(random_rows(100)))
        header, streams = unpack(data)
        damaged = pack(header, {**streams, "symbols.0": streams["symbols.0"][:-8]})
        for work in (lambda: encode(decode(data)), lambda: decode(data), lambda: decode(damaged)):
            with contextlib.suppress(FormatError):
                work()
            thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
            thread.start()
            thread.join()
    finally:
        torch.set_num_threads(before)
    assert found == [3, 3, 3]


def test_another_set_than_that_of_the_fit_is_stored_as_rendered():
    """Fine-tuning moves rows between fits: values outside of all ranges of the fit are clamped in both alike."""
    quantizer, rows = fitted(random_rows(2000))
    wild = {name: 40 * row for name, row in rows.items()}
    decoded, stored = decode(quantizer.encode(arrays(wild))), quantizer.quantized(wild)
    order = np.argsort(places_on_curve(quantizer.code.shape_codes(wild)), kind="stable")
    for name in PARAMETER_NAMES:
        assert np.array_equal(decoded[name], stored[name].numpy()[order]), name


def test_values_are_within_half_a_step():
    """No value moves by more than half its step, that of colours and rotations being divided by the weight."""
    quantizer, rows = fitted(random_rows(3000), dead_zone=0.5)
    stored, code = quantizer.quantized(rows), quantizer.code
    assert (stored["opacity_logits"] - rows["opacity_logits"]).abs().max() <= code.opacity_step / 2 + 1e-6
    order = rows["log_scales"].argsort(1, descending=True)
    before, after = (each["log_scales"].gather(1, order) for each in (rows, stored))
    assert (after - before)[:, 0].abs().max() <= code.scale_step / 2 + 1e-5
    ratios = [(after[:, :1] - each[:, 1:]).clamp(0, THINNEST) for each in (before, after)]
    largest = torch.tensor([code.limits("ratios", column)[1] for column in (0, 1)]) * code.scale_step
    bent = [torch.minimum(each / (1 + torch.tensor(BENDS) * each), largest) for each in ratios]
    assert (bent[1] - bent[0]).abs().max() <= code.scale_step / 2 + 1e-5
    turned = (stored["quats"] - rows["quats"])[:, 1:].abs() * weight_of(code.shape_codes(rows).quat_weights)
    assert turned.max() <= code.quat_step / 2 + 1e-5
    inside = [(each["means"].double() - torch.tensor(code.centre)) / code.spread for each in (rows, stored)]
    moved = [each / (1 + each.abs()) * (1 << (code.position_bits - 1)) for each in inside]
    depths = code.shape_codes(rows).depths
    assert ((moved[1] - moved[0]).abs().amax(1) * 2**depths).max() <= 0.5 + 1e-2
    weights = weight_of(code.shape_codes(rows).weights)
    luma = (stored["sh_dc"] - rows["sh_dc"]).mean(2)[:, 0]
    assert (luma.abs() * weights).max() <= code.dc_step / 2 + 1e-5


def test_weights_grow_with_opacity_and_size():
    """Colours of opaque and of large Gaussians have finer steps, within the limits of 2^-6 and 2^6."""
    rows = random_rows(3000)
    rows["means"][:3] = rows["means"].median(0).values
    rows["log_scales"][:3] = torch.tensor([[-4.0] * 3, [-4.0] * 3, [-2.0] * 3])
    rows["opacity_logits"][:3] = torch.tensor([[-3.0], [3.0], [3.0]])
    quantizer, rows = fitted(rows)
    weights = weight_of(quantizer.code.shape_codes(rows).weights)
    assert weights[0] < weights[1] < weights[2]
    assert 2.0**-6 <= weights.min() and weights.max() <= 2.0**6


@pytest.mark.parametrize("sign", [1, -1])
def test_what_the_largest_codes_and_steps_stand_for_is_finite(sign):
    """With the largest numbers that a header may hold, and all cameras in one place: no reader needs to look."""
    one_place = ColorBasis(torch.full((32, 3), -1e30).double(), torch.full((32, 3), 127.0).double(), -1.0)
    quantizer, rows = fitted(random_rows(3000), one_place)
    largest = dict.fromkeys(("scale_step", "opacity_step", "quat_step", "dc_step", "rest_step"), 1e20)
    basis = torch.full((45, 45), 127, dtype=torch.int8)
    code = replace(quantizer.code, position_bits=14, centre=(1e30,) * 3, spread=1e30, pca_basis=basis, **largest)
    codes = quantizer.code.shape_codes(rows)
    largest_codes = {name: torch.zeros_like(getattr(codes, name)) for name in ("weights", "quat_weights", "ratios")}
    largest_codes |= {"cells": torch.full((3000, 3), 2**14 - 1), "places": torch.full((3000, 3), 2**7 - 1)}
    largest_codes |= {"depths": torch.full((3000,), 7), "rest": torch.full((3000, 45), sign * 32767)}
    largest_codes |= {name: torch.full((3000, 3), sign * 32767) for name in ("quats", "dc")}
    largest_codes |= {name: torch.full((3000, 1), sign * 32767) for name in ("opacity", "size")}
    codes, bases = Codes(**vars(codes) | largest_codes), code.cell_bases()
    codes.basis_index = code.basis_index(codes, bases)
    values = code.values(codes, bases)
    assert all(row.isfinite().all() for row in values.values())
    assert values["sh_rest"].abs().max() > 3.4e38 * 1e20 / 1e30  # with steps up to 1e30 it would not be


@pytest.mark.parametrize("name", OF_VERSIONS)
def test_files_of_each_version_decode_to_the_same_bits(name):
    data = (Path(__file__).parent / name).read_bytes()
    version, digest = OF_VERSIONS[name]
    assert unpack(data)[0]["version"] == version
    content = b"".join(values.tobytes() for values in (decode(data)[name] for name in PARAMETER_NAMES))
    assert hashlib.sha256(content).hexdigest() == digest


def test_a_header_with_larger_numbers_is_refused():
    header, streams = unpack(encode(arrays(random_rows(500))))
    wrong = {"rest_step": 1.1e20, "scale_step": 10**400, "spread": 1.1e30, "depth": [0] * 5 + [2**24 + 1]}
    for key, value in (wrong | {"quat_weight": [1025] + [0] * 6, "color_weight": [0] * 5}).items():
        with pytest.raises(FormatError, match=key):
            decode(pack({**header, key: value}, streams))


def test_opacities_beyond_16_bits_are_refused():
    header, streams = unpack(encode(arrays(random_rows(1))))
    packed = streams["tables.0"]
    tables = bytearray(lzma_unpack(packed[4:], int.from_bytes(packed[:4], "little")))
    struct.pack_into("<i", tables, 9, MAX_CODE + 1)  # behind the table of the first field: 8 bytes and a level
    header |= {"opacity_low": MAX_CODE, "opacity_high": MAX_CODE}
    with pytest.raises(FormatError, match="32767"):
        decode(pack(header, {**streams, "tables.0": packed[:4] + lzma_pack(bytes(tables))}))


def test_places_are_finer_where_more_is_to_be_seen():
    """Of opaque and of thin Gaussians; a typical one's step is the share of its size that was asked for."""
    rows = random_rows(3000)
    rows["means"] = 0.3 * torch.randn(3000, 3, generator=torch.Generator().manual_seed(1))
    rows["means"][:3] = rows["means"].median(0).values
    rows["log_scales"][:3] = torch.tensor([[-3.0] * 3, [-3.0] * 3, [-3.0, -5.0, -7.0]])
    rows["opacity_logits"][:3] = torch.tensor([[-3.0], [3.0], [3.0]])
    quantizer, rows = fitted(rows, position_step=0.005)
    depths = quantizer.code.shape_codes(rows).depths
    assert depths[0] < depths[1] < depths[2]
    step = quantizer.code.spread / 2 ** (quantizer.code.position_bits - 1 + float(depths.float().median()))
    size = float(rows["log_scales"].sort(1).values[:, 1:].mean(1).median().exp())
    assert 0.5 < step / (0.005 * size) < 2


def test_rotations_of_needles_are_stored_finer():
    """The more two axes differ, the finer the turn of one into the other; a ball's turns are the coarsest."""
    rows = random_rows(3000)
    for row in rows.values():
        row[:3] = row[0].clone()
    rows["log_scales"][:3] = torch.tensor([[-3.0, -3.0, -3.0], [-3.0, -3.0, -4.0], [-3.0, -3.0, -6.0]])
    quantizer, _ = fitted(rows)
    ball, disc, thin_disc = weight_of(quantizer.code.shape_codes(rows).quat_weights)[:3]
    assert ball.unique().numel() == 1
    assert thin_disc[2] < 1.5 * ball[2], "about its axis a disc is a ball"
    for axis in (0, 1):
        assert 2 * ball[axis] < 1.5 * disc[axis] < thin_disc[axis]


def test_other_names_of_the_axes_are_the_same_gaussians():
    """The covariance stays, the quaternion has length one, and no rotation is beyond 63 degrees."""
    rows = random_rows(5000)
    quats, log_scales = close_to_identity(rows["quats"], rows["log_scales"])
    before = reference.covariances_of(rows["quats"].double(), rows["log_scales"].double().exp())
    after = reference.covariances_of(quats.double(), log_scales.double().exp())
    assert (after - before).abs().max() < 1e-5 * before.abs().max()
    assert (quats.norm(dim=1) - 1).abs().max() < 1e-6
    assert quats[:, 0].min() > np.cos(np.radians(63 / 2))


def test_the_order_of_the_gaussians_does_not_change_a_byte():
    rows = random_rows(3000)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(1))
    quantizer, rows = fitted(rows)
    assert quantizer.encode(arrays(rows)) == quantizer.encode(arrays({k: row[order] for k, row in rows.items()}))


def test_coarser_steps_make_smaller_files():
    rows = arrays(random_rows(4000))
    sizes = [len(encode(rows, "compact", rest_step=step, dc_step=step)) for step in (0.05, 0.1, 0.2, 0.4)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.5 * sizes[-1]


def test_a_higher_quality_is_larger_and_closer():
    """The presets in their order: the file grows, positions and colours change less."""
    rows = arrays(random_rows(4000))
    sizes, errors = [], []
    for quality in QUALITIES:
        data = encode(rows, quality=quality)
        decoded = decode(data)
        sizes.append(len(data))
        changes = (np.abs(np.sort(decoded[name], 0) - np.sort(rows[name], 0)) for name in ("means", "sh_dc"))
        errors.append([change.mean() for change in changes])
    assert sizes == sorted(set(sizes))
    assert (np.diff(errors, axis=0) < 0).all()


@pytest.mark.parametrize("viewpoints", [0, 20])
def test_the_penalty_falls_where_the_file_gets_smaller(viewpoints):
    """Its gradient shrinks the coefficients, reaches nothing else, and following it makes the file smaller."""
    quantizer, rows = fitted(random_rows(2000), basis_of_views(viewpoints), rate=1.0)
    leaves = {name: row.clone().requires_grad_() for name, row in rows.items()}
    quantizer.penalty(leaves).backward()
    assert all(leaf.grad is None for name, leaf in leaves.items() if name != "sh_rest")
    gradient = leaves["sh_rest"].grad
    assert (gradient * rows["sh_rest"]).sum() > 0
    moved = {**rows, "sh_rest": rows["sh_rest"] - 0.5 * gradient / gradient.abs().max() * rows["sh_rest"].abs().max()}
    assert quantizer.penalty(moved) < quantizer.penalty(rows)
    assert len(quantizer.encode(arrays(moved))) < len(quantizer.encode(arrays(rows)))


def test_a_symbol_costs_what_its_frequency_says():
    """The coder is within 2 % and a table of the entropy; contexts that tell the symbol leave nothing to pay."""
    generator = np.random.default_rng(0)
    symbols = np.round(generator.laplace(size=100_000) * 3).astype(np.int64)
    writer = SymbolWriter()
    writer.write(symbols)
    size = len(writer.streams()["symbols"])
    counts = np.bincount(symbols - symbols.min())
    entropy = -(counts * np.log2(np.maximum(counts, 1) / counts.sum())).sum() / 8
    assert entropy <= size <= 1.02 * entropy
    writer = SymbolWriter()
    writer.write(symbols, Contexts(symbols - symbols.min()))
    assert len(writer.streams()["symbols"]) <= 8


def test_contexts_that_tell_nothing_cost_nothing():
    """They are shortened until one table is left, or nearly."""
    generator = np.random.default_rng(3)
    symbols = np.round(generator.laplace(size=3000) * 5).astype(np.int64)
    sizes = []
    for contexts in (None, Contexts(generator.integers(0, 256, 3000))):
        writer = SymbolWriter()
        writer.write(symbols, contexts)
        sizes.append(sum(map(len, writer.streams().values())))
    assert sizes[1] <= sizes[0] + 20


@pytest.mark.parametrize("dtype", [np.int64, np.int16])
def test_fields_come_back_in_order(dtype):
    generator = np.random.default_rng(1)
    told, any_of_all = generator.integers(0, 7, 5000), generator.integers(0, 256, 90)
    fields = [
        (generator.integers(-MAX_CODE, MAX_CODE, 300), None),
        (told * 3 - generator.integers(0, 9, 5000), Contexts(told)),
        (generator.integers(-MAX_CODE, MAX_CODE, 90), Contexts(any_of_all)),  # too many counts to look at
        (any_of_all, Contexts(any_of_all)),
        (np.full(40, -5), None),
        (np.zeros(0, np.int64), None),
        (np.zeros(0, np.int64), Contexts(np.zeros(0, np.int64))),
    ]
    writer = SymbolWriter()
    for symbols, contexts in fields:
        writer.write(symbols, contexts)
    reader = SymbolReader(writer.streams())
    for symbols, contexts in fields:
        found = np.empty(len(symbols), dtype)
        reader.read(found, (-MAX_CODE, MAX_CODE), contexts)
        assert np.array_equal(found, symbols)
    reader.finish()


def test_fields_that_share_tables_come_back():
    """Also an empty one, one without most of the contexts, and one whose symbols are all the same."""
    generator = np.random.default_rng(4)
    contexts = [generator.integers(0, high, num) for high, num in ((64, 3000), (64, 0), (3, 500), (64, 200))]
    fields = [(each // 8 - generator.integers(0, 4, len(each)), Contexts(each)) for each in contexts]
    fields[-1] = (np.zeros(200, np.int64), fields[-1][1])
    writer = SymbolWriter()
    writer.write_bytes(b"before")
    writer.write_together(fields)
    reader = SymbolReader(writer.streams())
    assert reader.read_bytes(6) == b"before"
    tables = reader.tables_of_fields((-4, 8))
    for symbols, each in fields:
        found = np.empty(len(symbols), np.int16)
        reader.read_one(found, tables, each)
        assert np.array_equal(found, symbols)
    reader.finish()


@pytest.mark.parametrize(
    ("head", "contexts", "expected"),
    [
        (b"\x00\x00", [1], "contexts of tables in rising order"),
        (b"\x00\x02\x05\x05", [5], "contexts of tables in rising order"),
        (b"\x09\x01\x00", [0], "shortened by up to 8 bits"),
        (b"\x00\x02\x04", [4], "2 bytes of contexts of tables"),
        (b"\x00\x01\x04" + struct.pack("<2i", 1, 1) + b"\x01", [4, 5], "a table for each context"),
        (b"\x00\x01\x04" + struct.pack("<2i", 1, 1) + b"\x01", [3], "a table for each context"),
    ],
)
def test_contexts_without_a_table_are_refused(head, contexts, expected):
    reader = SymbolReader({"tables": len(head).to_bytes(4, "little") + lzma_pack(head), "symbols": b""})
    with pytest.raises(FormatError, match=expected):
        tables = reader.tables_of_fields((-5, 5))
        reader.read_one(np.empty(len(contexts), np.int16), tables, Contexts(np.array(contexts)))


def test_tables_that_are_none_are_refused():
    """Of a field of ten symbols from -5 to 5, without and with contexts; the first are as they should be."""
    contexts = Contexts(np.repeat([3, 9], 5))
    whole = struct.pack("<2i", 2, 1) + b"\x01", struct.pack("<B4i", 0, -5, 5, 1, 1) + b"\x80\x01"
    wrong = [
        (None, whole[0][:-1], "expected 1 bytes of tables, found 0"),
        (None, whole[0][:5], "expected 8 bytes of heads of tables, found 5"),
        (None, whole[0] + b"\x01", "expected the end of the symbols"),
        (None, struct.pack("<2i", 2, 0), "symbols from -5 to 5"),
        (None, struct.pack("<2i", 2, -1), "symbols from -5 to 5"),
        (None, struct.pack("<2i", 2, 2**31 - 1), "symbols from -5 to 5"),
        (None, struct.pack("<2i", 2**31 - 1, 2), "symbols from -5 to 5"),
        (None, struct.pack("<2i", 4, 3) + b"\x01\x01\x01", "symbols from -5 to 5"),
        (None, struct.pack("<2i", 2, 1) + b"\x00", "a table of none"),
        (None, struct.pack("<2i", 2, 1) + b"\x81", "levels up to 129"),
        (contexts, b"", "expected 1 bytes of a field of tables, found 0"),
        (contexts, b"\x09" + whole[1][1:], "by up to 8 bits, found by 9"),
        (contexts, whole[1][:-1], "expected 2 bytes of tables, found 1"),
        (contexts, whole[1][:-2] + b"\x01\x00", "a table of none"),
        (contexts, struct.pack("<B4i", 0, -6, 5, 1, 1) + b"\x01\x01", "symbols from -5 to 5"),
    ]
    for told, tables, expected in [(None, whole[0], [2] * 10), (contexts, whole[1], [-5] * 5 + [5] * 5), *wrong]:
        reader = SymbolReader({"tables": len(tables).to_bytes(4, "little") + lzma_pack(tables), "symbols": b""})
        found = np.empty(10, np.int16)
        if isinstance(expected, str):
            with pytest.raises(FormatError, match=expected):
                reader.read(found, (-5, 5), told)
                reader.finish()
        else:
            reader.read(found, (-5, 5), told)
            reader.finish()
            assert found.tolist() == expected


def test_tables_of_a_field_never_take_more_than_a_reader_has_room_for():
    """However far the symbols of each context lie apart: the 60 fields of SH degree 3 stay within the limit."""
    for reach in (MAX_CODE, 7000, 1000):
        numbers = np.repeat(np.arange(256), 2)
        symbols = np.where(np.arange(512) % 2, reach, -reach)
        writer = SymbolWriter()
        writer.write(np.repeat(symbols, 40), Contexts(np.repeat(numbers, 40)))
        size = int.from_bytes(writer.streams()["tables"][:4], "little")
        assert 60 * size <= MAX_TABLES


def test_bits_come_back():
    """Of all widths that a number may have, some of which do not occur; none at all."""
    generator = np.random.default_rng(2)
    widths = generator.choice([*range(0, 30), 41, 57], 3000)
    values = generator.integers(0, 2**57, 3000).astype(np.uint64)
    values &= (np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1)
    for num in (3000, 1, 0):
        packed = pack_bits(values[:num], widths[:num])
        assert len(packed) == (widths[:num].sum() + 7) // 8
        assert np.array_equal(unpack_bits(packed, widths[:num]), values[:num])
    assert pack_bits(np.uint64([0b1, 0b10, 0b11]), np.array([1, 2, 2])) == bytes([0b11101])  # the narrowest lowest
