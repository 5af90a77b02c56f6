"""Profile "seed": what is decoded is what fine-tuning saw, to the last bit; order, range and size of what is stored."""

import base64
import json
import lzma
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from gsz_cases import model_rows, same_bits, sorted_rows

from compact_splats.compression import FormatError, decode, encode
from compact_splats.compression.container import lzma_pack, lzma_unpack, pack, unpack
from compact_splats.compression.seed import HALF_MAX, SH_STEP, SeedQuantizer
from compact_splats.scene.gaussian_model import GaussianModel

NAMES = ("means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest")
HALVES = NAMES[:4]
DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]


def tensors(rows: dict[str, np.ndarray], device: str = "cpu") -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(row).to(device) for name, row in rows.items()}


def stored(rows: dict[str, np.ndarray], device: str = "cpu", **settings) -> dict[str, np.ndarray]:
    """What fine-tuning renders."""
    quantizer = SeedQuantizer(**settings)
    quantizer.fit(tensors(rows, device))
    return {name: row.cpu().numpy() for name, row in quantizer.quantized(tensors(rows, device)).items()}


# ---- round trips ----


@pytest.mark.parametrize("num", [0, 1, 2, 777])
@pytest.mark.parametrize("num_rest", [0, 3, 8, 15])
@pytest.mark.parametrize("sh_step", [SH_STEP, 0.0])
@pytest.mark.parametrize("device", DEVICES)
def test_what_is_decoded_is_what_fine_tuning_sees(num, num_rest, sh_step, device):
    rows = model_rows(num, num_rest)
    decoded = decode(encode(rows, "seed", sh_step=sh_step))
    assert tuple(decoded) == NAMES
    assert all(decoded[name].shape == rows[name].shape and decoded[name].dtype == np.float32 for name in NAMES)
    assert same_bits(sorted_rows(decoded), sorted_rows(stored(rows, device, sh_step=sh_step)))


def test_100_000_gaussians_come_back_and_take_about_the_memory_that_they_need():
    """Compressing on several threads, and memory while decoding: about twice the rows at most."""
    rows = model_rows(100_000)
    data = encode(rows, "seed")
    tracemalloc.start()
    decoded = decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert same_bits(sorted_rows(decoded), sorted_rows(stored(rows)))
    # Worst measured: 1.6 times; 4 MB are dictionaries, which do not grow with the model.
    assert peak < 2 * 59 * 4 * 100_000 + 8e6


def test_values_are_16_bit_floats_and_nearest_levels():
    """Against numpy's own rounding, not the profile's: 16 bits but for colours, which are at most half a step off."""
    rows, decoded = model_rows(3000), {}
    decoded = decode(encode(rows, "seed"))
    order = np.lexsort(np.float16(rows["means"]).T), np.lexsort(decoded["means"].T)
    for name in HALVES:
        np.testing.assert_array_equal(decoded[name][order[1]], np.float32(np.float16(rows[name]))[order[0]])
    spread = np.ptp(rows["sh_dc"]) / 255
    for name, step in (("sh_dc", spread), ("sh_rest", max(SH_STEP, np.abs(rows["sh_rest"]).max() / 127))):
        error = np.abs(decoded[name][order[1]] - rows[name][order[0]]).max()
        assert 0.4 * step < error < 0.501 * step
        assert len(np.unique(decoded[name])) <= 256


def test_zero_is_a_level_of_the_higher_bands():
    """A model of low degree in arrays of a higher one does not get noise there."""
    rows = model_rows(200)
    rows["sh_rest"][:, 3:] = 0
    assert not decode(encode(rows, "seed"))["sh_rest"][:, 3:].any()


def test_colors_of_one_value_and_at_the_ends_are_exact():
    rows = model_rows(100)
    low, high = rows["sh_dc"].min(), rows["sh_dc"].max()
    decoded = decode(encode(rows, "seed"))["sh_dc"]
    assert decoded.min() == low and decoded.max() == high
    rows["sh_dc"][:] = 0.3
    assert (decode(encode(rows, "seed"))["sh_dc"] == np.float32(0.3)).all()


