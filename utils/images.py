"""8-bit images, colour maps, and writing of PNG files."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from compact_splats.utils.files import atomic_write


def to_uint8(image: Tensor) -> Tensor:
    """Clamp an image to [0, 1] and round it to 8 bits.

    Args:
        image: float, any shape.

    Returns:
        uint8, same shape and device; halves are rounded to even.
    """
    return (image.clamp(0, 1) * 255).round().byte()


def pixels_of(image: Tensor) -> np.ndarray:
    """(3,H,W) uint8 as a numpy array (H,W,3)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def in_colours(shades: Tensor, is_shown: Tensor) -> Tensor:
    """Apply the Turbo colour map, from dark blue over green to red.

    Args:
        shades: (H,W) float in [0, 1].
        is_shown: (H,W) bool; the rest is black.

    Returns:
        (3,H,W) uint8 RGB on the CPU.
    """
    colours = cv2.applyColorMap(to_uint8(shades).cpu().numpy(), cv2.COLORMAP_TURBO)
    return torch.from_numpy(colours).flip(-1).permute(2, 0, 1) * is_shown.cpu()


def write_png(path: Path, pixels: Tensor) -> None:
    """Write (3,H,W) uint8 RGB, (4,H,W) uint8 RGBA, or (H,W) int32 from 0 to 65535 as 16-bit grey.

    Raises:
        InputError: the file can't be written.
    """
    values = pixels.cpu().numpy()
    values = values.astype(np.uint16) if values.ndim == 2 else values[[2, 1, 0, 3][: len(values)]].transpose(1, 2, 0)
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(values))
    assert encoded, f"OpenCV can't encode {tuple(pixels.shape)} {pixels.dtype}"
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.tobytes())
