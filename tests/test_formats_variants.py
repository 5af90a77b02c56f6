"""Variants of the formats that people have: every version, layout and mark, and values that no model should have."""

import gzip
import itertools
import json
import struct
import zipfile

import numpy as np
import pytest
from format_cases import C0, ENDINGS, FORMATS, aligned, errors, first_sog, ksplat_bytes, random_rows, unit_quats
from plyfile import PlyData, PlyElement

from compact_splats.compression import decode, encode
from compact_splats.compression.container import FormatError, pack, unpack
from compact_splats.compression.edits import quaternion_of, transformed
from compact_splats.compression.export import export
from compact_splats.compression.files import kind_of, read_model, write_gsz
from compact_splats.compression.formats import glb, ksplat, sog, spz
from compact_splats.scene import ply
from compact_splats.scene.parameters import MAX_LOGIT, MIN_LOG_SCALE, PARAMETER_NAMES, SavedArrays
from compact_splats.scene.spherical_harmonics import sh_basis
from compact_splats.utils.errors import InputError

NUM = 40


def table_of(rows) -> dict[str, np.ndarray]:
    """The columns of a 3DGS PLY, by a writer of the test's own."""
    columns = {name: rows["means"][:, i] for i, name in enumerate("xyz")}
    columns |= {f"f_dc_{i}": rows["sh_dc"][:, 0, i] for i in range(3)}
    rest = rows["sh_rest"].transpose(0, 2, 1).reshape(len(rows["means"]), -1)
    columns |= {f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])}
    columns["opacity"] = rows["opacity_logits"][:, 0]
    columns |= {f"scale_{i}": rows["log_scales"][:, i] for i in range(3)}
    return columns | {f"rot_{i}": rows["quats"][:, i] for i in range(4)}