@pytest.mark.parametrize("device", DEVICES)
def test_every_16_bit_float_and_what_rounds_to_it_is_the_same_in_torch_and_numpy(device):
    bits = np.arange(0x7C00, dtype=np.uint16)
    halves = bits.view(np.float16).astype(np.float32)
    values = np.concatenate([halves, (halves[1:] + halves[:-1]) / 2, np.nextafter(halves, np.float32(np.inf))])
    values = np.concatenate([values, -values])
    num = len(values) // 3 * 3
    rows = model_rows(num // 3, 0)
    rows["means"] = values[:num].reshape(-1, 3)
    assert same_bits(sorted_rows(decode(encode(rows, "seed"))), sorted_rows(stored(rows, device)))


def test_encoding_what_was_decoded_gives_the_same_file():
    """But for the bounds, which are those before rounding."""
    data = encode(decode(encode(model_rows(500), "seed")), "seed")
    assert encode(decode(data), "seed") == data


def test_extreme_values_are_clamped_and_come_back():
    rows = model_rows(6)
    rows["means"][0] = 65504, 65519, 1e6
    rows["means"][1] = -1e38, -0.0, 1e-8
    rows["quats"][2] = 3e38, -65536, 0, 1e-45
    rows["sh_dc"][3], rows["sh_rest"][4, 2, 0] = 3e38, -3e38
    decoded = decode(encode(rows, "seed"))
    assert same_bits(sorted_rows(decoded), sorted_rows(stored(rows)))
    assert decoded["means"].max() == decoded["quats"].max() == HALF_MAX == -decoded["means"].min()
    np.testing.assert_allclose([decoded["sh_dc"].max(), decoded["sh_rest"].min()], [3e38, -3e38], rtol=1e-4)


def test_the_fit_stays_until_the_next_one():
    """Other Gaussians are stored with the same levels, cut off at the ends."""
    rows, quantizer = model_rows(50), SeedQuantizer()
    quantizer.fit(tensors(rows))
    wider = {name: 4 * row for name, row in rows.items()}
    seen = {name: row.numpy() for name, row in quantizer.quantized(tensors(wider)).items()}
    assert same_bits(sorted_rows(decode(quantizer.encode(wider))), sorted_rows(seen))
    assert seen["sh_dc"].max() == rows["sh_dc"].max() and seen["sh_dc"].min() == rows["sh_dc"].min()


def test_quantized_leaves_the_rows_and_their_graph_alone():
    rows = {name: row.requires_grad_() for name, row in tensors(model_rows(9)).items()}
    before = {name: row.detach().clone() for name, row in rows.items()}
    quantizer = SeedQuantizer()
    with torch.no_grad():
        quantizer.fit(rows)
        seen = quantizer.quantized(rows)
    assert not any(row.requires_grad for row in seen.values())
    assert all(torch.equal(rows[name], before[name]) for name in rows)


def test_a_decoded_model_is_a_model():
    decoded = decode(encode(model_rows(7, 8), "seed"))
    model = GaussianModel.from_arrays(decoded, "cpu")
    assert model.sh_degree == model.max_sh_degree == 2 and model.num_gaussians == 7
    with torch.no_grad():
        model.means.zero_()
    assert decoded["means"].any(), "the model has rows of its own"


# ---- bytes ----


def test_bytes_do_not_depend_on_the_order_of_the_gaussians():
    """Also of those that share a position, and of those that are equal in all."""
    rows = model_rows(400)
    rows["means"][:200] = rows["means"][200:].round()
    rows["means"][40:80] = 0
    for row in rows.values():
        row[60:70] = row[50:60]
    data = encode(rows, "seed")
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(400)
        assert encode({name: row[order] for name, row in rows.items()}, "seed") == data
    assert encode({name: row.astype(np.float64) for name, row in reversed(rows.items())}, "seed") == data


def test_a_file_of_today_can_be_read():
    """Two Gaussians of degree 1, written by the first version; a change of the format needs a new version number."""
    rows = model_rows(2, 3)
    decoded = decode(base64.b64decode(GOLDEN))
    assert same_bits(sorted_rows(decoded), sorted_rows(stored(rows)))


def read_by_the_book(data: bytes) -> list[list[float]]:
    """docs/gsz.md in plain Python, one list of numbers a Gaussian; believes all checksums and sizes."""
    text_size, table_size, num_streams = struct.unpack_from("<III", data, 12)
    header = json.loads(data[28 : 28 + text_size])
    place, start, streams = 28 + text_size, 28 + text_size + table_size, {}
    for _ in range(num_streams):
        name = data[place + 1 : place + 1 + data[place]].decode()
        (size,) = struct.unpack_from("<Q", data, place + 1 + len(name))
        lzma2 = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 22}]
        streams[name] = lzma.decompress(data[start : start + size], lzma.FORMAT_RAW, filters=lzma2)
        place, start = place + 13 + len(name), start + size
    num, rest = header["gaussians"], header["sh_rest"]

    def half(bits: int) -> float:
        return struct.unpack("<e", struct.pack("<H", bits))[0]

    levels = struct.unpack(f"<{6 * (1 + rest)}f", streams["sh_ranges"])

    def color(coefficient: int, channel: int, level: int) -> float:
        low, high = (levels[3 * coefficient + channel + i * 3 * (1 + rest)] for i in (0, 1))
        return struct.unpack("<f", struct.pack("<f", (low * (255 - level) + high * level) / 255))[0]

    gaussians, code = [], 0
    for n in range(num):
        code += sum(streams["means"][byte * num + n] << 8 * byte for byte in range(6))
        ordered = [sum((code >> 3 * bit + axis & 1) << bit for bit in range(16)) for axis in range(3)]
        numbers = [half(u & 0x7FFF if u >= 0x8000 else ~u & 0xFFFF) for u in ordered]
        for name, columns in (("log_scales", 3), ("quats", 4), ("opacity_logits", 1)):
            places = [column * num + n for column in range(columns)]
            numbers += [half(streams[name + ".high"][i] << 8 | streams[name + ".low"][i]) for i in places]
        for name, count, first in (("sh_dc", 1, 0), ("sh_rest", rest, 1)):
            for k in range(count):
                green, red, blue = (streams[f"{name}.{channel}"][n * count + k] for channel in "grb")
                three = (red + green - 128) % 256, green, (blue + green - 128) % 256
                numbers += [color(first + k, channel, level) for channel, level in enumerate(three)]
        gaussians.append(numbers)
    return gaussians


