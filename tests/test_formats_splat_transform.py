"""Files of other tools as a program that is not ours has them: PlayCanvas splat-transform reads ours, and we read its.

It is fetched by npm once, into the user's cache folder. Without npm or a network these tests are skipped.
"""

import gzip
import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from format_cases import ENDINGS, FORMATS, aligned, errors, first_sog, ksplat_bytes, random_rows, unit_quats
from npm_packages import installed

from compact_splats.compression.files import read_model
from compact_splats.compression.formats import glb, sog, spz
from compact_splats.scene import ply
from compact_splats.scene.parameters import SavedArrays

PACKAGES = ("node@22", "@playcanvas/splat-transform@3.7.0")  # which wants Node 22
READ = sorted(set(FORMATS) - {"glb"})  # it writes .glb only
NUM = 300  # two chunks of .compressed.ply
# It takes the bytes of .splat for -1 to 1, where the format's own viewer takes them for -1 to 127/128.
QUATS = {"splat": 0.008}
THIRD = {"spz": ("--spz-version", "3")}  # needs no zstandard
Convert = Callable[..., Path]


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The program."""
    modules = installed("splat-transform-3.7.0", *PACKAGES)
    return [str(modules / "node/bin/node"), str(modules / "@playcanvas/splat-transform/bin/cli.mjs"), "-q", "-w"]


@pytest.fixture
def convert(command, tmp_path) -> Convert:
    def run(source: Path, target: str, *options: str) -> Path:
        path = tmp_path / target
        done = subprocess.run(
            [*command, "-g", "cpu", str(source), *options, str(path)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0 and path.exists(), done.stdout + done.stderr
        return path

    return run


def nearly_equal(ours, theirs, quats=2e-5):
    """The same but for the rounding of float32, and opacities of 0 and 1, which each program moves in its way."""
    off = errors(ours, theirs)
    assert off.pop("opacity_logits") <= 1 / 255
    assert off.pop("quats") <= quats
    assert all(error < 2e-5 for error in off.values()), off
    inner = np.abs(theirs["opacity_logits"]) < 5
    np.testing.assert_allclose(ours["opacity_logits"][inner], theirs["opacity_logits"][inner], atol=1e-4)


@pytest.mark.parametrize("num_rest", [0, 3, 8, 15])
@pytest.mark.parametrize("name", READ)
def test_it_reads_our_files_as_we_do(name, num_rest, convert, tmp_path):
    """What our reader makes of them is compared with the model in test_formats_round_trip.py."""
    rows, path = random_rows(NUM, num_rest), tmp_path / f"ours{ENDINGS[name]}"
    FORMATS[name].write(path, rows)
    theirs = ply.read(convert(path, "theirs.ply"))
    nearly_equal(FORMATS[name].read(path), theirs, QUATS.get(name, 2e-5))
    off = errors(aligned(theirs, rows), {**rows, "sh_rest": rows["sh_rest"][:, : theirs["sh_rest"].shape[1]]})
    limits = {"means": 0.006, "log_scales": 0.04, "quats": 0.013, "opacity_logits": 0.6 / 255, "sh_dc": 0.02}
    assert all(off[key] < limit for key, limit in limits.items()), off
    assert theirs["sh_rest"].shape[1] == (0 if name == "splat" else num_rest)


@pytest.mark.parametrize("name", READ)
def test_it_reads_a_single_gaussian_of_extreme_values(name, convert, tmp_path):
    rows, path = random_rows(1), tmp_path / f"ours{ENDINGS[name]}"
    rows["opacity_logits"][:], rows["sh_rest"][:], rows["quats"][:] = 40, 9, [[0, 0, -2, 0]]
    FORMATS[name].write(path, rows)
    nearly_equal(FORMATS[name].read(path), ply.read(convert(path, "theirs.ply")), QUATS.get(name, 2e-5))


@pytest.mark.parametrize("num_rest", [0, 3, 8, 15])
@pytest.mark.parametrize("name, options", [("compressed_ply", ()), ("spz", ("--spz-version", "3")), ("spz", ())])
def test_we_read_its_files_as_it_does(name, options, num_rest, convert, tmp_path):
    rows = random_rows(NUM, num_rest)
    rows["sh_rest"] *= 5  # beyond what the formats can hold
    if name == "spz" and not options:
        pytest.importorskip("zstandard")
    ply.write(tmp_path / "model.ply", rows)
    path = convert(tmp_path / "model.ply", f"theirs{ENDINGS[name]}", *options)
    nearly_equal(FORMATS[name].read(path), ply.read(convert(path, "theirs.ply")))


@pytest.mark.parametrize("num_rest", [0, 8])
def test_we_read_its_sog_as_it_does(num_rest, convert, tmp_path):
    ply.write(tmp_path / "model.ply", random_rows(60, num_rest))  # it takes seconds for the palette of 300 on a CPU
    path = convert(tmp_path / "model.ply", "theirs.sog")
    nearly_equal(FORMATS["sog"].read(path), ply.read(convert(path, "theirs.ply")))


@pytest.mark.parametrize("num_rest", [0, 3, 15])
def test_it_reads_our_spz_of_version_4_as_we_do(num_rest, convert, tmp_path):
    pytest.importorskip("zstandard")
    spz.write(tmp_path / "ours.spz", random_rows(NUM, num_rest), version=4)
    nearly_equal(spz.read(tmp_path / "ours.spz"), ply.read(convert(tmp_path / "ours.spz", "theirs.ply")))


@pytest.mark.parametrize("num_rest", [0, 15])
def test_sog_of_version_1_is_read_as_it_reads_it(num_rest, convert, tmp_path):
    """Written by the tests: no program at hand writes it any more."""
    (tmp_path / "first").mkdir()
    for name, content in first_sog(random_rows(60, num_rest)).items():
        (tmp_path / "first" / name).write_bytes(content)
    nearly_equal(sog.read(tmp_path / "first"), ply.read(convert(tmp_path / "first" / "meta.json", "theirs.ply")), 1e-4)


def test_folders_of_sog_are_read_by_both(convert, tmp_path):
    sog.write(tmp_path / "ours" / "meta.json", random_rows(NUM, 3))
    nearly_equal(sog.read(tmp_path / "ours"), ply.read(convert(tmp_path / "ours" / "meta.json", "theirs.ply")))
    ply.write(tmp_path / "model.ply", random_rows(60, 0))
    (tmp_path / "theirs").mkdir()
    path = convert(tmp_path / "model.ply", "theirs/meta.json")
    nearly_equal(sog.read(path.parent), ply.read(convert(path, "again.ply")))


@pytest.mark.parametrize("num_rest", [0, 3, 8])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_ksplat_is_read_as_it_reads_it(level, num_rest, convert, tmp_path):
    rows = random_rows(304, num_rest)  # it reads sections only where they start at a multiple of 4 bytes
    rows["means"] *= 0.3
    (tmp_path / "a.ksplat").write_bytes(ksplat_bytes(rows, level))
    # Half floats of rotations are no unit quaternions; it divides by their length later than we do.
    nearly_equal(read_model(tmp_path / "a.ksplat"), ply.read(convert(tmp_path / "a.ksplat", "theirs.ply")), 1e-4)


@pytest.mark.parametrize("num_rest", [0, 3, 8, 15])
def test_its_glb_is_read_and_holds_what_ours_holds(num_rest, convert, tmp_path):
    rows = random_rows(NUM, num_rest)
    rows["quats"] = unit_quats(rows["quats"]).astype(np.float32)  # it leaves their length, which must be 1 in a .glb
    ply.write(tmp_path / "model.ply", rows)
    glb.write(tmp_path / "ours.glb", rows)
    theirs = read_model(convert(tmp_path / "model.ply", "theirs.glb"))
    nearly_equal(theirs, rows)
    ours, other = attributes_of(tmp_path / "ours.glb"), attributes_of(tmp_path / "theirs.glb")
    assert ours.keys() == other.keys()
    for name, values in ours.items():
        sign = np.sign((values * other[name]).sum(axis=1, keepdims=True)) if name.endswith("ROTATION") else 1
        np.testing.assert_allclose(values, sign * other[name], atol=1 if values.dtype == np.uint8 else 2e-6)


def attributes_of(path: Path) -> dict[str, np.ndarray]:
    """The columns of a .glb, by a reader of the test's own."""
    data = path.read_bytes()
    size = struct.unpack_from("<I", data, 12)[0]
    document, start = json.loads(data[20 : 20 + size]), 28 + size
    values = {}
    for name, index in document["meshes"][0]["primitives"][0]["attributes"].items():
        accessor = document["accessors"][index]
        columns = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        kind = {5121: "u1", 5126: "<f4"}[accessor["componentType"]]
        offset = start + document["bufferViews"][accessor["bufferView"]]["byteOffset"]
        values[name] = np.frombuffer(data, kind, accessor["count"] * columns, offset).reshape(-1, columns)
    return values


