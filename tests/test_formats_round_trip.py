"""Files of other tools, written and read: what comes back is what went in, within the format's quantization."""

import json
import zipfile

import numpy as np
import pytest
from format_cases import C0, ENDINGS, FORMATS, QUAT_ERROR, aligned, errors, random_rows

from compact_splats.compression.formats import START, reader_for, sog, splat, spz, writer_for
from compact_splats.compression.formats.kmeans import codebook_of_numbers, codebook_of_vectors, nearest_number

each_format = pytest.mark.parametrize("name", FORMATS)
NUM = 80  # one chunk, and no more scales than a codebook of .sog has entries


def round_trip(name, rows, tmp_path, **options):
    path = tmp_path / f"model{ENDINGS[name]}"
    FORMATS[name].write(path, rows, **options)
    again = FORMATS[name].read(path)
    assert all(row.dtype == np.float32 for row in again.values())
    return again


def half_steps(name, rows) -> dict[str, float]:
    """Half of each format's step, which no error may exceed, but for the rounding of float32."""
    extent = {key: np.ptp(rows[key].reshape(len(rows[key]), -1), axis=0).max() for key in rows if rows[key].size}
    byte = 0.5 / 255
    if name == "splat":
        steps = {"means": 0, "log_scales": 0, "sh_dc": byte / C0, "sh_rest": 0}
    elif name == "spz":
        steps = {"means": 0.5 / 4096, "log_scales": 0.5 / 16, "sh_dc": 0.5 / (0.15 * 255), "sh_rest": 0.5 / 128}
    elif name == "compressed_ply":
        steps = {"means": extent["means"] / 2046, "log_scales": extent["log_scales"] / 2046}
        steps |= {"sh_dc": byte * extent["sh_dc"], "sh_rest": 0.5 * 8 / 256}
    else:  # .sog; its codebooks hold all values here, in 6 digits, but for the 3,600 of SH (worst measured: 0.024)
        steps = {"means": 0.5 * 2 * np.log(4) / 65535 * 4, "log_scales": 5e-6, "sh_dc": 5e-6, "sh_rest": 0.05}
    return steps | {"opacity_logits": byte, "quats": QUAT_ERROR[name]}


@each_format
@pytest.mark.parametrize("num_rest", [0, 3, 8, 15])
def test_no_value_is_off_by_more_than_half_a_step(name, num_rest, tmp_path):
    rows = random_rows(NUM, num_rest)
    again = aligned(round_trip(name, rows, tmp_path, **({"palette": NUM} if name == "sog" else {})), rows)
    if name == "splat":
        assert again["sh_rest"].shape == (NUM, 0, 3)
        rows["sh_rest"] = rows["sh_rest"][:, :0]
    limits = half_steps(name, rows)
    for key, error in errors(again, rows).items():
        assert error <= limits[key] * 1.001 + 3e-6, (key, error, limits[key])


@each_format
@pytest.mark.parametrize("num", [1, 2, 255, 256, 257, 1000])
def test_every_number_of_gaussians_comes_back(name, num, tmp_path):
    rows = random_rows(num, 3)
    again = aligned(round_trip(name, rows, tmp_path), rows)
    measured = errors(again, {**rows, "sh_rest": rows["sh_rest"][:, : again["sh_rest"].shape[1]]})
    assert measured["means"] < 0.004 and measured["log_scales"] < 0.035 and measured["quats"] < 0.01


@each_format
def test_what_was_read_comes_back_as_it_is(name, tmp_path):
    """A second generation is no worse than the first: values that a format has are kept by it."""
    rows, options = random_rows(NUM, 8, seed=3), {"palette": NUM} if name == "sog" else {}
    once = round_trip(name, rows, tmp_path, **options)
    twice = aligned(round_trip(name, once, tmp_path, **options), once)
    for key, error in errors(twice, once).items():
        assert error <= (1e-3 if key == "quats" else 2e-4), (key, error)


@each_format
def test_the_same_model_makes_the_same_file(name, tmp_path):
    for copy in ("a", "b"):
        FORMATS[name].write(tmp_path / copy, random_rows(600))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@each_format