def write_columns(path, columns, text=False, comments=()):
    table = np.empty(len(columns["x"]), [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        table[name] = column
    PlyData([PlyElement.describe(table, "vertex")], text=text, comments=[*comments]).write(path)
    return path


def same(rows, expected):
    assert all(np.array_equal(rows[name], expected[name]) for name in PARAMETER_NAMES)


# ---- PLY ----


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("kind, most", [("u1", 255), ("u2", 65535), ("f4", 1), ("f8", 255)])
def test_red_green_blue_stand_for_f_dc(kind, most, text, tmp_path):
    rows, columns = random_rows(NUM, 0), table_of(random_rows(NUM, 0))
    color = np.clip(0.5 + C0 * rows["sh_dc"][:, 0], 0, 1)
    for i, name in enumerate(("red", "green", "blue")):
        del columns[f"f_dc_{i}"]
        stored = color[:, i] * most
        columns[name] = (np.rint(stored) if kind[0] == "u" else stored).astype(kind)
    again = ply.read(write_columns(tmp_path / "a.ply", columns, text))
    assert (
        np.abs(again["sh_dc"][:, 0] * C0 + 0.5 - color).max() <= 0.51 / 255 and "red, green and blue" in again.notes[0]
    )
    same({**again, "sh_dc": rows["sh_dc"]}, rows)


def test_f_dc_goes_before_red_green_blue(tmp_path):
    rows = random_rows(NUM, 0)
    colors = {name: np.zeros(NUM, "u1") for name in ("red", "green", "blue")}
    again = ply.read(write_columns(tmp_path / "a.ply", table_of(rows) | colors))
    same(again, rows)
    assert not again.notes


def test_names_of_cloudcompare(tmp_path):
    rows = random_rows(NUM, 8)
    columns = {name if name in "xyz" else f"scalar_{name}": column for name, column in table_of(rows).items()}
    same(ply.read(write_columns(tmp_path / "a.ply", columns)), rows)
    columns["scalar_extra"] = columns["x"]
    same(ply.read(write_columns(tmp_path / "a.ply", columns)), rows)


def test_two_scales_are_a_disc_and_one_is_a_ball(tmp_path):
    rows = random_rows(NUM, 3)
    columns = table_of(rows)
    del columns["scale_2"]
    again = ply.read(write_columns(tmp_path / "a.ply", columns))
    np.testing.assert_allclose(np.exp(again["log_scales"][:, 2]), 1e-6, rtol=1e-5)
    np.testing.assert_array_equal(again["log_scales"][:, :2], rows["log_scales"][:, :2])
    assert "2DGS" in again.notes[0]
    del columns["scale_1"]
    again = ply.read(write_columns(tmp_path / "a.ply", columns))
    np.testing.assert_array_equal(again["log_scales"], np.repeat(rows["log_scales"][:, :1], 3, axis=1))


def test_degree_4_is_cut_to_3_and_said(tmp_path):
    rows = random_rows(NUM, 24)
    again = ply.read(write_columns(tmp_path / "a.ply", table_of(rows)))
    same(again, {**rows, "sh_rest": rows["sh_rest"][:, :15]})
    assert "SH degree 4 is cut to 3" in again.notes[0]


@pytest.mark.parametrize("old, new", [(b"\n", b"\r\n"), (b"end_header\n", b"end_header\r\n")])
@pytest.mark.parametrize("name", ["ply", "compressed_ply"])
def test_headers_with_other_line_ends(name, old, new, tmp_path):
    rows, path = random_rows(300, 3), tmp_path / "a.ply"
    (ply if name == "ply" else FORMATS[name]).write(path, rows)
    expected = read_model(path)
    header, end, body = path.read_bytes().partition(b"end_header\n")
    path.write_bytes((header + end).replace(old, new) + body)
    same(read_model(path), expected)


@pytest.mark.parametrize("comments, mark", [
    (["SplatRenderMode: mip"], True),
    (["SplatRenderMode: MIP", "SH degree: 3"], True),
    (["SplatRenderMode: default"], False),
    (["SplatRenderMode: mip", "SplatRenderMode: default"], False),
    (["antialiased 1"], True),
    (["antialiased 0"], False),
    (["mip"], False),
])  # fmt: skip
def test_comments_that_mark_an_antialiased_model(comments, mark, tmp_path):
    path = write_columns(tmp_path / "a.ply", table_of(random_rows(3, 0)), comments=comments)
    assert ply.read(path).antialiased is mark


@pytest.mark.parametrize("mark", [False, True])
@pytest.mark.parametrize("name", ["ply", *sorted(set(FORMATS) - {"splat"}), "spz4", "sog folder", "gsz"])
def test_the_mark_of_an_antialiased_model_is_kept(name, mark, tmp_path):
    given = SavedArrays(random_rows(NUM, 3), mark)
    path = tmp_path / ("sog/meta.json" if name == "sog folder" else f"a{ENDINGS.get(name, '.ply')}")
    if name == "gsz":
        assert all(decode(encode(given, profile)).antialiased is mark for profile in ("seed", "compact"))
        return
    if name == "spz4":
        pytest.importorskip("zstandard")
        spz.write(path, given, version=4)
    else:
        {"ply": ply, "sog folder": sog}.get(name, FORMATS.get(name)).write(path, given)
    assert read_model(path).antialiased is mark


@pytest.mark.parametrize("profile", ["seed", "compact"])
def test_an_offset_is_kept_in_ply_and_gsz_and_said_for_other_formats(profile, tmp_path, capsys):
    """What was subtracted from the coordinates of a far scene, to the bit."""
    given = SavedArrays(random_rows(NUM, 3), offset=(5_000_000.0, -391_000.1, 1 / 3))
    ply.write(tmp_path / "a.ply", given)
    write_gsz(tmp_path / "a.gsz", encode(read_model(tmp_path / "a.ply"), profile))
    assert read_model(tmp_path / "a.gsz").offset == given.offset
    export([str(tmp_path / "a.gsz"), "--format", "ply", "-o", str(tmp_path / "b.ply")])
    assert read_model(tmp_path / "b.ply").offset == given.offset and "minus" not in capsys.readouterr().err
    export([str(tmp_path / "a.ply"), "--format", "spz"])
    assert "minus 5000000 -391000.1 0.3333333333" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ply", "compressed.ply", "sog", "sog-folder", "glb"])
def test_an_exported_file_keeps_the_offset(name, tmp_path, capsys):
    """To the bit, and without a note."""
    given = SavedArrays(random_rows(NUM, 3), offset=(5_000_000.0, -391_000.1, 1 / 3))
    ply.write(tmp_path / "a.ply", given)
    out = tmp_path / (name if name == "sog-folder" else f"b.{name}")
    export([str(tmp_path / "a.ply"), "--format", name, "-o", str(out)])
    assert read_model(out).offset == given.offset and "minus" not in capsys.readouterr().err


@pytest.mark.parametrize("extras", [[], {"offset": [1, 2, 3]}, {"compact-splats": 5}, {"compact-splats": {}}])
def test_extras_of_a_sog_are_those_of_any_program(extras, tmp_path):
    sog.write(tmp_path / "meta.json", random_rows(NUM, 0))
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "extras": extras}))
    assert read_model(tmp_path / "meta.json").offset is None
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "extras": {"compact-splats": {"offset": [1, 2]}}}))
    with pytest.raises(InputError, match="three finite numbers as offset"):
        read_model(tmp_path / "meta.json")


