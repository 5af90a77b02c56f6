"""Colour profiles of photos: which conversion to sRGB a photo needs, if any.

In this order: the codes of a PNG (cICP), HEIF or AVIF (nclx), an ICC profile, the sRGB chunk of a PNG, its gAMA and
cHRM, the Exif tags of Adobe RGB. A photo without any of them is sRGB.
"""

import io
import struct
from collections.abc import Callable
from functools import lru_cache, partial
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

from compact_splats.utils.colours import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    BT709,
    CHROMATICITIES,
    HLG,
    PQ,
    UNKNOWN,
    chromaticities_to_srgb,
    is_srgb,
    to_srgb,
)
from compact_splats.utils.errors import note

_SRGB_GAMMA, _TOLERANCE = 0.45455, 0.005  # of a PNG's gAMA, and of its chromaticities
_BASE_MODES = {
    "RGB ": ("RGB", "RGBA", "RGBX", "P", "PA", "L", "LA", "1"), "GRAY": ("L", "LA", "1"), "CMYK": ("CMYK",),
    "Lab ": ("LAB",),
}  # fmt: skip
_CODES_START = 1 << 16  # bytes of a file in which its codes are looked for
_noted: set[bytes] = set()  # profiles of which the user was told

Conversion = Callable[[Image.Image], np.ndarray]


def conversion_to_srgb(picture: Image.Image) -> Conversion | None:
    """A function from a picture of this kind to (H,W,3) uint8 sRGB without alpha; None: its values are sRGB.

    A profile that can't be used is a note, once per profile, and no error.

    Args:
        picture: as :func:`compact_splats.utils.pictures.open_picture` opens it, or turned.
    """
    info = picture.info
    codes, profile = info.get("codes"), info.get("icc_profile")
    if codes and (codes[0] not in UNKNOWN or codes[1] in (PQ, HLG)):
        return None if is_srgb(*codes) else partial(_by_codes, *codes)
    if profile:
        mode, conversion = _by_profile(profile, picture.mode)
        if isinstance(conversion, str):
            if profile not in _noted:
                _noted.add(profile)
                path = info.get("path", "a photo")
                note(f"the colour profile of {path} can't be used ({conversion}); its colours are taken as sRGB")
            return None
        return None if conversion is None else partial(_transformed, mode, conversion)
    if "srgb" in info:
        return None
    if "gamma" in info:
        return _by_gamma(info["gamma"], info.get("chromaticity"))
    return partial(_by_chromaticities, ADOBE_RGB, ADOBE_GAMMA) if _is_adobe_rgb(picture) else None


def read_codes(picture: Image.Image, file: BinaryIO) -> tuple[int, int] | None:
    """The codes of primaries and transfer function (H.273) of a PNG, HEIF or AVIF; None if it has none."""
    if "nclx_profile" in picture.info:
        nclx = picture.info["nclx_profile"]
        return int(nclx["color_primaries"]), int(nclx["transfer_characteristics"])
    if picture.format == "PNG":
        start = file.read(_CODES_START)
        before = start[: start.find(b"IDAT")]
        place = before.find(struct.pack(">I", 4) + b"cICP") + 8
        return (before[place], before[place + 1]) if 8 <= place < len(before) - 1 else None
    if picture.format == "AVIF":
        start = file.read(_CODES_START)
        place = start.find(b"colrnclx") + 8
        return struct.unpack(">HH", start[place : place + 4]) if 8 <= place < len(start) - 4 else None
    return None


@lru_cache(maxsize=32)  # photos of a capture have the same profile, which takes a while to set up
def _by_profile(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform | None | str]:
    """The mode to convert a picture to, and the transform; None: the profile is sRGB; text: why it can't be used."""
    base = "RGB"
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space
        if mode not in _BASE_MODES.get(space, ()):
            return base, f"it is for {space.strip()} and the pixels are {mode}"
        base = _BASE_MODES[space][0]
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if base == "L":  # whose optimized transform is off by up to 10 levels
            flags |= ImageCms.Flags.NOOPTIMIZE
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, base, "RGB", intent, flags)
    except Exception as error:  # a profile is untrusted, and LittleCMS raises many kinds
        return base, " ".join(str(error).split()) or type(error).__name__
    if base not in ("RGB", "L"):
        return base, transform
    levels = np.linspace(0, 255, 9 if base == "RGB" else 256).round().astype(np.uint8)
    axes = [levels] * (3 if base == "RGB" else 1)
    colours = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, len(axes))
    sample = Image.fromarray(colours if base == "RGB" else colours[..., 0])
    changed = np.asarray(ImageCms.applyTransform(sample, transform)).astype(int) - colours
    return base, None if np.abs(changed).max() <= 1 else transform


def _transformed(mode: str, transform: ImageCms.ImageCmsTransform, picture: Image.Image) -> np.ndarray:
    base = picture if picture.mode == mode else picture.convert(mode)
    return np.asarray(ImageCms.applyTransform(base, transform))


def _by_codes(primaries: int, transfer: int, picture: Image.Image) -> np.ndarray:
    return to_srgb(_values(picture), primaries, transfer)


def _by_chromaticities(chromaticities: tuple[float, ...], gamma: float, picture: Image.Image) -> np.ndarray:
    return chromaticities_to_srgb(_values(picture), chromaticities, gamma)


def _by_gamma(gamma: float, chromaticities: tuple[float, ...] | None) -> Conversion | None:
    """Of a PNG: ``gamma`` is the exponent from light to values."""
    usual = CHROMATICITIES[BT709]
    given = chromaticities or usual
    is_usual = np.allclose(given, usual, rtol=0, atol=_TOLERANCE)
    if not 0.1 < gamma < 10 or min(given[1::2]) <= 0 and not is_usual:
        note(f"a PNG's gamma {gamma} or primaries {given} are impossible; its colours are taken as sRGB")
        return None
    if abs(gamma - _SRGB_GAMMA) < _TOLERANCE and is_usual:
        return None
    return partial(_by_chromaticities, usual if is_usual else given, 1 / gamma)


def _is_adobe_rgb(picture: Image.Image) -> bool:
    """By the Exif tags of cameras: "Optional File R03" of DCF."""
    exif = picture.getexif()
    space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
    return space == 2 or space == 0xFFFF and exif.get_ifd(ExifTags.IFD.Interop).get(1, "").startswith("R03")


def _values(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(np.uint16) * 257
