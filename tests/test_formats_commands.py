"""The commands with models of all formats: what they read, draw by, refuse to overwrite, and say."""

import gzip
import json
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from format_cases import ENDINGS, FORMATS, first_sog, ksplat_bytes, random_rows
from viewer_cases import rows_of, write_run

from compact_splats.arguments.compress import CompressConfig
from compact_splats.arguments.config import scene_of_run
from compact_splats.arguments.render import RenderConfig
from compact_splats.arguments.view import ViewConfig
from compact_splats.commands import compress, train, view
from compact_splats.compression import encode, read_model, write_gsz
from compact_splats.compression.container import pack, unpack
from compact_splats.compression.formats import spz
from compact_splats.compression.load import load_model
from compact_splats.gaussian_renderer import render
from compact_splats.scene import ply
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.parameters import SavedArrays
from compact_splats.scene.saved_cameras import read_cameras
from compact_splats.training.run_folder import RunFolder
from compact_splats.utils.errors import InputError

ROOT = Path(__file__).parent.parent
KINDS = [*FORMATS, "ply", "ksplat", "sog folder", "sog 1", "gsz"]


def written(kind: str, folder: Path, rows) -> Path:
    """A model of each format that is read."""
    if kind == "ksplat":
        (folder / "a.ksplat").write_bytes(ksplat_bytes(rows, 0))
        return folder / "a.ksplat"
    if kind == "sog 1":
        (folder / "first").mkdir()
        for name, content in first_sog(rows).items():
            (folder / "first" / name).write_bytes(content)
        return folder / "first"
    if kind == "gsz":
        write_gsz(folder / "a.gsz", encode(rows, "seed"))
        return folder / "a.gsz"
    path = folder / {"ply": "a.ply", "sog folder": "loose/meta.json"}.get(kind, f"a{ENDINGS.get(kind)}")
    {"ply": ply, "sog folder": FORMATS["sog"]}.get(kind, FORMATS.get(kind)).write(path, rows)
    return path


# ---- every format, in every command ----


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_shown_exported_and_described(kind, tmp_path, capsys):
    path = written(kind, tmp_path, random_rows(50, 0))
    compress.main(["info", str(path)])
    assert "50 Gaussians" in (out := capsys.readouterr().out) and "not anti-aliased" in out
    compress.main(["export", str(path), "--format", "ply", "-o", str(tmp_path / "out.ply")])
    assert len(ply.read(tmp_path / "out.ply")["means"]) == 50
    view.main(["-m", str(path), "--html", str(tmp_path / "out.html"), "--device", "cpu"])
    assert "50 Gaussians" in (tmp_path / "out.html").read_text()


@pytest.mark.parametrize("kind", ["spz", "glb", "sog folder", "ksplat"])
def test_training_starts_from_every_format(kind, tiny_scene_dir, tmp_path):
    path = written(kind, tmp_path, random_rows(60, 0))
    words = ["-s", str(tiny_scene_dir), "-m", str(tmp_path / "out"), "--init-ply", str(path), "--iterations", "2"]
    train.main([*words, "--final-budget", "60", "--quiet", "--sh-degree", "1", "--device", "cpu", "--no-tensorboard"])
    num, *shape = read_model(tmp_path / "out")["sh_rest"].shape
    assert 40 < num <= 60 and shape == [3, 3]


def test_training_goes_on_antialiased_as_the_model_is_marked(tiny_scene_dir, tmp_path):
    ply.write(tmp_path / "a.ply", SavedArrays(random_rows(60, 0), antialiased=True))
    words = [
        "-s",
        str(tiny_scene_dir),
        "--init-ply",
        str(tmp_path / "a.ply"),
        "--iterations",
        "2",
        "--final-budget",
        "60",
    ]
    for flags, mark in (([], True), (["--no-antialiasing"], False)):
        train.main([*words, "-m", str(tmp_path / "out"), "--quiet", "--device", "cpu", "--no-tensorboard", *flags])
        assert read_model(tmp_path / "out").antialiased is mark
        assert scene_of_run(tmp_path / "out").get("antialiasing") is (mark or None)


