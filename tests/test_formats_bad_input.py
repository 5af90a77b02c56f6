"""Files of other tools that are damaged, hostile or something else: one line each, and no memory lost to them."""

import gzip
import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from format_cases import ENDINGS, FORMATS, random_rows
from PIL import Image

from compact_splats.compression.formats import compressed_ply, sog, splat, spz
from compact_splats.utils.errors import InputError

each_format = pytest.mark.parametrize("name", FORMATS)
MUTATIONS = 250


def refused(module, path, content=None, message=None) -> str:
    if content is not None:
        path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=message) as caught:
        module.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20, f"{peak} bytes for a file that is not read"
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def written(name, tmp_path, num=40, num_rest=15):
    path = tmp_path / f"model{ENDINGS[name]}"
    FORMATS[name].write(path, random_rows(num, num_rest))
    return path


# ---- writing ----


@each_format
@pytest.mark.parametrize("key", ["means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_not_written(name, key, value, tmp_path):
    """The file that was there stays."""
    rows, path = random_rows(5), tmp_path / "model"
    rows[key].flat[-1] = value
    path.write_bytes(b"what was there")
    with pytest.raises(InputError, match=f"{key}.*Gaussian 4"):
        FORMATS[name].write(path, rows)
    assert path.read_bytes() == b"what was there" and len([*tmp_path.iterdir()]) == 1


@each_format
def test_no_gaussians_are_not_written(name, tmp_path):
    with pytest.raises(InputError, match="at least one Gaussian"):
        FORMATS[name].write(tmp_path / "model", random_rows(0))
    assert not [*tmp_path.iterdir()]


def test_positions_beyond_spz_are_not_written(tmp_path):
    """Not of one Gaussian, which is drawn in, but of all."""
    rows = random_rows(5)
    rows["means"][:, 1] = -1e7
    with pytest.raises(InputError, match="8388607, what .spz can hold.*1e[+]07"):
        spz.write(tmp_path / "model.spz", rows)


@each_format
def test_a_place_that_cannot_be_written_is_said(name, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can.t be written"):
        FORMATS[name].write(tmp_path / "file" / "model", random_rows(2))


# ---- reading ----


@each_format
def test_no_file_a_folder_an_empty_file_and_other_files_are_said(name, tmp_path):
    module, path = FORMATS[name], tmp_path / "model"
    refused(module, tmp_path / "missing")
    refused(module, tmp_path)
    refused(module, path, b"")
    for other in FORMATS:
        if other not in (name, "splat") and name != "splat":  # .splat has no mark, any floats could be one
            refused(module, path, written(other, tmp_path).read_bytes())
    refused(module, path, b"<!DOCTYPE html>\n" * 50 + b"x")
    refused(module, path, b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n")


@each_format
@pytest.mark.parametrize("kind", ["cut", "flip", "zero", "noise", "insert"])
def test_damaged_files_end_in_an_input_error_or_a_finite_model(name, kind, tmp_path):
    whole = written(name, tmp_path).read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "damaged"
    for _ in range(MUTATIONS):
        content = bytearray(whole)
        # half of them in the first bytes, where headers are
        at = int(rng.integers(0, min(len(content), 200) if rng.random() < 0.5 else len(content)))
        if kind == "cut":
            del content[at:]
        elif kind == "flip":
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == "zero":
            content[at : at + 8] = bytes(len(content[at : at + 8]))
        elif kind == "noise":
            content[at : at + 50] = rng.bytes(len(content[at : at + 50]))
        else:
            content[at:at] = rng.bytes(4)
        path.write_bytes(content)
        try:
            rows = FORMATS[name].read(path)
        except InputError as error:
            assert str(error).isprintable() and len(str(error)) < 600
        else:
            assert all(np.isfinite(row).all() for row in rows.values()) and len(rows["means"])


# ---- .splat ----


def test_splat_scales_that_no_model_has(tmp_path):
    path = written("splat", tmp_path, num=7)
    data = bytearray(path.read_bytes())
    data[32 * 4 + 16 : 32 * 4 + 20] = struct.pack("<f", -1)
    assert "-1.0 in Gaussian 4" in refused(splat, path, data)


def test_splats_without_size_or_rotation_are_read(tmp_path):
    path = tmp_path / "a.splat"
    path.write_bytes(struct.pack("<6f8B", 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 128, 128, 128, 128))
    rows = splat.read(path)
    np.testing.assert_array_equal(rows["quats"], [[1, 0, 0, 0]])
    assert np.exp(rows["log_scales"]).max() < 1e-19 and rows["opacity_logits"][0, 0] < -6


# ---- .spz ----


def spz_bytes(count=1, version=3, degree=0, bits=12, magic=0x5053474E, body=b"\0" * 20):
    return gzip.compress(struct.pack("<IIIBBBB", magic, version, count, degree, bits, 0, 0) + body)


def fourth_spz(count=1, degree=0, version=4, streams=5, start=32, sizes=(9, 1, 3, 3, 4), full=None, cut=None):
    """A .spz of version 4, of zeros."""
    zstd = pytest.importorskip("zstandard")
    packed = [zstd.ZstdCompressor().compress(bytes(size)) for size in sizes]
    table = [struct.pack("<QQ", len(part), size) for part, size in zip(packed, full or sizes, strict=True)]
    head = struct.pack("<4sIIBBBBI12x", b"NGSP", version, count, degree, 12, 0, streams, start)
    return (head + b"".join(table) + b"".join(packed))[:cut]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(magic=0x1234), "magic number"),
        (dict(version=0), "version 0"),
        (dict(version=4), "version 4"),
        (dict(version=5), "version 5"),
        (dict(degree=5), "degree 5"),
        (dict(bits=40), "fractional bits"),
        (dict(count=0), "at least one Gaussian"),
        (dict(count=2), "40 bytes in the gzip stream"),
        (dict(count=2**32 - 1), "too few"),
        (dict(count=3000, body=b""), "too few|then its end"),
    ],
)
def test_spz_headers_that_lie(change, message, tmp_path):
    path = tmp_path / "a.spz"
    path.write_bytes(spz_bytes())
    assert len(spz.read(path)["means"]) == 1
    refused(spz, path, spz_bytes(**change), message)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(version=3), "version 3"),
        (dict(version=5), "version 5"),
        (dict(count=0), "at least one Gaussian"),
        (dict(count=2), "18 bytes in stream 0"),
        (dict(count=2**32 - 1), "too few"),
        (dict(degree=1), "a table of 6 streams"),
        (dict(streams=4), "a table of 5 streams"),
        (dict(start=2**32 - 1), "a table of 5 streams"),
        (dict(sizes=(9, 1, 3, 3, 3)), "4 bytes in stream 4"),
        (dict(sizes=(9, 1, 3, 3, 3), full=(9, 1, 3, 3, 4)), "4 bytes in a zstd frame"),
        (dict(sizes=(9, 1, 3, 3, 1 << 24), full=(9, 1, 3, 3, 4)), "more"),
        (dict(start=33), "in stream|zstd frame|Gaussians"),
        (dict(cut=31), "a header of 32 bytes"),
        (dict(cut=-1), "compressed ones"),
    ],
)
def test_headers_of_spz_4_that_lie(change, message, tmp_path):
    path = tmp_path / "a.spz"
    path.write_bytes(fourth_spz())
    assert len(spz.read(path)["means"]) == 1
    refused(spz, path, fourth_spz(**change), message)