@pytest.mark.parametrize("name", ["ply", "compressed_ply", "spz", "sog"])
def test_the_antialiased_mark_is_one_for_both(name, convert, tmp_path):
    """Ours of its file; and ours again after it has read and written ours."""
    ending = ENDINGS.get(name, ".ply")
    given = SavedArrays(random_rows(60, 0), antialiased=True)
    ply.write(tmp_path / "marked.ply", given)
    assert read_model(convert(tmp_path / "marked.ply", f"theirs{ending}", *THIRD.get(name, ()))).antialiased
    (ply if name == "ply" else FORMATS[name]).write(tmp_path / f"ours{ending}", given)
    assert read_model(convert(tmp_path / f"ours{ending}", "again.ply")).antialiased
    (ply if name == "ply" else FORMATS[name]).write(tmp_path / f"ours{ending}", dict(given))
    assert not read_model(convert(tmp_path / f"ours{ending}", "again.ply")).antialiased


@pytest.mark.parametrize("name", ["ply", "compressed_ply", "sog"])
def test_a_file_that_names_an_offset_is_read_by_it(name, convert, tmp_path):
    """As the same file without it."""
    rows, ending = random_rows(60, 0), ENDINGS.get(name, ".ply")
    for stem, offset in (("far", (5e6, -391e3, 0.25)), ("near", None)):
        (ply if name == "ply" else FORMATS[name]).write(tmp_path / f"{stem}{ending}", SavedArrays(rows, offset=offset))
    far, near = (convert(tmp_path / f"{stem}{ending}", f"{stem}_again.ply") for stem in ("far", "near"))
    assert far.read_bytes() == near.read_bytes()