@pytest.mark.parametrize("num_rest", [0, 3, 15])
def test_the_specification_is_enough_to_read_a_file(num_rest):
    data = encode(model_rows(60, num_rest), "seed")
    decoded = decode(data)
    table = np.concatenate([decoded[name].reshape(60, -1) for name in NAMES], axis=1)
    np.testing.assert_array_equal(np.array(read_by_the_book(data)), table)


# ---- what is refused ----


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(name, value):
    rows = model_rows(20)
    rows[name][13].flat[-1] = value
    for attempt in (lambda: encode(rows, "seed"), lambda: stored(rows), lambda: SeedQuantizer().encode(rows)):
        with pytest.raises(FormatError) as caught:
            attempt()
        message = str(caught.value)
        assert name in message and f"= {value} in Gaussian 13" in message and "\n" not in message


def test_arrays_that_are_no_model_are_refused():
    rows = model_rows(4)
    wrong = [
        {},
        {name: row for name, row in rows.items() if name != "quats"},
        {**rows, "more": rows["means"]},
        {**rows, "quats": rows["quats"][:3]},
        {**rows, "quats": rows["quats"][:, :3]},
        {**rows, "sh_rest": rows["sh_rest"][:, :7]},
        {**rows, "means": np.float32(1)},
        {**rows, "means": rows["means"].astype("U9")},
        {**rows, "means": rows["means"].astype(complex)},
        {**rows, "means": [["a", "b", "c"]] * 4},
        {**rows, "means": rows["means"] + np.float64(1e300)},
    ]
    for given in wrong:
        with pytest.raises(FormatError) as caught:
            encode(given, "seed")
        assert "\n" not in str(caught.value)


def edited(header: dict | None = None, streams: dict | None = None, num: int = 5) -> bytes:
    """A file with right checksums that holds something else than what it was made of; None removes."""
    parts = unpack(encode(model_rows(num, 3), "seed"))
    changed = [{**part, **(change or {})} for part, change in zip(parts, (header, streams), strict=True)]
    return pack(*({key: value for key, value in part.items() if value is not None} for part in changed))


