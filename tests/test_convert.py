"""convert.py as a whole: cameras are found where they were, and what can't be put together is said."""

import json
import shutil
import signal
from pathlib import Path

import av
import cv2
import numpy as np
import pillow_heif
import pycolmap
import pytest
from PIL import ExifTags, Image
from pose_errors import pose_errors
from scipy.interpolate import interp1d
from scipy.spatial.transform import Rotation, Slerp
from video_writer import write

from compact_splats.arguments import TrainConfig
from compact_splats.commands import convert
from compact_splats.demo.ray_tracer import unit
from compact_splats.demo.scene import Lens, make_poses, make_shapes, render_view, write_colmap
from compact_splats.photogrammetry.diagnosis import Matches, few
from compact_splats.photogrammetry.report import describe
from compact_splats.scene.dataset import load_scene
from compact_splats.utils.errors import InputError, Stopped

pillow_heif.register_heif_opener()  # to write it

NUM_PHOTOS = 6


K1 = -0.12  # the barrel distortion of a wide lens


class BentLens(Lens):
    """A lens as there are real ones: square pixels, the principal point in the middle, straight lines bent by K1."""

    @property
    def params(self):
        return 0.84 * self.width, 0.84 * self.width, self.width / 2, self.height / 2

    def directions(self, x, y):
        fx, fy, cx, cy = self.params
        matrix, pixels = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.stack([x, y], -1).astype(np.float64)
        rays = cv2.undistortPoints(pixels[:, None], matrix, np.array([K1, 0, 0, 0]))[:, 0]
        return unit(np.stack([*rays.T, np.ones(len(rays))]).astype(np.float32))


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """Neighbouring views of the demo scene, 320x240, with the poses that they were rendered from. Read only."""
    scene, rng = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    shapes, lens, poses = make_shapes(rng), BentLens(320, 240), make_poses(60, rng)[:NUM_PHOTOS]
    (scene / "images").mkdir()
    (scene / "sparse" / "0").mkdir(parents=True)
    names = [f"view_{i}.png" for i in range(NUM_PHOTOS)]
    for name, pose in zip(names, poses, strict=True):
        Image.fromarray(render_view(shapes, lens, pose)).save(scene / "images" / name)
    write_colmap(scene / "sparse" / "0", lens, poses, names, np.zeros((1, 3)), np.zeros((1, 3), np.uint8))
    return scene


@pytest.fixture(scope="module")
def found(given, tmp_path_factory) -> Path:
    """What convert.py makes of these photos alone, called as for 3DGS."""
    scene = tmp_path_factory.mktemp("found")
    shutil.copytree(given / "images", scene / "input")
    convert.main(["-s", str(scene), "--resize", "--keep", "--quiet"])
    return scene


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_cameras_are_found_where_they_were(given, found):
    """Renders have exact poses; only scale and frame of the scene are free."""
    errors = pose_errors(given, found)
    assert errors.count == NUM_PHOTOS
    # Measured: 1.5 degrees and 1.0 %; without distortion, which has to be told from the focal length, 0.2 and 0.2.
    assert errors.rotation_deg.max() < 3 and errors.position.max() < 0.03


def test_the_lens_is_found_and_its_distortion_undone(found):
    (camera,) = json.loads((found / "convert.json").read_text())["cameras"]
    focal, _, _, k1 = camera["params"]
    # Measured: 2.8 % and 0.001.
    assert camera["model"] == "SIMPLE_RADIAL" and abs(k1 - K1) < 0.03 and abs(focal / (0.84 * 320) - 1) < 0.1
    (pinhole,) = pycolmap.Reconstruction(found / "sparse" / "0").cameras.values()
    assert pinhole.model_name == "PINHOLE"


def test_the_report_says_what_is_in_the_scene(found):
    report = json.loads((found / "convert.json").read_text())
    assert report["photos"] == report["registered"] == NUM_PHOTOS and not report["left_out"]
    assert report["mean_reprojection_error_px"] < 1 and report["points"] > 100
    model = pycolmap.Reconstruction(found / "sparse" / "0")
    assert (model.num_reg_images(), model.num_points3D()) == (NUM_PHOTOS, report["points"])


