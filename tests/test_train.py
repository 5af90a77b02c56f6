"""Training from a scene folder to a run folder: quality, exact size, the same bits again, and what is written."""

import ast
import dataclasses
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from compact_splats.arguments import TrainConfig
from compact_splats.scene import load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.normalization import Units
from compact_splats.scene.photos import Photo
from compact_splats.training.run import advice, train
from compact_splats.training.run_context import NullViewer
from compact_splats.utils.errors import InputError

ROOT = Path(__file__).parent.parent
BUDGET = 1000


def make_config(scene: Path, out: Path, **changes) -> TrainConfig:
    values = {
        "iterations": 300,
        "final_budget": BUDGET,
        "eval": True,
        "quiet": True,
        "tensorboard": False,
        "threads": 2,
    }
    return TrainConfig(source_path=scene, model_path=out, **{**values, **changes})


def ply(config: TrainConfig, step: int | None = None) -> Path:
    step = config.make_schedule().iterations if step is None else step
    return config.model_path / "point_cloud" / f"iteration_{step}" / "point_cloud.ply"


def log_of(config: TrainConfig, event: str) -> list[dict]:
    lines = map(json.loads, (config.model_path / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event]


@pytest.fixture(scope="module")
def trained(tiny_scene_dir, tmp_path_factory) -> tuple[TrainConfig, dict]:
    """The config and the summary of 300 steps of the full schedule. Read only."""
    out = tmp_path_factory.mktemp("run") / "model"
    config = make_config(tiny_scene_dir, out, test_iterations=(1, 150), save_iterations=(150,))
    return config, train(config)


@pytest.fixture
def short(tiny_scene_dir, tmp_path):
    """Train a few steps with changed flags and give the config."""

    def run(name: str = "model", iterations: int = 12, **changes) -> TrainConfig:
        config = make_config(tiny_scene_dir, tmp_path / name, iterations=iterations, **changes)
        train(config)
        return config

    return run


def test_training_gains_quality(trained):
    config, summary = trained
    first = log_of(config, "test")[0]
    # Measured over three seeds: from 13.7 dB to 19.4 at the least, from 0.258 to 0.430.
    assert summary["test"]["psnr"] > first["psnr"] + 4
    assert summary["test"]["ssim"] > first["ssim"] + 0.1


def test_training_gains_quality_on_a_real_capture(test_data, tmp_path):
    config = make_config(test_data / "scenes" / "fox_tiny", tmp_path / "fox", final_budget=4000)
    summary = train(config)
    # Measured: 22.3 dB and 0.718; the points alone give 9.3 dB.
    assert summary["test"]["psnr"] > 21 and summary["test"]["ssim"] > 0.68
    assert summary["num_gaussians"] == 4000


@pytest.mark.parametrize("schedule", ["full", "fast", "quick"])
@pytest.mark.parametrize("budget", [250, 1000])
def test_the_budget_is_met_exactly(tiny_scene_dir, tmp_path, schedule, budget):
    config = make_config(tiny_scene_dir, tmp_path / "out", schedule=schedule, final_budget=budget, iterations=150)
    assert train(config)["num_gaussians"] == budget
    assert GaussianModel.load_ply(ply(config), "cpu").num_gaussians == budget


def test_the_same_seed_gives_the_same_bits_with_any_number_of_threads(trained, short):
    config, _ = trained
    for threads in (1, 2):
        again = short(f"threads{threads}", iterations=300, threads=threads)
        assert ply(again).read_bytes() == ply(config).read_bytes(), f"{threads} threads"


def test_another_seed_gives_another_model(short):
    one, other = short("one", seed=1), short("other", seed=2)
    assert ply(one).read_bytes() != ply(other).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"white_background": True},
        {"random_background": True},
        {"antialiasing": True},
        {"lambda_dssim": 0.9},
        {"eval": False},
        {"schedule": "fast"},
        {"schedule": "quick"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_flag_of_the_method_changes_the_model(short, change):
    assert ply(short("plain")).read_bytes() != ply(short("changed", **change)).read_bytes()


def test_the_sh_rest_rate_moves_only_what_it_names(short):
    """At rate zero the higher degrees stay where they start."""
    frozen = GaussianModel.load_ply(ply(short("frozen", sh_rest_lr=0.0)), "cpu")
    moving = GaussianModel.load_ply(ply(short("moving")), "cpu")
    assert not frozen.sh_rest.any() and moving.sh_rest.any()


@pytest.mark.parametrize("degree", [0, 1])
def test_the_sh_degree_limits_what_is_kept(short, degree):
    assert GaussianModel.load_ply(ply(short(sh_degree=degree)), "cpu").max_sh_degree == degree


def test_no_gaussian_splits_below_the_gradient_threshold(short, tiny_scene_dir):
    config = short(iterations=100, densify_grad_threshold=1e9, final_budget=100_000)
    assert GaussianModel.load_ply(ply(config), "cpu").num_gaussians <= len(load_scene(tiny_scene_dir).points.xyz)


def test_cutoff_and_natural_selection_keep_different_gaussians(short):
    natural = short("natural", iterations=100, final_budget=500)
    cutoff = short("cutoff", iterations=100, final_budget=500, selection="cutoff")
    assert ply(natural).read_bytes() != ply(cutoff).read_bytes()
    assert GaussianModel.load_ply(ply(cutoff), "cpu").num_gaussians == 500


def test_without_selection_the_set_stays_as_it_has_grown(short):
    config = short(iterations=100, final_budget=500, selection="none")
    assert 500 < GaussianModel.load_ply(ply(config), "cpu").num_gaussians <= 1500


def test_resolution_divides_the_photos(short):
    cameras = json.loads((short(resolution=2).model_path / "cameras.json").read_text())
    assert {(camera["width"], camera["height"]) for camera in cameras} == {(48, 32)}


def test_photos_come_from_the_folder_that_is_named(tiny_scene_dir, tmp_path, capsys):
    """Without its name they are found, too, and a note says where."""
    scene = tmp_path / "scene"
    shutil.copytree(tiny_scene_dir, scene)
    (scene / "images").rename(scene / "photos")
    for images, is_said in (("images", True), ("photos", False)):
        assert train(make_config(scene, tmp_path / images, iterations=1, images=images))["iterations"] == 1
        assert ("photos/view_000.png" in capsys.readouterr().err) == is_said


def test_without_eval_every_photo_is_trained(short):
    config = short(eval=False)
    (start,) = log_of(config, "start")
    assert (start["train_views"], start["test_views"]) == (12, 0)
    assert not log_of(config, "test") and log_of(config, "train")


def test_tensorboard_gets_the_log(short):
    pytest.importorskip("torch.utils.tensorboard")
    assert list(short(tensorboard=True).model_path.glob("events.out.tfevents.*"))


def test_quiet_prints_nothing(short, capfd):
    short(iterations=2)
    assert capfd.readouterr() == ("", "")


def test_the_bar_and_the_summary_say_what_happened(short, capfd):
    config = short(iterations=20, quiet=False)
    out, err = capfd.readouterr()
    for word in ("test views", "PSNR", "SSIM", "Gaussians", "MB", "min", "steps/s", "memory", str(ply(config))):
        assert word in out
    for word in ("loss=", "PSNR=", "Gaussians=", "step/s"):
        assert word in err


def test_who_trains_long_on_a_cpu_is_told_what_is_shorter(tmp_path):
    def told(device: str, *flags: str) -> str | None:
        config = TrainConfig.from_command_line(["-s", str(tmp_path), "--final-budget", "100", *flags])
        return advice(config, torch.device(device))

    assert "--schedule quick" in told("cpu")
    assert told("cuda") is None
    for flags in (("--schedule", "fast"), ("--iterations", "3000"), ("--minutes", "5")):
        assert told("cpu", *flags) is None


def test_without_a_model_path_a_new_folder_below_output_is_made(tiny_scene_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(make_config(tiny_scene_dir, Path(), iterations=1), model_path=None)
    for name in ("scene-full-1000", "scene-full-1000-2"):
        train(config)
        assert (tmp_path / "output" / name / "summary.json").exists()


def test_steps_asked_for_are_saved_and_measured_besides_the_last(trained):
    config, summary = trained
    assert ply(config, 150).exists() and ply(config, 300).exists()
    assert [line["iteration"] for line in log_of(config, "test")] == [1, 150, 300]
    last = log_of(config, "test")[-1]
    assert {name: last[name] for name in ("psnr", "ssim", "l1", "cc_psnr")} == summary["test"]


def test_the_log_holds_the_course_of_the_training(trained):
    config, _ = trained
    steps = log_of(config, "step")
    assert [line["iteration"] for line in steps] == [100, 200, 300]
    assert steps[0]["gaussians"] > steps[-1]["gaussians"] == BUDGET
    assert 0 < steps[0]["seconds"] < steps[1]["seconds"] < steps[2]["seconds"]
    selecting = ["budget_opacity" in line and line["regularisation_weight"] > 0 for line in steps]
    assert all(0 <= line.get("goal", 0) < 1 for line in steps)
    assert selecting == [False, True, False]  # of 300 steps, selection has 150 to 230


def test_the_summary_is_complete(trained):
    config, summary = trained
    assert json.loads((config.model_path / "summary.json").read_text()) == summary
    assert summary["num_gaussians"] == BUDGET and summary["point_cloud"] == str(ply(config))
    assert summary["ply_mb"] == ply(config).stat().st_size / 1e6
    assert summary["steps_per_second"] == pytest.approx(300 / (60 * summary["training_minutes"]))
    assert summary["peak_rss_mb"] > 0


def test_the_run_can_be_read_back(trained):
    config, _ = trained
    assert TrainConfig.from_folder(config.model_path) == config


def test_viewers_find_their_files(trained, tiny_scene_dir):
    """cfg_args parses as a call of literals, cameras.json has the poses, input.ply the points."""
    config, _ = trained
    call = ast.parse((config.model_path / "cfg_args").read_text(), mode="eval").body
    assert call.func.id == "Namespace"
    values = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert values["source_path"] == str(tiny_scene_dir) and values["model_path"] == str(config.model_path)
    assert values["sh_degree"] == 3 and values["white_background"] is False

    scene = load_scene(tiny_scene_dir, eval=True, units=Units())  # the data set's own coordinates
    entries = json.loads((config.model_path / "cameras.json").read_text())
    for index, (entry, camera) in enumerate(zip(entries, scene.test + scene.train, strict=True)):
        assert entry["id"] == index and entry["img_name"] == camera.name
        camera_to_world = np.linalg.inv(camera.world_to_camera.double().numpy())
        # Worst measured: 1.6e-7, the rounding of float32.
        np.testing.assert_allclose(entry["rotation"], camera_to_world[:3, :3], atol=1e-6)
        np.testing.assert_allclose(entry["position"], camera_to_world[:3, 3], atol=1e-6)
        assert (entry["fx"], entry["fy"]) == (camera.fx, camera.fy)

    vertices = PlyData.read(str(config.model_path / "input.ply"))["vertex"]
    # Worst measured: 2.4e-7, the rounding to float32 in both units.
    np.testing.assert_allclose(np.stack([vertices[axis] for axis in "xyz"], 1), scene.points.xyz, atol=1e-6)
    colours = np.stack([vertices[name] for name in ("red", "green", "blue")], 1)
    assert np.array_equal(colours, scene.points.rgb.numpy())


def test_pixels_outside_a_mask_do_not_count(tiny_scene_dir, tmp_path):
    """Whatever the photos show under the mask, the model is the same."""
    import cv2

    models = []
    for name, grey in (("dark", 0), ("bright", 255)):
        scene = tmp_path / name
        shutil.copytree(tiny_scene_dir, scene)
        for path in (scene / "images").iterdir():
            photo = cv2.imread(str(path))
            photo[:, :40] = grey
            mask = np.full(photo.shape[:2], 255, np.uint8)
            mask[:, :40] = 0
            cv2.imwrite(str(path.with_suffix(".png")), photo)
            (scene / "masks").mkdir(exist_ok=True)
            cv2.imwrite(str(scene / "masks" / path.with_suffix(".png").name), mask)
        config = make_config(scene, tmp_path / f"out_{name}", iterations=40)
        summary = train(config)
        models.append((ply(config).read_bytes(), summary["test"]))
    assert models[0] == models[1]


@pytest.mark.parametrize("place", ["file/model", "file"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="can.t be written"):
        train(make_config(tmp_path / "no scene either", tmp_path / place))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("index", [8, 11])  # of 12: the last test view, which is decoded last, and the last by name
def test_a_broken_photo_leaves_an_older_run_alone(tiny_scene_dir, tmp_path, index, monkeypatch):
    """Nothing is written or removed before all photos are decoded, though the first steps run before; exit code 2."""
    scene, out = tmp_path / "scene", tmp_path / "out"
    shutil.copytree(tiny_scene_dir, scene)
    train(make_config(scene, out, iterations=2))
    (out / ".config.0123456789ab.json").write_text("left by a killed process, which a new run removes")
    before = files_of(out)
    photo = sorted((scene / "images").iterdir())[index]
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    delay_decoding(monkeypatch, photo.name, lambda: time.sleep(0.5))
    config = make_config(scene, out, iterations=300, save_iterations=(1,), checkpoint_every="1")
    with pytest.raises(InputError, match=photo.name):
        train(config)
    assert files_of(out) == before
    words = [sys.executable, "train.py", "-s", scene, "-m", out, "--final-budget", "1000", "--eval", "--quiet"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and photo.name in done.stderr.splitlines()[-1]
    assert files_of(out) == before


def test_steps_run_before_the_last_photo_is_decoded(tiny_scene_dir, tmp_path, monkeypatch):
    """They have the same bits as later ones, and the folder has what belongs in it when all photos are decoded."""
    last = sorted((tiny_scene_dir / "images").iterdir())[8]  # a test view
    third_step, seen = threading.Event(), {}

    class Viewer(NullViewer):
        def step(self, model, step):
            seen[step] = sorted(path.name for path in (tmp_path / "early").iterdir() if not path.name.startswith("."))
            if step == 3:
                third_step.set()

    delay_decoding(monkeypatch, last.name, lambda: third_step.wait(60))
    early = make_config(tiny_scene_dir, tmp_path / "early", iterations=30)
    summary = train(early, open_viewer=lambda *args: nullcontext(Viewer()))
    assert third_step.is_set() and seen[3] == [] and len(log_of(early, "start")) == 1
    assert all((early.model_path / name).exists() for name in ("cameras.json", "cfg_args", "config.json", "input.ply"))
    whole = make_config(tiny_scene_dir, tmp_path / "whole", iterations=30)
    assert train(whole)["test"] == summary["test"] and ply(whole).read_bytes() == ply(early).read_bytes()


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def delay_decoding(monkeypatch, name: str, wait: Callable[[], object]) -> None:
    """Let ``wait`` return before the photo is decoded."""
    decode = Photo.decode

    def delayed(photo: Photo):
        if photo.path.name == name:
            wait()
        return decode(photo)

    monkeypatch.setattr(Photo, "decode", delayed)


def test_missing_photos_can_be_refused(tiny_scene_dir, tmp_path):
    """Half a copy of a scene trains on what is there, unless ``--all-photos`` asks for all; then nothing is written."""
    scene = shutil.copytree(tiny_scene_dir, tmp_path / "scene")
    gone = sorted((scene / "images").iterdir())[3]
    gone.unlink()
    with pytest.raises(InputError, match=rf"all registered photos, found 1 missing, {gone.name}"):
        train(make_config(scene, tmp_path / "model", all_photos=True))
    assert not (tmp_path / "model").exists()
    assert train(make_config(scene, tmp_path / "model", iterations=12))["num_gaussians"] > 0


def test_a_missing_scene_writes_nothing(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        train(make_config(tmp_path / "nowhere", tmp_path / "out"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("iterations", [1, 2, 7, 31])
def test_very_short_schedules_meet_the_budget_too(short, iterations):
    config = short(iterations=iterations, final_budget=200)
    assert GaussianModel.load_ply(ply(config), "cpu").num_gaussians == 200


def test_training_takes_the_threads_it_is_given(short):
    short(threads=1, iterations=1)
    assert torch.get_num_threads() == 1
