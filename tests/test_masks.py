"""Masks: found by their names, what counts in them, what is said of them, and metrics where nothing counts."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scene_writers import write_colmap, write_photo, write_transforms

from compact_splats.commands import metrics
from compact_splats.gaussian_renderer.evaluation import evaluate, measure
from compact_splats.scene import load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.errors import InputError
from compact_splats.utils.pictures import is_no_mask, mask_values

HALF = np.zeros((30, 40), np.uint8)  # the left half counts
HALF[:, :20] = 255


def scene_with_masks(folder, masks: dict, num_images: int = 4):
    """A COLMAP scene with photos 000.png ... and masks by their path in the scene folder."""
    write_colmap(folder, num_images=num_images)
    for path, mask in masks.items():
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(mask).save(folder / path)
    return folder


def masked(scene) -> dict:
    """Names of the photos with masks: the mask."""
    cameras = scene.train + scene.test
    return {camera.name: camera.photo.mask().numpy() for camera in cameras if camera.photo.mask() is not None}


NAMES = [
    "000.png", "000.PNG", "000.jpg", "000.tiff", "000.png.png", "000.PNG.png", "000_mask.png", "000_Mask.jpg",
    "000.mask.png", "000-mask.png", "000_masks.png", "000.png.mask.png", "000.png_mask.png",
    "mask_000.png", "mask-000.jpg", "000.jpg.png", "000.JPG_mask.png",
]  # fmt: skip


@pytest.mark.parametrize("folder", ["masks", "mask", "Masks"])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_masks(tmp_path, name, folder, capsys):
    """Any suffix and case, with and without the photo's own suffix, and marked as a mask; one note counts them."""
    scene = load_scene(scene_with_masks(tmp_path, {f"{folder}/{name}": HALF}), eval=False)
    assert list(masked(scene)) == ["000.png"]
    assert np.mean(masked(scene)["000.png"] != (HALF > 0)) < 0.1  # JPEG blurs the border
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 4 photos have masks: 50 %" in line


@pytest.mark.parametrize(
    "name, is_mask", [(name, "mask" in name.lower() or name.lower().count(".") > 1) for name in NAMES]
)
def test_masks_beside_the_photos(tmp_path, name, is_mask):
    """Only what is marked as a mask, or has the photo's whole name in front, is one; 000.jpg may be another photo."""
    if name.lower() == "000.png":
        return
    scene = load_scene(scene_with_masks(tmp_path, {f"images/{name}": HALF}), eval=False)
    assert list(masked(scene)) == ["000.png"] * is_mask and len(scene.train) == 4


def test_a_mask_of_another_photo_is_no_substitute(tmp_path):
    """Of photos that differ in the suffix alone, each gets its own mask."""
    write_transforms(tmp_path, num_frames=2, frame=lambda i: {"file_path": f"images/a.{['png', 'tiff'][i]}"})
    for suffix in ("png", "tiff"):
        write_photo(tmp_path / f"images/a.{suffix}")
    (tmp_path / "masks").mkdir()
    Image.fromarray(HALF).save(tmp_path / "masks/a.tiff.png")
    assert list(masked(load_scene(tmp_path, eval=False))) == ["a.tiff"]


def test_masks_in_a_folder_of_the_same_name_as_the_photos(tmp_path):
    """COLMAP puts the mask of images/000.png into masks/images/."""
    assert list(masked(load_scene(scene_with_masks(tmp_path, {"masks/images/000.png.png": HALF})))) == ["000.png"]


def test_masks_of_photos_in_folders(tmp_path):
    """In folders like the photos', flat, or by the name alone where only one photo has it."""
    write_transforms(tmp_path, num_frames=3, frame=lambda i: {"file_path": f"images/{'aab'[i]}/{i}.png"})
    for i in range(3):
        write_photo(tmp_path / f"images/{'aab'[i]}/{i}.png")
    (tmp_path / "masks/a").mkdir(parents=True)
    for name in ("a/0.png", "a_1_mask.jpg", "2.png"):
        Image.fromarray(HALF).save(tmp_path / "masks" / name)
    assert len(masked(load_scene(tmp_path, eval=False))) == 3


@pytest.mark.parametrize(
    "photos, masks",
    [(["a.png"], ["a_mask.png", "a.mask.png"]), (["a.png"], ["a.jpg", "a.tiff"]), (["x/a.png", "y/a.png"], ["a.png"])],
)
def test_masks_that_fit_twice(tmp_path, photos, masks):
    """Two masks of a photo, or one of two: an error that names both."""
    write_transforms(tmp_path, num_frames=len(photos), frame=lambda i: {"file_path": f"images/{photos[i]}"})
    for name in photos:
        write_photo(tmp_path / "images" / name)
    (tmp_path / "masks").mkdir()
    for name in masks:
        Image.fromarray(HALF).save(tmp_path / "masks" / name)
    with pytest.raises(InputError) as error:
        load_scene(tmp_path, eval=False)
    assert all(each in str(error.value) for each in (masks if len(masks) == 2 else photos))


