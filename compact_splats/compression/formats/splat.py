"""The .splat of web viewers: 32 bytes per Gaussian sorted by size times opacity, no header, no view-dependent colour.

A record is position 3 x float32, scale 3 x float32 (a length, not its logarithm), red, green, blue and opacity as uint8
and the quaternion, real part first, as four uint8 around 128.

From antimatter15/splat; described in [https://xeokit.github.io/sdk/docs, 3D Gaussian Splatting Format Guide]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compact_splats.compression.arrays import Arrays
from compact_splats.compression.container import FormatError
from compact_splats.compression.formats.common import (
    MAX_LOG_SCALE,
    color_to_dc,
    dc_to_color,
    from_scales,
    opacity_from_byte,
    opacity_to_byte,
    read_file,
    to_byte,
    to_scales,
    unit,
    write_file,
)
from compact_splats.scene.parameters import SH_C0, SavedArrays, is_nested

_RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("quat", "u1", 4)])
LIMITS = {
    "log_scales": (-MAX_LOG_SCALE, MAX_LOG_SCALE),
    "sh_dc": (-0.5 / SH_C0, 0.5 / SH_C0),
    "sh_rest": (0, 0),
}


def write(path: str | Path, arrays: Arrays) -> list[str]:
    """Write a model without its higher SH degrees."""
    return write_file(path, arrays, _pack, LIMITS)


def read(path: str | Path, *, keep_nan: bool = False) -> SavedArrays:
    """Read a model of SH degree 0."""
    return read_file(path, _unpack, keep_nan)


def _pack(arrays: Arrays) -> bytes:
    # Viewers show the start of the file while they load: the Gaussians that cover most come first, or those of a nested
    # model that do.
    volume = arrays["log_scales"].sum(axis=1, dtype=np.float64)
    opacity = -np.logaddexp(0, -arrays["opacity_logits"][:, 0].astype(np.float64))  # its logarithm
    order = np.arange(len(volume)) if is_nested(arrays) else np.argsort(-(volume + opacity), kind="stable")
    records = np.empty(len(order), _RECORD)
    records["mean"] = arrays["means"][order]
    records["scale"] = to_scales(arrays["log_scales"][order])
    records["color"][:, :3] = to_byte(255 * dc_to_color(arrays["sh_dc"][order, 0]))
    records["color"][:, 3:] = opacity_to_byte(arrays["opacity_logits"][order])
    records["quat"] = _quats_to_bytes(arrays["quats"][order])
    return records.tobytes()


def _unpack(data: bytes) -> Arrays:
    if not data or len(data) % _RECORD.itemsize:
        raise FormatError(".splat records of 32 bytes, one at least", f"{len(data)} bytes")
    records = np.frombuffer(data, _RECORD)
    num, scales = len(records), records["scale"]
    if (scales < 0).any():  # no other tool writes it: not a .splat
        index = int(np.argmax((scales < 0).any(axis=1)))
        raise FormatError(".splat scales of 0 or more", f"{scales[index].min()} in Gaussian {index}")
    quats = (records["quat"].astype(np.float64) - 128) / 128
    return {
        "means": records["mean"],
        "log_scales": from_scales(scales),
        "quats": unit(quats).astype(np.float32),
        "opacity_logits": opacity_from_byte(records["color"][:, 3:]),
        "sh_dc": color_to_dc(records["color"][:, None, :3] / 255),
        "sh_rest": np.zeros((num, 0, 3), np.float32),
    }


def _quats_to_bytes(quats: np.ndarray) -> np.ndarray:
    """Bytes from -1 at 0 to almost +1 at 255; a quaternion with a part closer to +1 is negated first."""
    quats = unit(quats)
    quats = np.where(quats.max(axis=1, keepdims=True) > 127.5 / 128, -quats, quats)
    return to_byte(128 + 128 * quats)