def test_spz_of_version_2_is_read_as_it_reads_it(convert, tmp_path):
    """Written by hand: no program at hand writes it any more."""
    rng = np.random.default_rng(0)
    header = struct.pack("<IIIBBBB", 0x5053474E, 2, NUM, 1, 10, 0, 0)
    rotations = rng.integers(60, 196, (NUM, 3)).astype(np.uint8)
    body = [rng.bytes(NUM * 9), rng.bytes(NUM), rng.bytes(NUM * 6), rotations.tobytes(), rng.bytes(NUM * 9)]
    path = tmp_path / "two.spz"
    path.write_bytes(gzip.compress(header + b"".join(body)))
    nearly_equal(spz.read(path), ply.read(convert(path, "theirs.ply")))


def test_the_documented_axes_of_spz_are_its_turn_about_x(convert, tmp_path):
    """Positions, rotations and SH of all degrees, turned by the other program and by us."""
    rows = random_rows(NUM)
    ply.write(tmp_path / "model.ply", rows)
    turned = ply.read(convert(tmp_path / "model.ply", "turned.ply", "-r", "180,0,0"))
    spz.write(tmp_path / "ours.spz", rows, axes="RUB", fractional_bits=20)
    ours = aligned(spz.read(tmp_path / "ours.spz"), turned)
    off = errors(ours, {**turned, "quats": ours["quats"]})
    assert off["means"] < 2e-5 and off["sh_rest"] < 0.51 / 128 and off["log_scales"] < 0.04, off
    # Worst: 0.0040, of rotations in 10 bits a part.
    np.testing.assert_allclose(covariances(ours), covariances({**ours, "quats": turned["quats"]}), atol=6e-3)


def covariances(rows: dict[str, np.ndarray]) -> np.ndarray:
    """(N,3,3) of rotations alone, with variances 1, 2 and 3 along the axes: quaternions of other signs are equal."""
    w, x, y, z = (rows["quats"] / np.linalg.norm(rows["quats"], axis=1, keepdims=True)).astype(np.float64).T
    matrix = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    return matrix @ np.diag([1.0, 2.0, 3.0]) @ matrix.transpose(0, 2, 1)
