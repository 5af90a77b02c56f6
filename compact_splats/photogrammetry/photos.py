"""Prepares the photos of a folder for COLMAP: upright, in a format that it reads, with safe names.

The originals are not modified. A photo that can't be read is left out and reported. Subfolders are kept.
"""

import os
import re
import shutil
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from compact_splats.photogrammetry.panoramas import faces, is_panorama
from compact_splats.photogrammetry.scene_folder import OUTPUTS, REPORT
from compact_splats.photogrammetry.stages import Stages
from compact_splats.scene.lens import FACES
from compact_splats.scene.names import is_picture
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
from compact_splats.utils.profiles import conversion_to_srgb

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
        panorama: folder of the face of a panorama; empty: it is a usual photo.
    """

    name: str
    source: str
    lens: Hashable
    has_mask: bool = False
    panorama: str = ""


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


def find_photos(folder: Path, at_least: int = 2) -> list[str]:
    """Names of the photos in a folder and its subfolders, in natural order ("img_9" before "img_10").

    Args:
        folder: where to look; hidden files and folders, and the output of convert.py, are skipped.
        at_least: number of photos.

    Raises:
        InputError: the folder does not exist, or contains fewer photos.
    """
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
    if len(names) < at_least:
        other = f" and files of type {' '.join(sorted(others))}" if any(others) else ""
        needed = "1 photo is" if at_least == 1 else f"{at_least} photos are"
        raise InputError(
            f"{folder} contains {len(names) or 'no'} photo{'s' * (len(names) != 1)}{other}, but at least {needed} "
            "needed; name the folder of the photos, or the video itself; export RAW photos as JPEG first"
        )
    return sorted(names, key=natural)


def prepare_photos(
    folder: Path,
    names: Sequence[str],
    mask_of: Mapping[str, Path],
    work: Path,
    stages: Stages,
    threads: int,
    prefix: str = "",
) -> InputPhotos:
    """Prepare the photos of a folder. Panoramas are cut into the faces of a cube.

    Args:
        folder: of the originals.
        names: of the photos in it.
        mask_of: masks by ``prefix`` and name, in the photos' proportions, zero where pixels are ignored; upright or,
            if only that fits, in the orientation of the stored pixels. An alpha channel is a mask, too.
        work: folder for the results.
        stages: shows the progress.
        threads: number of decoding threads.
        prefix: of the names in the result.

    Raises:
        InputError: a mask can't be read.
    """
    out = InputPhotos(work / "photos", work / "masks", (), {})
    targets = safe_names(names)

    def prepare(name: str) -> list[InputPhoto] | InputError:
        return _prepare(folder / name, prefix, name, targets[name], mask_of.get(prefix + name), out)

    with ThreadPoolExecutor(threads) as pool:
        results = list(stages.each("reading", _map(pool, prepare, names), len(names)))
    broken = {
        prefix + name: str(result)
        for name, result in zip(names, results, strict=True)
        if isinstance(result, InputError)
    }
    photos = [result for result in results if isinstance(result, list)]
    panoramas = sum(len(each) > 1 for each in photos)
    if panoramas:
        stages.note(
            f"{panoramas} of {len(names)} photos in {folder} are panoramas; each is cut into {len(FACES)} faces"
        )
    return InputPhotos(out.folder, out.masks, tuple(photo for each in photos for photo in each), broken)


def _map(pool: ThreadPoolExecutor, function, items: Sequence[str]) -> Iterator:
    """``pool.map`` that cancels waiting items when the caller stops early."""
    futures = [pool.submit(function, item) for item in items]
    try:
        yield from (future.result() for future in futures)
    finally:
        for future in futures:
            future.cancel()


def safe_names(names: Sequence[str]) -> dict[str, str]:
    """Unique names without suffix that COLMAP's lists and all file systems accept.

    Letters of any script, digits, "+", "-" and "." stay; all other characters become "_".
    """
    safe: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        path = PurePosixPath(name)
        parts = [re.sub(r"[^\w.+-]", "_", part.encode(errors="replace").decode()) for part in path.parts]
        parts = [part.encode()[:_MAX_NAME_BYTES].decode(errors="ignore") for part in parts]
        stem = parts[-1].removesuffix(path.suffix)
        # IMG_1.png beside IMG_1.jpg, or names that differed in other characters
        safe[name] = unused_name("/".join([*parts[:-1], stem]), taken)
    return safe


def unused_name(base: str, taken: set[str]) -> str:
    """A name with a number behind it if it is among ``taken``, to which it is added; case makes no difference."""
    name, number = base, 2
    while name.casefold() in taken:
        name, number = f"{base}_{number}", number + 1
    taken.add(name.casefold())
    return name


def natural(name: str) -> tuple:
    """Sort key by which numbers in names sort by value."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _prepare(
    path: Path, prefix: str, name: str, target: str, mask_path: Path | None, out: InputPhotos
) -> list[InputPhoto] | InputError:
    """Write a photo or the faces of a panorama, and masks. Returns a photo's error, raises that of a broken mask."""
    try:
        with open_picture(path) as picture:
            orientation = orientation_of(picture)
            kind, lens, exif = picture.format, _lens(picture), picture.info.get("exif")
            upright = ImageOps.exif_transpose(picture)
            is_cut = is_panorama(upright)
            rgb, alpha = rgb_and_alpha(upright)
            is_usual = picture.mode in ("RGB", "L") and alpha is None and "completed" not in picture.info
            can_copy = kind in _COPIED and is_usual and orientation == UPRIGHT and conversion_to_srgb(picture) is None
            exif = upright.info.get("exif", exif) if orientation != UPRIGHT else exif
    except InputError as error:
        return error
    suffix = ".png" if kind in _LOSSLESS else ".jpg"
    size = rgb.shape[1], rgb.shape[0]
    mask = combined_masks(alpha, None if mask_path is None else _read_mask(mask_path, size, orientation))
    if is_cut:
        return write_faces(out, prefix, f"{target}{suffix}", f"{prefix}{name}", rgb, mask)
    photo = InputPhoto(f"{prefix}{target}{suffix}", f"{prefix}{name}", (prefix, size, lens), mask is not None)
    if can_copy:
        copy = out.folder / photo.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    write_photo(out, photo, None if can_copy else rgb, mask, exif)
    return [photo]