def test_export_and_info_load_no_torch_and_info_takes_less_than_a_second(tmp_path):
    paths = [written(kind, tmp_path, random_rows(50, 0)) for kind in KINDS]
    code = f"""if True:
        import sys
        from compact_splats.compression.export import export
        from compact_splats.compression.info import info
        for path in {[str(path) for path in paths]}:
            info([path])
            if not path.endswith(".gsz"):  # which is decoded by torch
                export([path, "--format", "glb", "-o", path + ".new.glb"])
        assert not set(sys.modules) & {{"torch", "scipy", "cv2", "tensorboard"}}
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "compress.py", "info", str(paths[0])], cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # measured: 0.4 s of the processor


# ---- marks ----


def config_of(kind, *words):
    needed = {
        ViewConfig: ["-m", "a.ply"],
        RenderConfig: ["-m", "out", "-s", "s"],
        CompressConfig: ["--ply", "a", "-s", "s"],
    }
    return kind.from_command_line([*needed[kind], *words])


@pytest.mark.parametrize("kind", [ViewConfig, RenderConfig, CompressConfig])
@pytest.mark.parametrize("mark", [False, True])
def test_a_model_is_drawn_by_its_mark_and_a_flag_goes_before(kind, mark, tmp_path):
    ply.write(tmp_path / "a.ply", SavedArrays(random_rows(5, 0), antialiased=mark))
    for words, expected in (([], mark), (["--antialiasing"], True), (["--no-antialiasing"], False)):
        model = load_model(tmp_path / "a.ply", config_of(kind, *words), torch.device("cpu"), None)
        assert model.antialiased is expected


def test_a_model_without_a_mark_is_drawn_as_its_run_was_trained(tmp_path):
    """Runs from before the mark."""
    (tmp_path / "config.json").write_text(json.dumps({"antialiasing": True, "source_path": "s", "eval": True}))
    assert ViewConfig.from_command_line(["-m", str(tmp_path)]).antialiasing is True
    (tmp_path / "config.json").write_text(json.dumps({"antialiasing": False, "source_path": "s", "eval": True}))
    config = ViewConfig.from_command_line(["-m", str(tmp_path)])
    assert config.antialiasing is None and config.eval


@pytest.mark.parametrize("mark", [False, True])
def test_a_page_draws_by_the_mark(mark, tmp_path):
    ply.write(tmp_path / "a.ply", SavedArrays(random_rows(5, 0), antialiased=mark))
    view.main(["-m", str(tmp_path / "a.ply"), "--html", str(tmp_path / "a.html"), "--device", "cpu", "--quiet"])
    text = (tmp_path / "a.html").read_text()
    assert json.loads(re.search(r'"antialiased": (\w+)', text)[1]) is mark


def test_a_flag_of_export_sets_the_mark(tmp_path):
    ply.write(tmp_path / "a.ply", random_rows(5, 0))
    compress.main(["export", str(tmp_path / "a.ply"), "--format", "spz", "--antialiasing", "--quiet"])
    assert read_model(tmp_path / "a.spz").antialiased


def test_the_name_of_the_new_file_says_the_format(tmp_path):
    """--format may be left out, and must not contradict the name: readers go by it."""
    path = written("ply", tmp_path, random_rows(5, 0))
    for name in ("b.spz", "b.compressed.ply", "c.PLY"):
        compress.main(["export", str(path), "-o", str(tmp_path / name), "--quiet"])
        assert len(read_model(tmp_path / name)["means"]) == 5
    with pytest.raises(InputError, match="d.spz is the name of a .spz, but --format is splat"):
        compress.main(["export", str(path), "--format", "splat", "-o", str(tmp_path / "d.spz")])
    with pytest.raises(InputError, match="--format is missing"):
        compress.main(["export", str(path), "-o", str(tmp_path / "d.xyz")])


@pytest.mark.parametrize("name", ["a.zip", "a.ply.gz"])
def test_a_packed_ply_is_to_be_unpacked(name, tmp_path):
    """As some programs offer it for download; a .sog is a zip archive, and a .spz a gzip stream, too."""
    path = written("ply", tmp_path, random_rows(5, 0))
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.write(path, "point_cloud.ply")
    else:
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="a PLY: unpack it|a compressed PLY: unpack it"):
        read_model(tmp_path / name)


# ---- cfg_args ----


NAMESPACE = (
    "Namespace(data_device='cuda', depths='', eval=True, images='images_4', model_path='/a', resolution=2, "
    "sh_degree=3, source_path='/data/my room', train_test_exp=False, white_background=True)"
)


def test_a_run_of_3dgs_says_how_it_was_trained(tmp_path):
    (tmp_path / "cfg_args").write_text(NAMESPACE)
    config = RenderConfig.from_command_line(["-m", str(tmp_path)])
    assert (config.source_path, config.images, config.resolution) == (Path("/data/my room"), "images_4", 2)
    assert config.eval and config.white_background and config.antialiasing is None
    assert RenderConfig.from_command_line(["-m", str(tmp_path), "--no-eval", "-r", "1"]).resolution == 1
    (tmp_path / "cfg_args").write_text(NAMESPACE.replace("'/data/my room'", "PosixPath('/data/my room')"))
    assert RenderConfig.from_command_line(["-m", str(tmp_path)]).source_path == Path("/data/my room")
    (tmp_path / "config.json").write_text(json.dumps({"source_path": "/other", "eval": False}))
    assert RenderConfig.from_command_line(["-m", str(tmp_path)]).source_path == Path("/other")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Namespace(",
        "Namespace('a')",
        "Namespace(eval=True)(1)",
        "Namespace(eval=__import__('os').system('touch PATH'))",
        "Namespace(**{'eval': open('PATH', 'w')})",
        "open('PATH', 'w')",
        "Namespace(source_path='a' * 10)",
        "(lambda: Namespace())()",
        "Namespace(eval=True); open('PATH', 'w')",
        "Namespace(a=" + "[" * 3000 + "]" * 3000 + ")",
        "Namespace(eval='yes')",
        "Namespace(resolution=1.5)",
        "\0",
        "Namespace(a='" + "x" * 70000 + "')",
    ],
)
def test_cfg_args_are_never_evaluated(text, tmp_path):
    (tmp_path / "cfg_args").write_text(text.replace("PATH", str(tmp_path / "made")))
    with pytest.raises(InputError) as error:
        scene_of_run(tmp_path)
        raise InputError("cfg_args without a value that counts")  # of names that are not read
    assert "cfg_args" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


# ---- nothing is overwritten ----


def test_an_export_replaces_no_file_that_the_user_did_not_name(tmp_path, capsys):
    """The original beside its own export: it was lost before."""
    original = tmp_path / "room.ply"
    ply.write(original, random_rows(20, 15))
    before = original.read_bytes()
    compress.main(["export", str(original), "--format", "splat"])
    words = ["export", str(tmp_path / "room.splat"), "--format", "ply"]
    with pytest.raises(InputError, match="room.ply exists: give --overwrite"):
        compress.main(words)
    assert original.read_bytes() == before
    compress.main([*words, "-o", str(tmp_path / "new.ply")])
    compress.main([*words, "-o", str(tmp_path / "new.ply")])  # this one was named
    compress.main([*words, "--overwrite"])
    assert original.read_bytes() == (tmp_path / "new.ply").read_bytes() != before


def test_a_folder_of_sog_is_not_overwritten_either(tmp_path):
    ply.write(tmp_path / "room.ply", random_rows(20, 0))
    words = ["export", str(tmp_path / "room.ply"), "--format", "sog-folder", "--quiet"]
    compress.main(words)
    assert (tmp_path / "room-sog" / "meta.json").exists()
    with pytest.raises(InputError, match="meta.json exists: give --overwrite"):
        compress.main(words)
    compress.main(["export", str(tmp_path / "room-sog"), "--format", "splat", "--quiet"])
    assert (tmp_path / "room-sog.splat").exists()


def test_a_compressed_model_of_another_file_is_not_overwritten(tmp_path):
    (tmp_path / "compressed").mkdir()
    (tmp_path / "compressed" / "a.gsz").write_text("of a.spz")
    with pytest.raises(InputError, match="a.gsz exists: give --overwrite"):
        compress.main(["--ply", str(tmp_path / "a.ply"), "-s", str(tmp_path), "--device", "cpu"])
    assert (tmp_path / "compressed" / "a.gsz").read_text() == "of a.spz"


# ---- what is said ----


def test_info_says_what_is_inside(tmp_path, capsys):
    rows = random_rows(1000, 3)
    rows["means"][5] = (1e5, 0, 0)
    rows["sh_dc"][7] = np.nan
    ply.write(tmp_path / "a.ply", SavedArrays(rows, antialiased=True))
    compress.main(["info", str(tmp_path / "a.ply")])
    out = capsys.readouterr().out
    for line in ("999 Gaussians", "SH degree 1", r"format +\.ply", "marked +anti-aliased", "x .* to 100000",
                 "outliers +1 farther", "note: 1 of 1,000 Gaussians have values that are not finite"):  # fmt: skip
        assert re.search(line, out), (line, out)
    with pytest.raises(InputError, match="a.ply.*sh_dc.*nan in Gaussian 7"):
        compress.main(["info", str(tmp_path / "a.ply"), "--keep-nan"])


def test_info_says_the_bounds_of_a_gsz(tmp_path, capsys):
    model = SavedArrays(random_rows(100, 3), offset=(1e6, 2.0, 0.0))
    (tmp_path / "a.gsz").write_bytes(encode(model))
    compress.main(["info", str(tmp_path / "a.gsz")])
    out = capsys.readouterr().out
    for axis, low, high in zip("xyz", model["means"].min(axis=0), model["means"].max(axis=0), strict=True):
        found = re.search(rf"  {axis} +(\S+) to (\S+)", out)
        assert np.allclose([float(found[1]), float(found[2])], [low, high], rtol=1e-3)
    assert "offset      1000000 2 0" in out
    header, streams = unpack((tmp_path / "a.gsz").read_bytes())
    for bad in ([], [[1, 2, 3]], [[1, 2, "3"], [4, 5, 6]], [[1, 2, 1e300], [4, 5, 6]]):
        (tmp_path / "a.gsz").write_bytes(pack({**header, "bounds": bad}, streams))
        with pytest.raises(InputError, match="bounds"):
            compress.main(["info", str(tmp_path / "a.gsz")])


@pytest.mark.parametrize("command", ["info", "export"])
def test_bad_values_that_are_to_be_kept_end_in_exit_code_2(command, tmp_path):
    rows = random_rows(10, 0)
    rows["quats"][2] = np.nan
    ply.write(tmp_path / "a.ply", rows)
    words = {
        "info": ["compress.py", "info", "a.ply"],
        "export": ["compress.py", "export", "a.ply", "--format", "spz"],
    }[command]
    run = [sys.executable, str(ROOT / words[0]), *words[1:], "--keep-nan"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "quats[0] = nan in Gaussian 2" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]
    with pytest.raises(InputError, match="nan in Gaussian 2"):
        view.main(["-m", str(tmp_path / "a.ply"), "--html", str(tmp_path / "a.html"), "--device", "cpu", "--keep-nan"])


@pytest.mark.parametrize("how", ["export", "page"])
def test_what_is_cut_off_is_said_with_its_psnr_from_the_cameras(how, tmp_path, capsys):
    run = write_run(tmp_path / "run")
    path = RunFolder(run).find_ply()[0]
    rows = rows_of(300, 3)
    rows["sh_rest"] *= 8
    ply.write(path, rows)
    if how == "export":
        compress.main(["export", str(run), "--format", "spz", "-o", str(tmp_path / "a.spz")])
    else:
        view.main(["-m", str(run), "--html", str(tmp_path / "a.html"), "--device", "cpu"])
        spz.write(tmp_path / "a.spz", rows)
    said = capsys.readouterr().err
    assert "sh_rest beyond -1 to" in said
    cameras, units = read_cameras(run / "cameras.json", RunFolder(run).units())
    models = [GaussianModel.from_arrays(each, "cpu", units) for each in (rows, spz.read(tmp_path / "a.spz"))]
    errors = []
    for camera in cameras:
        with torch.no_grad():
            one, other = (render(camera, model).image.clamp(0, 1) for model in models)
        errors.append(float((one - other).square().mean()))
    expected = -10 * np.log10(np.mean(errors))
    assert float(re.search(r"from \d+ of its cameras: ([\d.]+) dB", said)[1]) == pytest.approx(expected, abs=0.3)
