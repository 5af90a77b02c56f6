"""What the formats share: files in and out, 8-bit opacities and colours, quaternions by their three smallest parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from scipy.special import expit, logit

from compact_splats.compression.arrays import Arrays, checked
from compact_splats.compression.container import FormatError
from compact_splats.compression.morton import MAX_BITS, morton_order
from compact_splats.scene.gaussian_model import SH_C0
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write, open_file

MAX_PART = 0.5**0.5  # no part of a unit quaternion but the largest can be larger


# ---- files ----


def write_file(path: str | Path, rows: Mapping[str, np.ndarray], pack: Callable[[Arrays], bytes]) -> None:
    """Pack a model and put it into place in one move.

    Args:
        path: the file.
        rows: arrays in the shapes of ``GaussianModel.parameters``.
        pack: makes the bytes; raises FormatError where the format cannot hold the model.

    Raises:
        InputError: no Gaussians, values that are not finite or beyond the format, or a file that cannot be written.
    """
    try:
        rows = checked(rows)
        if not len(rows["means"]):
            raise FormatError("at least one Gaussian to write", "none")
        data = pack(rows)
    except FormatError as error:
        raise InputError(path, error.expected, error.found, "repair the model or train it again") from error
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def read_file(path: str | Path, unpack: Callable[[bytes], Arrays]) -> Arrays:
    """Read a file as a model.

    Args:
        path: the file.
        unpack: makes rows of its bytes; raises FormatError where they are not what they have to be.

    Returns:
        Finite float32 arrays in the shapes of ``GaussianModel.parameters``.

    Raises:
        InputError: no such file, or not one of this format.
    """
    with open_file(path, "a file that can be read", "check the path") as file:
        data = file.read()
    try:
        return checked(unpack(data))
    except FormatError as error:
        fix = "save or download the model again, or convert it"
        raise InputError(path, _shown(error.expected), _shown(error.found), fix) from error


def _shown(text: str) -> str:
    """What of a file's own words goes to a terminal: no control characters, and not all of a large file."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text[:1000])
    return text if len(text) <= 120 else f"{text[:80]} ... {text[-30:]}"


# ---- order ----


def spatial_order(means: np.ndarray) -> np.ndarray:
    """The permutation (N,) that puts Gaussians along a Morton curve.

    Args:
        means: (N,3).
    """
    low = means.min(axis=0).astype(np.float64)
    extent = np.maximum(means.max(axis=0) - low, np.finfo(np.float64).tiny)
    return morton_order(((means - low) / extent * (2**MAX_BITS - 1)).astype(np.int64))


# ---- opacities and colours ----


def opacity_to_byte(logits: np.ndarray) -> np.ndarray:
    """The nearest of 256 opacities from 0 to 1, as uint8."""
    return to_byte(255 * expit(logits.astype(np.float64)))


def opacity_from_byte(stored: np.ndarray) -> np.ndarray:
    """Undo :func:`opacity_to_byte`; 0 and 255, which have no logit, become the middles of what is rounded to them."""
    return logit(np.clip(stored.astype(np.float64), 0.25, 254.75) / 255).astype(np.float32)


def dc_to_color(sh_dc: np.ndarray) -> np.ndarray:
    """Colours of degree 0, in [0, 1] where they can be shown, as float64."""
    return 0.5 + SH_C0 * sh_dc.astype(np.float64)


def color_to_dc(color: np.ndarray) -> np.ndarray:
    """Undo :func:`dc_to_color`."""
    return ((color - 0.5) / SH_C0).astype(np.float32)


def to_byte(values: np.ndarray) -> np.ndarray:
    """The nearest uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


# ---- rotations ----


def unit(quats: np.ndarray) -> np.ndarray:
    """Quaternions (N,4) of length 1, as float64; those of length 0 become the identity."""
    quats = quats.astype(np.float64)
    length = np.linalg.norm(quats, axis=1, keepdims=True)
    return np.where(length > 0, quats / np.where(length > 0, length, 1), (1.0, 0.0, 0.0, 0.0))


def smallest_three(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out the part of a quaternion that the other three tell.

    Args:
        quats: (N,4), any length, real part at any place.

    Returns:
        Index (N,) of the largest part, and the other three (N,3) in their order, within +-``MAX_PART``, of that one of
        the two unit quaternions of the rotation whose largest part is positive.
    """
    quats = unit(quats)
    largest = np.abs(quats).argmax(axis=1)
    parts = np.take_along_axis(quats, largest[:, None], axis=1)
    quats = np.where(parts < 0, -quats, quats)
    return largest, np.take_along_axis(quats, _others(largest), axis=1)


def from_smallest_three(largest: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Undo :func:`smallest_three`, up to length: (N,4) float32 unit quaternions.

    Args:
        largest: (N,) in 0 to 3.
        parts: (N,3).
    """
    quats = np.empty((len(parts), 4))
    np.put_along_axis(quats, _others(largest), parts, axis=1)
    missing = np.sqrt(np.maximum(0, 1 - np.square(parts).sum(axis=1)))
    np.put_along_axis(quats, largest[:, None].astype(np.int64), missing[:, None], axis=1)
    return unit(quats).astype(np.float32)


def _others(largest: np.ndarray) -> np.ndarray:
    """(N,3): the indices 0 to 3 without that of the largest."""
    indices = np.arange(3)
    return indices + (indices >= largest[:, None])
