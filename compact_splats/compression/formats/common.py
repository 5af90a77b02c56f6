"""Shared by the formats: files, order, 8-bit opacities and colours, scales, quaternions as three smallest parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from compact_splats.compression.arrays import Arrays, checked
from compact_splats.compression.container import FormatError, input_errors
from compact_splats.compression.morton import MAX_BITS, morton_order
from compact_splats.scene.parameters import SH_C0, SavedArrays, cleaned, sh_degree
from compact_splats.utils.files import atomic_write, open_file

MAX_LOG_SCALE = 88.0  # exp() of more is beyond float32
MIN_SCALE = 1e-20  # invisible
MAX_PART = 0.5**0.5  # of the three smallest parts of a unit quaternion
Limits = Mapping[str, tuple[float, float]]  # the values that a format can hold, by parameter
WRITE_FIX = "repair the model or train it again"
READ_FIX = "save or download the model again, or convert it"


# ---- files ----


def write_file(path: str | Path, arrays: Arrays, pack: Callable[[SavedArrays], bytes], limits: Limits) -> list[str]:
    """Pack a model and write the file.

    Args:
        path: the file; replaced in one move.
        arrays: of the model, by name and in the shapes of ``GaussianModel.parameters``.
        pack: from checked arrays to bytes; raises FormatError where the format cannot hold the model.
        limits: of the format.

    Returns:
        Sentences about what the file has lost, see :func:`cut_off`.

    Raises:
        InputError: no Gaussians, values that are not finite or out of range, or a file that cannot be written.
    """
    with input_errors(path, WRITE_FIX):
        saved = checked_to_write(arrays)
        data = pack(saved)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return cut_off(saved, limits)


def cut_off(arrays: Arrays, limits: Limits) -> list[str]:
    """Sentences about the Gaussians whose values a format cuts off.

    Args:
        arrays: of a model.
        limits: of the format; ``"sh_rest": (0, 0)`` for a format without view-dependent colour.
    """
    lines, num = [], len(arrays["means"])
    for name, (low, high) in limits.items():
        values = arrays[name].reshape(num, -1)
        if low == high:
            if values.any():
                lines.append(f"the view-dependent colour (SH degree {sh_degree(arrays)}) is dropped")
            continue
        margin = 1e-3 * (high - low)  # less is rounding
        beyond = int(((values < low - margin) | (values > high + margin)).any(axis=1).sum())
        if beyond:
            share = 100 * beyond / num
            lines.append(f"{beyond:,} Gaussians ({share:.3g} %) have {name} beyond {low:.4g} to {high:.4g}: cut off")
    return lines


def checked_to_write(arrays: Arrays) -> SavedArrays:
    """The arrays of a model with at least one Gaussian, and their marks; see :func:`compression.arrays.checked`.

    Raises:
        FormatError: no Gaussian, or not the arrays of a model.
    """
    saved = arrays if isinstance(arrays, SavedArrays) else SavedArrays(arrays)
    saved = saved.replaced(checked(arrays))
    if not len(saved["means"]):
        raise FormatError("at least one Gaussian to write", "none")
    return saved


def read_file(path: str | Path, unpack: Callable[[bytes], Arrays], keep_nan: bool) -> SavedArrays:
    """Read a model.

    Args:
        path: the file.
        unpack: from bytes to arrays; raises FormatError where the bytes break the format.
        keep_nan: refuse values that are not finite instead of leaving out their Gaussians.

    Returns:
        Finite float32 arrays, by name and in the shapes of ``GaussianModel.parameters``.

    Raises:
        InputError: no such file, or not one of this format.
    """
    with open_file(path, "a file that can be read", "check the path") as file:
        data = file.read()
    return unpacked(path, lambda: unpack(data), keep_nan)


def unpacked(path: str | Path, unpack: Callable[[], Arrays], keep_nan: bool) -> SavedArrays:
    """The model of a file, see :func:`read_file`; ``unpack`` may leave values that are not finite."""
    with input_errors(path, READ_FIX), np.errstate(all="ignore"):
        arrays = unpack()
    return cleaned(path, arrays, keep_nan)


# ---- order ----


def in_spatial_order(arrays: SavedArrays) -> SavedArrays:
    """The model with its Gaussians in Morton order."""
    means = arrays["means"]
    low = means.min(axis=0).astype(np.float64)
    extent = np.maximum(means.max(axis=0) - low, np.finfo(np.float64).tiny)
    order = morton_order(((means - low) / extent * (2**MAX_BITS - 1)).astype(np.int64))
    return arrays.replaced({name: array[order] for name, array in arrays.items()})


# ---- opacities and colours ----


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """float64 opacities of logits. Not scipy's, which takes half a second to import."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def logit(opacity: np.ndarray) -> np.ndarray:
    """Undo :func:`sigmoid`; 0 and 1 become infinite."""
    with np.errstate(divide="ignore"):
        return np.log(opacity) - np.log1p(-opacity)


def opacity_to_byte(logits: np.ndarray) -> np.ndarray:
    """The nearest of 256 opacities from 0 to 1, as uint8."""
    return to_byte(255 * sigmoid(logits))


def opacity_from_byte(stored: np.ndarray) -> np.ndarray:
    """Undo :func:`opacity_to_byte`. 0 and 255 have no logit: the middles of their ranges are taken."""
    return logit(np.clip(stored.astype(np.float64), 0.25, 254.75) / 255).astype(np.float32)


def dc_to_color(sh_dc: np.ndarray) -> np.ndarray:
    """float64 colours of degree 0; displays show 0 to 1."""
    return 0.5 + SH_C0 * sh_dc.astype(np.float64)


def color_to_dc(color: np.ndarray) -> np.ndarray:
    """Undo :func:`dc_to_color`."""
    return ((color - 0.5) / SH_C0).astype(np.float32)


def to_byte(values: np.ndarray) -> np.ndarray:
    """The nearest uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


# ---- scales and rotations ----


def to_scales(log_scales: np.ndarray) -> np.ndarray:
    """float32 scales; logarithms beyond +-``MAX_LOG_SCALE`` are cut off."""
    return np.exp(np.clip(log_scales, -MAX_LOG_SCALE, MAX_LOG_SCALE))


def from_scales(scales: np.ndarray) -> np.ndarray:
    """float32 logarithms; 0, which has none, becomes ``MIN_SCALE`` before."""
    return np.log(np.maximum(scales, MIN_SCALE))


def unit(quats: np.ndarray) -> np.ndarray:
    """Quaternions (N,4) of length 1, as float64; those of length 0 become the identity."""
    quats = quats.astype(np.float64)
    length = np.linalg.norm(quats, axis=1, keepdims=True)
    return np.where(length > 0, quats / np.where(length > 0, length, 1), (1.0, 0.0, 0.0, 0.0))


def smallest_three(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out the largest part of each quaternion, which follows from the other three.

    Args:
        quats: (N,4), any length, real part at any place.

    Returns:
        Index (N,) of the largest part, and the other three (N,3) in their order, within +-``MAX_PART``. Of the two unit
        quaternions of a rotation, the one whose largest part is positive.
    """
    quats = unit(quats)
    largest = np.abs(quats).argmax(axis=1)
    parts = np.take_along_axis(quats, largest[:, None], axis=1)
    quats = np.where(parts < 0, -quats, quats)
    return largest, np.take_along_axis(quats, _others(largest), axis=1)


def from_smallest_three(largest: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Undo :func:`smallest_three`: (N,4) float32 unit quaternions.

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
