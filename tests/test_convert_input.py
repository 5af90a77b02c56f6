"""convert.py before structure from motion: flags, photos, frames of videos, and where the scene goes."""

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image

from compact_splats.arguments.convert import ConvertConfig
from compact_splats.photogrammetry import sources
from compact_splats.photogrammetry.frames import STEP, choose_frames, extract_frames, measure_frames
from compact_splats.photogrammetry.pairs import NEIGHBOURS, is_sequential, pairs_to_match
from compact_splats.photogrammetry.photos import find_photos, safe_names
from compact_splats.photogrammetry.scene_folder import FEATURES_BYTES, OUTPUTS, REPORT, check_free_space, new_scene
from compact_splats.photogrammetry.sources import Source, find_sources
from compact_splats.photogrammetry.stages import Stages
from compact_splats.photogrammetry.video import Video
from compact_splats.utils.errors import InputError
from compact_splats.utils.signals import StopRequest

pillow_heif.register_heif_opener()  # to write it

NEEDED = ["photos", "-o", "scene"]
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)


def quiet() -> Stages:
    return Stages(StopRequest(), quiet=True)


def corners(width: int = 96, height: int = 64) -> np.ndarray:
    """A picture of which each quarter has a colour of its own: red, green; blue, yellow."""
    return np.repeat(np.repeat(CORNERS, height // 2, 0), width // 2, 1)


def corner_colours(pixels: np.ndarray) -> np.ndarray:
    """(2,2,3) bool: the colours of the four quarters."""
    height, width = pixels.shape[:2]
    return pixels[height // 4 :: height // 2, width // 4 :: width // 2][:2, :2] > 127


def prepare(folder: Path, work: Path, masks: Path | None = None):
    work.mkdir()
    return sources.prepare([Source(folder, tuple(find_photos(folder)))], 0, masks, work, quiet(), 2)


# ---- flags ----


def test_photos_may_be_given_one_by_one(tmp_path):
    """In natural order, and only they; one that does not exist is refused by its name."""
    for name in ("img_10.jpg", "img_9.jpg", "img_11.jpg"):
        (tmp_path / name).write_bytes(b"")
    words = [str(tmp_path / name) for name in ("img_10.jpg", "img_9.jpg")]
    (source,) = find_sources(ConvertConfig.from_command_line([*words, "-o", "scene"]).inputs)
    assert source == Source(tmp_path, ("img_9.jpg", "img_10.jpg"))
    with pytest.raises(InputError, match="img_12.jpg does not exist"):
        find_sources([Path(word) for word in (*words, str(tmp_path / "img_12.jpg"))])


def test_the_layout_of_3dgs_is_named_by_one_flag():
    config = ConvertConfig.from_command_line(["-s", "place"])
    assert (config.inputs, config.scene) == ((Path("place/input"),), Path("place"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "python convert.py PHOTOS_OR_VIDEO -o SCENE"),
        (["photos"], "name it with -o"),
        (["photos", "-s", "place"], "-s can.t be combined"),
        (["-o", "scene", "-s", "place"], "-s can.t be combined"),
        ([*NEEDED, "--camera", "OPENCV"], "--model OPENCV"),
        ([*NEEDED, "--camera", "two"], "shared or each"),
        ([*NEEDED, "--model", "FOV"], "--model"),
        ([*NEEDED, "--frames", "1"], "--frames"),
        ([*NEEDED, "--frames", "-3"], "--frames"),
        ([*NEEDED, "--max-size", "10"], "--max-size"),
        ([*NEEDED, "--seed", "-1"], "--seed"),
        ([*NEEDED, "--colmap", "x"], "unknown argument"),
    ],
)
def test_bad_flags_of_convert_are_one_line(words, said):
    with pytest.raises(InputError, match=said) as caught:
        ConvertConfig.from_command_line(words)
    assert "\n" not in str(caught.value)


# ---- pairs ----


def test_all_pairs_are_compared_exhaustively():
    assert pairs_to_match(4, sequential=False) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


@pytest.mark.parametrize("num_photos", [2, 3, 17, 40, 41, 300])
def test_sequential_pairs_reach_neighbours_and_both_ends(num_photos):
    pairs = pairs_to_match(num_photos, sequential=True)
    assert len(set(pairs)) == len(pairs) and all(0 <= i < j < num_photos for i, j in pairs)
    assert {(i, j) for i in range(num_photos) for j in range(i + 1, min(i + NEIGHBOURS + 1, num_photos))} <= set(pairs)
    assert (0, num_photos - 1) in pairs  # a way around an object is closed
    assert len(pairs) <= 17 * num_photos + 40 * 39 // 2


def test_long_and_ordered_input_is_matched_sequentially():
    assert not is_sequential("auto", 100, is_video=False) and is_sequential("auto", 101, is_video=False)
    assert is_sequential("auto", 20, is_video=True) and not is_sequential("exhaustive", 900, is_video=True)
    assert is_sequential("sequential", 3, is_video=False)


# ---- photos ----


def test_photos_are_found_below_in_the_order_of_their_numbers(tmp_path):
    names = [
        "img_10.jpg",
        "img_9.JPG",
        "b/x.heic",
        ".hidden.jpg",
        ".trash/y.jpg",
        "images/z.jpg",
        REPORT,
        "b/images/z.jpg",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert find_photos(tmp_path) == ["b/images/z.jpg", "b/x.heic", "img_9.JPG", "img_10.jpg"]


@pytest.mark.parametrize("names", [[], ["a.jpg"], ["a.dng", "b.dng", "c.txt"]])
def test_less_than_two_photos_are_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="at least 2 photos"):
        find_photos(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find_photos(tmp_path / "absent")


def test_names_become_safe_and_stay_different():
    names = [
        "a/IMG 1 (2).jpg",
        "a/IMG_1__2_.png",
        "x\ny.jpg",
        "bad\udcff.jpg",
        "n" * 250 + ".jpg",
        "ü.jpg",
        "A.jpg",
        "a.JPG",
    ]
    safe = safe_names(names)
    assert len({name.casefold() for name in safe.values()}) == len(names)
    assert safe["a/IMG 1 (2).jpg"] == "a/IMG_1__2_" and safe["ü.jpg"] == "ü"
    assert all(len(name.encode()) <= 200 and name.isprintable() and " " not in name for name in safe.values())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_becomes_upright(tmp_path, orientation):
    """The tag says how the stored pixels are to be turned; what is written has none and is as it was seen."""
    photos = tmp_path / "photos"
    photos.mkdir()
    seen = Image.fromarray(corners())
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = seen.transpose(undo[orientation]) if orientation in undo else seen
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Model] = "box"
    for name in ("a.jpg", "b.jpg"):
        stored.save(photos / name, exif=exif, quality=95)
    inputs = prepare(photos, tmp_path / "work")
    with Image.open(inputs.folder / inputs.photos[0].name) as written:
        assert written.size == seen.size
        assert (corner_colours(np.asarray(written)) == (CORNERS > 127)).all()
        assert written.getexif().get(ExifTags.Base.Orientation, 1) == 1
        assert written.getexif()[ExifTags.Base.Model] == "box"
    untouched = (photos / "a.jpg").read_bytes() == (inputs.folder / "a.jpg").read_bytes()
    assert untouched == (orientation == 1)


def test_all_kinds_of_photos_are_made_ready_and_broken_ones_named(tmp_path):
    photos, picture = tmp_path / "photos", Image.fromarray(corners())
    photos.mkdir()
    for name in ("IMG_1.jpg", "IMG_1.png", "c.heic", "d.tif", "e.webp", "f.bmp"):
        picture.save(photos / name, **({"quality": 95} if name != "d.tif" else {}))
    picture.convert("CMYK").save(photos / "g.jpg")
    picture.convert("L").save(photos / "h.jpg")
    picture.convert("P").save(photos / "i.png")
    (photos / "j.jpg").write_bytes((photos / "IMG_1.jpg").read_bytes()[:-300])
    (photos / "k.jpg").write_bytes(b"no photo")
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    inputs = prepare(photos, tmp_path / "work")
    assert set(inputs.unreadable) == {"j.jpg", "k.jpg"}
    names = {photo.source: photo.name for photo in inputs.photos}
    assert names["IMG_1.jpg"] == "IMG_1.jpg" and names["IMG_1.png"] == "IMG_1_2.png" and names["c.heic"] == "c.jpg"
    for source, name in names.items():
        with Image.open(inputs.folder / name) as written:
            assert written.mode in ("RGB", "L") and written.format in ("JPEG", "PNG") and written.size == (96, 64)
            if source != "h.jpg":
                assert (corner_colours(np.asarray(written.convert("RGB"))) == (CORNERS > 127)).all(), source
    assert len({photo.lens for photo in inputs.photos}) == 1
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_sizes_and_zooms_are_lenses_of_their_own(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size, focal in (("a", (96, 64), 4.0), ("b", (96, 64), 9.0), ("c", (64, 96), 4.0), ("d", (96, 64), 4.0)):
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLength] = focal
        Image.fromarray(corners(*size)).save(photos / f"{name}.jpg", exif=exif)
    a, b, c, d = (photo.lens for photo in prepare(photos, tmp_path / "work").photos)
    assert a == d and len({a, b, c}) == 3


def test_all_photos_but_one_broken_is_an_error(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(corners()).save(photos / "a.jpg")
    (photos / "b.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="1 of 2.*b.jpg"):
        prepare(photos, tmp_path / "work")


def test_masks_and_alpha_leave_the_same_out(tmp_path):
    photos, masks, half = tmp_path / "photos", tmp_path / "masks", np.full((64, 96), 255, np.uint8)
    photos.mkdir()
    masks.mkdir()
    half[:, :48] = 0
    Image.fromarray(np.dstack([corners(), half])).save(photos / "alpha.png")
    Image.fromarray(corners()).save(photos / "named.jpg")
    Image.fromarray(corners()).save(photos / "none.jpg")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(corners()).transpose(Image.Transpose.ROTATE_90).save(photos / "turned.jpg", exif=exif)
    Image.fromarray(half[::2, ::2]).save(masks / "named.jpg.png")
    Image.fromarray(half).transpose(Image.Transpose.ROTATE_90).save(masks / "turned.png")  # as the photo is stored
    inputs = prepare(photos, tmp_path / "work", masks)
    assert [photo.has_mask for photo in inputs.photos] == [True, True, False, True]
    for name in ("alpha.png", "named.jpg", "turned.jpg"):
        with Image.open(inputs.masks / f"{name}.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask), half)


@pytest.mark.parametrize(
    ("name", "size", "said"), [("x.png", (96, 64), "no mask of"), ("a.png", (64, 64), "proportions")]
)
def test_masks_that_do_not_belong_to_the_photos_are_refused(tmp_path, name, size, said):
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    for folder in (photos, masks):
        folder.mkdir()
    for photo in ("a.jpg", "b.jpg"):
        Image.fromarray(corners()).save(photos / photo)
    Image.new("L", size).save(masks / name)
    with pytest.raises(InputError, match=said):
        prepare(photos, tmp_path / "work", masks)


# ---- several inputs ----


def test_inputs_get_folders_of_their_own(tmp_path):
    for name in ("a/walk/1.jpg", "b/walk/1.jpg", "b/walk.2/x.jpg", "loose 1.jpg", "loose 2.jpg", "b/walk.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    given = ["a/walk", "b/walk.mp4", "loose 2.jpg", "b/walk", "b/walk.2", "loose 1.jpg"]
    found = find_sources([tmp_path / name for name in given])
    prefixes = [source.prefix for source in found]
    assert prefixes == ["walk/", "walk_2/", f"{tmp_path.name}/", "walk_3/", "walk.2/"]
    assert found[2].names == ("loose 1.jpg", "loose 2.jpg") and [source.is_video for source in found].count(True) == 1
    (alone,) = find_sources([tmp_path / "loose 1.jpg", tmp_path / "loose 2.jpg"])
    assert alone == Source(tmp_path, ("loose 1.jpg", "loose 2.jpg"))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "a/"], "named twice"), (["a/1.jpg", "a/1.jpg"], "named twice"), (["a", "absent.mp4"], "does not exist"),
        (["a/1.jpg"], "1 photo"), (["a", "empty"], "contains no photo"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be_joined_are_one_line(tmp_path, names, said):
    for folder in ("a", "empty"):
        (tmp_path / folder).mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "a" / name).touch()
    with pytest.raises(InputError, match=said) as caught:
        find_sources([tmp_path / name for name in names])
    assert "\n" not in str(caught.value)


def test_masks_of_several_inputs_lie_in_folders_of_their_names(tmp_path):
    for folder in ("one", "two", "masks/two"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("one", "two"):
        Image.fromarray(corners()).save(tmp_path / folder / "a.jpg")
    Image.new("L", (96, 64)).save(tmp_path / "masks" / "two" / "a.png")
    given = find_sources([tmp_path / "one", tmp_path / "two"])
    inputs = sources.prepare(given, 0, tmp_path / "masks", tmp_path, quiet(), 1)
    assert {photo.name: photo.has_mask for photo in inputs.photos} == {"one/a.jpg": False, "two/a.jpg": True}
    assert len({photo.lens for photo in inputs.photos}) == 2


# ---- 360 degree photos ----


def xmp(*sizes: int, projection: str = "equirectangular") -> bytes:
    names = (
        "FullPanoWidthPixels",
        "FullPanoHeightPixels",
        "CroppedAreaImageWidthPixels",
        "CroppedAreaImageHeightPixels",
    )
    tags = " ".join(f'GPano:{name}="{size}"' for name, size in zip(names, sizes, strict=False))
    return f'<rdf:Description GPano:ProjectionType="{projection}" {tags}/>'.encode()


def write_panorama(path: Path, size: tuple[int, int] = (128, 64), maker: str = "", **more) -> None:
    """Longitudes of a quarter of the width have one colour each: from the back, left, front and right."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = maker
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
    stripes = np.roll(colours.repeat(size[0] // 4, 0), -size[0] // 8, 0)
    Image.fromarray(stripes[None].repeat(size[1], 0)).save(path, quality=95, exif=exif, **more)


@pytest.mark.parametrize(
    ("more", "is_cut"),
    [
        ({"xmp": xmp(128, 64, 128, 64)}, True),
        ({"xmp": xmp()}, True),
        ({"xmp": b"<GPano:ProjectionType>equirectangular</GPano:ProjectionType>"}, True),
        ({"xmp": xmp(projection="cylindrical")}, False),
        ({"maker": "RICOH"}, True),
        ({"maker": "Arashi Vision"}, True),
        ({"maker": "Apple"}, False),
        ({"maker": "RICOH", "size": (128, 72)}, False),
    ],
)
def test_panoramas_are_told_by_their_tags(tmp_path, more, is_cut):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        write_panorama(photos / name, **more)
    inputs = prepare(photos, tmp_path / "work")
    assert len(inputs.photos) == (12 if is_cut else 2)


def test_faces_of_a_panorama_look_where_they_say(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        write_panorama(photos / name, xmp=xmp())
    inputs = prepare(photos, tmp_path / "work")
    colours = {}
    for photo in inputs.photos[:6]:
        with Image.open(inputs.folder / photo.name) as face:
            assert face.size == (32, 32)
            colours[photo.name.split("/")[1]] = (np.asarray(face)[16, 16] > 127).tolist()
    assert [colours[name] for name in ("back", "left", "front", "right")] == [
        [True, False, False], [False, True, False], [False, False, True], [True, True, False]
    ]  # fmt: skip
    assert len({photo.lens for photo in inputs.photos}) == 6


def test_a_part_of_a_panorama_is_left_out_and_said(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(corners()).save(photos / name)
    write_panorama(photos / "c.jpg", xmp=xmp(512, 256, 128, 64))
    inputs = prepare(photos, tmp_path / "work")
    assert len(inputs.photos) == 2 and "part of a panorama" in inputs.unreadable["c.jpg"]


# ---- videos ----


def write_video(path: Path, frames, rotation: int = 0) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "10"}
        if rotation:
            stream.set_display_rotation(rotation)
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("turns", range(4))
def test_frames_are_upright(tmp_path, turns):
    """Phones store what the sensor sees, and in the file how to turn it."""
    stored = np.ascontiguousarray(np.rot90(corners(), -turns))
    write_video(tmp_path / "v.mp4", [stored] * 3, 90 * turns)
    inputs = extract_frames(tmp_path / "v.mp4", 0, tmp_path, quiet())
    assert [photo.name for photo in inputs.photos] == ["frame_000000.jpg", "frame_000001.jpg", "frame_000002.jpg"]
    for photo in inputs.photos:
        with Image.open(inputs.folder / photo.name) as frame:
            assert frame.size == (96, 64)
            assert (corner_colours(np.asarray(frame)) == (CORNERS > 127)).all()


def test_movement_and_sharpness_are_measured(tmp_path):
    """A pan of 2 % of the width a frame is measured as such, and a blurred frame is less sharp than its neighbours."""
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(0, 256, (40, 160, 3), dtype=np.uint8), (1280, 320), interpolation=cv2.INTER_CUBIC)
    frames = [np.ascontiguousarray(wall[:240, 6 * i : 6 * i + 300]) for i in range(12)]
    frames[7] = cv2.GaussianBlur(frames[7], (0, 0), 4)
    write_video(tmp_path / "v.mp4", frames)
    sharpness, motion, _ = measure_frames(Video(tmp_path / "v.mp4"), quiet())
    assert motion[0] == 0
    np.testing.assert_allclose(motion[1:7], 0.02, atol=0.004)
    assert sharpness[7] < 0.5 * np.delete(sharpness, 7).min()


def test_frames_follow_the_movement_and_are_the_sharpest_around():
    motion = np.full(200, 0.02)
    motion[50:150] = 0  # the camera rests
    sharpness = np.ones(200)
    sharpness[::5] = 2
    chosen = choose_frames(sharpness, motion, 20)
    assert len(chosen) == 20 and not np.any(chosen % 5)
    assert np.count_nonzero((chosen >= 50) & (chosen < 150)) <= 2


def test_the_number_of_frames_is_what_the_way_needs_or_the_user_wants():
    def number(motion: float, asked: int = 0, num_frames: int = 1000) -> int:
        return len(choose_frames(np.ones(num_frames), np.full(num_frames, motion), asked))

    assert number(STEP / 20) == 50 and number(0.0) == 30 and number(STEP) == 200
    assert number(STEP / 20, 7) == 7 and number(STEP, 5000) == 1000 and number(STEP, num_frames=5) == 5


def test_a_video_that_breaks_off_gives_what_came_before(tmp_path):
    rng = np.random.default_rng(0)
    write_video(tmp_path / "v.mkv", [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(20)])
    whole = (tmp_path / "v.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) // 2])
    assert 2 <= len(measure_frames(Video(tmp_path / "half.mkv"), quiet())[0]) < 20


def sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", 44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


BAD_VIDEOS = {
    "text": lambda path: path.write_text("no video\n" * 100),
    "empty": lambda path: path.write_bytes(b""),
    "random": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "one frame": lambda path: write_video(path, [corners()]),
    "sound alone": sound,
    "a list of addresses": lambda path: path.write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n"),
    "a list of files": lambda path: path.write_text("ffconcat version 1.0\nfile other.mp4\n"),
}


@pytest.mark.parametrize("kind", BAD_VIDEOS)
def test_what_is_no_video_is_one_line(tmp_path, kind):
    path = tmp_path / "v.mp4"
    BAD_VIDEOS[kind](path)
    with pytest.raises(InputError, match="video") as caught:
        extract_frames(path, 0, tmp_path / "work", quiet())
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_damaged_video_gives_frames_or_one_line(tmp_path, suffix):
    """A byte that is wrong never ends in another error; 450 files were tried when this was written."""
    rng = np.random.default_rng(0)
    write_video(tmp_path / f"v.{suffix}", [rng.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in range(4)])
    whole = (tmp_path / f"v.{suffix}").read_bytes()
    for number in range(15):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 10):
            broken[place] = rng.integers(256)
        path, work = tmp_path / f"{number}.{suffix}", tmp_path / f"work{number}"
        path.write_bytes(broken)
        work.mkdir()
        try:
            assert len(extract_frames(path, 0, work, quiet()).photos) >= 1
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)


# ---- where the scene goes ----


def build(scene: Path, source: Path, overwrite: bool = False, content: str = "new", error: Exception | None = None):
    with new_scene(scene, [source], overwrite) as work:
        (work / "images").mkdir()
        (work / "images" / content).touch()
        (work / "scratch").touch()
        (work / REPORT).write_text(content)
        if error:
            raise error


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_scene_appears_whole_beside_what_is_there(tmp_path):
    source, scene = tmp_path / "scene" / "input", tmp_path / "scene"
    source.mkdir(parents=True)
    build(scene, source)
    assert listing(scene) == {"input", "images", "images/new", REPORT}


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_left_of_a_scene_that_fails(tmp_path, overwrite):
    build(tmp_path / "old", tmp_path / "photos", content="old")
    before = listing(tmp_path)
    for scene in ("old", "a/b/new"):
        if scene == "old" and not overwrite:
            continue
        with pytest.raises(KeyError):
            build(tmp_path / scene, tmp_path / "photos", overwrite, error=KeyError("x"))
        with pytest.raises(InputError, match="can.t be written"):
            build(tmp_path / scene, tmp_path / "photos", overwrite, error=OSError("the disk is full"))
    assert listing(tmp_path) == before


@pytest.mark.parametrize("stop_at", range(4))
def test_ctrl_c_between_two_moves_leaves_the_old_scene(tmp_path, monkeypatch, stop_at):
    """Also a second one, which is not waited for. The report, which says that a scene is complete, comes last."""
    build(tmp_path / "scene", tmp_path / "photos", content="old")
    before, replace, calls = listing(tmp_path), os.replace, []

    def stopped(source, target):
        calls.append(Path(target).name)
        if len(calls) == stop_at + 1:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "scene", tmp_path / "photos", overwrite=True)
    assert listing(tmp_path) == before and (tmp_path / "scene" / REPORT).read_text() == "old"
    assert calls[: stop_at + 1] == [REPORT, "images", "images", REPORT][: stop_at + 1]


def test_only_scenes_of_convert_are_replaced_and_only_when_told(tmp_path):
    source, scene = tmp_path / "photos", tmp_path / "scene"
    build(scene, source, content="old")
    (scene / "images_4").mkdir()
    (scene / "notes").touch()
    with pytest.raises(InputError, match="--overwrite"):
        build(scene, source)
    assert (scene / "images" / "old").exists()
    build(scene, source, overwrite=True)
    assert listing(scene) == {"images", "images/new", REPORT, "notes"}
    (scene / REPORT).unlink()
    with pytest.raises(InputError, match="convert.py did not make it"):
        build(scene, source, overwrite=True)
    assert (scene / "images" / "new").exists()


@pytest.mark.parametrize("name", sorted(set(OUTPUTS) - {REPORT}))
def test_photos_are_never_among_what_is_replaced(tmp_path, name):
    source = tmp_path / "scene" / name / "photos"
    source.mkdir(parents=True)
    (tmp_path / "scene" / REPORT).touch()
    with pytest.raises(InputError, match="is inside of"):
        build(tmp_path / "scene", source, overwrite=True)
    assert source.exists()


def test_a_disk_without_room_is_told_before_colmap_fills_it(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(bytes(1000))
    for free, is_enough in ((2 * FEATURES_BYTES + 2000, True), (2 * FEATURES_BYTES + 1000, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        with nullcontext() if is_enough else pytest.raises(InputError, match="4 MiB needed for 2 photos"):
            check_free_space(tmp_path / "scene" / "work", tmp_path / "photos", 2)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for scene in (tmp_path / "file", tmp_path / "file" / "scene"):
        with pytest.raises(InputError, match="folder"):
            build(scene, tmp_path / "photos")
    assert listing(tmp_path) == {"file"}
