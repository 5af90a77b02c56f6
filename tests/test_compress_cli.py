"""compress.py and render.py --model from the command line: flags, files, and what a user can get wrong."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from compact_splats.arguments import TrainConfig
from compact_splats.arguments.compress import CompressConfig
from compact_splats.commands import compress, metrics, render
from compact_splats.compression import encode, read_model, write_gsz
from compact_splats.compression.export import bare_name
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.scene import load_scene, ply
from compact_splats.scene.gaussian_model import PARAMETER_NAMES, GaussianModel
from compact_splats.training.run import train
from compact_splats.utils.errors import InputError

ROOT = Path(__file__).parent.parent
NUM = 200


@pytest.fixture(scope="module")
def run(tiny_scene_dir, tmp_path_factory) -> Path:
    """A run folder with 200 Gaussians of 60 steps. Read only."""
    out = tmp_path_factory.mktemp("run") / "model"
    train(
        TrainConfig(
            source_path=tiny_scene_dir, model_path=out, final_budget=NUM, iterations=60, eval=True, quiet=True,
            tensorboard=False, threads=1, lambda_dssim=0.3,
        )
    )  # fmt: skip
    return out


@pytest.fixture
def folder(run, tmp_path) -> Path:
    """A copy of the run to write into."""
    return shutil.copytree(run, tmp_path / "model")


def compressed(folder: Path, *flags: str) -> dict:
    """The .json of a short compression into the run folder."""
    compress.main(["-m", str(folder), "--profile", "seed", "--steps", "0.002", "--quiet", "--threads", "1", *flags])
    return json.loads((folder / "compressed" / "seed.json").read_text())


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- flags ----


def test_scene_and_loss_come_from_the_run_unless_told_otherwise(run, tiny_scene_dir):
    taken = CompressConfig.from_command_line(["-m", str(run)])
    assert (taken.source_path, taken.eval, taken.lambda_dssim) == (tiny_scene_dir, True, 0.3)
    assert taken.threads == 0 and taken.seed == 0 and not taken.quiet
    told = CompressConfig.from_command_line(["-m", str(run), "-s", "other", "--no-eval", "--lambda-dssim", "0"])
    assert (told.source_path, told.eval, told.lambda_dssim) == (Path("other"), False, 0.0)


@pytest.mark.parametrize(
    ("flags", "rounds"),
    [("", 25), ("--rounds 3", 3), ("--target-gaussians 5", None), ("--target-mb 1 --rounds 7", 7), ("--rounds 0", 0)],
)
def test_25_rounds_are_for_those_who_ask_for_nothing(flags, rounds):
    config = CompressConfig.from_command_line(["-s", "scene", "-m", "model", *flags.split()])
    assert compress.goals_of(config).rounds == rounds


BAD = [
    "--target-gaussians 0",
    "--target-gaussians 1.5",
    "--target-mb 0",
    "--target-mb -1",
    "--target-mb nan",
    "--target-mb inf",
    "--max-psnr-drop -0.1",
    "--max-psnr-drop inf",
    "--rounds -1",
    "--steps -1",
    "--steps inf",
    "--steps nan",
    "--profile best",
    "--quality best",
    "--quality small",  # is of compact
    "--no-prune --rounds 3",
    "--no-prune --prune-by gradient",
    "--no-prune --target-mb 3",
    "--seed -1",
    "--threads -1",
    "--iteration -2",
    "--iteration 7",
    "--resolution 0",
    "--lambda-dssim 2",
    "--prune-share 3",
    "stray",
    "-s missing",
    "-i missing",
    "--ply missing.ply",
]


@pytest.mark.parametrize("flags", BAD)
def test_bad_flags_are_one_line_and_leave_everything_as_it_was(folder, flags):
    before = files_in(folder.parent)
    with pytest.raises(InputError) as error:
        compress.main(["-m", str(folder), "--profile", "seed", "--quiet", *flags.split()])
    assert "\n" not in str(error.value)
    assert files_in(folder.parent) == before


@pytest.mark.parametrize(
    "words", ["export", "export x", "export x --format obj", "info", "info x --quiet", "info missing.gsz"]
)
def test_bad_flags_of_the_other_commands_are_one_line(words):
    with pytest.raises(InputError) as error:
        compress.main(words.split())
    assert "\n" not in str(error.value)


# ---- the post-hoc stage ----


def test_the_file_holds_what_was_asked_for_and_measured(folder, tiny_scene_dir):
    summary = compressed(folder, "--target-gaussians", "171")
    path = folder / "compressed" / "seed.gsz"
    rows = read_model(path)
    last = summary["course"][-1]
    assert len(rows["means"]) == last["gaussians"] == 171 and path.stat().st_size == last["bytes"]
    scene = load_scene(tiny_scene_dir, eval=True)
    scores = evaluate(scene.test, GaussianModel.from_arrays(rows, "cpu", scene.units), torch.zeros(3))
    assert (scores["psnr"], scores["ssim"]) == (last["test_psnr"], last["test_ssim"])
    assert summary["stopped_by"] == "171 Gaussians" and summary["minutes"] > 0 and summary["peak_rss_mb"] > 0
    assert summary["config"]["target_gaussians"] == 171 and summary["file"] == str(path)


def test_no_prune_keeps_every_gaussian(folder):
    summary = compressed(folder, "--no-prune")
    assert [stage["name"] for stage in summary["course"]] == ["as given", "stored", "last steps"]
    assert {stage["gaussians"] for stage in summary["course"]} == {NUM} and summary["stopped_by"] is None


def test_without_steps_the_file_is_what_encode_makes(folder):
    summary = compressed(folder, "--no-prune", "--steps", "0")
    source = Path(summary["source"])
    assert source == folder / "point_cloud" / "iteration_60" / "point_cloud.ply"
    assert (folder / "compressed" / "seed.gsz").read_bytes() == encode(ply.read(source), "seed")


def test_fine_tuning_a_finely_stored_model_loses_nothing(folder):
    """PSNR of the training views after 100 steps is no lower than before, within what 8 bits of a picture hide."""
    given, _, last = compressed(folder, "--no-prune", "--steps", "0.02")["course"]
    assert last["train_psnr"] > given["train_psnr"] - 0.02


def test_the_user_sees_table_and_summary(folder, capfd):
    flags = ["--profile", "seed", "--steps", "0.01", "--rounds", "2", "--threads", "1"]
    compress.main(["run", "-m", str(folder), *flags])
    out, err = capfd.readouterr()
    for word in ("as given", "stored", "round 1", "round 2", "last steps", "train PSNR", "test PSNR", "2 rounds"):
        assert word in out
    for word in ("200 -> 180", "bytes per Gaussian", "SSIM", "min without", "memory", "seed.gsz and seed.json"):
        assert word in out
    assert "round 2:" in err and "replaced" not in out
    compress.main(["-m", str(folder), *flags])
    assert "seed.gsz exists; it will be replaced when the new file is complete" in capfd.readouterr().out


def test_quiet_prints_nothing(folder, capfd):
    compressed(folder, "--rounds", "1")
    assert capfd.readouterr() == ("", "")


def test_a_goal_that_something_else_forestalls_is_named(folder, capfd):
    argv = ["-m", str(folder), "--profile", "seed", "--steps", "0", "--rounds", "1", "--target-gaussians", "50"]
    compress.main([*argv, "--threads", "1"])
    assert "stopped at   1 round; not reached: 50 Gaussians" in capfd.readouterr().out


def test_a_failure_on_the_way_leaves_an_older_file_alone(folder, monkeypatch):
    compressed(folder, "--rounds", "1")
    before = files_in(folder)

    def fail(*args, **settings):
        raise RuntimeError("the power went out")

    monkeypatch.setattr("compact_splats.compression.posthoc.removal_scores", fail)
    with pytest.raises(RuntimeError):
        compressed(folder, "--rounds", "2")
    assert files_in(folder) == before


@pytest.mark.parametrize("extension", ["ply", "gsz"])
def test_a_model_of_any_origin_needs_only_its_scene(folder, tiny_scene_dir, tmp_path, extension):
    source = tmp_path / f"found.{extension}"
    rows = ply.read(next(folder.glob("point_cloud/*/*.ply")))
    ply.write(source, rows) if extension == "ply" else write_gsz(source, encode(rows, "seed"))
    given = source.read_bytes()
    words = ["-s", str(tiny_scene_dir), "--profile", "seed", "--steps", "0", "--rounds", "1", "--quiet"]
    compress.main(["--ply", str(source), *words])
    assert len(read_model(tmp_path / "compressed" / "found.gsz")["means"]) == 190
    assert source.read_bytes() == given
    summary = json.loads((tmp_path / "compressed" / "found.json").read_text())
    assert summary["course"][-1]["test_psnr"] is None  # no --eval, and the user hears of it


@pytest.mark.parametrize("case", ["no Gaussians", "not finite", "not a model"])
def test_a_model_that_cannot_be_compressed_is_one_line(folder, tiny_scene_dir, tmp_path, case):
    source = tmp_path / "bad.ply"
    rows = ply.read(next(folder.glob("point_cloud/*/*.ply")))
    if case == "no Gaussians":
        ply.write(source, {name: row[:0] for name, row in rows.items()})
    elif case == "not finite":
        rows["sh_dc"][3] = math.nan
        ply.write(source, rows)
    else:
        source.write_text("not a model")
    with pytest.raises(InputError, match="bad.ply") as error:
        compress.main(["--ply", str(source), "-s", str(tiny_scene_dir), "--profile", "seed", "--quiet", "--keep-nan"])
    assert "\n" not in str(error.value) and not (tmp_path / "compressed").exists()


# ---- other formats ----


def test_decoding_gives_the_values_of_the_file(folder):
    compressed(folder, "--rounds", "1")
    path = folder / "compressed" / "seed.gsz"
    compress.main(["export", str(path), "--format", "ply"])
    rows, exported = read_model(path), ply.read(folder / "compressed" / "seed.ply")
    assert all(np.array_equal(rows[name], exported[name]) for name in PARAMETER_NAMES)


def test_a_run_folder_can_be_exported(folder, tmp_path, capsys):
    compress.main(["export", str(folder), "--format", "ply", "--out", str(tmp_path / "new" / "x.ply")])
    source = next(folder.glob("point_cloud/*/*.ply"))
    assert (tmp_path / "new" / "x.ply").read_bytes() == source.read_bytes()
    assert f"{NUM} Gaussians" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["compressed.ply", "splat", "sog", "spz", "glb"])
def test_every_format_is_written_beside_the_model_and_read_again(folder, name):
    source = next(folder.glob("point_cloud/*/*.ply"))
    compress.main(["export", str(source), "--format", name, "--quiet"])
    assert len(read_model(source.with_name(f"point_cloud.{name}"))["means"]) == NUM


def test_a_model_is_not_exported_onto_itself(folder):
    source = next(folder.glob("point_cloud/*/*.ply"))
    before = source.read_bytes()
    with pytest.raises(InputError, match="the model itself"):
        compress.main(["export", str(source), "--format", "ply"])
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "bare"),
    [("a.ply", "a"), ("a.compressed.ply", "a"), ("a.b.gsz", "a.b"), ("a", "a"), (".ply", ".ply")],
)
def test_the_new_file_has_the_old_ones_name(name, bare):
    assert bare_name(Path(name)) == bare


def test_info_says_what_a_file_holds(folder, capsys):
    compressed(folder, "--no-prune", "--steps", "0")
    compress.main(["info", str(folder / "compressed" / "seed.gsz")])
    out = capsys.readouterr().out
    for word in ("200 Gaussians", "SH degree 3", "bytes per Gaussian", '"seed"', "sh_dc", "means"):
        assert word in out
    compress.main(["info", str(next(folder.glob("point_cloud/*/*.ply")))])
    assert "200 Gaussians, 0.051 MB" in capsys.readouterr().out


# ---- render.py and metrics.py ----


def test_a_compressed_model_is_rendered_and_measured_beside_the_float_model(folder, capsys):
    summary = compressed(folder, "--rounds", "1")
    words = ["-m", str(folder), "--quiet", "--skip-train"]
    render.main(words)
    render.main([*words, "--model", str(folder / "compressed" / "seed.gsz")])
    metrics.main(["-m", str(folder), "--device", "cpu"])
    results = json.loads((folder / "results.json").read_text())
    assert list(results) == ["ours_60", "seed"]
    for name, stage in ("ours_60", summary["course"][0]), ("seed", summary["course"][-1]):
        assert results[name]["PSNR"] == pytest.approx(stage["test_psnr"], rel=1e-5)
    out = capsys.readouterr().out
    assert "ours_60" in out and "seed" in out


@pytest.mark.parametrize(
    ("file", "method"),
    [("a.gsz", "a"), ("ours_7.gsz", "ours_7.gsz"), ("b.splat", "b.splat"), ("c.compressed.ply", "c.compressed.ply"),
     ("d.ply", "ours_0")],
)  # fmt: skip
def test_renders_are_named_after_the_file(file, method):
    config = render.RenderConfig(source_path=Path("s"), model_path=Path("m"), model=Path("x") / file)
    assert render.find_model(config) == (Path("x") / file, method)


def test_a_damaged_file_is_one_line_and_nothing_written(folder):
    compressed(folder, "--no-prune", "--steps", "0")
    path = folder / "compressed" / "seed.gsz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="seed.gsz") as error:
        render.main(["-m", str(folder), "--quiet", "--model", str(path)])
    assert "\n" not in str(error.value) and not (folder / "test").exists()