@pytest.mark.parametrize("value", [None, -1, 4, 6, 1 << 27, (1 << 27) + 1, 10**30, 5.0, True, "5", [5], {}])
def test_a_wrong_number_of_gaussians_is_refused_without_making_room(value):
    data = edited({"gaussians": value})
    tracemalloc.start()
    with pytest.raises(FormatError):
        decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6  # dictionaries: 4 MB, as many at a time as there are cores


@pytest.mark.parametrize("value", [None, -1, 0, 8, 5, 15.0, True, "3", 10**30])
def test_a_wrong_number_of_coefficients_is_refused(value):
    with pytest.raises(FormatError):
        decode(edited({"sh_rest": value}))


@pytest.mark.parametrize("name", sorted(unpack(encode(model_rows(1), "seed"))[1]))
def test_a_wrong_stream_is_refused(name):
    for stream in (None, b"", b"\0", lzma_pack(b""), lzma_pack(bytes(1000)), b"\xff" * 40):
        with pytest.raises(FormatError):
            decode(edited(streams={name: stream}))
    with pytest.raises(FormatError):
        decode(edited(streams={"more": b""}))


def content_of(name: str, num_bytes: int) -> bytearray:
    return bytearray(lzma_unpack(unpack(edited())[1][name], num_bytes))


def test_stored_values_that_are_not_finite_are_refused():
    for name, columns in (("log_scales", 3), ("quats", 4), ("opacity_logits", 1)):
        content = content_of(f"{name}.high", 5 * columns)
        content[0] = 0x7E
        with pytest.raises(FormatError, match=f"{name}.* = nan in Gaussian 0"):
            decode(edited(streams={f"{name}.high": lzma_pack(content)}))
    with pytest.raises(FormatError, match="means"):
        decode(edited(streams={"means": lzma_pack(bytes(30))}))  # all at the smallest code, which is a NaN
    with pytest.raises(FormatError, match="Morton"):
        decode(edited(streams={"means": lzma_pack(b"\xff" * 30)}))
    for number in (np.nan, np.inf):
        with pytest.raises(FormatError, match="ranges"):
            decode(edited(streams={"sh_ranges": lzma_pack(np.full(24, number, "<f4").tobytes())}))


GOLDEN = """
iUdTWg0KGgoBAAAALAAAAEkBAAAOAAAAyy1nBXsicHJvZmlsZSI6InNlZWQiLCJnYXVzc2lhbnMiOjIsInNoX3Jlc3QiOjN9BW1lYW5zEAAAAA
AAAADSjxOtD2xvZ19zY2FsZXMuaGlnaAoAAAAAAAAA1CKX/A5sb2dfc2NhbGVzLmxvdwoAAAAAAAAA/wqotQpxdWF0cy5oaWdoDAAAAAAAAAAW
ABYECXF1YXRzLmxvdwwAAAAAAAAAL3J7dxNvcGFjaXR5X2xvZ2l0cy5oaWdoBgAAAAAAAAAYzVQKEm9wYWNpdHlfbG9naXRzLmxvdwYAAAAAAA
AAqgfwbAdzaF9kYy5nBgAAAAAAAACmQSYHB3NoX2RjLnIGAAAAAAAAAGcnp1cHc2hfZGMuYgYAAAAAAAAAxWHu8QlzaF9yZXN0LmcKAAAAAAAA
AOvIYGgJc2hfcmVzdC5yCgAAAAAAAACoUzHmCXNoX3Jlc3QuYgoAAAAAAAAACwGo/QlzaF9yYW5nZXMjAAAAAAAAAKf8X/oBAAsn/mOrUHJDK9
kEqgAAAQAFxcHEwsPEAAEABURkoBvrtAABAAe4wLWzNrw8uQABAAdbphAAlvws3AABAAE9sAABAAF3HQABAAEZsgABAAH18gABAAFnzQABAAWE
iIGAgIEAAQAFe3GDf4B/AAEABYSAfX6BfgDgAF8AGwAAGT+K7zNM95HfYGAMhAyp6KOBiKYDf9MDH4DAAA==
"""