def test_the_user_is_told_what_was_found_and_what_to_type(found):
    report = json.loads((found / "convert.json").read_text())
    lines = dict(line.split(maxsplit=1) for line in describe(report, found).splitlines())
    assert lines["photos"] == f"{NUM_PHOTOS} of {NUM_PHOTOS} registered" and lines["scene"] == str(found)
    python, script, *words = lines["next"].split()
    assert (python, script) == ("python", "train.py")
    assert TrainConfig.from_command_line(words).source_path == found
    partly = {**report, "registered": 3, "left_out": ["a.jpg", "b\n.jpg", "c.jpg"], "other_parts": [2]}
    said = describe(partly, found)
    assert "a.jpg, b .jpg, c.jpg: too few matches" in said and "of 2 photos" in said and "in between" in said


def test_train_reads_the_scene_and_its_smaller_photos(found):
    whole = load_scene(found, eval=False)
    for divisor in (2, 4, 8):
        smaller = load_scene(found, images=f"images_{divisor}", eval=False)
        assert len(smaller.train) == NUM_PHOTOS
        assert smaller.train[0].photo.pixels().shape[2] == round(whole.train[0].width / divisor)


def test_y_points_down_in_the_scene(given, found):
    """The cameras were held upright, so their own y axes are that of the scene on average."""
    poses = np.stack([camera.world_to_camera for camera in load_scene(found, eval=False).train])
    down = poses[:, 1, :3].mean(0)
    np.testing.assert_allclose(down / np.linalg.norm(down), [0, 1, 0], atol=1e-4)


def test_what_is_written_is_named_in_the_manual(found):
    top = {path.name for path in found.iterdir()}
    assert top == {"input", "images", "images_2", "images_4", "images_8", "sparse", "distorted", "convert.json"}
    assert {path.name for path in (found / "distorted").iterdir()} == {"input", "database.db", "sparse"}
    assert len(listing(found / "input")) == NUM_PHOTOS


def test_formats_sizes_masks_and_other_files_in_one_folder(given, tmp_path):
    """What belongs together is put together; what does not is named, and nothing is asked of the user."""
    photos, views = tmp_path / "my photos", [Image.open(path) for path in sorted((given / "images").iterdir())]
    photos.mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    views[0].transpose(Image.Transpose.ROTATE_90).save(photos / "a b.jpg", exif=exif, quality=95)
    views[1].save(photos / "c.heic", quality=95)
    views[2].resize((480, 360), Image.Resampling.BICUBIC).save(photos / "d.jpg", quality=95)
    views[3].save(photos / "d.png")
    alpha = Image.fromarray(np.where(np.arange(320) < 40, 0, 255).astype(np.uint8)[None].repeat(240, 0))
    views[4].putalpha(alpha)
    views[4].save(photos / "e.png")
    views[5].save(photos / "f.webp", lossless=True)
    noise = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    for name, pixels in zip(("g.jpg", "h.png"), noise, strict=True):
        Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC).save(photos / name)
    (photos / "i.jpg").write_bytes(b"broken")
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    convert.main([str(photos), "-o", str(tmp_path / "scene"), "--quiet"])
    report = json.loads((tmp_path / "scene" / "convert.json").read_text())
    assert (
        report["registered"] == 6 and report["left_out"] == ["g.jpg", "h.png"] and [*report["unreadable"]] == ["i.jpg"]
    )
    cameras = load_scene(tmp_path / "scene", eval=False).train
    assert {camera.name for camera in cameras} == {"a_b.jpg", "c.jpg", "d.jpg", "d_2.png", "e.png", "f.jpg"}
    masks = {camera.name: camera.photo.mask() for camera in cameras}
    assert [name for name, mask in masks.items() if mask is not None] == ["e.png"]
    assert 0.1 < 1 - masks["e.png"].float().mean() < 0.15
    assert len({(camera.width, camera.height) for camera in cameras}) == 2
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_a_video_becomes_a_scene(tmp_path):
    """Frames are matched in their order, and all take part."""
    rng = np.random.default_rng(0)
    shapes, steps = make_shapes(rng), make_poses(60, rng)[:NUM_PHOTOS]
    times = np.arange(0, NUM_PHOTOS - 0.75, 0.25)  # a steady way past the poses of the photos
    poses = np.tile(np.eye(4), (len(times), 1, 1))
    poses[:, :3, :3] = Slerp(np.arange(NUM_PHOTOS), Rotation.from_matrix(steps[:, :3, :3]))(times).as_matrix()
    poses[:, :3, 3] = interp1d(np.arange(NUM_PHOTOS), steps[:, :3, 3], axis=0)(times)
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", 10, width=320, height=240, pix_fmt="yuv420p", options={"crf": "10"})
        for pose in poses:
            view = render_view(shapes, BentLens(320, 240), pose)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())
    convert.main([str(tmp_path / "v.mp4"), "-o", str(tmp_path / "scene"), "--frames", "8", "--quiet"])
    report = json.loads((tmp_path / "scene" / "convert.json").read_text())
    assert report["registered"] == report["photos"] >= 6 and report["matching"] == "sequential"
    assert report["mean_reprojection_error_px"] < 1