def test_a_folder_of_masks_of_other_photos_is_said(tmp_path, capsys):
    """Nothing is masked, and the note names a mask and a photo."""
    scene = load_scene(scene_with_masks(tmp_path, {"masks/IMG_7.png": HALF, "masks/IMG_8.png": HALF}), eval=False)
    assert not masked(scene)
    (line,) = capsys.readouterr().err.splitlines()
    assert "contains 2 files" in line and "IMG_7.png" in line and "000.png" in line


def rgba(colour: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([colour, colour, colour, alpha]).astype(np.uint8), "RGBA")


WHITE, NOISE = np.full_like(HALF, 255), np.random.default_rng(0).integers(0, 4, HALF.shape, dtype=np.uint8)
KINDS = {
    "black and white": Image.fromarray(HALF),
    "dark, not black": Image.fromarray(np.maximum(HALF, 3)),
    "bright, not white": Image.fromarray(np.minimum(HALF, 235)),
    "video range": Image.fromarray(np.where(HALF, 235, 16).astype(np.uint8)),
    "noise of a JPEG": Image.fromarray(np.where(HALF, 255 - NOISE, NOISE)),
    "zeros and ones": Image.fromarray(HALF // 255),
    "1 bit": Image.fromarray(HALF).convert("1"),
    "16 bits": Image.fromarray(HALF.astype(np.uint16) * 257),
    "16 bits, 0 to 255": Image.fromarray(HALF.astype(np.uint16)),
    "16 bits, zeros and ones": Image.fromarray((HALF // 255).astype(np.uint16)),
    "float": Image.fromarray(HALF.astype(np.float32) / 255),
    "red": Image.fromarray(np.dstack([HALF, HALF * 0, HALF * 0])),
    "palette": Image.fromarray(np.dstack([HALF, HALF, HALF])).quantize(2),
    "white, alpha is the mask": rgba(WHITE, HALF),
    "black, alpha is the mask": rgba(WHITE * 0, HALF),
    "white, soft alpha": rgba(WHITE, np.maximum(HALF, 100)),
    "colour is the mask, alpha full": rgba(HALF, WHITE),
    "colour is the mask, alpha varies": rgba(HALF, 255 - HALF),
    "grey with alpha": Image.fromarray(np.dstack([WHITE, HALF]), "LA"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_counts_in_a_mask(kind, tmp_path):
    """Half of white is the threshold; alpha is the mask where the colour says nothing. Through a file, too."""
    assert np.array_equal(mask_values(KINDS[kind]), HALF)
    suffix = "tiff" if KINDS[kind].mode == "F" else "png"
    scene_with_masks(tmp_path, {})
    (tmp_path / "masks").mkdir()
    KINDS[kind].save(tmp_path / f"masks/000.{suffix}")
    assert np.array_equal(masked(load_scene(tmp_path, eval=False))["000.png"], HALF > 0)


@pytest.mark.parametrize("kind", ["black", "noise of a JPEG"])
def test_masks_that_leave_nothing_are_an_error(tmp_path, kind):
    """Inverted or broken masks would train on nothing."""
    black = HALF * 0 if kind == "black" else NOISE
    folder = scene_with_masks(tmp_path, {f"masks/{i:03}.png": black for i in range(4)})
    with pytest.raises(InputError, match=r"000\.png masks all pixels, as all 4 masks do"):
        load_scene(folder, eval=False)


def test_one_black_mask_among_others_is_named(tmp_path, capsys):
    load_scene(scene_with_masks(tmp_path, {f"masks/{i:03}.png": HALF * (i != 2) for i in range(4)}))
    assert f"; 1 of 4 mask all pixels, such as {tmp_path}/masks/002.png" in capsys.readouterr().err


def test_transparent_photos_are_counted_and_wholly_transparent_ones_an_error(tmp_path, capsys):
    """An alpha channel that is a mask is said like a mask; where it is composited, it isn't one."""
    write_colmap(tmp_path, num_images=4)
    for i in range(4):
        rgba(HALF, HALF).save(tmp_path / f"images/{i:03}.png")
    load_scene(tmp_path)
    assert "4 of 4 photos have an alpha channel as mask: 50 %" in capsys.readouterr().err
    load_scene(tmp_path, alpha="composite")
    assert not capsys.readouterr().err
    for i in range(4):
        rgba(HALF, HALF * 0).save(tmp_path / f"images/{i:03}.png")
    with pytest.raises(InputError, match="masks all pixels"):
        load_scene(tmp_path)


def test_a_view_without_pixels_is_not_measured(tmp_path, capsys):
    """Its metrics are null, and means are those of the other views."""
    folder = scene_with_masks(tmp_path, {"masks/000.png": HALF * 0}, num_images=10)
    scene = load_scene(folder)
    assert f"1 of 1 mask all pixels, such as {folder}/masks/000.png" in capsys.readouterr().err
    model = GaussianModel.from_points(scene.points, 0, "cpu")
    empty, whole = scene.test
    assert evaluate([empty, whole], model) == evaluate([whole], model)
    assert evaluate([empty], model) == {"psnr": None, "ssim": None, "l1": None, "cc_psnr": None}
    scores = measure(scene, model, torch.zeros(3))
    assert np.isfinite(scores["test"]["psnr"])


def test_metrics_of_a_black_pair_are_null(tmp_path):
    """render.py makes masked pixels black: a pair without any other pixel shows nothing to compare."""
    for kind in ("renders", "gt"):
        write_photo(tmp_path / f"test/ours_1/{kind}/00000.png", seed=len(kind))
        Image.new("RGB", (40, 30)).save(tmp_path / f"test/ours_1/{kind}/00001.png")
    metrics.main(["-m", str(tmp_path)])
    views, means = (json.loads((tmp_path / name).read_text())["ours_1"] for name in ("per_view.json", "results.json"))
    for metric in ("PSNR", "SSIM"):
        assert views[metric]["00001.png"] is None and views[metric]["00000.png"] == means[metric] > 0


@pytest.mark.parametrize("folder", ["masks_2", "image_masks", "images_masks", "Segmentation", "images/masks"])
def test_other_folders_of_masks(tmp_path, folder):
    """Also in the photo folder, where a mask is no photo though only its name has the suffix that is looked for."""
    scene_with_masks(tmp_path, {f"{folder}/000.gif": HALF, f"{folder}/001.png": HALF})
    for photo in (tmp_path / "images").glob("*.png"):
        photo.rename(photo.with_suffix(".jpg"))  # opened by content
    scene = load_scene(tmp_path, eval=False)
    assert list(masked(scene)) == ["000.jpg", "001.jpg"] and len(scene.train) == 4


@pytest.mark.parametrize(
    "path, said",
    [
        ("dynamic_masks/000.png", "dynamic_masks is not used"),
        ("images/dynamic_mask_000.png", "invert them"),
        ("masks/000.npy", "contains 1 files, such as 000.npy"),
    ],
)
def test_masks_that_are_not_used_are_said(tmp_path, path, said, capsys):
    """Those that are white where the photo does not count, as instant-ngp's, and those that are no pictures."""
    write_colmap(tmp_path, num_images=2)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    with open(tmp_path / path, "wb") as file:
        Image.fromarray(HALF).save(file, "PNG")
    assert not masked(load_scene(tmp_path, eval=False))
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_photo_as_mask(tmp_path, capsys):
    """Of a cut-out the alpha is the mask; a photo without alpha is used by its brightness, with a note."""
    photo = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    masks = {"masks/000.png": np.dstack([photo, HALF]), "masks/001.png": np.dstack([photo, HALF])}
    scene = load_scene(scene_with_masks(tmp_path, masks), eval=False)
    assert all((mask == (HALF > 0)).all() for mask in masked(scene).values())
    assert "not black and white" not in capsys.readouterr().err
    Image.fromarray(photo).save(tmp_path / "masks/000.png")
    load_scene(tmp_path, eval=False)
    assert "not black and white" in capsys.readouterr().err


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["F", "I", "RGBA"])
def test_masks_of_unusual_numbers_are_measured(mode):
    """Floats, 32 bits, and alpha that varies below half: no error, and no warning."""
    values = np.random.default_rng(0).random((30, 40))
    pixels = {
        "F": (255 * values).astype(np.float32),
        "I": (2**31 * values).astype(np.int32),
        "RGBA": np.repeat((99 * values).astype(np.uint8)[..., None], 4, axis=2),
    }[mode]
    mask, share = Image.fromarray(pixels), {"F": 0.5, "I": 1, "RGBA": 0}[mode]
    assert np.mean(mask_values(mask) > 0) == pytest.approx(share, abs=0.05)
    assert is_no_mask(mask) == (mode != "I")
