"""Photos of a folder, made ready for COLMAP: upright, in a format that it reads, under names that it can handle.

Originals are only read. A photo that can't be read is left out and named; photos in folders below keep their folder.
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
import pillow_heif
from PIL import ExifTags, Image, ImageOps

from compact_splats.photogrammetry.stages import Stages
from compact_splats.photogrammetry.workplace import OUTPUTS, REPORT
from compact_splats.scene.pictures import find_mask, mask_values, open_picture, rgb_and_alpha
from compact_splats.utils.errors import InputError

pillow_heif.register_heif_opener()

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .png .heic .heif .hif .tif .tiff .webp .bmp .avif .jp2 .ppm .mpo".split()
)  # of photos; what is in a file is told by its content
JPEG_QUALITY = 98  # of what is written for COLMAP alone, where it can't have the file as it is
_AS_IT_IS = ("JPEG", "PNG")  # formats that are copied byte by byte, if the photo lies right in them
_LOSSLESS = ("PNG", "TIFF", "BMP", "PPM")
_LONGEST_NAME = 180  # bytes, as suffixes may be added
_MASK_PROPORTIONS = 0.02  # relative difference up to which a mask has those of its photo
_UPRIGHT = 1  # of the orientation tag
_MIN_ALPHA = 128  # as for the loss of train.py


@dataclass(frozen=True)
class ReadyPhoto:
    """A photo that COLMAP can read.

    Attributes:
        name: path in the folder of ready photos, and in the scene, with "/".
        source: the name by which the user knows it.
        lens: photos with the same value were taken with the same lens, as far as their files tell.
        has_mask: whether ``name``.png is in the folder of masks.
    """

    name: str
    source: str
    lens: Hashable
    has_mask: bool = False


@dataclass(frozen=True)
class Ready:
    """What there is to reconstruct from.

    Attributes:
        folder: of the ready photos.
        masks: folder of masks, zero where nothing is to be seen; only of photos that have one.
        photos: in the order in which they were taken, if names tell that.
        unreadable: what is wrong with those that are left out, by name.
    """

    folder: Path
    masks: Path
    photos: tuple[ReadyPhoto, ...]
    unreadable: dict[str, str]


def find_photos(folder: Path) -> list[str]:
    """Names of the photos in a folder and below, relative to it; "img_9" comes before "img_10".

    Args:
        folder: where to look; what is hidden in it is passed over, and so is what convert.py has made there.

    Raises:
        InputError: there is no such folder, or less than two photos are in it.
    """
    if not folder.is_dir():
        raise InputError(folder, "a folder of photos or a video", "nothing", "check the path")
    names, others = [], set()
    for parent, folders, files in os.walk(folder):
        made_here = OUTPUTS if REPORT in files else ()
        folders[:] = [name for name in folders if not name.startswith(".") and name not in made_here]
        for name in files:
            if Path(name).suffix.lower() not in SUFFIXES:
                others.add(Path(name).suffix.lower())
            elif not name.startswith("."):
                names.append(Path(parent, name).relative_to(folder).as_posix())
    if len(names) < 2:
        beside = f", beside files of type {' '.join(sorted(others))}" if any(others) else ""
        fix = "name the folder that they are in, or the video itself; RAW photos have to be exported as JPEG first"
        raise InputError(folder, "two photos or more", f"{len(names) or 'none'}{beside}", fix)
    return sorted(names, key=_natural)


def ready_photos(folder: Path, names: list[str], masks: Path | None, work: Path, stages: Stages, threads: int) -> Ready:
    """Make the photos of a folder ready.

    Args:
        folder: of the originals.
        names: of the photos in it.
        masks: folder of masks in the photos' proportions, zero where nothing is to be seen; upright, or as the photo
            lies in its file where only that fits. An alpha channel is a mask, too.
        work: where folders are made for them.
        stages: that shows the progress.
        threads: that decode.

    Raises:
        InputError: less than two photos can be read, or a mask can't be.
    """
    if masks is not None and not any(find_mask(masks, name) for name in names):
        fix = "name them like the photos, IMG_1.jpg.png or IMG_1.png for IMG_1.jpg"
        raise InputError(masks, "masks of the photos", "none", fix)
    ready = Ready(work / "photos", work / "masks", (), {})
    targets = safe_names(names)

    def prepare(name: str) -> ReadyPhoto | InputError:
        mask = None if masks is None else find_mask(masks, name)
        return _prepare(folder, name, targets[name], mask, ready)

    with ThreadPoolExecutor(threads) as pool:
        results = list(stages.each("reading", _map(pool, prepare, names), len(names)))
    broken = {name: str(result) for name, result in zip(names, results, strict=True) if isinstance(result, InputError)}
    photos = tuple(result for result in results if isinstance(result, ReadyPhoto))
    if len(photos) < 2:
        fix = f"replace the others, such as {next(iter(broken))}"
        raise InputError(folder, "two photos or more that can be read", f"{len(photos)} of {len(names)}", fix)
    return Ready(ready.folder, ready.masks, photos, broken)


def _map(pool: ThreadPoolExecutor, function, items: list[str]) -> Iterator:
    """``pool.map``, but what has not begun is dropped when nobody wants the results any more."""
    futures = [pool.submit(function, item) for item in items]
    try:
        yield from (future.result() for future in futures)
    finally:
        for future in futures:
            future.cancel()


def safe_names(names: list[str]) -> dict[str, str]:
    """A name for each photo that COLMAP's lists and any file system can hold, without its suffix; all differ.

    Letters of any script and digits stay; what may separate words, steer a terminal or lead out of a folder goes.
    """
    safe, taken = {}, set()
    for name in names:
        path = PurePosixPath(name)
        parts = [re.sub(r"[^\w.+-]", "_", part.encode(errors="replace").decode()) for part in path.parts]
        parts = [part.encode()[:_LONGEST_NAME].decode(errors="ignore") for part in parts]
        stem = parts[-1].removesuffix(path.suffix)
        base = "/".join([*parts[:-1], stem])
        unique, number = base, 2
        while unique.casefold() in taken:  # IMG_1.png beside IMG_1.jpg, or what only looks the same now
            unique, number = f"{base}_{number}", number + 1
        taken.add(unique.casefold())
        safe[name] = unique
    return safe


def _natural(name: str) -> tuple:
    """Sorts numbers in names by value."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _prepare(folder: Path, name: str, target: str, mask_path: Path | None, ready: Ready) -> ReadyPhoto | InputError:
    """Write a ready photo and its mask; the error if the photo, not the mask, is broken."""
    try:
        with open_picture(folder / name, ("HEIF",)) as picture:
            orientation = picture.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
            kind, lens, exif = picture.format, _lens(picture), picture.info.get("exif")
            upright = ImageOps.exif_transpose(picture)
            rgb, alpha = rgb_and_alpha(upright)
            is_right = kind in _AS_IT_IS and picture.mode in ("RGB", "L") and orientation == _UPRIGHT and alpha is None
            exif = upright.info.get("exif", exif) if orientation != _UPRIGHT else exif
    except InputError as error:
        return error
    suffix = ".png" if kind in _LOSSLESS else ".jpg"
    path = ready.folder / f"{target}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_right:
        shutil.copyfile(folder / name, path)
    elif suffix == ".png":
        Image.fromarray(rgb).save(path, compress_level=1)
    else:
        write_jpeg(path, rgb, exif)
    size = rgb.shape[1], rgb.shape[0]
    mask = _combined(alpha, None if mask_path is None else _read_mask(mask_path, size, orientation))
    if mask is not None:
        mask_file = ready.masks / f"{target}{suffix}.png"
        mask_file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(mask_file)
    return ReadyPhoto(f"{target}{suffix}", name, (size, lens), mask is not None)