def write_faces(
    out: InputPhotos, prefix: str, name: str, source: str, rgb: np.ndarray, mask: np.ndarray | None
) -> list[InputPhoto]:
    """Write the faces of a panorama, and their masks, as FOLDER/FACE/NAME with one FOLDER for each size.

    Args:
        out: the folders.
        prefix: of the names.
        name: of each face, with suffix.
        source: the user's name.
        rgb: (H,W,3) uint8, W = 2 H.
        mask: (H,W) uint8.
    """
    photos = []
    for face, pixels, counts in faces(rgb, mask):
        side, counts = len(pixels), combined_masks(counts)
        folder = f"{prefix}panorama_{side}"
        lens = (folder, face)
        photos.append(InputPhoto(f"{folder}/{face}/{name}", f"{source} ({face})", lens, counts is not None, folder))
        write_photo(out, photos[-1], pixels, counts)
    return photos


def write_photo(
    out: InputPhotos, photo: InputPhoto, rgb: np.ndarray | None, mask: np.ndarray | None, exif: bytes | None = None
) -> None:
    """Write a photo and its mask.

    Args:
        out: the folders.
        photo: its name.
        rgb: (H,W,3) uint8; None: it is written already.
        mask: (H,W) uint8.
        exif: tags, from which COLMAP takes the focal length.
    """
    path = out.folder / photo.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if rgb is not None and path.suffix == ".png":
        Image.fromarray(rgb).save(path, compress_level=1)
    elif rgb is not None:
        Image.fromarray(rgb).save(path, quality=JPEG_QUALITY, subsampling=0, exif=exif or b"")
    if mask is not None:
        mask_file = out.masks / f"{photo.name}.png"
        mask_file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(mask_file)


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


def combined_masks(*parts: np.ndarray | None) -> np.ndarray | None:
    """(H,W) uint8 of 0 and 255, the minimum of alpha channels and masks; None if all pixels count."""
    given = [np.where(part >= _MIN_ALPHA, 255, 0).astype(np.uint8) for part in parts if part is not None]
    both = np.minimum.reduce(given) if given else None
    return None if both is None or both.all() else both