@pytest.mark.parametrize("offset", [[1, 2], "here", [1, 2, "x"], [1, 2, 10**400], [True, 0, 0]])
def test_a_wrong_offset_in_a_gsz_is_refused(offset):
    header, streams = unpack(encode(random_rows(5, 0), "seed"))
    with pytest.raises(FormatError, match="three finite numbers as offset"):
        decode(pack({**header, "offset": offset}, streams))


# ---- values ----


def test_infinite_opacities_and_scales_of_zero_are_clamped(tmp_path):
    rows = random_rows(NUM, 3)
    rows["opacity_logits"][[1, 2]] = [[np.inf], [-np.inf]]
    rows["log_scales"][3, 1] = -np.inf
    ply.write(tmp_path / "a.ply", rows)
    again = read_model(tmp_path / "a.ply")
    rows["opacity_logits"][[1, 2]] = [[MAX_LOGIT], [-MAX_LOGIT]]
    rows["log_scales"][3, 1] = MIN_LOG_SCALE
    same(again, rows)
    assert "2 of 40 Gaussians have infinite opacity" in again.notes[0] and "1 of 40" in again.notes[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("key", PARAMETER_NAMES)
def test_gaussians_that_are_not_finite_are_left_out_and_counted(key, value, tmp_path):
    rows = random_rows(NUM, 3)
    rows[key][[5, 7]] = np.nan if key == "opacity_logits" else value
    ply.write(tmp_path / "a.ply", rows)
    again = read_model(tmp_path / "a.ply")
    same(again, {name: np.delete(row, [5, 7], axis=0) for name, row in rows.items()})
    assert again.notes == ("2 of 40 Gaussians have values that are not finite and are left out",)
    with pytest.raises(InputError, match=f"{key}.*in Gaussian 5; leave out --keep-nan"):
        read_model(tmp_path / "a.ply", keep_nan=True)


def test_a_model_without_one_good_gaussian_is_refused(tmp_path):
    rows = random_rows(3, 0)
    rows["means"][:] = np.nan
    ply.write(tmp_path / "a.ply", rows)
    with pytest.raises(InputError, match="means.0. = nan in Gaussian 0; give another model"):
        read_model(tmp_path / "a.ply")


@pytest.mark.parametrize("name", ["splat", "glb", "ksplat"])
def test_bad_values_of_other_formats_are_left_out_too(name, tmp_path):
    rows, path = random_rows(NUM, 0), tmp_path / f"a{ENDINGS.get(name, '.ksplat')}"
    if name == "ksplat":
        rows["means"][7] = np.nan
        path.write_bytes(ksplat_bytes(rows, 0))
    else:
        FORMATS[name].write(path, rows)
        content, mean = bytearray(path.read_bytes()), rows["means"][7].tobytes()
        mean = (rows["means"][7] * np.float32([-1, -1, 1])).tobytes() if name == "glb" else mean
        at = content.index(mean)
        content[at : at + 4] = struct.pack("<f", np.nan)
        path.write_bytes(content)
    again = read_model(path)
    assert len(again["means"]) == NUM - 1 and "1 of 40" in again.notes[0]


# ---- .spz ----


def spz_parts(rows, version: int, degree: int) -> tuple[bytes, list[bytes]]:
    """Header and arrays as the format's documentation has them, by a writer of the test's own."""
    num = len(rows["means"])
    if version == 1:
        positions = rows["means"].astype("<f2").tobytes()
    else:
        fixed = np.rint(rows["means"].astype(np.float64) * 4096).astype("<i4")
        positions = fixed.view("u1").reshape(num, 3, 4)[:, :, :3].tobytes()
    quats = unit_quats(rows["quats"])
    quats = quats * np.where(quats[:, :1] < 0, -1, 1)
    opacity = 255 / (1 + np.exp(-rows["opacity_logits"].astype(np.float64)))
    byte = [np.rint(opacity), rows["sh_dc"] * (0.15 * 255) + 127.5, 16 * (rows["log_scales"] + 10)]
    parts = [positions, *(np.clip(np.rint(each), 0, 255).astype("u1").tobytes() for each in byte)]
    if version < 3:
        parts.append(np.rint((quats[:, 1:] + 1) * 127.5).astype("u1").tobytes())
    else:
        packed = np.zeros(num, "<u4")
        for row, (w, x, y, z) in enumerate(quats):
            vector = [x, y, z, w]
            largest = int(np.argmax(np.abs(vector)))
            sign = -1 if vector[largest] < 0 else 1
            value = largest
            for part in (each for i, each in enumerate(vector) if i != largest):
                size = round(min(abs(part) * 2**0.5, 1) * 511)
                value = value << 10 | (part * sign < 0) << 9 | size
            packed[row] = value
        parts.append(packed.tobytes())
    parts.append(np.clip(np.rint(rows["sh_rest"] * 128 + 128), 0, 255).astype("u1").tobytes())
    return struct.pack("<4sIIBBBB", b"NGSP", version, num, degree, 12, 0, 0), parts


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("degree", range(5))
def test_every_version_and_degree_of_spz_is_read(version, degree, tmp_path):
    rows = random_rows(NUM, (degree + 1) ** 2 - 1)
    header, parts = spz_parts(rows, version, degree)
    if version < 4:
        data = gzip.compress(header + b"".join(parts))
    else:
        zstd = pytest.importorskip("zstandard")
        filled = [part for part in parts if part]
        streams = [zstd.ZstdCompressor().compress(part) for part in filled]
        extension = b"of a vendor!"
        start = 32 + len(extension)
        table = b"".join(struct.pack("<QQ", len(a), len(b)) for a, b in zip(streams, filled, strict=True))
        data = header[:15] + struct.pack("<BI12x", len(filled), start) + extension + table + b"".join(streams)
    (tmp_path / "a.spz").write_bytes(data)
    again = spz.read(tmp_path / "a.spz")
    off = errors(again, {**rows, "sh_rest": rows["sh_rest"][:, :15]})
    # Of three parts in steps of 2/255, the fourth follows: the worst is a real part of 0.
    half_step = {"means": 0.001 if version == 1 else 0.5 / 4096, "log_scales": 0.5 / 16, "sh_dc": 0.5 / (0.15 * 255)}
    half_step |= {"quats": 0.117 if version < 3 else 0.0021, "sh_rest": 0.5 / 128, "opacity_logits": 0.5 / 255}
    assert all(off[key] <= limit * 1.001 + 3e-6 for key, limit in half_step.items()), off
    assert bool(again.notes) == (degree == 4)


def test_spz_4_comes_back_and_is_smaller(tmp_path):
    pytest.importorskip("zstandard")
    rows = random_rows(3000, 8)
    sizes = []
    for version in (3, 4):
        spz.write(tmp_path / f"{version}.spz", rows, version=version)
        sizes.append((tmp_path / f"{version}.spz").stat().st_size)
    same(spz.read(tmp_path / "4.spz"), spz.read(tmp_path / "3.spz"))
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize("far", [1e4, 1e5, 1e6, 1e8])
def test_a_far_gaussian_costs_the_others_nothing_in_spz(far, tmp_path):
    """It is drawn in on its ray and becomes smaller by as much, and this is said."""
    rows = random_rows(3000, 0)
    rows["means"][0], rows["log_scales"][0] = (far, 0, -far), 2
    lost = spz.write(tmp_path / "a.spz", rows)
    again = spz.read(tmp_path / "a.spz")
    near = {name: row[np.abs(again["means"]).max(axis=1) < 10] for name, row in again.items()}
    assert (
        errors(aligned(near, {k: v[1:] for k, v in rows.items()}), {k: v[1:] for k, v in rows.items()})["means"] < 2e-4
    )
    drawn = int(np.abs(again["means"]).max(axis=1).argmax())
    reach = again["means"][drawn, 0]
    np.testing.assert_allclose(again["means"][drawn], [reach, 0, -reach], atol=1)
    size = np.maximum(2 + np.log(reach / far), -10)
    np.testing.assert_allclose(again["log_scales"][drawn], size, atol=0.04)
    assert len(lost) == 1 and lost[0].startswith("1 of 3,000 Gaussians lie beyond 2048")


def test_without_zstandard_version_4_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("zstandard")
    spz.write(tmp_path / "a.spz", random_rows(3), version=4)
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    for call in (
        lambda: spz.read(tmp_path / "a.spz"),
        lambda: spz.write(tmp_path / "b.spz", random_rows(3), version=4),
    ):
        with pytest.raises(InputError, match="pip install zstandard"):
            call()
    assert not (tmp_path / "b.spz").exists()


# ---- .sog ----


@pytest.mark.parametrize("num_rest", [0, 15])
@pytest.mark.parametrize("place", ["meta.json", "folder", "archive", "archive with a folder"])
def test_sog_of_version_1_wherever_it_lies(place, num_rest, tmp_path):
    rows = random_rows(NUM, num_rest)
    path = tmp_path / "a.sog"
    if place.startswith("archive"):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in first_sog(rows).items():
                archive.writestr(f"deep/{name}" if "folder" in place else name, content)
    else:
        path.mkdir()
        for name, content in first_sog(rows).items():
            (path / name).write_bytes(content)
        path = path / "meta.json" if place == "meta.json" else path
    again = read_model(path)
    off = errors(again, rows)
    half = {"means": 3e-4, "log_scales": 0.0122, "sh_dc": 0.0069, "sh_rest": 0.0041, "quats": 0.0083}
    assert all(off[key] <= limit for key, limit in half.items()), off
    assert np.abs(again["opacity_logits"] - rows["opacity_logits"]).max() < 0.021


def test_a_folder_of_sog_and_its_archive_hold_the_same(tmp_path):
    rows = random_rows(300, 8)
    sog.write(tmp_path / "a.sog", rows)
    sog.write(tmp_path / "loose" / "meta.json", rows)
    same(read_model(tmp_path / "loose"), read_model(tmp_path / "a.sog"))
    assert kind_of(tmp_path / "loose" / "meta.json") == ".sog"


def test_a_folder_of_sog_reads_nothing_outside(tmp_path):
    sog.write(tmp_path / "in" / "meta.json", random_rows(3, 0))
    meta = json.loads((tmp_path / "in" / "meta.json").read_text())
    for name in ("../scales.webp", "/etc/hosts", "a/../b", ""):
        meta["scales"]["files"] = [name]
        (tmp_path / "in" / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(InputError, match="names of files in the folder"):
            read_model(tmp_path / "in")


# ---- .ksplat ----


def near_rows(num: int, num_rest: int) -> dict[str, np.ndarray]:
    """Gaussians so near to each other that any of them can share a bucket."""
    rows = random_rows(num, num_rest)
    return rows | {"means": rows["means"] * np.float32(0.3)}


@pytest.mark.parametrize("num_rest", [0, 3, 8])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_of_ksplat_is_read(level, num_rest, tmp_path):
    rows = near_rows(73, num_rest)
    (tmp_path / "a.ksplat").write_bytes(ksplat_bytes(rows, level))
    off = errors(read_model(tmp_path / "a.ksplat"), rows)
    half = {"means": 3.1e-5, "log_scales": 6e-4, "quats": 4e-4, "sh_dc": 0.5 / 255 / C0, "opacity_logits": 0.5 / 255}
    half |= {"sh_rest": (2e-7, 2.5e-4, 0.5 * 4 / 255)[level]}
    assert all(off[key] <= limit * 1.001 + 2e-6 for key, limit in half.items()), off


@pytest.mark.parametrize(
    "at, value, message",
    [
        (0, b"\1", "version 0.1"),
        (1, b"\0", "version 0.1"),
        (4, b"\xff\xff\xff\xff", "section headers"),
        (20, b"\3\0", "compression level"),
        (4096, b"\xff\xff\xff\xff", "Gaussians in a section"),
        (4096 + 8, b"\0\0\0\0", "buckets"),
        (4096 + 20, b"\7\0", "buckets|Gaussians in a section"),
        (4096 + 32, b"\xff\xff\0\0", "buckets"),
        (4096 + 36, b"\xff\xff\xff\xff", "Gaussians in a section"),
        (4096 + 40, b"\3\0", "SH degree 0 to 2"),
    ],
)
def test_ksplat_headers_that_lie(at, value, message, tmp_path):
    content = bytearray(ksplat_bytes(near_rows(40, 3), 1, bucket_size=4))
    content[at : at + len(value)] = value
    (tmp_path / "a.ksplat").write_bytes(content)
    with pytest.raises(InputError, match=message):
        ksplat.read(tmp_path / "a.ksplat")


def test_a_ksplat_that_was_cut_off_is_said(tmp_path):
    content = ksplat_bytes(near_rows(40, 3), 1)
    for size in (0, 100, 4096, 5000, 6200, len(content) - 1):
        (tmp_path / "a.ksplat").write_bytes(content[:size])
        with pytest.raises(InputError, match="a.ksplat"):
            ksplat.read(tmp_path / "a.ksplat")


# ---- .glb ----


def json_of(path) -> dict:
    data = path.read_bytes()
    return json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])


