"""Photos: undistortion against COLMAP, masks, alpha, resizing, orientation tags, threads."""

import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image
from scene_writers import MODEL_IDS, write_colmap, write_images, write_photo, write_transforms

from compact_splats.scene import load_scene
from compact_splats.scene.lens import FACES, Lens, panorama, undistortion
from compact_splats.scene.normalization import Units
from compact_splats.scene.photos import Photo
from compact_splats.training.loading import Decoding
from compact_splats.utils.errors import InputError
from compact_splats.utils.geometry import rotation_matrices_of_unit

CPU = torch.device("cpu")
WIDTH, HEIGHT = 200, 150
# Model: parameters as in COLMAP. Off-centre principal points; barrel and pincushion; tangential terms.
DISTORTED = {
    "SIMPLE_RADIAL": [(160, 104, 71, -0.12), (160, 97, 77, 0.1)],
    "RADIAL": [(160, 104, 71, -0.2, 0.05)],
    "OPENCV": [(160, 150, 104, 71, -0.15, 0.03, 0.01, -0.008), (160, 150, 97, 77, 0.06, 0.02, -0.005, 0.006)],
    "FULL_OPENCV": [(160, 150, 104, 71, 0.3, 0.05, 0.004, -0.003, 0.01, 0.5, 0.1, 0.02)],
    "OPENCV_FISHEYE": [(90, 92, 104, 71, 0.02, -0.01, 0.003, -0.0005), (90, 92, 97, 77, 0, 0, 0, 0)],
    "SIMPLE_FISHEYE": [(90, 104, 71)],
    "FISHEYE": [(90, 92, 104, 71)],
    "SIMPLE_RADIAL_FISHEYE": [(90, 104, 71, 0.03), (110, 97, 77, -0.05)],
    "RADIAL_FISHEYE": [(90, 104, 71, 0.03, -0.01)],
    "THIN_PRISM_FISHEYE": [
        (90, 92, 104, 71, 0.02, -0.01, 0.003, -0.002, 0.004, -0.0005, 0.003, -0.004),
        (120, 118, 97, 77, -0.03, 0.01, -0.004, 0.003, -0.002, 0.0003, -0.005, 0.002),
    ],
    "RAD_TAN_THIN_PRISM_FISHEYE": [
        (90, 92, 104, 71, 0.02, -0.01, 0.003, -0.0005, 0.0002, -0.0001, 0.003, -0.002, 0.004, -0.003, 0.002, 0.001),
        (120, 118, 97, 77, -0.03, 0.01, -0.003, 0.001, -0.0003, 0.0001, 0, 0, 0.004, -0.003, -0.002, 0.001),
    ],
    "FOV": [(120, 122, 104, 71, 0.9), (150, 150, 97, 77, 0.01), (150, 148, 97, 77, 0)],
    "SIMPLE_DIVISION": [(120, 104, 71, -0.2), (160, 97, 77, 0.1)],
    "DIVISION": [(120, 125, 104, 71, -0.2), (160, 155, 97, 77, 0.1)],
    "EUCM": [(120, 125, 104, 71, 0.6, 1.1), (150, 148, 97, 77, 0.3, 0.8)],
}
ONE_FOCAL_LENGTH = ("RADIAL", "RADIAL_FISHEYE", *(model for model in DISTORTED if model.startswith("SIMPLE")))
CASES = [(model, params) for model, cases in DISTORTED.items() for params in cases]


def distort(model: str, params: tuple, rays: np.ndarray) -> np.ndarray:
    """(N,2) pixels of the rays (N,2), whose third component is 1, as COLMAP has them; NaN where there is none."""
    pycolmap = pytest.importorskip("pycolmap")
    camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=list(params))
    return camera.img_from_cam(np.concatenate([rays, np.ones((len(rays), 1))], axis=1))


def spot(x: float, y: float, width=WIDTH, height=HEIGHT) -> np.ndarray:
    """A soft white spot centred at (x, y), where (0.5, 0.5) is the middle of the first pixel."""
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    return 250 * np.exp(-((columns[None] - x) ** 2 + (rows[:, None] - y) ** 2) / (2 * 2.0**2))