def test_equal_gaussians_and_extreme_values_are_written(name, tmp_path):
    """Bounds without extent, opacities that are 0 or 1 in float32, colours and coefficients beyond all ranges."""
    rows = random_rows(300, 15)
    rows = {key: np.repeat(row[:1], 300, axis=0) for key, row in rows.items()}
    rows["opacity_logits"][:3] = [[-200], [200], [0]]
    rows["sh_dc"][4], rows["sh_rest"][5], rows["log_scales"][6] = 1e6, -1e6, -1e4
    rows["log_scales"][7], rows["quats"][8], rows["quats"][9] = 60, 0, 1e-20
    again = round_trip(name, rows, tmp_path)
    assert len(again["means"]) == 300 and all(np.isfinite(row).all() for row in again.values())
    np.testing.assert_allclose(np.linalg.norm(again["quats"], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(again["means"], rows["means"], atol=2e-4)


@each_format
@pytest.mark.parametrize("part", range(4))
def test_turns_about_the_axes_survive(name, part, tmp_path):
    """Quaternions of one part, either sign: the largest part is stored nowhere, or at the end of a byte's range."""
    rows = random_rows(2)
    rows["quats"] = np.eye(4, dtype=np.float32)[[part, part]] * np.float32([[1], [-2]])
    again = round_trip(name, rows, tmp_path)["quats"]
    off = 0.002 if name == "spz" else 0.004  # .sog and .compressed.ply have no step at 0
    np.testing.assert_allclose(np.abs(again), rows["quats"][[0, 0]], atol=off if name != "splat" else 0)


def test_splats_come_by_size_times_opacity(tmp_path):
    rows = random_rows(500, 0)
    again = round_trip("splat", rows, tmp_path)
    cover = again["log_scales"].sum(1) + np.log(1 / (1 + np.exp(-again["opacity_logits"][:, 0])))
    assert (np.diff(cover) < 0.5).all() and np.argmax(cover) < 5  # up to the rounding of opacities to 8 bits
    assert (tmp_path / "model.splat").stat().st_size == 32 * 500


def test_a_splat_record_is_what_viewers_expect(tmp_path):
    rows = random_rows(1, 0)
    rows["means"][0], rows["log_scales"][0] = (1, 2, 3), np.log([0.5, 0.25, 0.125])
    rows["quats"][0], rows["opacity_logits"][0] = (1, 0, -1, 0), 0
    rows["sh_dc"][0, 0] = np.array([0, 0.5, 9]) / C0
    splat.write(tmp_path / "a.splat", rows)
    data = (tmp_path / "a.splat").read_bytes()
    np.testing.assert_allclose(np.frombuffer(data, "<f4", 6), [1, 2, 3, 0.5, 0.25, 0.125], rtol=1e-6)
    assert [*data[24:]] == [128, 255, 255, 128, 219, 128, 37, 128]


@pytest.mark.parametrize("bits", [(5, 4), (8, 8), (1, 8)])
def test_spz_coefficients_have_the_bits_that_were_asked_for(bits, tmp_path):
    rows = random_rows(400)
    again = aligned(round_trip("spz", rows, tmp_path, sh_bits=bits), rows)["sh_rest"]
    for part, width in zip(np.split(again, [3], axis=1), bits, strict=True):
        steps = part * 2 ** (width - 1)
        np.testing.assert_array_equal(steps, np.rint(steps))
    close = np.abs(rows["sh_rest"]) < 1 - 2.0 ** (1 - np.repeat(bits, [3, 12])[:, None])
    assert (np.abs(again - rows["sh_rest"]) <= 2.0 ** -np.repeat(bits, [3, 12])[:, None] + 1e-6)[close].all()


def test_spz_positions_take_the_bits_that_the_model_needs(tmp_path):
    """Small scenes do not become coarse, far Gaussians do not wrap around, what 24 bits cannot reach is refused."""
    for scale in (1e-2, 1, 1e3, 1e6):
        rows = random_rows(200, 0)
        rows["means"] *= np.float32(scale)
        rows["log_scales"] += np.float32(np.log(scale))
        again = round_trip("spz", rows, tmp_path)["means"]
        off = np.abs(again[:, None] - rows["means"]).max(axis=2).min(axis=0).max()
        usual_size = np.exp(np.median(rows["log_scales"].max(axis=1)))
        # Half a step, of a power of 2, unless the farthest Gaussian wants all 24 bits.
        assert off <= max(min(usual_size / 16, 1 / 4096) / 2, 3 * scale * 2.0**-23) * 1.001


def test_spz_in_the_documented_axes_is_half_a_turn_about_x(tmp_path):
    rows = random_rows(50)
    spz.write(tmp_path / "a.spz", rows, axes="RUB")
    turned, again = spz.read(tmp_path / "a.spz"), spz.read(tmp_path / "a.spz", axes="RUB")
    assert errors(aligned(again, rows), rows)["means"] < 2e-4
    np.testing.assert_array_equal(turned["means"], again["means"] * [1, -1, -1])
    assert max(errors(aligned(again, rows), rows).values()) < 0.05


@pytest.mark.parametrize("palette", [1, 7, 100, 65536])
def test_sog_palettes_of_any_size(palette, tmp_path):
    rows = random_rows(300, 8)
    again = aligned(round_trip("sog", rows, tmp_path, palette=palette), rows)["sh_rest"]
    assert len(np.unique(again, axis=0)) <= palette
    rms = np.sqrt(np.square(again - rows["sh_rest"]).mean())
    assert rms < (0.31 if palette < 300 else 0.005)
    meta = json.loads(zipfile.ZipFile(tmp_path / "model.sog").read("meta.json"))
    assert meta["version"] == sog.VERSION == 2 and meta["count"] == 300 and meta["shN"]["bands"] == 2


def test_a_codebook_of_numbers_is_near_the_best():
    """Against an optimum that is known: equal steps for a uniform distribution, error = step / sqrt(12)."""
    values = np.random.default_rng(0).uniform(0, 1, 50000)
    book = codebook_of_numbers(values, np.ones(50000), 64)
    rms = np.sqrt(np.square(values - book[nearest_number(book, values)]).mean())
    assert rms < 1.02 / 64 / np.sqrt(12)  # worst measured 1.005
    np.testing.assert_array_equal(codebook_of_numbers(np.array([3.0, 1, 3]), np.ones(3), 4), [1, 3, 3, 3])


def test_weights_pull_codebooks():
    values = np.concatenate([np.linspace(0, 1, 1000), np.linspace(10, 11, 1000)])
    heavy = np.where(values > 5, 1000.0, 1.0)
    assert (codebook_of_numbers(values, heavy, 16) > 5).sum() > 9
    vectors = np.repeat(values[:, None], 3, axis=1).astype(np.float32)
    book, labels = codebook_of_vectors(vectors, heavy.astype(np.float32), 40)
    assert len(book) <= 40 and labels.max() < len(book) and (book[:, 0] > 5).sum() > 25


def test_a_codebook_of_vectors_finds_clusters():
    rng = np.random.default_rng(0)
    centres = rng.uniform(-1, 1, (50, 12))
    vectors = (centres[rng.integers(0, 50, 5000)] + 0.001 * rng.standard_normal((5000, 12))).astype(np.float32)
    book, labels = codebook_of_vectors(vectors, np.ones(5000, np.float32), 200)
    assert np.sqrt(np.square(book[labels] - vectors).mean()) < 0.02


@each_format
def test_files_are_told_by_their_bytes_and_where_they_have_no_mark_by_their_name(name, tmp_path):
    path = tmp_path / f"model{ENDINGS[name]}"
    writer_for(ENDINGS[name][1:])(path, random_rows(3))
    start = path.read_bytes()[:START]
    assert reader_for(path, start) is FORMATS[name].read
    assert reader_for("renamed", start) is (None if name == "splat" else FORMATS[name].read)
    assert reader_for("model.gsz", b"\x89GSZ") is None and reader_for("model.ply", b"ply\nformat") is None


@each_format
def test_colours_of_what_cannot_be_seen_survive(name, tmp_path):
    """An opacity of 0 is a transparent pixel of .sog, whose colour an image writer may drop."""
    rows = random_rows(NUM, 0)
    rows["opacity_logits"][:] = -9
    again = aligned(round_trip(name, rows, tmp_path), rows)
    assert np.abs(again["sh_dc"] - rows["sh_dc"]).max() <= half_steps(name, rows)["sh_dc"] * 1.001 + 3e-6
