"""Videos and maps by render.py: what is in the files, and what can't be made."""

import importlib.util
import json
import math
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from compact_splats.arguments.render import RenderConfig
from compact_splats.commands.render import main, video_views
from compact_splats.compression import encode, write_gsz
from compact_splats.gaussian_renderer import importance
from compact_splats.gaussian_renderer.maps import MAX_VALUE, count_map, depth_map, depth_step, quantized, shades
from compact_splats.gaussian_renderer.video import frames, true_fps, write_video
from compact_splats.scene import load_scene
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.saved_cameras import camera_entries
from compact_splats.utils.errors import InputError
from compact_splats.utils.images import in_colours

ROOT = Path(__file__).parent.parent
writes_mp4 = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed")
BLACK = torch.zeros(3)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def decoded(path: Path) -> tuple[list[np.ndarray], float]:
    """The frames (H,W,3) uint8 RGB of an MP4, and how many there are a second."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(stream.average_rate)


@pytest.fixture(scope="module")
def run(tiny_scene_dir, tmp_path_factory) -> Path:
    """A run folder: the points of a scene as Gaussians, and its cameras. Nothing in it knows where the photos are."""
    folder = tmp_path_factory.mktemp("video") / "run"
    scene = load_scene(tiny_scene_dir, eval=True)
    model = GaussianModel.from_points(scene.points, 1, "cpu")
    model.units = scene.units
    with torch.no_grad():
        model.parameters["opacity_logits"].fill_(3.0)
    path = folder / "point_cloud" / "iteration_7" / "point_cloud.ply"
    path.parent.mkdir(parents=True)
    model.save_ply(path)
    (folder / "cameras.json").write_text(json.dumps(camera_entries(scene.test + scene.train, scene.units)))
    return folder


def words(run: Path, video: Path, *more: str) -> list[str]:
    return ["-m", str(run), "--video", str(video), "--quiet", *more]


def rendered(arguments: list[str]) -> list[np.ndarray]:
    """The frames as they are before they are encoded."""
    config = RenderConfig.from_command_line(arguments)
    views, units = video_views(config)
    path = config.model_path / "point_cloud" / "iteration_7" / "point_cloud.ply"
    return list(frames(views, GaussianModel.load_ply(path, "cpu", units=units), BLACK))


@writes_mp4
@pytest.mark.parametrize("path", ["orbit", "spline", "cameras"])
def test_a_video_decodes_to_the_frames_that_were_rendered(path, run, tmp_path):
    arguments = words(run, tmp_path / "out.mp4", "--path", path, "--frames", "7", "--fps", "12", "--size", "80", "66")
    main(arguments)
    found, rate = decoded(tmp_path / "out.mp4")
    assert len(found) == 7 and rate == 12
    assert {frame.shape for frame in found} == {(66, 80, 3)}
    expected = rendered(arguments)
    # Worst measured: 38.1 dB.
    assert min(psnr(one, other) for one, other in zip(found, expected, strict=True)) > 35
    assert psnr(found[0], expected[3]) < 25  # and no other frame
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


@writes_mp4
def test_colours_come_through_an_mp4_as_they_went_in(tmp_path):
    """Players take the primaries and the range that the file names; wrong ones are off by more than this."""
    colours = [(200, 40, 30), (30, 180, 60), (20, 60, 220), (128, 128, 128), (0, 0, 0), (255, 255, 255)]
    given = [np.full((64, 64, 3), colour, np.uint8) for colour in colours]
    write_video(tmp_path / "flat.mp4", given, 6)
    found, _ = decoded(tmp_path / "flat.mp4")
    for one, other in zip(found, given, strict=True):
        # Worst measured: 2 of 255.
        assert np.abs(one.astype(int) - other).max() <= 4


def test_a_gif_loops_and_keeps_its_frames(run, tmp_path):
    arguments = words(run, tmp_path / "out.gif", "--frames", "6", "--fps", "10")
    main(arguments)
    with Image.open(tmp_path / "out.gif") as gif:
        assert gif.n_frames == 6 and gif.size == (96, 64)
        assert gif.info["loop"] == 0  # for ever
        found = []
        for index in range(gif.n_frames):
            gif.seek(index)
            assert gif.info["duration"] == 100  # ms
            found.append(np.asarray(gif.convert("RGB")))
    # Worst measured: 35.9 dB, by 128 colours.
    assert min(psnr(one, other) for one, other in zip(found, rendered(arguments), strict=True)) > 34


def test_the_length_is_given_in_frames_or_seconds():
    def count(*more: str, cameras: int = 10) -> int:
        return RenderConfig.from_command_line(words(Path("run"), Path("a.mp4"), *more)).num_frames(cameras)

    assert count() == 8 * 30
    assert count("--seconds", "2", "--fps", "24") == 48
    assert count("--frames", "17", "--fps", "24") == 17
    assert count("--seconds", "0") == 1
    assert count("--path", "cameras", cameras=50) == 25 * 30
    gif = RenderConfig.from_command_line(words(Path("run"), Path("A.GIF")))
    assert gif.num_frames(10) == 60 and gif.frame_rate() == 20


@pytest.mark.parametrize(("fps", "rate"), [(1, 1), (12, 12.5), (20, 20), (30, 100 / 3), (50, 50), (120, 50)])
def test_a_gif_has_the_nearest_rate_in_hundredths_of_a_second(fps, rate, tmp_path):
    assert true_fps(Path("a.gif"), fps) == rate and true_fps(Path("a.mp4"), fps) == fps
    write_video(tmp_path / "a.gif", [np.full((4, 4, 3), grey, np.uint8) for grey in (0, 90, 200)], fps)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["duration"] == pytest.approx(1000 / rate)


def test_default_sizes_are_valid_for_the_format():
    def size(name: str, width: int, height: int, *more: str) -> tuple[int, int]:
        return RenderConfig.from_command_line(words(Path("run"), Path(name), *more)).frame_size(width, height)

    assert size("a.mp4", 1297, 841) == (1296, 840)
    assert size("a.mp4", 1, 1) == (2, 2)
    assert size("a.gif", 1297, 841) == (320, 207)
    assert size("a.gif", 97, 65) == (97, 65)
    for name, *full in (("a.mp4", 20000, 101), ("a.gif", 4, 4000), ("a.gif", 4000, 4)):
        width, height = size(name, *full)
        assert size(name, 9, 9, "--size", str(width), str(height)) == (width, height)


@writes_mp4
def test_a_compressed_model_and_a_scene_without_a_run_can_be_filmed(run, tiny_scene_dir, tmp_path):
    model = GaussianModel.load_ply(run / "point_cloud" / "iteration_7" / "point_cloud.ply", "cpu")
    file = tmp_path / "small.gsz"
    write_gsz(file, encode({name: row.detach().numpy() for name, row in model.parameters.items()}))
    more = ("--frames", "2", "--model", str(file))
    main(words(run, tmp_path / "a.mp4", *more))
    main(words(tmp_path / "new", tmp_path / "b.mp4", *more, "-s", str(tiny_scene_dir)))
    one, other = (decoded(tmp_path / name)[0][0] for name in ("a.mp4", "b.mp4"))
    assert psnr(one, other) > 50  # the cameras of cameras.json are those of the scene
    assert not (tmp_path / "new").exists()


def test_a_video_of_a_read_only_run_is_written_elsewhere(run, tmp_path, read_only):
    shutil.copytree(run, tmp_path / "run")
    main(words(read_only(tmp_path / "run"), tmp_path / "out.gif", "--frames", "2"))
    with Image.open(tmp_path / "out.gif") as gif:
        assert gif.n_frames == 2


BAD_FLAGS = [
    "--video out.avi", "--video out", "--video out.mp4 --size 0 64", "--video out.mp4 --size 64",
    "--video out.gif --size", "--video out.mp4 --size 64 63", "--video out.mp4 --size 9000 64",
    "--video out.mp4 --size 64 64 64", "--video out.mp4 --size -2 64", "--video out.gif --size 1 1",
    "--video out.mp4 --fps 0", "--video out.mp4 --fps 121", "--video out.mp4 --frames 0",
    "--video out.mp4 --frames 1000000", "--video out.mp4 --seconds -1",
    "--video out.mp4 --seconds inf", "--video out.mp4 --seconds 3 --frames 4", "--video out.mp4 --path circle",
    "--video out.mp4 --depth", "--video out.mp4 --counts", "--video out.mp4 --time", "--video out.mp4 --skip-test",
    "--path orbit", "--fps 10",
    "--seconds 3", "--size 64 64",
]  # fmt: skip


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_flags_that_make_no_video_are_one_line(flags):
    with pytest.raises(InputError) as error:
        RenderConfig.from_command_line(["-m", "run", "-s", "scene", *flags.split()])
    assert "\n" not in str(error.value)


def test_a_video_without_cameras_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "cameras.json").unlink()
    with pytest.raises(InputError, match="cameras of a run"):
        main(words(tmp_path / "run", tmp_path / "out.mp4"))
    assert not (tmp_path / "out.mp4").exists()


@writes_mp4
def test_a_video_that_cannot_be_written_is_one_line_and_exit_code_2(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    arguments = words(run, tmp_path / "file" / "out.mp4", "--frames", "2")
    monkeypatch.setattr(sys, "argv", ["render.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "render.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and said.startswith("error: ")
    assert (tmp_path / "file").read_text() == "no folder"


@pytest.mark.parametrize("name", [pytest.param("out.mp4", marks=writes_mp4), "out.gif"])
def test_a_video_that_fails_half_way_leaves_the_old_one(name, tmp_path):
    def broken():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("the renderer failed")

    (tmp_path / name).write_text("old")
    with pytest.raises(RuntimeError, match="the renderer failed"):
        write_video(tmp_path / name, broken(), 10)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "old")]


@writes_mp4
def test_a_full_disk_is_one_line(tmp_path):
    """The file may not grow beyond 20 kB, which noise in 4 frames does."""
    code = (
        "import resource, signal, sys, numpy as np; from pathlib import Path\n"
        "from compact_splats.gaussian_renderer.video import write_video\n"
        "from compact_splats.utils.errors import run_script\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), dtype=np.uint8)\n"
        "run_script(lambda: write_video(Path(sys.argv[1]), noise, 10))\n"
    )
    for name in ("out.mp4", "out.gif"):
        arguments = [sys.executable, "-c", code, tmp_path / name]
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
        assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_pyav_an_mp4_is_refused_and_a_gif_is_not(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    picture = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(InputError, match="pip install av"):
        write_video(tmp_path / "out.mp4", [picture], 10)
    write_video(tmp_path / "out.gif", [picture], 10)
    assert [file.name for file in tmp_path.iterdir()] == ["out.gif"]


# ---- depth ----


def single(z: float, opacity_logit: float) -> GaussianModel:
    """A large Gaussian straight ahead."""
    rows = {
        "means": torch.tensor([[0.0, 0.0, z]]), "log_scales": torch.full((1, 3), math.log(abs(z))),
        "quats": torch.tensor([[1.0, 0, 0, 0]]), "opacity_logits": torch.tensor([[opacity_logit]]),
        "sh_dc": torch.zeros(1, 1, 3), "sh_rest": torch.zeros(1, 0, 3),
    }  # fmt: skip
    return GaussianModel(rows, 0)


AHEAD = Camera("0", 32, 24, 30.0, 30.0, 16.0, 12.0, torch.eye(4), None)


@pytest.mark.parametrize("z", [0.5, 7.25, 300.0])
@pytest.mark.parametrize("opacity_logit", [9.0, 2.0])
def test_the_depth_of_a_single_gaussian_is_its_z(z, opacity_logit):
    depth = depth_map(AHEAD, single(z, opacity_logit))
    # Worst measured: 1e-7 of z.
    torch.testing.assert_close(depth[12, 16], torch.tensor(z), rtol=2e-6, atol=0)


def test_where_the_background_outweighs_there_is_no_depth():
    assert not depth_map(AHEAD, single(3.0, -1.0)).any()
    assert not depth_map(AHEAD, single(-3.0, 9.0)).any()  # behind the camera


@pytest.mark.parametrize(("extent", "step"), [(4.4, 1e-3), (0.01, 1e-5), (6.5535, 1e-3), (6.6, 1e-2)])
def test_sixteen_bits_reach_ten_extents_in_steps_of_a_power_of_ten(extent, step):
    assert depth_step(extent) == pytest.approx(step)


def test_depth_is_rounded_to_steps_and_cut_off_but_never_becomes_nothing():
    values = torch.tensor([[0.0, 0.0001, 0.0126, 1.0, 1e6]])
    assert quantized(values, 0.01).tolist() == [[0, 1, 1, 100, MAX_VALUE]]


def test_colours_go_from_the_lowest_to_the_highest_value_and_nothing_is_black():
    values = torch.cat([torch.zeros(1, 100), torch.arange(1.0, 101.0)[None]])
    shown = shades(values)
    assert shown[1, 1] == 0 and shown[1, 98] == 1 and 0 < shown[1, 50] < 1
    picture = in_colours(shown, values > 0)
    assert picture.shape == (3, 2, 100) and not picture[:, 0].any() and picture[:, 1].any(0).all()
    assert not shades(torch.zeros(2, 3)).any()


def test_maps_lie_beside_the_renders_and_those_of_depth_name_their_unit(run, tiny_scene_dir, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    words = ["-m", str(tmp_path / "run"), "-s", str(tiny_scene_dir), "--eval", "--skip-train", "--quiet"]
    main([*words, "--depth", "--counts"])
    folder = tmp_path / "run" / "test" / "ours_7"
    unit = json.loads((folder / "depth.json").read_text())
    scene = load_scene(tiny_scene_dir, eval=True)
    assert unit == {"world_units_per_step": depth_step(scene.extent * scene.units.scale), "nothing": 0}
    path = tmp_path / "run" / "point_cloud" / "iteration_7" / "point_cloud.ply"
    model = GaussianModel.load_ply(path, "cpu", units=scene.units)
    for index, camera in enumerate(scene.test):
        stored = cv2.imread(str(folder / "depth" / f"{index:05d}.png"), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == np.uint16 and stored.shape == (camera.height, camera.width)
        depth = depth_map(camera, model).numpy() * scene.units.scale
        np.testing.assert_allclose(stored * unit["world_units_per_step"], depth, atol=unit["world_units_per_step"])
        shown = cv2.imread(str(folder / "depth_in_colours" / f"{index:05d}.png"))
        assert np.array_equal(shown.any(2), stored > 0)
        counted = cv2.imread(str(folder / "counts" / f"{index:05d}.png"), cv2.IMREAD_UNCHANGED)
        assert counted.dtype == np.uint16 and np.array_equal(counted, count_map(camera, model).numpy())
    pictures = {"depth", "depth.json", "depth_in_colours", "counts", "counts_in_colours", "gt", "renders"}
    assert {path.name for path in folder.iterdir()} == pictures


# ---- how many Gaussians a pixel takes ----


def pile(num: int, opacity_logit: float) -> GaussianModel:
    """Large Gaussians one behind the other, straight ahead."""
    one = single(2.0, opacity_logit)
    rows = {name: row.detach().repeat(num, *[1] * (row.ndim - 1)) for name, row in one.parameters.items()}
    rows["means"][:, 2] += torch.arange(num)
    return GaussianModel(rows, 0)


def test_a_pixel_counts_all_that_cover_it_until_nothing_more_shows():
    assert count_map(AHEAD, pile(7, -3.0))[12, 16] == 7
    # Each lets 0.119 through: 2.0e-4 is left behind the fourth, and 2.4e-5 would be behind the fifth.
    assert count_map(AHEAD, pile(7, 2.0))[12, 16] == 4
    assert not count_map(AHEAD, single(-3.0, 9.0)).any()


def test_counts_and_pixels_of_all_gaussians_add_up_to_the_same(tiny_scene_dir):
    scene = load_scene(tiny_scene_dir)
    model = GaussianModel.from_points(scene.points, 0, "cpu")
    camera = scene.train[0]
    counts = count_map(camera, model)
    assert counts.dtype == torch.int32 and counts.shape == (camera.height, camera.width)
    weights = torch.ones(camera.height, camera.width)
    assert counts.sum() == importance(camera, model, weights).num_pixels.sum() > 0