def centroid(pixels: np.ndarray) -> np.ndarray:
    weights = pixels.astype(float)
    rows, columns = np.indices(weights.shape)
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum() + 0.5


@pytest.mark.parametrize("model, params", CASES)
def test_a_distorted_point_lands_where_the_pinhole_projects_it(model, params, tmp_path):
    """A ray's spot, drawn where the lens puts it, is after undistortion where the new intrinsics put the ray."""
    rays = [(x, y) for x in (-0.35, 0, 0.3) for y in (-0.25, 0, 0.3)]
    write_colmap(tmp_path, cameras=[(1, model, WIDTH, HEIGHT, params)], num_images=len(rays))
    for i, place in enumerate(distort(model, params, np.array(rays))):
        picture = spot(*place)
        Image.fromarray(np.repeat(picture[..., None], 3, 2).astype(np.uint8)).save(tmp_path / f"images/{i:03}.png")
    cameras = load_scene(tmp_path, eval=False).train
    for camera, (x, y) in zip(cameras, rays, strict=True):
        found = centroid(camera.photo.pixels()[0].numpy())
        expected = camera.fx * x + camera.cx, camera.fy * y + camera.cy
        # Worst measured: 0.072 px, the fisheye at its rim, where the spot is no longer round. A wrong convention for
        # the centre of a pixel moves it by 0.5 px times 1 - zoom or more.
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.1)


def lens_of(model: str, params: tuple) -> Lens:
    params = (params[0], *params) if model in ONE_FOCAL_LENGTH else params
    return Lens(WIDTH, HEIGHT, *params[:4], model, params[4:])


