"""360 degree photos: told by their tags, and cut into the faces of a cube, which COLMAP can take for usual photos."""

import re
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import ExifTags, Image

from compact_splats.scene.lens import FACES, panorama, undistortion
from compact_splats.utils.errors import InputError

_EQUIRECTANGULAR = re.compile(r"""ProjectionType\s*(?:=\s*["']|>)\s*equirectangular""", re.I)
_EXTENT = re.compile(
    r"""\b(CroppedArea|Full)(?:ImageWidth|PanoWidth|ImageHeight|PanoHeight)Pixels\s*(?:=\s*["']|>)\s*(\d+)"""
)
# Makers and models whose photos of exactly 2:1 are panoramas, also where a program has removed the XMP tags.
_CAMERAS = re.compile(
    "ricoh|theta|insta ?360|arashi|gear 360|gopro max|qoocam|kandao|osmo 360|360 ?(cam|fly)|vuze", re.I
)


def is_panorama(picture: Image.Image) -> bool:
    """Whether a photo is equirectangular and shows all directions, by its XMP and Exif tags.

    Raises:
        InputError: it shows only a part of the directions.
    """
    width, height = picture.size
    xmp = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp") or b""
    text = xmp.decode(errors="replace") if isinstance(xmp, bytes) else str(xmp)
    if _EQUIRECTANGULAR.search(text):
        sides: dict[str, list[int]] = {"CroppedArea": [], "Full": []}
        for kind, pixels in _EXTENT.findall(text):
            sides[kind].append(int(pixels))
        is_whole = sorted(sides["CroppedArea"]) == sorted(sides["Full"]) and width == 2 * height
        if not is_whole:
            raise InputError(
                f"photo {picture.info.get('path', '')} is a part of a panorama, which no lens can take; take single "
                "photos, or a panorama of 360 x 180 degrees"
            )
        return True
    exif = picture.getexif()
    camera = f"{exif.get(ExifTags.Base.Make, '')} {exif.get(ExifTags.Base.Model, '')}"
    return width == 2 * height and bool(_CAMERAS.search(camera))


def faces(rgb: np.ndarray, alpha: np.ndarray | None = None) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Name, pixels and alpha of each face of the cube around a panorama; sides of a quarter of its width.

    Args:
        rgb: (H,W,3) uint8, W = 2 H.
        alpha: (H,W) uint8.
    """
    height, width = rgb.shape[:2]
    for (name, _), lens in zip(FACES, panorama(width, height).faces(), strict=True):
        maps = undistortion(lens)

        def cut(pixels: np.ndarray, maps=maps) -> np.ndarray:
            return cv2.remap(pixels, maps.map_xy, maps.map_fraction, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

        yield name, cut(rgb), None if alpha is None else cut(alpha)
