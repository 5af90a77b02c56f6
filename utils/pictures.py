"""Pictures of strangers: opened only in formats of photos, and only if their headers ask for what a photo needs.

Headers are judged before pixels are made. What orientation tags say is left to whoever opens the picture.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from compact_splats.utils.errors import InputError

MAX_PIXELS = 1 << 28  # width x height; cameras have up to 2^28, sensors of satellites aside
# Up to here a few bytes may stand for all pixels, as masks of one colour do. Beyond, a photo has more bytes than that.
_FEW_PIXELS = 1 << 26
_PIXELS_PER_BYTE = 256
# No photo has more than a few dozen scans of its coefficients, but every scan goes over all pixels again. What merely
# looks like the start of one comes once in 2^16 bytes by chance.
_FEW_SCANS = 100
_BYTES_PER_SCAN = 1 << 13
_START_OF_SCAN = b"\xff\xda"

# Each says its size before its pixels. Left out are those that start other programs (EPS, WMF) or are known by no sign.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_PICTURE = "a picture"
_FIX = "replace the file or take it out of the scene"

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit, below what cameras have today, and not known to whoever trains


def picture_size(path: Path, expected: str = _PICTURE, fix: str = _FIX) -> tuple[int, int]:
    """(width, height) px, from the header alone.

    Args:
        path: a file in one of the usual formats of photos.
        expected: what it has to be, for the message.
        fix: what the user can do where it isn't that.

    Raises:
        InputError: this is no picture, or one that asks for far more pixels than a file of its size has.
    """
    with _opened(path, expected, fix) as picture:
        return picture.size


@contextmanager
def open_picture(path: Path, more_formats: tuple[str, ...] = ()) -> Iterator[Image.Image]:
    """Open a picture for the length of the block; whatever goes wrong in it means that the picture is broken.

    Args:
        path: a file in one of the usual formats of photos.
        more_formats: formats besides, as Pillow names them; whoever names one has registered it.

    Yields:
        The picture, not decoded yet, of at most ``MAX_PIXELS``.

    Raises:
        InputError: as for ``picture_size``, or because it can't be decoded.
    """
    with _opened(path, _PICTURE, _FIX, more_formats) as picture:
        if picture.format in ("JPEG", "MPO"):
            _check_scans(path)
        yield picture


def rgb_and_alpha(picture: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """(H,W,3) uint8 RGB and, if the picture has one, (H,W) uint8 alpha."""
    if picture.mode.startswith("I;16"):  # 16-bit grey, which Pillow would clip instead of scaling
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        rgba = np.asarray(picture.convert("RGBA"))
        return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    return np.asarray(picture.convert("RGB")), None


def mask_values(picture: Image.Image) -> np.ndarray:
    """(H,W) uint8 of 0 and 255; any channel that is not zero counts, alpha aside."""
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGB")  # palette indices mean nothing
    pixels = np.asarray(picture)
    colours = pixels if pixels.ndim == 2 else pixels[..., : 1 if pixels.shape[2] == 2 else 3].any(axis=2)
    return np.where(colours, 255, 0).astype(np.uint8)


def find_mask(masks: Path, name: str) -> Path | None:
    """The mask of a photo in a folder of masks: ``NAME.jpg.png``, ``NAME.png`` or ``NAME.jpg``."""
    photo = masks / name
    candidates = (photo.with_name(photo.name + ".png"), photo.with_suffix(".png"), photo)
    return next((path for path in candidates if os.path.isfile(path)), None)


@contextmanager
def _opened(path: Path, expected: str, fix: str, more_formats: tuple[str, ...] = ()) -> Iterator[Image.Image]:
    if not os.path.isfile(path):  # a pipe may never end
        raise InputError(path, expected, "something else" if os.path.exists(path) else "nothing", fix)
    try:
        with Image.open(path, formats=(*_formats(), *more_formats)) as picture:
            _check_size(path, *picture.size)
            yield picture
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parsers trip over
        raise InputError(path, expected, f"'{error}'", fix) from error


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(path: Path, width: int, height: int) -> None:
    num_bytes = os.path.getsize(path)
    limit = min(MAX_PIXELS, max(_FEW_PIXELS, num_bytes * _PIXELS_PER_BYTE))
    if width * height > limit:
        raise InputError(
            path, f"a picture of at most {limit:,} pixels in {num_bytes:,} bytes", f"{width} x {height}", _FIX
        )


def _check_scans(path: Path) -> None:
    content = path.read_bytes()
    limit, scans = _FEW_SCANS + len(content) // _BYTES_PER_SCAN, content.count(_START_OF_SCAN)
    if scans > limit:
        raise InputError(path, f"a JPEG of at most {limit} scans in {len(content):,} bytes", f"{scans}", _FIX)