def primitive(document: dict) -> dict:
    return document["meshes"][0]["primitives"][0]


def with_json(path, change) -> None:
    """Change the JSON of a .glb in place."""
    data = path.read_bytes()
    size = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + size])
    change(document)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + size :]
    path.write_bytes(struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON") + text + rest)


def test_a_glb_holds_what_the_extension_asks_for(tmp_path):
    """Axes left, up, front; scales and opacities after activation; x, y, z, w."""
    rows = random_rows(5, 3)
    glb.write(tmp_path / "a.glb", rows)
    document, data = json_of(tmp_path / "a.glb"), (tmp_path / "a.glb").read_bytes()
    start = data.index(b"BIN\0") + 4
    values = {}
    for name, index in document["meshes"][0]["primitives"][0]["attributes"].items():
        accessor = document["accessors"][index]
        kind = "u1" if accessor["componentType"] == 5121 else "<f4"
        columns = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        offset = start + document["bufferViews"][accessor["bufferView"]]["byteOffset"]
        values[name] = np.frombuffer(data, kind, accessor["count"] * columns, offset).reshape(-1, columns)
    key = "KHR_gaussian_splatting:"
    np.testing.assert_array_equal(values["POSITION"], rows["means"] * [-1, -1, 1])
    np.testing.assert_allclose(values[key + "SCALE"], np.exp(rows["log_scales"]), rtol=1e-6)
    np.testing.assert_allclose(values[key + "OPACITY"], 1 / (1 + np.exp(-rows["opacity_logits"])), rtol=1e-6)
    w, x, y, z = unit_quats(rows["quats"]).T  # half a turn about z is the quaternion k, from the left
    np.testing.assert_allclose(values[key + "ROTATION"], np.stack([-y, x, w, -z], axis=1), atol=1e-6)
    np.testing.assert_array_equal(values[key + "SH_DEGREE_0_COEF_0"], rows["sh_dc"][:, 0])
    for i, sign in enumerate((-1, 1, -1)):  # functions of y, z and x
        np.testing.assert_array_equal(values[f"{key}SH_DEGREE_1_COEF_{i}"], sign * rows["sh_rest"][:, i])
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert document["accessors"][0]["min"] == values["POSITION"].min(axis=0).tolist()


def rotation(axis: str, degrees: float) -> np.ndarray:
    turn = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix, angle = np.eye(3), np.radians(degrees)
    matrix[np.ix_(turn, turn)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def test_a_turned_model_has_turned_colours_covariances_and_positions():
    """Colours in every turned direction, covariances and positions; SH by the functions themselves."""
    rows = random_rows(20)
    matrix = np.eye(4)
    turn = rotation("x", 33) @ rotation("y", -71) @ rotation("z", 140)
    matrix[:3, :3], matrix[:3, 3] = 2.5 * turn, (1, -2, 3)
    moved = transformed(rows, matrix)
    directions = np.random.default_rng(0).standard_normal((50, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = np.einsum("dk,nkc->ndc", sh_basis(directions, 3)[:, 1:], rows["sh_rest"].astype(np.float64))
    after = np.einsum("dk,nkc->ndc", sh_basis(directions @ turn.T, 3)[:, 1:], moved["sh_rest"].astype(np.float64))
    np.testing.assert_allclose(after, before, atol=2e-6)
    np.testing.assert_allclose(moved["means"], rows["means"] @ (2.5 * turn).T + matrix[:3, 3], atol=1e-5)
    np.testing.assert_allclose(moved["log_scales"], rows["log_scales"] + np.log(2.5), atol=1e-5)
    for old, new in zip(unit_quats(rows["quats"]), unit_quats(moved["quats"]), strict=True):
        np.testing.assert_allclose(matrix_of(new), turn @ matrix_of(old), atol=1e-6)


def matrix_of(quat: np.ndarray) -> np.ndarray:
    w, x, y, z = quat
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


@pytest.mark.parametrize("axis, degrees", [*itertools.product("xyz", (0, 1, 90, 179.9, 180, -120))])
def test_the_quaternion_of_a_rotation(axis, degrees):
    np.testing.assert_allclose(matrix_of(quaternion_of(rotation(axis, degrees))), rotation(axis, degrees), atol=1e-12)


def test_nodes_of_a_glb_move_turn_and_scale(tmp_path):
    rows, path = random_rows(20, 8), tmp_path / "a.glb"
    glb.write(path, rows)
    half = 2**-0.5

    def change(document):
        document["nodes"] = [{"children": [1], "translation": [1, 2, 3], "rotation": [half, 0, 0, half]},
                             {"mesh": 0, "scale": [2, 2, 2]}]  # fmt: skip

    with_json(path, change)
    flip, matrix = np.diag([-1.0, -1, 1, 1]), np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = 2 * rotation("x", 90), (1, 2, 3)
    expected = transformed(rows, flip @ matrix @ flip)
    assert max(errors(read_model(path), expected).values()) < 3e-6


def test_a_glb_far_from_the_origin_keeps_its_digits(tmp_path):
    """By the translation of a node: our files and those of maps, whose coordinates float32 can't hold."""
    path, rows = tmp_path / "a.glb", random_rows(20, 8)
    offset = (-2694044.75, 4297085.5, 3854578.125)
    glb.write(path, SavedArrays(rows, offset=offset))
    assert read_model(path).offset == offset
    np.testing.assert_array_equal(read_model(path)["means"], rows["means"])
    with_json(path, lambda document: document["nodes"][0].update(scale=[0.5, 0.5, 0.5]))
    assert read_model(path).offset == offset
    np.testing.assert_allclose(read_model(path)["means"], rows["means"] / 2, atol=1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.update(meshes=[]), "an index of meshes"),
        (lambda d: d["nodes"][0].update(children=[0]), "a circle"),
        (lambda d: d["nodes"][0].update(scale=[1, 2, 1]), "scale evenly"),
        (lambda d: d["nodes"][0].update(rotation=[0, 0, 0, 0]), "unit quaternion"),
        (lambda d: d["nodes"][0].update(matrix=[1]), "16 finite numbers"),
        (lambda d: d["accessors"][0].update(count=6), "in the file|of 6 Gaussians"),
        (lambda d: d["accessors"][0].update(count=10**12), "in the file"),
        (lambda d: d["accessors"][0].update(componentType=5130), "of 3 numbers"),
        (lambda d: d["accessors"][3].update(type="VEC4"), "of 3 numbers"),
        (lambda d: d["bufferViews"][0].update(byteOffset=-4), "in the file"),
        (lambda d: d["bufferViews"][0].update(byteStride=4), "strides"),
        (lambda d: d["bufferViews"][0].update(buffer=1), "the buffer of the .glb"),
        (lambda d: primitive(d).pop("extensions"), "a primitive with KHR"),
        (lambda d: primitive(d)["attributes"].pop(f"{glb.EXTENSION}:SCALE"), "SCALE"),
        (lambda d: primitive(d)["attributes"].pop(f"{glb.EXTENSION}:SH_DEGREE_1_COEF_1"), "COEF_1"),
        (lambda d: primitive(d)["extensions"][glb.EXTENSION].update(kernel="x"), "kernel"),
        (lambda d: primitive(d)["extensions"][glb.EXTENSION].update(extensions={"more": {}}), "further extensions"),
        (lambda d: d["scenes"][0].update(nodes=[0] * 20000), "each mesh once"),
    ],
)  # fmt: skip
def test_json_of_a_glb_that_lies(change, message, tmp_path):
    path = tmp_path / "a.glb"
    glb.write(path, random_rows(5, 3))
    with_json(path, change)
    with pytest.raises(InputError, match=message):
        read_model(path)


# ---- what a format cuts off ----


def test_what_a_format_cuts_off_is_counted(tmp_path):
    rows = random_rows(NUM, 3)
    rows["sh_rest"][:4, 1, 2], rows["sh_dc"][7, 0, 0], rows["log_scales"][9, 1] = -1.5, 5, -12
    assert spz.write(tmp_path / "a.spz", rows) == [
        "1 Gaussians (2.5 %) have log_scales beyond -10 to 5.938: cut off",
        "1 Gaussians (2.5 %) have sh_dc beyond -3.333 to 3.333: cut off",
        "4 Gaussians (10 %) have sh_rest beyond -1 to 0.9922: cut off",
    ]
    lost = FORMATS["splat"].write(tmp_path / "a.splat", rows)
    assert lost == ["1 Gaussians (2.5 %) have sh_dc beyond -1.772 to 1.772: cut off",
                    "the view-dependent colour (SH degree 1) is dropped"]  # fmt: skip
    for name in ("compressed_ply", "sog", "glb"):
        assert FORMATS[name].write(tmp_path / "a", rows) == []
