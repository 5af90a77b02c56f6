"""Rendered images as 8-bit pictures."""

from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from utils.files import atomic_write


def to_uint8(image: Tensor) -> Tensor:
    """Clamp an image to [0, 1] and round it to 8 bits.

    Args:
        image: float, any shape.

    Returns:
        uint8, same shape and device; a value halfway goes to the even neighbour.
    """
    return (image.clamp(0, 1) * 255).round().byte()


def write_png(path: Path, pixels: Tensor) -> None:
    """Write (3,H,W) uint8 RGB as a PNG.

    Raises:
        InputError: the file can't be written.
    """
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(pixels.cpu().permute(1, 2, 0).flip(-1).numpy()))
    assert encoded, f"OpenCV can't encode {tuple(pixels.shape)} {pixels.dtype}"
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.tobytes())
