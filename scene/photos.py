"""Ground-truth photos: decoded on first use, undistorted, resized, and kept as uint8.

The orientation tag is ignored, as structure from motion ignores it: poses refer to the stored pixels.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from compact_splats.scene.lens import Lens, undistortion
from compact_splats.utils.errors import InputError
from compact_splats.utils.pictures import mask_values, open_picture, rgb_and_alpha


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo and its mask, decoded on first use and then kept. Thread-safe.

    Attributes:
        path: the photo.
        lens: intrinsics, at the size of the file. Distortion is removed: the result has ``lens.pinhole()``.
        size: (width, height) px to resize to.
        mask_path: optional picture; its zero pixels are left out of the loss.
        background: (0-255 grey) to composite an alpha channel on; None: the alpha channel is a mask.
    """

    path: Path
    lens: Lens
    size: tuple[int, int]
    mask_path: Path | None = None
    background: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _decoded: list[tuple[Tensor, Tensor | None]] = field(default_factory=list, repr=False)

    def pixels(self) -> Tensor:
        """(3,H,W) uint8 RGB.

        Raises:
            InputError: the photo or its mask can't be decoded, or the photo has another size than ``lens``.
        """
        return self._get()[0]

    def mask(self) -> Tensor | None:
        """(H,W) bool, True where the pixel counts in the loss; None if all do.

        Raises:
            InputError: as for ``pixels``.
        """
        return self._get()[1]

    def smaller(self, width: int, height: int) -> Photo:
        """The same photo at another size, decoded; a pixel counts where most of its area does."""
        rgb, mask = self._get()
        weight = None if mask is None else mask.numpy().astype(np.uint8) * 255
        decoded = _resized(np.ascontiguousarray(rgb.permute(1, 2, 0).numpy()), weight, (width, height))
        return replace(self, size=(width, height), _lock=threading.Lock(), _decoded=[decoded])

    def pin_memory(self) -> None:
        """Move the decoded photo to page-locked memory, for asynchronous copies to a GPU.

        Raises:
            InputError: as for ``pixels``.
        """
        rgb, mask = self._get()
        pinned = rgb.pin_memory(), None if mask is None else mask.pin_memory()
        with self._lock:
            self._decoded[0] = pinned

    def _get(self) -> tuple[Tensor, Tensor | None]:
        with self._lock:
            if not self._decoded:
                self._decoded.append(self._decode())
            return self._decoded[0]

    def _decode(self) -> tuple[Tensor, Tensor | None]:
        rgb, alpha = _read_photo(self.path)
        if rgb.shape[:2] != (self.lens.height, self.lens.width):
            raise InputError(
                f"photo {self.path} changed while the scene was loaded: it is {rgb.shape[1]}x{rgb.shape[0]} px, not "
                f"{self.lens.width}x{self.lens.height} px; load it again"
            )
        if alpha is not None and self.background is not None:
            rgb, alpha = _composite(rgb, alpha, self.background), None
        weight = _combine(alpha, None if self.mask_path is None else _read_mask(self.mask_path, rgb.shape[:2]))
        if not self.lens.is_pinhole:
            rgb, weight = _undistort(rgb, weight, self.lens)
        return _resized(rgb, weight, self.size)


def _read_photo(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(H,W,3) uint8 RGB and, if the file has alpha, (H,W) uint8 alpha."""
    with open_picture(path) as picture:
        return rgb_and_alpha(picture)


def _read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """(H,W) uint8 of 0 and 255, resized to the photo's ``shape`` (H,W)."""
    with open_picture(path) as picture:
        mask = mask_values(picture)
    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST)


def _composite(rgb: np.ndarray, alpha: np.ndarray, background: int) -> np.ndarray:
    opacity = alpha[..., None].astype(np.float32) / 255
    return np.rint(rgb * opacity + background * (1 - opacity)).astype(np.uint8)


def _combine(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """The minimum of two weights; None is 255 everywhere."""
    if a is None or b is None:
        return b if a is None else a
    return np.minimum(a, b)


def _undistort(rgb: np.ndarray, weight: np.ndarray | None, lens: Lens) -> tuple[np.ndarray, np.ndarray | None]:
    maps = undistortion(lens)
    rgb = cv2.remap(rgb, maps.map_xy, maps.map_fraction, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if weight is not None:
        weight = cv2.remap(weight, maps.map_xy, maps.map_fraction, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    valid = None if maps.valid.all() else np.where(maps.valid, 255, 0).astype(np.uint8)
    return rgb, _combine(weight, valid)


def _resized(rgb: np.ndarray, weight: np.ndarray | None, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """(3,H,W) uint8 and, where there is a weight, (H,W) bool, true where most of a pixel's area counts."""
    counts = None if weight is None else torch.from_numpy(_resize(weight, size) > 127)
    return torch.from_numpy(np.ascontiguousarray(_resize(rgb, size).transpose(2, 0, 1))), counts


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    shrinks = size[0] < pixels.shape[1]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
