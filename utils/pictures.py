"""Pictures of strangers: opened only in formats of photos, and only if their headers ask for what a photo needs.

Pixels are made by whoever opens them, once the header has been believed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import Image

from utils.errors import InputError

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
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture for the length of the block; whatever goes wrong in it means that the picture is broken.

    Args:
        path: a file in one of the usual formats of photos.

    Yields:
        The picture, not decoded yet, of at most ``MAX_PIXELS``.

    Raises:
        InputError: as for ``picture_size``, or because it can't be decoded.
    """
    with _opened(path, _PICTURE, _FIX) as picture:
        if picture.format in ("JPEG", "MPO"):
            _check_scans(path)
        yield picture


@contextmanager
def _opened(path: Path, expected: str, fix: str) -> Iterator[Image.Image]:
    if not os.path.isfile(path):  # a pipe may never end
        raise InputError(path, expected, "something else" if os.path.exists(path) else "nothing", fix)
    try:
        with Image.open(path, formats=_formats()) as picture:
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