@pytest.mark.parametrize("model, params", CASES)
def test_the_map_of_every_pixel_is_colmaps(model, params):
    """Each pixel of the pinhole takes its colour from where COLMAP projects its ray."""
    lens = lens_of(model, params)
    pinhole, maps = lens.pinhole(), undistortion(lens)
    x, y = np.meshgrid(
        (np.arange(WIDTH) + 0.5 - pinhole.cx) / pinhole.fx, (np.arange(HEIGHT) + 0.5 - pinhole.cy) / pinhole.fy
    )
    theirs = distort(model, params, np.stack([x, y], -1).reshape(-1, 2)).reshape(HEIGHT, WIDTH, 2)
    fraction = np.stack([maps.map_fraction % 32, maps.map_fraction // 32], -1) / 32
    apart = np.abs(maps.map_xy + fraction + 0.5 - theirs)
    assert apart[maps.valid].max() < 0.02  # worst measured: 1/64 px, half a step of OpenCV's map
    assert maps.valid.mean() > 0.9
    inside = (theirs > 0.01).all(-1) & (theirs[..., 0] < WIDTH - 0.01) & (theirs[..., 1] < HEIGHT - 0.01)
    assert maps.valid[inside].all()


def test_every_model_of_colmap_is_tested():
    assert {*DISTORTED, "SIMPLE_PINHOLE", "PINHOLE", "EQUIRECTANGULAR"} == set(MODEL_IDS)


@pytest.mark.parametrize("model", DISTORTED)
@pytest.mark.parametrize("is_text", [False, True])
def test_every_model_is_read_from_binary_and_text(model, is_text, tmp_path):
    params = DISTORTED[model][0]
    folder = write_colmap(tmp_path, cameras=[(1, model, WIDTH, HEIGHT, params)], num_images=2)
    if is_text:
        (folder / "cameras.bin").unlink()
        (folder / "cameras.txt").write_text(f"1 {model} {WIDTH} {HEIGHT} {' '.join(map(str, params))}\n")
    assert load_scene(tmp_path).train[0].photo.lens == lens_of(model, params)


@pytest.mark.parametrize("model, params", CASES)
@pytest.mark.parametrize("reduce", [1, 2])
def test_mask_is_exactly_what_the_lens_saw(model, params, reduce, tmp_path):
    """A pixel counts if and only if its ray falls into the original photo, apart from a rim of one pixel."""
    write_colmap(tmp_path, cameras=[(1, model, WIDTH, HEIGHT, params)], num_images=2)
    camera = load_scene(tmp_path, resolution=reduce).train[0]
    mask = camera.photo.mask()
    counts = np.ones((camera.height, camera.width), bool) if mask is None else mask.numpy()
    rows, columns = np.indices(counts.shape)
    rays = np.stack([(columns + 0.5 - camera.cx) / camera.fx, (rows + 0.5 - camera.cy) / camera.fy], -1)
    x, y = distort(model, params, rays.reshape(-1, 2)).T.reshape(2, *counts.shape)
    outside = np.nan_to_num(np.max([-x, x - WIDTH, -y, y - HEIGHT], axis=0), nan=np.inf)
    clear = np.abs(outside) > reduce
    assert np.array_equal(counts[clear], outside[clear] < 0)


def test_barrel_distortion_keeps_the_sides_of_the_photo():
    """The pinhole zooms out until its sides touch the photographed area, and never zooms in."""
    barrel = Lens(WIDTH, HEIGHT, 160, 160, 100, 75, "SIMPLE_RADIAL", (-0.12,))
    pincushion = Lens(WIDTH, HEIGHT, 160, 160, 100, 75, "SIMPLE_RADIAL", (0.12,))
    assert 0.8 < barrel.pinhole().fx / barrel.fx < 0.99
    assert pincushion.pinhole().fx == pincushion.fx
    edges = np.array([(-100 / barrel.pinhole().fx, 0), (0, -75 / barrel.pinhole().fy)])
    left, top = distort("SIMPLE_RADIAL", (160, 100, 75, -0.12), edges)
    assert abs(left[0]) < 3 or abs(top[1]) < 3


@pytest.mark.parametrize(
    "model, params, fold",
    [
        ("SIMPLE_RADIAL", (60, 100, 75, -0.3), 1.0541),  # 1 - 0.9 r^2 is zero
        ("SIMPLE_DIVISION", (30, 100, 75, 0.25), 1.0),  # beyond, no point has this ray
        ("SIMPLE_RADIAL_FISHEYE", (60, 100, 75, -0.5), np.tan(1 / np.sqrt(1.5))),
        ("EUCM", (40, 40, 100, 75, 2.0, 1.0), np.sqrt(3)),  # r / (2 sqrt(1 + r^2) - 1) is largest
        ("OPENCV", (60, 60, 100, 75, 0, 0, 0, -0.2), 1 / 1.2),  # 1 - 6 * 0.2 r along x
    ],
)
def test_a_lens_that_folds_shows_nothing_twice(model, params, fold, tmp_path):
    """Beyond the radius where the positions turn back, pixels are masked instead of showing the photo again."""
    write_colmap(tmp_path, cameras=[(1, model, WIDTH, HEIGHT, params)], num_images=2)
    camera = load_scene(tmp_path).train[0]
    x = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    y = (np.arange(camera.height) + 0.5 - camera.cy) / camera.fy
    radius = np.hypot(x[None], y[:, None])
    counts = camera.photo.mask().numpy()
    assert not counts[radius > fold + 0.01].any() and counts[radius < fold - 0.01].all()
    assert (radius > fold + 0.01).any()


def test_a_lens_without_any_picture_is_refused(tmp_path):
    """A lens of more than 180 degrees to either side turns back at its centre."""
    model = write_colmap(tmp_path, cameras=[(1, "FOV", WIDTH, HEIGHT, (60, 60, 100, 75, 4.0))], num_images=2)
    with pytest.raises(InputError, match="FOV.* no picture") as error:
        load_scene(tmp_path)
    assert str(model / "cameras.bin") in str(error.value) and "\n" not in str(error.value)


def test_a_panorama_is_six_views(tmp_path):
    """A spot at a direction is in one face only, where that face's pinhole and pose put the direction."""
    width, height = 400, 200
    directions = np.array(
        [(0.2, -0.3, 1), (1, 0.1, 0.3), (-0.2, 0.4, -1), (-1, -0.2, 0.4), (0.3, -1, -0.2), (0.1, 1, 0.4)]
    )
    turn = np.array([0.8, 0.2, -0.4, 0.4])
    model = write_colmap(tmp_path, [(1, "EQUIRECTANGULAR", width, height, (width, height))], num_images=6)
    write_images(model, [(f"{i:03}.png", 1, turn, (1, 2, 3)) for i in range(6)])
    for i, (x, y, z) in enumerate(directions):
        longitude, latitude = np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))
        picture = spot(width * (0.5 + longitude / (2 * np.pi)), height * (0.5 + latitude / np.pi), width, height)
        Image.fromarray(np.repeat(picture[..., None], 3, 2).astype(np.uint8)).save(tmp_path / f"images/{i:03}.png")
    scene = load_scene(tmp_path, eval=False, units=Units())
    names = [f"{i:03}_{face}.png" for i in range(6) for face in ("front", "right", "back", "left", "up", "down")]
    assert [camera.name for camera in scene.train] == names
    of_photo = rotation_matrices_of_unit(torch.from_numpy(turn)[None])[0].numpy()
    for i, direction in enumerate(directions):
        for face, camera in enumerate(scene.train[6 * i : 6 * i + 6]):
            assert (camera.width, camera.height, camera.fx, camera.cy) == (100, 100, 50, 50)
            motion = camera.world_to_camera.double().numpy()
            np.testing.assert_allclose(np.linalg.inv(motion)[:3, 3], -of_photo.T @ (1, 2, 3), atol=1e-5)  # one centre
            x, y, z = motion[:3, :3] @ of_photo.T @ direction
            is_seen = z > 0 and max(abs(x), abs(y)) < z
            assert is_seen == (face == i)
            if is_seen:
                found, expected = centroid(camera.photo.pixels()[0].numpy()), (50 * x / z + 50, 50 * y / z + 50)
                np.testing.assert_allclose(found, expected, rtol=0, atol=0.4)  # the spot is not round any more
                assert camera.photo.mask() is None


