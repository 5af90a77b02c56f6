"""render.py --cameras and --rgba: the same views from every kind of file, and pictures with an alpha channel."""

import json

import cv2
import numpy as np
import pytest
from scene_writers import write_cameras, write_images
from scipy.spatial.transform import Rotation
from viewer_cases import cameras, write_run

from compact_splats.commands import render
from compact_splats.scene.saved_cameras import read_camera_file
from compact_splats.utils.errors import InputError

FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def colmap(folder):
    folder.mkdir()
    lenses, images = [], []
    for index, camera in enumerate(cameras(), 1):
        lenses.append((index, "PINHOLE", camera.width, camera.height, (camera.fx, camera.fy, camera.cx, camera.cy)))
        motion = camera.world_to_camera.double().numpy()
        x, y, z, w = Rotation.from_matrix(motion[:3, :3]).as_quat()
        images.append((camera.name, index, (w, x, y, z), motion[:3, 3]))
    write_cameras(folder, lenses)
    write_images(folder, images)
    return folder


def transforms(path):
    frames = [
        {
            "file_path": camera.name,
            **dict(zip(("w", "h"), (camera.width, camera.height), strict=True)),
            **{"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy},
            "transform_matrix": (np.linalg.inv(camera.world_to_camera.double().numpy()) @ FLIP_YZ).tolist(),
        }
        for camera in cameras()
    ]
    path.write_text(json.dumps({"camera_model": "PINHOLE", "frames": frames}))
    return path


def pictures(run, kind="renders") -> np.ndarray:
    paths = sorted(run.glob(f"cameras/ours_1/{kind}/*.png"))
    assert [path.stem for path in paths] == [f"{i:05d}" for i in range(len(cameras()))]
    return np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths]).astype(int)


def test_every_kind_of_file_gives_the_same_pictures(run, tmp_path):
    """Without a scene and without photos, in the order of the file."""
    found = []
    for path in (run / "cameras.json", transforms(tmp_path / "transforms.json"), colmap(tmp_path / "model")):
        render.main(["-m", str(run), "--cameras", str(path), "--depth", "--quiet", "--device", "cpu"])
        found.append(pictures(run))
        assert len(list(run.glob("cameras/ours_1/depth/*.png"))) == len(cameras())
    assert found[0].std() > 5
    for other in found[1:]:
        # Rounding takes single pixels to the other side of alpha = 1/255.
        assert np.abs(found[0] - other).max() <= 2 and (found[0] != other).mean() < 0.01


def test_pictures_with_alpha_give_the_render_over_any_background(run):
    """Colour times alpha, plus white times the rest, is the render over white, to the rounding of both."""
    words = ["-m", str(run), "--cameras", str(run / "cameras.json"), "--quiet", "--device", "cpu"]
    render.main([*words, "--rgba", "-w"])
    rgba, white = pictures(run, "rgba"), pictures(run)
    alpha = rgba[..., 3:] / 255
    assert rgba.shape[-1] == 4 and 0 < alpha.min() + 1e-9 and alpha.max() > 0.3
    assert np.abs(rgba[..., :3] * alpha + 255 * (1 - alpha) - white).max() <= 1.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cameras", "nowhere.json"], "nowhere.json"),
        (["--cameras", "model.ply"], "cameras: cameras.json, transforms.json, or the folder of a COLMAP model"),
        (["--cameras", "cameras.json", "--skip-test"], "--skip-test can't be combined with --cameras"),
        (["--cameras", "cameras.json", "--video", "a.mp4"], "--cameras can't be combined with --video"),
        (["--cameras", "empty.json"], "found []"),
    ],
)
def test_wrong_files_and_flags_are_one_line(run, tmp_path, words, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "model.ply").write_text("ply")
    with pytest.raises(InputError) as error:
        render.main(["-m", str(run), *words, "--device", "cpu"])
    assert message in str(error.value)


def test_units_of_the_cameras_fit_a_run_without_units(run):
    """A run of 3DGS has no units: then those of the cameras hold for the model, too."""
    (first, *_), units = read_camera_file(run / "cameras.json")
    assert units.file_points(first.centre.numpy()[None])[0] == pytest.approx(cameras()[0].centre.numpy(), abs=1e-5)


def test_pictures_of_an_earlier_rendering_of_more_views_are_removed(run, tmp_path):
    """metrics.py would measure them, too; other files stay."""
    others = [run / "cameras/ours_1" / name for name in ("renders/00099.png", "gt/00099.png", "renders/mine.png")]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    render.main(["-m", str(run), "--cameras", str(run / "cameras.json"), "--quiet"])
    assert [path.exists() for path in others] == [False, False, True]