def write_jpeg(path: Path, rgb: np.ndarray, exif: bytes | None = None) -> None:
    """Write (H,W,3) uint8 as a JPEG that looks the same.

    Args:
        path: of the file.
        rgb: the pixels.
        exif: tags, from which COLMAP takes the focal length.
    """
    Image.fromarray(rgb).save(path, quality=JPEG_QUALITY, subsampling=0, **({"exif": exif} if exif else {}))


def _lens(picture: Image.Image) -> Hashable:
    """What a photo's tags say about its camera and zoom."""
    exif = picture.getexif()
    tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    wanted = ("Make", "Model", "LensModel", "FocalLength", "FocalLengthIn35mmFilm")
    return tuple(str(tags.get(ExifTags.Base[name], "")) for name in wanted)


def _read_mask(path: Path, size: tuple[int, int], orientation: int) -> np.ndarray:
    """(H,W) uint8 of 0 and 255, brought to the size of the upright photo."""
    with open_picture(path) as picture:
        if not _fits(picture.size, size):
            picture.getexif()[ExifTags.Base.Orientation] = orientation
            picture = ImageOps.exif_transpose(picture)
        mask = mask_values(picture)
    if not _fits(mask.shape[::-1], size):
        found = f"{mask.shape[1]}x{mask.shape[0]}"
        raise InputError(path, f"the proportions of its photo, {size[0]}x{size[1]} px", found, "make it for this photo")
    return cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)


def _fits(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    return abs(size[0] * wanted[1] / (size[1] * wanted[0]) - 1) < _MASK_PROPORTIONS


def _combined(alpha: np.ndarray | None, mask: np.ndarray | None) -> np.ndarray | None:
    """(H,W) uint8 of 0 and 255, zero where one of both says so; None where neither leaves anything out."""
    given = [np.where(part >= _MIN_ALPHA, 255, 0).astype(np.uint8) for part in (alpha, mask) if part is not None]
    both = np.minimum.reduce(given) if given else None
    return None if both is None or both.all() else both
