"""Untrusted photos and masks: opened only in photo formats, and only if their headers are plausible.

Headers are checked before pixels are decoded. Orientation tags are left to the caller.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from compact_splats.utils.errors import InputError

MAX_PIXELS = 1 << 28  # width x height; more than cameras have
# Up to here a few bytes may encode all pixels, as in masks of one colour. A larger photo needs more bytes.
_SMALL_PIXELS = 1 << 26
_PIXELS_PER_BYTE = 256
# Photos have at most a few dozen scans, but each scan of a JPEG decodes all pixels again. The marker also occurs by
# chance, once in 2^16 bytes.
_MIN_SCAN_LIMIT = 100
_BYTES_PER_SCAN = 1 << 13
_START_OF_SCAN = b"\xff\xda"

# Formats with the size before the pixels. EPS and WMF, which run other programs, are excluded.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_FIX = "replace the file or take it out of the scene"

Image.MAX_IMAGE_PIXELS = None  # Pillow's limit is lower than what cameras have; _check_size replaces it


def picture_size(path: Path, fix: str = _FIX) -> tuple[int, int]:
    """(width, height) px, from the header.

    Args:
        path: a photo, mask or render.
        fix: what the user can do, for the message.

    Raises:
        InputError: the file is not a picture, or its header claims far more pixels than a file of its size has.
    """
    with _opened(path, fix=fix) as picture:
        return picture.size


@contextmanager
def open_picture(path: Path, more_formats: tuple[str, ...] = ()) -> Iterator[Image.Image]:
    """Open a picture. Any exception in the block counts as a broken picture.

    Args:
        path: a photo or mask.
        more_formats: further formats by Pillow's names; the caller has registered their plugins.

    Yields:
        The picture, not decoded yet, of at most ``MAX_PIXELS``.

    Raises:
        InputError: as for ``picture_size``, or the picture can't be decoded.
    """
    with _opened(path, more_formats) as picture:
        if picture.format in ("JPEG", "MPO"):
            _check_scans(path)
        yield picture


def rgb_and_alpha(picture: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """(H,W,3) uint8 RGB and, if the picture has alpha, (H,W) uint8 alpha."""
    if picture.mode.startswith("I;16"):  # 16-bit grey, which Pillow would clip instead of scaling
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        rgba = np.asarray(picture.convert("RGBA"))
        return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    return np.asarray(picture.convert("RGB")), None


def mask_values(picture: Image.Image) -> np.ndarray:
    """(H,W) uint8: 255 where any channel except alpha is not zero, else 0."""
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGB")  # palette indices are not colours
    pixels = np.asarray(picture)
    colours = pixels if pixels.ndim == 2 else pixels[..., : 1 if pixels.shape[2] == 2 else 3].any(axis=2)
    return np.where(colours, 255, 0).astype(np.uint8)


def find_mask(masks: Path, name: str) -> Path | None:
    """The mask of a photo in a folder of masks: ``NAME.jpg.png``, ``NAME.png`` or ``NAME.jpg``; None if missing."""
    photo = masks / name
    candidates = (photo.with_name(photo.name + ".png"), photo.with_suffix(".png"), photo)
    return next((path for path in candidates if os.path.isfile(path)), None)


@contextmanager
def _opened(path: Path, more_formats: tuple[str, ...] = (), fix: str = _FIX) -> Iterator[Image.Image]:
    if not os.path.isfile(path):  # a pipe may never end
        raise InputError(f"picture {path} {'is not a file' if os.path.exists(path) else 'does not exist'}; {fix}")
    try:
        with Image.open(path, formats=(*_formats(), *more_formats)) as picture:
            _check_size(path, picture.width, picture.height, fix)
            yield picture
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise many kinds on broken files
        raise InputError(path, "a picture", f"'{error}'", fix) from error


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(path: Path, width: int, height: int, fix: str) -> None:
    num_bytes = os.path.getsize(path)
    limit = min(MAX_PIXELS, max(_SMALL_PIXELS, num_bytes * _PIXELS_PER_BYTE))
    if width * height > limit:
        expected = f"a picture of at most {limit:,} pixels in {num_bytes:,} bytes"
        raise InputError(path, expected, f"{width} x {height}", fix)


def _check_scans(path: Path) -> None:
    content = path.read_bytes()
    limit, scans = _MIN_SCAN_LIMIT + len(content) // _BYTES_PER_SCAN, content.count(_START_OF_SCAN)
    if scans > limit:
        raise InputError(path, f"a JPEG of at most {limit} scans in {len(content):,} bytes", f"{scans}", _FIX)
