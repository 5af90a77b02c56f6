"""render() and importance() over the engine, and the folder that render.py leaves."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from compact_splats.arguments import TrainConfig
from compact_splats.arguments.render import RenderConfig
from compact_splats.commands.metrics import measure
from compact_splats.commands.render import main, render_scene
from compact_splats.gaussian_renderer import importance, render
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.scene import load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.suite.pairs import find_pairs
from compact_splats.training.densification import GradientStats
from compact_splats.training.run import train
from compact_splats.utils.errors import InputError

BLACK = torch.zeros(3)


@pytest.fixture(scope="module")
def scene(tiny_scene_dir):
    return load_scene(tiny_scene_dir, eval=True)


@pytest.fixture
def model(scene) -> GaussianModel:
    return GaussianModel.from_points(scene.points, 3, "cpu")


@pytest.fixture(scope="module")
def run(tiny_scene_dir, tmp_path_factory) -> tuple[Path, dict]:
    """The folder and the summary of a short training with a test split. Copy before writing."""
    out = tmp_path_factory.mktemp("run") / "model"
    config = TrainConfig(
        source_path=tiny_scene_dir, model_path=out, final_budget=500, iterations=20, save_iterations=(10,), eval=True,
        quiet=True, tensorboard=False,
    )  # fmt: skip
    return out, train(config)


@pytest.fixture
def folder(run, tmp_path) -> Path:
    shutil.copytree(run[0], tmp_path / "model")
    return tmp_path / "model"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_view_has_the_size_of_its_camera_and_lets_gradients_through(scene, model):
    camera = scene.train[0]
    output = render(camera, model, BLACK)
    assert output.image.shape == (3, camera.height, camera.width)
    assert output.transmittance.shape == (camera.height, camera.width)
    assert output.radii.shape == (model.num_gaussians,) and output.radii.dtype == torch.int32
    assert output.inverse_depth is None
    output.image.sum().backward()
    for name in ("means", "log_scales", "opacity_logits", "sh_dc"):
        assert model.parameters[name].grad.abs().sum() > 0, name


def test_the_background_shows_by_the_transmittance(scene, model):
    with torch.no_grad():
        black, white = render(scene.train[0], model, BLACK), render(scene.train[0], model, torch.ones(3))
    # Worst measured: 6e-8, the rounding of one sum in float32.
    torch.testing.assert_close(white.image - black.image, black.transmittance.expand(3, -1, -1), atol=1e-6, rtol=0)


def test_inverse_depth_comes_on_request(scene, model):
    with torch.no_grad():
        output = render(scene.train[0], model, BLACK, inverse_depth=True)
    assert output.inverse_depth.shape == output.transmittance.shape
    assert output.inverse_depth.max() > 0


def test_antialiasing_takes_opacity_from_small_splats(scene, model):
    smoothed = model.with_parameters({name: values.detach() for name, values in model.parameters.items()})
    smoothed.antialiased = True
    with torch.no_grad():
        plain, antialiased = (render(scene.train[0], each, BLACK).transmittance.sum() for each in (model, smoothed))
    assert antialiased > plain


def test_statistics_count_the_visible_gaussians(scene, model):
    stats = GradientStats.zeros(model.num_gaussians, "cpu")
    output = render(scene.train[0], model, BLACK, stats=stats)
    output.image.square().sum().backward()
    assert torch.equal(stats.views, (output.radii > 0).float())
    assert (stats.abs_grad_sum[output.radii > 0] > 0).any() and not stats.abs_grad_sum[output.radii == 0].any()


def test_importance_shares_out_what_the_background_lost(scene, model):
    """The contributions of all Gaussians to all pixels add up to the opaque part of the image."""
    camera = scene.train[0]
    weights = torch.full((camera.height, camera.width), 0.5)
    shares = importance(camera, model, weights)
    with torch.no_grad():
        opaque = (1 - render(camera, model, BLACK).transmittance).sum()
    # Worst measured: 1.2e-7 relative; sums of 6,144 pixels in float32 may be reassociated.
    torch.testing.assert_close(shares.total.sum(), opaque, rtol=1e-5, atol=0)
    assert torch.equal(shares.weighted, 0.5 * shares.total)  # a half is exact
    assert not shares.weighted.requires_grad
    assert torch.equal(shares.num_pixels > 0, shares.total > 0)


def test_render_writes_the_layout_of_3dgs(folder):
    main(["-m", str(folder), "--quiet"])
    for split, count in (("test", 2), ("train", 10)):
        for kind in ("renders", "gt"):
            assert names(folder / split / "ours_20" / kind) == [f"{index:05d}.png" for index in range(count)]


def test_renders_are_the_last_model_and_photos_are_the_photos(folder, run, scene):
    """What metrics.py reads from the PNGs is what training reported: nothing is lost in between."""
    main(["-m", str(folder), "--quiet", "--skip_train"])
    pairs = find_pairs(folder / "test" / "ours_20")
    scores = measure(pairs, None, torch.device("cpu"), "")
    for metric in ("PSNR", "SSIM"):
        # Worst measured: 5e-6 relative. The two forms of SSIM round differently where a window has little variance.
        assert np.mean(list(scores[metric].values())) == pytest.approx(run[1]["test"][metric.lower()], rel=5e-5)
    photo = cv2.imread(str(pairs[1].photo))[:, :, ::-1].transpose(2, 0, 1)
    assert np.array_equal(photo, scene.test[1].photo.pixels().numpy())


@pytest.mark.parametrize(("skipped", "written"), [("test", "train"), ("train", "test")])
def test_a_split_can_be_skipped(folder, skipped, written):
    main(["-m", str(folder), "--quiet", f"--skip_{skipped}"])
    assert (folder / written).exists() and not (folder / skipped).exists()


def test_an_earlier_step_can_be_rendered(folder):
    main(["-m", str(folder), "--quiet", "--skip-train", "--iteration", "10"])
    assert names(folder / "test") == ["ours_10"]


def test_leftovers_of_a_longer_run_are_not_taken_for_the_last_model(folder):
    shutil.copytree(folder / "point_cloud" / "iteration_10", folder / "point_cloud" / "iteration_30000")
    main(["-m", str(folder), "--quiet", "--skip-train"])
    assert names(folder / "test") == ["ours_20"]


def test_any_ply_can_be_rendered_without_a_run(folder, tiny_scene_dir, tmp_path):
    ply = folder / "point_cloud" / "iteration_10" / "point_cloud.ply"
    out = tmp_path / "elsewhere"
    main(["-m", str(out), "--model", str(ply), "-s", str(tiny_scene_dir), "--eval", "--skip-train", "--quiet"])
    assert names(out / "test" / "ours_0" / "renders") == ["00000.png", "00001.png"]


def test_resolution_and_background_can_be_told(folder):
    pictures = []
    for flags in (["-r", "2"], ["-r", "2", "-w"]):
        main(["-m", str(folder), "--quiet", "--skip-train", *flags])
        pictures.append(cv2.imread(str(folder / "test" / "ours_20" / "renders" / "00000.png")))
    assert pictures[0].shape == (32, 48, 3)
    assert pictures[1].sum() > pictures[0].sum()


def test_threads_and_antialiasing_are_passed_on(folder):
    config = RenderConfig.from_command_line(["-m", str(folder), "--quiet", "--skip-train", "--threads", "1"])
    picture = folder / "test" / "ours_20" / "renders" / "00000.png"
    render_scene(config)
    plain = picture.read_bytes()
    render_scene(dataclasses.replace(config, antialiasing=True))
    assert torch.get_num_threads() == 1 and picture.read_bytes() != plain


def test_time_reports_frames_per_second_and_writes_no_picture(folder, capfd):
    before = names(folder)
    main(["-m", str(folder), "--time", "--device", "cpu"])
    times = json.loads((folder / "timing.json").read_text())
    assert f"{times['frames_per_second']:.1f} frames/s" in capfd.readouterr().out
    assert times["frames_per_second"] == pytest.approx(1000 / times["milliseconds"]) and times["frames"] >= 50
    assert (times["width"], times["height"], times["device"]) == (96, 64, "cpu")
    assert Path(times["model"]).parent.name == "iteration_20" and times["num_gaussians"] > 0
    assert sorted(names(folder)) == sorted([*before, "timing.json"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--iteration", "7"],
        ["--skip-test", "--skip-train"],
        ["--no-eval", "--skip-train"],
        ["--model", "missing.ply"],
        ["-s", "missing"],
        ["-i", "missing"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_rendered_is_one_line_and_nothing_written(folder, flags):
    with pytest.raises(InputError) as error:
        main(["-m", str(folder), "--quiet", *flags])
    assert "\n" not in str(error.value)
    assert not (folder / "test").exists() and not (folder / "train").exists()


def test_a_folder_without_a_model_is_refused(folder):
    shutil.rmtree(folder / "point_cloud")
    with pytest.raises(InputError, match="point_cloud"):
        main(["-m", str(folder), "--quiet"])


def test_masked_pixels_are_black_in_both_pictures_and_do_not_count(tiny_scene_dir, tmp_path, model):
    scene_dir = tmp_path / "scene"
    shutil.copytree(tiny_scene_dir, scene_dir)
    (scene_dir / "masks").mkdir()
    for path in (scene_dir / "images").iterdir():
        mask = np.zeros((64, 96), np.uint8)
        mask[:, 48:] = 255
        cv2.imwrite(str(scene_dir / "masks" / f"{path.stem}.png"), mask)
    masked = load_scene(scene_dir, eval=True)
    scores = evaluate(masked.test, model)
    whole = evaluate(load_scene(tiny_scene_dir, eval=True).test, model)
    assert 0 < scores["l1"] < whole["l1"]

    model.save_ply(tmp_path / "model.ply")
    words = ["-m", str(tmp_path / "out"), "--model", str(tmp_path / "model.ply"), "-s", str(scene_dir), "--eval"]
    main([*words, "--skip-train", "--quiet"])
    for kind in ("renders", "gt"):
        picture = cv2.imread(str(tmp_path / "out" / "test" / "ours_0" / kind / "00000.png"))
        assert not picture[:, :48].any() and picture[:, 48:].any()


def test_cameras_json_and_renders_have_one_order(folder, scene):
    entries = json.loads((folder / "cameras.json").read_text())
    assert [entry["img_name"] for entry in entries[:2]] == [camera.name for camera in scene.test]