@pytest.mark.parametrize("face", range(6))
def test_the_map_of_a_panorama_is_colmaps(face):
    pycolmap = pytest.importorskip("pycolmap")
    camera = pycolmap.Camera(model="EQUIRECTANGULAR", width=WIDTH, height=HEIGHT, params=[WIDTH, HEIGHT])
    x, y = np.meshgrid(np.linspace(-0.99, 0.99, 30), np.linspace(-0.99, 0.99, 30))
    rays = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ FACES[face][1].T
    found = np.stack(panorama(WIDTH, HEIGHT).faces()[face].project(x, y), -1).reshape(-1, 2)
    np.testing.assert_allclose(found, camera.img_from_cam(rays, check_cheirality=False), rtol=0, atol=1e-9)


def test_no_face_of_a_panorama_has_the_name_of_a_photo(tmp_path):
    """Exposures, refined poses and saved cameras are found by the names of views."""
    cameras = [(1, "EQUIRECTANGULAR", 80, 40, (80, 40)), (2, "PINHOLE", 40, 30, (35, 35, 20, 15))]
    model = write_colmap(tmp_path, cameras, num_images=0)
    write_images(model, [("a.png", 1, (1, 0, 0, 0), (0, 0, 0)), ("a_up.png", 2, (1, 0, 0, 0), (1, 0, 0))])
    write_photo(tmp_path / "images/a.png", 80, 40)
    write_photo(tmp_path / "images/a_up.png", 40, 30)
    views = {camera.name: camera for camera in load_scene(tmp_path, eval=False).train}
    assert len(views) == 7
    assert [views[f"a_{name}.png"].width for name in ("front", "up", "_up")] == [20, 40, 20]


def test_faces_of_a_panorama_stay_together(tmp_path):
    """All six are training or test views, with the photo's mask, resized by their own width."""
    write_colmap(tmp_path, [(1, "EQUIRECTANGULAR", 80, 40, (80, 40))], num_images=9)
    mask = np.zeros((40, 80), np.uint8)
    mask[:, 20:60] = 255  # the front half
    for i in range(9):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"masks/{i:03}.png")
    scene = load_scene(tmp_path, resolution=2)
    assert len(scene.train) == 7 * 6 and {camera.name[:3] for camera in scene.test} == {"000", "008"}
    assert (scene.train[0].width, scene.train[0].fx) == (10, 5)
    front, _, back = (camera.photo.mask() for camera in scene.train[:3])
    assert (front is None or front.all()) and not back.any()


