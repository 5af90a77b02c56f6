"""The .splat of web viewers: 32 bytes a Gaussian and no header, by size times opacity, without view-dependent colour.

A record is position 3 x float32, scale 3 x float32 (a length, not its logarithm), red, green, blue and opacity as uint8
and the quaternion, real part first, as four uint8 around 128. There is nothing in it that says what it is.

From antimatter15/splat; as described in [https://xeokit.github.io/sdk/docs, 3D Gaussian Splatting Format Guide]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compact_splats.compression.arrays import Arrays
from compact_splats.compression.container import FormatError
from compact_splats.compression.formats.common import (
    color_to_dc,
    dc_to_color,
    opacity_from_byte,
    opacity_to_byte,
    read_file,
    to_byte,
    unit,
    write_file,
)

_RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("quat", "u1", 4)])
_MIN_SCALE = 1e-20  # for scales of 0, which have no logarithm; far below whatever can be seen
_MAX_LOG_SCALE = 88.0  # exp() of more leaves float32


def write(path: str | Path, rows: Mapping[str, np.ndarray]) -> None:
    """Write a model; the higher SH degrees are left out.

    Args:
        path: the file; replaced in one move.
        rows: arrays in the shapes of ``GaussianModel.parameters``, at least one Gaussian.

    Raises:
        InputError: rows that are not those of a model, or a file that cannot be written.
    """
    write_file(path, rows, _pack)


def read(path: str | Path) -> Arrays:
    """Read a model of SH degree 0.

    Raises:
        InputError: no such file, a size that is no multiple of 32 bytes, or values that no model has.
    """
    return read_file(path, _unpack)


def _pack(rows: Arrays) -> bytes:
    # Viewers that load in steps show the start of the file first: what covers most comes first.
    volume = rows["log_scales"].sum(axis=1, dtype=np.float64)
    opacity = -np.logaddexp(0, -rows["opacity_logits"][:, 0].astype(np.float64))  # its logarithm
    order = np.argsort(-(volume + opacity), kind="stable")
    records = np.empty(len(order), _RECORD)
    records["mean"] = rows["means"][order]
    records["scale"] = np.exp(np.clip(rows["log_scales"][order], -_MAX_LOG_SCALE, _MAX_LOG_SCALE))
    records["color"][:, :3] = to_byte(255 * dc_to_color(rows["sh_dc"][order, 0]))
    records["color"][:, 3:] = opacity_to_byte(rows["opacity_logits"][order])
    records["quat"] = _quats_to_bytes(rows["quats"][order])
    return records.tobytes()


def _unpack(data: bytes) -> Arrays:
    if not data or len(data) % _RECORD.itemsize:
        raise FormatError(".splat records of 32 bytes, one at least", f"{len(data)} bytes")
    records = np.frombuffer(data, _RECORD)
    num, scales = len(records), records["scale"]
    if not (scales >= 0).all():  # true of NaN, too
        row = int(np.argmin((scales >= 0).all(axis=1)))
        raise FormatError(".splat scales of 0 or more", f"{scales[row].min()} in Gaussian {row}")
    quats = (records["quat"].astype(np.float64) - 128) / 128
    return {
        "means": records["mean"],
        "log_scales": np.log(np.maximum(scales, _MIN_SCALE)),
        "quats": unit(quats).astype(np.float32),
        "opacity_logits": opacity_from_byte(records["color"][:, 3:]),
        "sh_dc": color_to_dc(records["color"][:, None, :3] / 255),
        "sh_rest": np.zeros((num, 0, 3), np.float32),
    }


def _quats_to_bytes(quats: np.ndarray) -> np.ndarray:
    """Bytes around 128, which reach -1 but not +1: a part too near to that is stored in the quaternion's negative."""
    quats = unit(quats)
    quats = np.where(quats.max(axis=1, keepdims=True) > 127.5 / 128, -quats, quats)
    return to_byte(128 + 128 * quats)