def two_photos(given: Path, folder: Path) -> None:
    (folder / "photos").mkdir()
    for name in ("view_0.png", "view_1.png"):
        shutil.copy(given / "images" / name, folder / "photos")


def test_two_photos_are_enough_if_they_match(given, tmp_path):
    two_photos(given, tmp_path)
    convert.main([str(tmp_path / "photos"), "-o", str(tmp_path / "scene"), "--quiet", "--model", "SIMPLE_PINHOLE"])
    assert len(load_scene(tmp_path / "scene", eval=False).train) == 2
    (camera,) = pycolmap.Reconstruction(tmp_path / "scene" / "sparse" / "0").cameras.values()
    assert camera.model_name == "PINHOLE"  # by itself COLMAP would leave it as it is


def blank(seed: int) -> np.ndarray:
    return np.full((120, 160, 3), 100 + seed, np.uint8)


def place(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC))


def refused(folder: Path, said: str) -> None:
    """convert.py makes no scene of the photos in a folder, says why in one line, and leaves nothing."""
    before = listing(folder)
    with pytest.raises(InputError, match=said) as caught:
        convert.main([str(folder / "photos"), "-o", str(folder / "out" / "scene"), "--quiet"])
    assert "\n" not in str(caught.value) and listing(folder) == before


@pytest.mark.parametrize(
    ("picture", "num_photos", "said"),
    [
        (blank, 1, "contains 1 photo,"),
        (blank, 3, "3 of 3 photos have almost no features"),
        (place, 3, "no two of the 3 photos match"),
        (lambda seed: place(0), 3, "the camera did not move"),
    ],
    ids=["one photo", "blank photos", "different places", "a camera that does not move"],
)
def test_what_cannot_be_reconstructed_is_one_line_and_leaves_nothing(tmp_path, capsys, picture, num_photos, said):
    (tmp_path / "photos").mkdir()
    for seed in range(num_photos):
        Image.fromarray(picture(seed)).save(tmp_path / "photos" / f"{seed}.png")
    refused(tmp_path, said)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("stage", ["reading", "features", "matching", "mapping", "undistortion"])
def test_a_user_who_stops_it_gets_nothing_half_done(given, tmp_path, monkeypatch, stage):
    """The request is heard in every stage."""
    from compact_splats.photogrammetry.stages import Stages

    bar = Stages._bar

    def stop_in_stage(self, label, *rest):
        if label == stage:
            signal.raise_signal(signal.SIGTERM)
        return bar(self, label, *rest)

    monkeypatch.setattr(Stages, "_bar", stop_in_stage)
    two_photos(given, tmp_path)
    before = listing(tmp_path)
    with pytest.raises(Stopped):
        convert.main([str(tmp_path / "photos"), "-o", str(tmp_path / "scene"), "--quiet"])
    assert listing(tmp_path) == before


