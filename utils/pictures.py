"""Untrusted photos and masks: opened only in photo formats, and only if their headers are plausible.

Headers are checked before pixels are decoded. Orientation tags are left to the caller. Colours of photos are converted
to sRGB (:mod:`compact_splats.utils.profiles`), masks are not.
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from compact_splats.utils.errors import InputError
from compact_splats.utils.profiles import conversion_to_srgb, read_codes

MAX_PIXELS = 1 << 28  # width x height; more than cameras have
# Up to here a few bytes may encode all pixels, as in masks of one colour. A larger photo needs more bytes.
_SMALL_PIXELS = 1 << 26
_PIXELS_PER_BYTE = 256
# Photos have at most a few dozen scans, but each scan of a JPEG decodes all pixels again. The marker also occurs by
# chance, once in 2^16 bytes.
_MIN_SCAN_LIMIT = 100
_BYTES_PER_SCAN = 1 << 13
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
# Of the pixels of a JPEG without its end marker: more are missing where it was cut in earnest.
_MAX_MISSING = 0.01
_FILLINGS = (b"\x55", b"\xa6\x39")

PICTURE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .heic .heif .hif .tif .tiff .webp .bmp .gif .avif .jp2 .ppm .pgm .mpo".split()
)  # by which photos and masks are found; they are opened by content
UPRIGHT = 1  # of the orientation tag
# Of a mask: the share of grey pixels, of which soft edges are fewer; and the number of their values.
_MAX_GREY, _MAX_GREYS = 0.1, 16
_TOLERANCE = 0.02  # relative difference of proportions

# Formats with the size before the pixels. EPS and WMF, which run other programs, are excluded.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_FIX = "replace the file or take it out of the scene"

# Pictures that are not read, by their first bytes or suffix.
_OTHER_KINDS = {
    b"\xff\x0a": "a picture in JPEG XL",
    b"\0\0\0\x0cJXL ": "a picture in JPEG XL",
    b"\x76\x2f\x31\x01": "a picture in OpenEXR",
    b"#?R": "a picture in Radiance HDR",
    b"II*\0": "a TIFF that is broken or of a kind that is not read, such as of floats",
    b"MM\0*": "a TIFF that is broken or of a kind that is not read, such as of floats",
}
_RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".rw2", ".orf")

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
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture. Any exception in the block counts as a broken picture.

    Args:
        path: a photo or mask. A JPEG without its end marker is completed, if at most 1 % of its pixels are missing.

    Yields:
        The picture, not decoded yet, of at most ``MAX_PIXELS``; ``info["completed"]`` is set if the file was.

    Raises:
        InputError: as for ``picture_size``, or the picture can't be decoded.
    """
    with _opened(path) as picture:
        content = path.read_bytes() if picture.format in ("JPEG", "MPO") else b""
        if content:
            _check_scans(path, content)
        if content and content.rfind(_END_OF_IMAGE) < content.rfind(_START_OF_SCAN):
            with Image.open(io.BytesIO(_completed(path, content)), formats=("JPEG",)) as picture:
                picture.info |= {"completed": True, "path": str(path)}
                yield picture
        else:
            yield picture


def has_alpha(path: Path) -> bool:
    """Whether a picture has an alpha channel, from the header.

    Raises:
        InputError: as for :func:`picture_size`.
    """
    with _opened(path) as picture:
        return picture.has_transparency_data


def picture_orientation(path: Path, *, from_header: bool = False) -> int:
    """See :func:`orientation_of`; ``from_header``: upright for a PNG, which would have to be decoded.

    Raises:
        InputError: as for :func:`open_picture`.
    """
    with _opened(path) as picture:
        return UPRIGHT if from_header and picture.format == "PNG" else orientation_of(picture)


def lacks_end(path: Path) -> bool:
    """Whether a file is a JPEG without its end marker."""
    with open(path, "rb") as file:
        if file.read(3) != b"\xff\xd8\xff":
            return False
        file.seek(-2, os.SEEK_END)
        if file.read() == _END_OF_IMAGE:
            return False
    content = path.read_bytes()  # cameras may put more behind the marker
    return content.rfind(_END_OF_IMAGE) < content.rfind(_START_OF_SCAN)


def orientation_of(picture: Image.Image) -> int:
    """The orientation tag, 1 to 8: how the stored pixels must be turned to be upright."""
    tag = picture.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    return tag if tag in range(1, 9) else UPRIGHT


def turned(picture: Image.Image, orientation: int) -> Image.Image:
    """A picture turned as an orientation tag says, whatever its own tag is."""
    picture.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(picture)