def test_zero_distortion_changes_no_pixel(tmp_path):
    """A model with coefficients of zero is a pinhole: pixels are untouched and nothing is masked."""
    write_colmap(tmp_path, cameras=[(1, "OPENCV", 40, 30, (35, 36, 20, 15, 0, 0, 0, 0))], num_images=2)
    camera = load_scene(tmp_path).train[0]
    expected = np.asarray(Image.open(tmp_path / "images" / camera.name)).transpose(2, 0, 1)
    assert np.array_equal(camera.photo.pixels(), expected) and camera.photo.mask() is None
    assert camera.fx == 35 and camera.cx == 20


def test_pixels_are_rgb_uint8_and_decoded_once(tmp_path):
    """Values are those on disk, in the order RGB, and stay when the file is gone."""
    write_colmap(tmp_path, num_images=2)
    photo = load_scene(tmp_path).train[0].photo
    expected = np.asarray(Image.open(photo.path)).transpose(2, 0, 1).copy()
    first = photo.pixels()
    photo.path.unlink()
    assert first.dtype == torch.uint8 and first.is_contiguous() and np.array_equal(first, expected)
    assert photo.pixels() is first and photo.mask() is None


def test_resizing_averages_areas(tmp_path):
    """Halving gives the mean of each 2x2 block, which keeps brightness and does not alias."""
    write_colmap(tmp_path, num_images=2)
    photo = load_scene(tmp_path, resolution=2).train[0].photo
    full = np.asarray(Image.open(photo.path)).astype(float)
    blocks = full.reshape(15, 2, 20, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(photo.pixels().numpy() - blocks).max() <= 0.75  # worst measured: 0.5, the rounding to integers


@pytest.mark.parametrize("name", ["{0}.png.png", "{0}.png"])
@pytest.mark.parametrize("reduced", [False, True])
def test_masks_folder(tmp_path, name, reduced):
    """masks/NAME.png or masks/STEM.png: what is not zero counts; also for reduced photos under whole masks."""
    write_colmap(tmp_path, num_images=2)
    mask = np.zeros((30, 40), np.uint8)
    mask[:, :20] = 1
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / name.format("001"))
    if reduced:
        for i in range(2):
            write_photo(tmp_path / "images_2" / f"{i:03}.png", 20, 15)
    scene = load_scene(tmp_path, images="images_2" if reduced else "images")
    counts = scene.train[0].photo.mask()
    assert counts.dtype == torch.bool and counts.shape == scene.train[0].photo.pixels().shape[1:]
    middle = counts.shape[1] // 2
    assert counts[:, :middle].all() and not counts[:, middle:].any()
    assert scene.test[0].photo.mask() is None  # 000 has no mask


def test_alpha_is_a_mask(tmp_path):
    """In photos with an alpha channel more than half opacity counts, and the colours stay as they are."""
    write_colmap(tmp_path, num_images=2)
    rgba = write_photo(tmp_path / "images/001.png", mode="RGBA", seed=5)
    photo = load_scene(tmp_path).train[0].photo
    assert np.array_equal(photo.mask(), rgba[..., 3] > 127)
    assert np.array_equal(photo.pixels(), rgba[..., :3].transpose(2, 0, 1))


def test_alpha_and_masks_folder_both_count(tmp_path):
    """A pixel counts where both the alpha channel and the mask say so."""
    write_colmap(tmp_path, num_images=2)
    rgba = write_photo(tmp_path / "images/001.png", mode="RGBA")
    mask = write_photo(tmp_path / "masks/001.png", mode="L", seed=3) // 128
    Image.fromarray(mask).save(tmp_path / "masks/001.png")
    assert np.array_equal(load_scene(tmp_path).train[0].photo.mask(), (rgba[..., 3] > 127) & (mask > 0))