def test_a_camera_that_turns_on_the_spot_is_an_error(tmp_path):
    """Photos that one rotation maps on each other: H = K R K^-1. COLMAP alone may make a model of them."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    wall = np.asarray(Image.fromarray(noise).resize((960, 720), Image.Resampling.BICUBIC))
    matrix = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
    shift = np.array([[1.0, 0, 320], [0, 1, 240], [0, 0, 1]])
    (tmp_path / "photos").mkdir()
    for i in range(5):
        turn = Rotation.from_euler("yx", [5 * i - 10, 2 * (i % 2)], degrees=True).as_matrix()
        to_wall = shift @ matrix @ turn @ np.linalg.inv(matrix)
        photo = cv2.warpPerspective(wall, to_wall, (320, 240), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        Image.fromarray(photo).save(tmp_path / "photos" / f"{i}.png")
    refused(tmp_path, "turned on the spot")


def test_an_overlay_is_no_scene(tmp_path):
    """Different places under the same display: what matches does not move."""
    display = np.random.default_rng(9).integers(0, 2, (15, 80), dtype=np.uint8).repeat(4, 0).repeat(4, 1) * 255
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        photo = place(seed).copy()
        photo[:60] = display[..., None]
        Image.fromarray(photo).save(tmp_path / "photos" / f"{seed}.png")
    refused(tmp_path, "overlay")


def test_a_part_without_points_is_no_scene(given, tmp_path, monkeypatch):
    monkeypatch.setattr("compact_splats.photogrammetry.reconstruction.MIN_POINTS", 10**6)
    two_photos(given, tmp_path)
    refused(tmp_path, "parallax")


def test_the_causes_of_few_registered_photos_are_counted():
    features = {"a": 900, "b": 900, "c": 900, "d": 12, "e": 900, "f": 900}
    said = few(Matches(features, {("a", "b"): 90, ("b", "c"): 20}), {"a", "b"})
    assert (
        "1 have almost no features" in said and "2 match no other" in said and "1 match others but get no pose" in said
    )


def test_two_clips_of_one_name_and_photos_make_one_scene(given, tmp_path, capsys):
    """Three inputs, three lenses; frames and photos that the names alone would mix up."""
    pictures = [np.asarray(Image.open(path)) for path in sorted((given / "images").iterdir())]
    for folder, chosen in (("a", pictures[:2]), ("b", pictures[2:4])):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "clip.mkv", [picture / 255 for picture in chosen])
    (tmp_path / "clip").mkdir()
    for i, picture in enumerate(pictures[4:]):
        Image.fromarray(picture).save(tmp_path / "clip" / f"frame_{i:06d}.png")
    inputs = [str(tmp_path / name) for name in ("a/clip.mkv", "b/clip.mkv", "clip")]
    convert.main([*inputs, "-o", str(tmp_path / "scene"), "--quiet"])
    report = json.loads((tmp_path / "scene" / "convert.json").read_text())
    assert report["registered"] == 6 and len(report["cameras"]) == 3
    names = {camera.name.rsplit(".")[0] for camera in load_scene(tmp_path / "scene", eval=False).train}
    assert names == {f"{folder}/frame_00000{i}" for folder in ("clip", "clip_2", "clip_3") for i in range(2)}


def test_groups_of_photos_that_match():
    pairs = [("a", "b"), ("c", "d"), ("e", "f"), ("b", "f")]
    assert Matches({}, dict.fromkeys(pairs, 20)).connected() == [{"a", "b", "e", "f"}, {"c", "d"}]


def test_captured_photos_get_the_poses_that_they_have(test_data, tmp_path):
    """Of a real capture, the given poses are those of another run of structure from motion, on larger photos.

    Its principal point is 6 px off centre and ours is in the middle, which turns all cameras by 0.8 degrees.
    """
    given, photos = test_data / "scenes" / "fox_tiny", tmp_path / "photos"
    photos.mkdir()
    for path in sorted((given / "images").iterdir())[:12]:
        shutil.copy(path, photos)
    report = convert.convert(
        convert.ConvertConfig.from_command_line([str(photos), "-o", str(tmp_path / "scene"), "--quiet"])
    )
    errors = pose_errors(given, tmp_path / "scene")
    assert report["registered"] == errors.count == 12
    assert report["mean_reprojection_error_px"] < 0.6
    assert errors.rotation_deg.max() < 2.5 and errors.position.max() < 0.06