def rgb_and_alpha(picture: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """(H,W,3) uint8 sRGB and, if the picture has alpha, (H,W) uint8 alpha."""
    if picture.mode.startswith("I;16"):  # 16-bit grey, which Pillow would clip instead of scaling
        grey = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        grey.info = picture.info
        picture = grey
    convert = conversion_to_srgb(picture)
    if picture.has_transparency_data:
        rgba = np.asarray(picture.convert("RGBA"))
        rgb = np.ascontiguousarray(rgba[..., :3]) if convert is None else convert(picture)
        return rgb, np.ascontiguousarray(rgba[..., 3])
    if convert is not None:
        return convert(picture), None
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB")), None  # a copy takes as long again


def mask_values(picture: Image.Image) -> np.ndarray:
    """(H,W) uint8: 255 where the brightest channel is at least half of white, else 0.

    White is 1 in pictures of zeros and ones, else 255, or 65535 in 16 bits. Where alpha varies, and the picture is of
    one colour or a photo that was cut out, alpha is the mask; else alpha is ignored.
    """
    brightness, white = _brightness(picture)
    return np.where(brightness >= white / 2, 255, 0).astype(np.uint8)


def is_no_mask(picture: Image.Image) -> bool:
    """Whether so many pixels of a mask are neither black nor white that it may be something else, such as a photo."""
    return _is_grey(*_brightness(picture))


def _is_grey(brightness: np.ndarray, white: int) -> bool:
    is_grey = (brightness > white / 8) & (brightness < white * 7 / 8)
    return bool(is_grey.mean() > _MAX_GREY and np.count_nonzero(np.bincount(brightness[is_grey])) > _MAX_GREYS)


def _brightness(picture: Image.Image) -> tuple[np.ndarray, int]:
    """(H,W) values of a mask, and what is white."""
    alpha = None
    if picture.has_transparency_data or picture.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
        rgba = np.asarray(picture.convert("RGBA"))
        colours, alpha = rgba[..., :3], rgba[..., 3]
    else:
        colours = np.asarray(picture)
    brightness = colours if colours.ndim == 2 else colours.max(axis=2)
    if alpha is not None and alpha.min() < alpha.max():
        if (colours == colours[0, 0]).all() or _is_grey(brightness[alpha > 127], 255):
            brightness = alpha
    highest = brightness.max()
    return brightness, 1 if highest <= 1 else 255 if highest <= 255 else 65535


def in_proportion(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Whether two sizes have the same proportions, to 2 %."""
    return abs(size[0] * wanted[1] / (size[1] * wanted[0]) - 1) < _TOLERANCE


@contextmanager
def _opened(path: Path, fix: str = _FIX) -> Iterator[Image.Image]:
    if not os.path.isfile(path):  # a pipe may never end
        raise InputError(f"picture {path} {'is not a file' if os.path.exists(path) else 'does not exist'}; {fix}")
    try:
        formats = _formats()
        if _may_be_heif(path):
            formats = (*formats, *_heif_formats(path))
        with Image.open(path, formats=formats) as picture:
            _check_size(path, picture.width, picture.height, fix)
            picture.info["path"] = str(path)
            with open(path, "rb") as file:
                picture.info["codes"] = read_codes(picture, file)
            yield picture
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InputError(path, f"a picture ({', '.join(_formats())})", _kind(path), fix) from error
    except Exception as error:  # Pillow's plugins raise many kinds on broken files
        raise InputError(path, "a picture", f"'{error}'", fix) from error


def _kind(path: Path) -> str:
    """What a file that is no picture of a known format is instead."""
    with open(path, "rb") as file:
        start = file.read(256)
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, which `git lfs pull` replaces by the file"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page, as of a download that failed"
    if path.suffix.lower() in _RAW_SUFFIXES:
        return "a raw photo, which the camera's program or darktable saves as JPEG or TIFF"
    kinds = (kind for mark, kind in _OTHER_KINDS.items() if start.startswith(mark))
    return next(kinds, f"a file that starts with {start[:8]!r}")


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _may_be_heif(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:11] not in (b"avi", b"avc")


@cache
def _register_heif() -> bool:
    """Whether Pillow reads HEIC; the package is imported only where a file needs it."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _heif_formats(path: Path) -> tuple[str, ...]:
    if not _register_heif():
        raise InputError(f"picture {path} is HEIC, which needs the package pillow-heif: install it with pip")
    return ("HEIF",)


def _check_size(path: Path, width: int, height: int, fix: str) -> None:
    num_bytes = os.path.getsize(path)
    limit = min(MAX_PIXELS, max(_SMALL_PIXELS, num_bytes * _PIXELS_PER_BYTE))
    if width * height > limit:
        expected = f"a picture of at most {limit:,} pixels in {num_bytes:,} bytes"
        raise InputError(path, expected, f"{width} x {height}", fix)


def _check_scans(path: Path, content: bytes) -> None:
    limit, scans = _MIN_SCAN_LIMIT + len(content) // _BYTES_PER_SCAN, content.count(_START_OF_SCAN)
    if scans > limit:
        raise InputError(path, f"a JPEG of at most {limit} scans in {len(content):,} bytes", f"{scans}", _FIX)


def _completed(path: Path, content: bytes) -> bytes:
    """A JPEG with its end marker. Pixels that are missing change with what is put before the marker.

    Raises:
        InputError: more than 1 % of the pixels are missing.
    """
    content = content.removesuffix(_END_OF_IMAGE[:1])
    # Two fillings: a decoder may happen to make of one what it makes of nothing.
    versions = (content + filling + _END_OF_IMAGE for filling in (b"", *(_filling(content, b) for b in _FILLINGS)))
    whole, *others = (np.asarray(Image.open(io.BytesIO(version), formats=("JPEG",))) for version in versions)
    if np.mean(np.any([whole != other for other in others], axis=0)) > _MAX_MISSING:
        raise InputError(path, "a whole JPEG", "one without its end", _FIX)
    return content + _END_OF_IMAGE


def _filling(content: bytes, pattern: bytes) -> bytes:
    """Twice the length of a JPEG, with restart markers that continue its own, without which decoders stop."""
    scan = content[content.rindex(_START_OF_SCAN) :]
    marks = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", scan)]
    length = 2 * max(np.diff([0, *marks, len(scan)])) if marks else len(content)
    following = scan[marks[-1] + 1] + 1 if marks else 0
    pieces = (
        pattern * (length // len(pattern) + 1) + bytes([0xFF, 0xD0 + (following + i) % 8])[: 2 * bool(marks)]
        for i in range(2 * len(content) // length + 1)
    )
    return b"".join(pieces)