def test_blender_photos_are_composited(tmp_path):
    """Blender's transparent pixels take the background's colour, whatever it is, and all pixels count."""
    write_transforms(tmp_path, "transforms_train.json", num_frames=1)
    rgba = write_photo(tmp_path / "images/000.png", mode="RGBA").astype(float)
    alpha = rgba[..., 3:] / 255
    photo = load_scene(tmp_path).train[0].photo
    for background in ((0, 0, 0), (1, 1, 1), (0.2, 0.55, 0.9)):
        expected = (rgba[..., :3] * alpha + 255 * np.array(background) * (1 - alpha)).transpose(2, 0, 1)
        pixels = photo.planes().over(torch.tensor(background, dtype=torch.float32))
        assert pixels.dtype == torch.uint8
        # Worst measured: 0.5 over black and white, 0.996 over others: colour and background are rounded one by one.
        assert np.abs(pixels.numpy() - expected).max() <= (0.501 if len(set(background)) == 1 else 1.0)
    assert photo.mask() is None


def test_grey_palette_and_16_bit_photos(tmp_path):
    """Other kinds of pictures become RGB with the brightness they mean."""
    grey = np.arange(40 * 30, dtype=np.uint16).reshape(30, 40) * 50
    write_colmap(tmp_path, num_images=4)
    Image.fromarray(grey).save(tmp_path / "images/001.png")
    Image.fromarray((grey >> 8).astype(np.uint8), "L").save(tmp_path / "images/002.png")
    palette = Image.fromarray((grey >> 8).astype(np.uint8), "P")
    palette.putpalette([255 - i // 3 for i in range(768)])
    palette.save(tmp_path / "images/003.png")
    photos = [camera.photo.pixels().numpy() for camera in load_scene(tmp_path).train]
    for pixels, expected in zip(photos, (grey >> 8, grey >> 8, 255 - (grey >> 8)), strict=True):
        assert np.array_equal(pixels, np.repeat(expected[None], 3, 0))


def test_the_orientation_tag_is_ignored(tmp_path):
    """Poses refer to the pixels as they are stored, whichever way up a viewer would show them."""
    write_colmap(tmp_path, num_images=2)
    pixels = np.asarray(Image.open(tmp_path / "images/001.png")).copy()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "images/001.png", exif=exif)
    camera = load_scene(tmp_path).train[0]
    assert (camera.width, camera.height) == (40, 30)
    assert np.array_equal(camera.photo.pixels(), pixels.transpose(2, 0, 1))


def test_threads_decode_each_photo_once(tmp_path, monkeypatch):
    """However many threads ask, a photo is decoded once."""
    write_colmap(tmp_path, num_images=9)
    scene = load_scene(tmp_path)
    decoded = _watch_decoding(monkeypatch)
    decoding = Decoding(scene, CPU, tmp_path)
    askers = [threading.Thread(target=camera.photo.pixels) for camera in scene.train for _ in range(4)]
    for thread in askers:
        thread.start()
    for thread in askers:
        thread.join()
    decoding.finish()
    assert sorted(decoded) == sorted(camera.name for camera in scene.train + scene.test)


def test_photos_are_decoded_before_they_are_used(tmp_path, monkeypatch):
    """Background threads decode all photos, the test photos too, and say when they have."""
    write_colmap(tmp_path, num_images=9)
    scene = load_scene(tmp_path)
    decoded = _watch_decoding(monkeypatch)
    decoding = Decoding(scene, CPU, tmp_path)
    deadline = time.monotonic() + 20
    while not decoding.is_over and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(decoded) == sorted(camera.name for camera in scene.train + scene.test)
    decoding.finish()
    assert scene.photos.num_bytes == 9 * 3 * 30 * 40, "bytes of all photos"
    assert decoding.is_over


def test_a_broken_photo_ends_the_decoding_and_is_named(tmp_path):
    """The error of a background thread is not lost, and photos before it are usable."""
    write_colmap(tmp_path, num_images=9)
    scene = load_scene(tmp_path)
    broken = scene.train[2].photo
    broken.path.write_bytes(broken.path.read_bytes()[:500])
    with closing(Decoding(scene, CPU, tmp_path)) as decoding:
        with pytest.raises(InputError, match=broken.path.name):
            decoding.finish()
        assert decoding.is_over
    with pytest.raises(InputError, match=broken.path.name):
        broken.pixels()
    assert scene.train[-1].photo.pixels().shape == (3, 30, 40)


def _watch_decoding(monkeypatch) -> list[str]:
    decoded, original = [], Photo.decode

    def decode(self):
        decoded.append(self.path.name)
        return original(self)

    monkeypatch.setattr(Photo, "decode", decode)
    return decoded
