"""Prepares the photos of a folder for COLMAP: upright, in a format that it reads, with safe names.

The originals are not modified. A photo that can't be read is left out and reported. Subfolders are kept.
"""

import os
import re
import shutil
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from compact_splats.photogrammetry.scene_folder import OUTPUTS, REPORT
from compact_splats.photogrammetry.stages import Stages
from compact_splats.scene.masks import find_masks
from compact_splats.scene.names import is_picture, walk
from compact_splats.utils.errors import InputError
from compact_splats.utils.pictures import (
    UPRIGHT,
    in_proportion,
    mask_values,
    open_picture,
    orientation_of,
    rgb_and_alpha,
    turned,
)

JPEG_QUALITY = 98  # of photos that can't be copied unchanged
_COPIED = ("JPEG", "PNG")  # formats that are copied unchanged, if the photo is upright and RGB or grey
_LOSSLESS = ("PNG", "TIFF", "BMP", "PPM")
_MAX_NAME_BYTES = 180  # leaves room for suffixes
_MIN_ALPHA = 128  # as for the loss of train.py


@dataclass(frozen=True)
class InputPhoto:
    """A photo for COLMAP.

    Attributes:
        name: path below ``InputPhotos.folder``, and in the scene, with "/".
        source: the user's name.
        lens: equal for photos with the same size, camera and zoom.
        has_mask: whether ``name``.png is in ``InputPhotos.masks``.
    """

    name: str
    source: str
    lens: Hashable
    has_mask: bool = False


@dataclass(frozen=True)
class InputPhotos:
    """The input of structure from motion.

    Attributes:
        folder: of the photos.
        masks: folder of masks, zero where pixels are ignored.
        photos: in the order of their names.
        unreadable: error messages of the photos that are left out, by the user's names.
    """

    folder: Path
    masks: Path
    photos: tuple[InputPhoto, ...]
    unreadable: dict[str, str]


def find_photos(folder: Path, only: frozenset[str] | None = None) -> list[str]:
    """Names of the photos in a folder and its subfolders, in natural order ("img_9" before "img_10").

    Args:
        folder: where to look; hidden files and folders, and the output of convert.py, are skipped.
        only: names of photos in the folder itself; None: all photos.

    Raises:
        InputError: the folder does not exist, contains fewer than two photos, or one of ``only`` is no photo in it.
    """
    if only is not None:
        for name in sorted(only):
            if not (folder / name).is_file() or not is_picture(name):
                what = "is no photo" if (folder / name).exists() else "does not exist"
                raise InputError(f"{folder / name} {what}; give one folder, one video, or photos of one folder")
        return sorted(only, key=_natural)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; name a folder of photos or a video")
    names, others = [], set()
    for parent, folders, files in os.walk(folder):
        made_here = OUTPUTS if REPORT in files else ()
        folders[:] = [name for name in folders if not name.startswith(".") and name not in made_here]
        for name in files:
            if not is_picture(name):
                others.add(Path(name).suffix.lower())
            elif not name.startswith("."):
                names.append(Path(parent, name).relative_to(folder).as_posix())
    if len(names) < 2:
        other = f" and files of type {' '.join(sorted(others))}" if any(others) else ""
        raise InputError(
            f"{folder} contains {len(names) or 'no'} photo{'s' * (len(names) != 1)}{other}, but at least 2 photos are "
            "needed; name the folder of the photos, or the video itself; export RAW photos as JPEG first"
        )
    return sorted(names, key=_natural)


def prepare_photos(
    folder: Path, names: list[str], masks: Path | None, work: Path, stages: Stages, threads: int
) -> InputPhotos:
    """Prepare the photos of a folder.

    Args:
        folder: of the originals.
        names: of the photos in it.
        masks: folder of masks in the photos' proportions, zero where pixels are ignored; upright or, if only that
            fits, in the orientation of the stored pixels. An alpha channel is a mask, too.
        work: folder for the results.
        stages: shows the progress.
        threads: number of decoding threads.

    Raises:
        InputError: fewer than two photos can be read, or a mask can't be read.
    """
    mask_of = {} if masks is None else find_masks(names, walk(masks, is_picture), masks)
    if masks is not None and not mask_of:
        raise InputError(
            f"{masks} contains no mask of these photos; name masks like the photos, IMG_1.jpg.png, IMG_1.png or "
            "IMG_1_mask.png for IMG_1.jpg"
        )
    out = InputPhotos(work / "photos", work / "masks", (), {})
    targets = safe_names(names)

    def prepare(name: str) -> InputPhoto | InputError:
        return _prepare(folder, name, targets[name], mask_of.get(name), out)

    with ThreadPoolExecutor(threads) as pool:
        results = list(stages.each("reading", _map(pool, prepare, names), len(names)))
    broken = {name: str(result) for name, result in zip(names, results, strict=True) if isinstance(result, InputError)}
    photos = tuple(result for result in results if isinstance(result, InputPhoto))
    if len(photos) < 2:
        raise InputError(
            f"only {len(photos)} of {len(names)} photos in {folder} can be read, but at least 2 are needed; replace "
            f"the others, such as {next(iter(broken))}"
        )
    return InputPhotos(out.folder, out.masks, photos, broken)


