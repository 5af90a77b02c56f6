"""Ground-truth photos: decoded when they are used, undistorted, resized, uint8; ``scene.photo_cache`` keeps them.

The orientation tag is ignored, as structure from motion ignores it: poses refer to the stored pixels. Only where the
size of the camera says otherwise, ``load_scene`` has the photo turned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from compact_splats.scene.lens import Lens, undistortion
from compact_splats.scene.photo_cache import PhotoCache, Planes
from compact_splats.utils.errors import InputError
from compact_splats.utils.pictures import UPRIGHT, in_proportion, mask_values, open_picture, rgb_and_alpha, turned

_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe")


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo and its mask. Thread-safe.

    Attributes:
        path: the photo.
        lens: intrinsics, at the size of the file. Distortion is removed: the result has ``lens.pinhole()``.
        size: (width, height) px to resize to.
        mask_path: optional picture; its dark pixels are left out of the loss.
        composite: an alpha channel is composited over the background; otherwise it is a mask.
        orientation: the tag by which the stored pixels are turned; 1: not at all.
        is_cut: the file lacks its end.
        cache: keeps what is decoded.
        larger: the photo that this one is made from; None: the file.
    """

    path: Path
    lens: Lens
    size: tuple[int, int]
    mask_path: Path | None = None
    composite: bool = False
    orientation: int = UPRIGHT
    is_cut: bool = False
    cache: PhotoCache = field(default_factory=PhotoCache, repr=False)
    larger: Photo | None = field(default=None, repr=False)

    def planes(self) -> Planes:
        """What is kept of the photo.

        Raises:
            InputError: the photo or its mask can't be decoded, or the photo has another size than ``lens``.
        """
        return self.cache.planes(self)

    @property
    def is_costly(self) -> bool:
        """Whether the result is better read from a disk than decoded again: of all but a JPEG of the wanted size."""
        is_plain = self._is_jpeg and self.lens.is_pinhole and self.size == (self.lens.width, self.lens.height)
        return self.larger is None and not is_plain

    @property
    def num_bytes(self) -> int:
        """Size in memory; before the photo is decoded, an upper bound where it may have alpha."""
        may_have_alpha = not self._is_jpeg
        has_mask = self.mask_path is not None or not self.lens.is_pinhole or (may_have_alpha and not self.composite)
        width, height = self.size
        return width * height * (3 + has_mask + (may_have_alpha and self.composite))

    @property
    def _is_jpeg(self) -> bool:
        """By its name, as this is no promise."""
        return self.path.suffix.lower() in _JPEG_SUFFIXES

    def pixels(self) -> Tensor:
        """(3,H,W) uint8 RGB; over black, if alpha is composited.

        Raises:
            InputError: as for ``planes``.
        """
        return self.planes().rgb

    def mask(self) -> Tensor | None:
        """(H,W) bool, True where the pixel counts in the loss; None if all do.

        Raises:
            InputError: as for ``planes``.
        """
        return self.planes().mask

    def smaller(self, width: int, height: int) -> Photo:
        """The same photo at another size; a pixel counts where most of its area does."""
        return replace(self, size=(width, height), larger=self)

    def decode(self) -> Planes:
        """What :meth:`planes` keeps, made anew.

        Raises:
            InputError: as for :meth:`planes`.
        """
        if self.larger is not None:
            return _smaller(self.cache.larger_planes(self.larger), self.size)
        rgb, alpha = _read_photo(self.path, self.orientation)
        if rgb.shape[:2] != (self.lens.height, self.lens.width):
            raise InputError(
                f"photo {self.path} changed while the scene was loaded: it is {rgb.shape[1]}x{rgb.shape[0]} px, not "
                f"{self.lens.width}x{self.lens.height} px; load it again"
            )
        weight = None if self.mask_path is None else _read_mask(self.mask_path, rgb.shape[:2], self.orientation)
        if not self.composite:
            weight, alpha = _combine(alpha, weight), None
        elif alpha is not None:
            rgb, alpha = (_premultiplied(rgb, alpha), alpha) if alpha.min() < 255 else (rgb, None)
        if not self.lens.is_pinhole:
            rgb, alpha, weight = _undistort(rgb, alpha, weight, self.lens)
        return _resized(rgb, alpha, weight, self.size)


def _read_photo(path: Path, orientation: int = UPRIGHT) -> tuple[np.ndarray, np.ndarray | None]:
    """(H,W,3) uint8 RGB and, if the file has alpha, (H,W) uint8 alpha."""
    with open_picture(path) as picture:
        return rgb_and_alpha(picture if orientation == UPRIGHT else turned(picture, orientation))


def _read_mask(path: Path, shape: tuple[int, int], orientation: int = UPRIGHT) -> np.ndarray:
    """(H,W) uint8 of 0 and 255, resized to the photo's ``shape`` (H,W); turned as the photo is, if only that fits."""
    with open_picture(path) as picture:
        if orientation != UPRIGHT and not in_proportion(picture.size, shape[::-1]):
            picture = turned(picture, orientation)
        mask = mask_values(picture)
    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST)


def _premultiplied(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The photo over black. Resizing must not mix in the colours of transparent pixels, which mean nothing."""
    return np.rint(rgb * (alpha[..., None].astype(np.float32) / 255)).astype(np.uint8)


def _combine(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """The minimum of two weights; None is 255 everywhere."""
    if a is None or b is None:
        return b if a is None else a
    return np.minimum(a, b)


def _undistort(
    rgb: np.ndarray, alpha: np.ndarray | None, weight: np.ndarray | None, lens: Lens
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    maps = undistortion(lens)

    def moved(pixels: np.ndarray) -> np.ndarray:
        return cv2.remap(pixels, maps.map_xy, maps.map_fraction, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    valid = None if maps.valid.all() else np.where(maps.valid, 255, 0).astype(np.uint8)
    weight = _combine(None if weight is None else moved(weight), valid)
    return moved(rgb), None if alpha is None else moved(alpha), weight


def _smaller(planes: Planes, size: tuple[int, int]) -> Planes:
    rgb, alpha, mask = planes
    weight = None if mask is None else mask.numpy().astype(np.uint8) * 255
    pixels = np.ascontiguousarray(rgb.permute(1, 2, 0).numpy())
    return _resized(pixels, None if alpha is None else alpha.numpy(), weight, size)


def _resized(rgb: np.ndarray, alpha: np.ndarray | None, weight: np.ndarray | None, size: tuple[int, int]) -> Planes:
    """A pixel counts where there is no weight, or where most of its area counts."""
    rgb, counts = _resize(rgb, size), None if weight is None else torch.from_numpy(_resize(weight, size) > 127)
    if alpha is not None:
        alpha = _resize(alpha, size)
        rgb = np.minimum(rgb, alpha[..., None])  # both are rounded, and the photo over white stays below 256
    channels = np.empty((3, *rgb.shape[:2]), np.uint8)
    cv2.split(rgb, list(channels))  # into them, in a fifth of the time of numpy
    return Planes(
        torch.from_numpy(channels),
        None if alpha is None else torch.from_numpy(alpha),
        counts,
    )


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    shrinks = size[0] < pixels.shape[1]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
