"""Edits of a model between reading and writing, from arrays to arrays: numpy only, as ``compress.py export`` is."""

from __future__ import annotations

import numpy as np

from compact_splats.compression.arrays import Arrays
from compact_splats.scene.parameters import SavedArrays
from compact_splats.scene.spherical_harmonics import sh_basis

_DIRECTIONS = np.array([(x, y, z) for x in (-2, 1, 3) for y in (-1, 2) for z in (-3, 0.5, 1)], np.float64)


def transformed(arrays: Arrays, matrix: np.ndarray) -> SavedArrays:
    """A model moved, turned and scaled: it looks the same to cameras that move along.

    Args:
        arrays: by name and in the shapes of ``GaussianModel.parameters``.
        matrix: (4,4), a translation times a rotation times a positive scale, for column vectors.

    Returns:
        float32 arrays with the same marks; spherical harmonics are turned, too.

    Raises:
        ValueError: another matrix, such as a mirror or a scale that differs by axis.
    """
    matrix = np.asarray(matrix, np.float64)
    linear = matrix[:3, :3]
    with np.errstate(all="ignore"):
        scale = float(np.cbrt(np.linalg.det(linear))) if np.isfinite(matrix).all() else 0.0
    if not scale > 0 or not np.allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-4 * scale**2):
        raise ValueError("no translation, rotation and positive uniform scale")
    rotation = linear / scale
    saved = arrays if isinstance(arrays, SavedArrays) else SavedArrays(arrays)
    means = saved["means"].astype(np.float64) @ linear.T + matrix[:3, 3]
    moved = {
        "means": means,
        "log_scales": saved["log_scales"] + np.log(scale),
        "quats": _product(quaternion_of(rotation), saved["quats"].astype(np.float64)),
        "sh_rest": turned_sh(saved["sh_rest"], rotation),
    }
    return saved.replaced({**saved, **{name: values.astype(np.float32) for name, values in moved.items()}})


def turned_sh(sh_rest: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Coefficients (N,K,3) of functions of the direction after a rotation (3,3), as float64.

    Each degree is turned by a matrix of its own, here from the values of its functions in a few directions: the new
    function in direction d is the old one in R^T d.
    """
    turned, num_rest = np.array(sh_rest, np.float64), sh_rest.shape[1]
    directions = _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)
    new, old = sh_basis(directions, 3), sh_basis(directions @ rotation, 3)
    for degree in range(1, 4):
        band = slice(degree**2, (degree + 1) ** 2)
        if band.stop - 1 > num_rest:
            break
        matrix = np.linalg.lstsq(new[:, band], old[:, band], rcond=None)[0]
        matrix[np.abs(matrix) < 1e-12] = 0  # half turns become exact signs
        rest = slice(band.start - 1, band.stop - 1)
        turned[:, rest] = np.einsum("ij,njc->nic", matrix, sh_rest[:, rest].astype(np.float64))
    return turned


def quaternion_of(rotation: np.ndarray) -> np.ndarray:
    """(4,) unit quaternion, real part first, of a rotation (3,3); from the largest of its four parts."""
    r = rotation
    squares = 1 + np.array([np.trace(r), *(2 * np.diag(r) - np.trace(r))])  # 4 times those of w, x, y, z
    columns = {
        0: [squares[0], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
        1: [r[2, 1] - r[1, 2], squares[1], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
        2: [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], squares[2], r[1, 2] + r[2, 1]],
        3: [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], squares[3]],
    }
    largest = int(squares.argmax())
    quat = np.array(columns[largest], np.float64)
    return quat / np.linalg.norm(quat)


def _product(first: np.ndarray, quats: np.ndarray) -> np.ndarray:
    """(N,4) Hamilton's product of one quaternion (4,) and many (N,4)."""
    w, x, y, z = first
    matrix = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return quats @ matrix.T