def test_a_gzip_bomb_does_not_go_off(tmp_path):
    """Half a gigabyte of zeros behind one Gaussian: read past for the checksum, never held."""
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=9) as stream:
        stream.write(gzip.decompress(spz_bytes()))
        for _ in range(64):
            stream.write(bytes(1 << 20))
    path = tmp_path / "bomb.spz"
    path.write_bytes(bomb.getvalue()[:-4] + b"\1\2\3\4")  # a length that is wrong
    assert "gzip" in refused(spz, path)
    assert "gzip" in refused(spz, path, bomb.getvalue()[: len(bomb.getvalue()) // 2])


# ---- .compressed.ply ----


@pytest.mark.parametrize(
    "old, new, message",
    [
        (b"element vertex 40", b"element vertex 41", "sh|bytes|rows"),
        (b"element vertex 40", b"element vertex 99999999999999999999999", "a number of rows.*99999999"),
        (b"element vertex 40", b"element vertex -1", "a number of rows.*'-1'"),
        (b"element chunk 1", b"element chunk 2", "rows of 'sh'"),
        (b"element vertex 40", b"element vertex 0", "at least one Gaussian"),
        (b"element chunk 1", b"element bogus 1", "element 'chunk'"),
        (b"element sh 40", b"element sh 4294967296", "rows of 'sh'"),
        (b"element sh 40", b"element sh 39", "40 rows of"),
        (b"property uint packed_color", b"property list uchar uint packed_color", "numbers as 'vertex'.*lists"),
        (b"property uint packed_color", b"property uint packed_scale", "names of their own"),
        (b"property uint packed_color", b"property float packed_color", "uint"),
        (b"property uint packed_color", b"property uint colour", "packed_color"),
        (b"property float min_scale_x", b"property float min_skale_x", "min_scale_x"),
        (b"property float min_g", b"property float min_q", "min_g"),
        (b"property uchar f_rest_44\n", b"", "f_rest|rows of 44"),
        (b"property uchar f_rest_44", b"property char f_rest_44", "uchar"),
        (b"binary_little_endian", b"binary_big_endian", "binary_little_endian"),
        (b"end_header\n", b"end_headex\n", "header"),
    ],
)
def test_compressed_ply_headers_that_lie(old, new, message, tmp_path):
    path = written("compressed_ply", tmp_path)
    content = path.read_bytes()
    assert old in content
    refused(compressed_ply, path, content.replace(old, new, 1), message)


def test_compressed_ply_bounds_that_are_not_finite(tmp_path):
    path = written("compressed_ply", tmp_path)
    content = bytearray(path.read_bytes())
    start = content.index(b"end_header\n") + 11
    content[start : start + 4] = struct.pack("<f", np.nan)
    assert "means[0] = nan" in refused(compressed_ply, path, content)


def test_older_compressed_plys_without_bounds_of_colours_are_read(tmp_path):
    """As of SuperSplat 1: colours from 0 to 1, and no SH."""
    path = written("compressed_ply", tmp_path, num_rest=0)
    content = path.read_bytes()
    start = content.index(b"end_header\n") + 11
    header, chunk, vertices = content[:start], content[start : start + 72], content[start + 72 :]
    for name in ("min_r", "min_g", "min_b", "max_r", "max_g", "max_b"):
        header = header.replace(f"property float {name}\n".encode(), b"")
    new = compressed_ply.read(path)
    path.write_bytes(header + chunk[:48] + vertices)
    old = compressed_ply.read(path)
    np.testing.assert_array_equal(old["means"], new["means"])
    assert 0 <= (old["sh_dc"] * 0.28209479 + 0.5).min() and (old["sh_dc"] * 0.28209479 + 0.5).max() <= 1.0001


# ---- .sog ----


def contents(data) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def bundle(files: dict[str, bytes], how=zipfile.ZIP_STORED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", how) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def with_meta(files, *keys, value):
    meta = json.loads(files["meta.json"])
    place = meta
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return bundle({**files, "meta.json": json.dumps(meta).encode()})


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (("version",), 3, "version 3"),
        (("version",), None, "version None"),
        (("version",), 1, "means.shape"),
        (("version",), True, "version True"),
        (("count",), 0, "count from 1"),
        (("count",), 41 * 41, "a pixel for each of 1681"),
        (("count",), 10**12, "count from 1"),
        (("count",), 10**400, "count from 1"),
        (("count",), -1, "count from 1"),
        (("count",), 40.0, "count in meta.json"),
        (("count",), True, "count in meta.json"),
        (("means",), [], "means.files"),
        (("means", "mins"), [0, 0], "3 finite numbers"),
        (("means", "mins"), [0, 0, float("nan")], "3 finite numbers"),
        (("means", "maxs"), [0, 0, 1e300], "3 finite numbers"),
        (("means", "files"), ["means_l.webp"], "file 1 of means"),
        (("means", "files"), [7, 8], "file 0 of means"),
        (("means", "files"), ["../../etc/passwd", "x"], "no such file"),
        (("scales", "codebook"), [0.0] * 255, "256 finite numbers"),
        (("scales", "codebook"), ["x"] * 256, "256 finite numbers"),
        (("sh0", "codebook"), [10**400] * 256, "256 finite numbers"),
        (("shN", "count"), 65537, "shN.count"),
        (("shN", "count"), 2, "labels of 2"),
        (("shN", "count"), 65, "960 x 2"),
        (("shN", "bands"), 4, "shN.bands"),
        (("shN", "bands"), 2, "512 x 1"),
        (("shN",), 5, "shN"),
    ],
)
def test_sog_metadata_that_lies(keys, value, message, tmp_path):
    path = written("sog", tmp_path)
    files = contents(path.read_bytes())
    refused(sog, path, with_meta(files, *keys, value=value), message)


def webp(shape, mode="RGB", **options) -> bytes:
    data = io.BytesIO()
    Image.new(mode, shape).save(data, "WEBP", **{"lossless": True, **options})
    return data.getvalue()


def test_a_bomb_of_one_colour_does_not_go_off(tmp_path):
    """16,383 x 16,383 pixels in a few hundred bytes, which the decoder would make room for on opening."""
    path = written("sog", tmp_path)
    files, large = contents(path.read_bytes()), webp((8000, 8000))
    assert len(large) < 1 << 20
    assert "8000 x 8000" in refused(sog, path, bundle({**files, "quats.webp": large}))
    every = {name: large if name.endswith(".webp") else content for name, content in files.items()}
    assert "count from 1" in refused(sog, path, with_meta(every, "count", value=8000 * 8000))


def test_sog_images_that_are_none(tmp_path):
    path = written("sog", tmp_path)
    files = contents(path.read_bytes())
    png = io.BytesIO()
    Image.new("RGBA", (8, 8)).save(png, "PNG")
    for name, content, message in (
        ("quats.webp", png.getvalue(), "a lossless WebP image"),
        ("quats.webp", webp((8, 8), "RGBA", lossless=False), "a lossless WebP image"),
        ("quats.webp", webp((8, 8)), "4 channels"),
        ("quats.webp", files["quats.webp"][:40], "a WebP image as quats"),
        ("quats.webp", webp((8, 8), "RGBA", exact=True), "alpha of 252"),
        ("quats.webp", webp((4, 4), "RGBA", exact=True), "a pixel for each of 40"),
        ("meta.json", b"{", "JSON"),
        ("meta.json", b"[" * 100000, "JSON"),
        ("meta.json", b"[]", "meta.json of a .sog"),
        ("meta.json", b'{"a": "' + b" " * (2 << 20) + b'"}', "at most"),
    ):
        refused(sog, path, bundle({**files, name: content}))
        with pytest.raises(InputError, match=message):
            sog.read(path)
    del files["scales.webp"]
    assert "scales.webp in the archive" in refused(sog, path, bundle(files))


def test_a_zip_bomb_does_not_go_off(tmp_path):
    path = written("sog", tmp_path)
    files = contents(path.read_bytes())
    for name in ("meta.json", "sh0.webp"):
        bomb = bundle({**files, name: bytes(64 << 20)}, zipfile.ZIP_DEFLATED)
        assert "at most" in refused(sog, path, bomb)
        lying = bytearray(bomb)  # the size in the central directory, made small
        size = struct.pack("<I", 64 << 20)
        lying[lying.rindex(size) : lying.rindex(size) + 4] = struct.pack("<I", 1000)
        refused(sog, path, bytes(lying))


def test_zips_that_are_encrypted_or_of_a_newer_version_are_said(tmp_path):
    path = written("sog", tmp_path)
    whole = path.read_bytes()
    entry = whole.index(b"PK\1\2")
    for offset, value in ((6, 139), (8, 1), (10, 99)):  # in the directory: version needed, flags, method
        content = bytearray(whole)
        content[entry + offset] = value
        refused(sog, path, bytes(content))


def test_a_deflated_sog_is_read(tmp_path):
    path = written("sog", tmp_path)
    stored = sog.read(path)
    path.write_bytes(bundle(contents(path.read_bytes()), zipfile.ZIP_DEFLATED))
    again = sog.read(path)
    assert all((again[key] == stored[key]).all() for key in stored)