def _map(pool: ThreadPoolExecutor, function, items: list[str]) -> Iterator:
    """``pool.map`` that cancels waiting items when the caller stops early."""
    futures = [pool.submit(function, item) for item in items]
    try:
        yield from (future.result() for future in futures)
    finally:
        for future in futures:
            future.cancel()


def safe_names(names: list[str]) -> dict[str, str]:
    """Unique names without suffix that COLMAP's lists and all file systems accept.

    Letters of any script, digits, "+", "-" and "." stay; all other characters become "_".
    """
    safe, taken = {}, set()
    for name in names:
        path = PurePosixPath(name)
        parts = [re.sub(r"[^\w.+-]", "_", part.encode(errors="replace").decode()) for part in path.parts]
        parts = [part.encode()[:_MAX_NAME_BYTES].decode(errors="ignore") for part in parts]
        stem = parts[-1].removesuffix(path.suffix)
        base = "/".join([*parts[:-1], stem])
        unique, number = base, 2
        while unique.casefold() in taken:  # IMG_1.png beside IMG_1.jpg, or names that differed in other characters
            unique, number = f"{base}_{number}", number + 1
        taken.add(unique.casefold())
        safe[name] = unique
    return safe


def _natural(name: str) -> tuple:
    """Sort key by which numbers in names sort by value."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _prepare(folder: Path, name: str, target: str, mask_path: Path | None, out: InputPhotos) -> InputPhoto | InputError:
    """Write a photo and its mask. Returns the error of a broken photo, raises that of a broken mask."""
    try:
        with open_picture(folder / name) as picture:
            orientation = orientation_of(picture)
            kind, lens, exif = picture.format, _lens(picture), picture.info.get("exif")
            upright = ImageOps.exif_transpose(picture)
            rgb, alpha = rgb_and_alpha(upright)
            is_usual = picture.mode in ("RGB", "L") and alpha is None and "completed" not in picture.info
            can_copy = kind in _COPIED and is_usual and orientation == UPRIGHT
            exif = upright.info.get("exif", exif) if orientation != UPRIGHT else exif
    except InputError as error:
        return error
    suffix = ".png" if kind in _LOSSLESS else ".jpg"
    path = out.folder / f"{target}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if can_copy:
        shutil.copyfile(folder / name, path)
    elif suffix == ".png":
        Image.fromarray(rgb).save(path, compress_level=1)
    else:
        write_jpeg(path, rgb, exif)
    size = rgb.shape[1], rgb.shape[0]
    mask = _combined(alpha, None if mask_path is None else _read_mask(mask_path, size, orientation))
    if mask is not None:
        mask_file = out.masks / f"{target}{suffix}.png"
        mask_file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(mask_file)
    return InputPhoto(f"{target}{suffix}", name, (size, lens), mask is not None)


def write_jpeg(path: Path, rgb: np.ndarray, exif: bytes | None = None) -> None:
    """Write a JPEG of high quality.

    Args:
        path: the file.
        rgb: (H,W,3) uint8.
        exif: tags, from which COLMAP takes the focal length.
    """
    Image.fromarray(rgb).save(path, quality=JPEG_QUALITY, subsampling=0, exif=exif or b"")


def _lens(picture: Image.Image) -> Hashable:
    """Camera and zoom from the EXIF tags."""
    exif = picture.getexif()
    tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    wanted = ("Make", "Model", "LensModel", "FocalLength", "FocalLengthIn35mmFilm")
    return tuple(str(tags.get(ExifTags.Base[name], "")) for name in wanted)


def _read_mask(path: Path, size: tuple[int, int], orientation: int) -> np.ndarray:
    """(H,W) uint8 of 0 and 255, resized to the upright photo."""
    with open_picture(path) as picture:
        if not in_proportion(picture.size, size):
            picture = turned(picture, orientation)
        mask = mask_values(picture)
    if not in_proportion(mask.shape[::-1], size):
        raise InputError(
            f"mask {path} is {mask.shape[1]}x{mask.shape[0]} px, its photo {size[0]}x{size[1]} px: make the mask again "
            "in the proportions of the photo"
        )
    return cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)


def _combined(alpha: np.ndarray | None, mask: np.ndarray | None) -> np.ndarray | None:
    """(H,W) uint8 of 0 and 255, the minimum of alpha and mask; None if all pixels count."""
    given = [np.where(part >= _MIN_ALPHA, 255, 0).astype(np.uint8) for part in (alpha, mask) if part is not None]
    both = np.minimum.reduce(given) if given else None
    return None if both is None or both.all() else both
