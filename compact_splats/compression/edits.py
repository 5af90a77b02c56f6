"""Edits of a model between reading and writing, from arrays to arrays. Needs no torch, as ``compress.py export``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compact_splats.arguments.edits import MODEL_AXES, EditConfig, KeepConfig
from compact_splats.compression.arrays import Arrays, joined
from compact_splats.compression.formats.common import sigmoid
from compact_splats.scene.normalization import FAR, far_from_origin
from compact_splats.scene.parameters import REST_COUNTS, SavedArrays, is_nested
from compact_splats.scene.spherical_harmonics import sh_basis
from compact_splats.utils.errors import InputError

_OPPOSITE = {"R": "L", "L": "R", "U": "D", "D": "U", "F": "B", "B": "F"}
_DIRECTIONS = np.array([(x, y, z) for x in (-2, 1, 3) for y in (-1, 2) for z in (-3, 0.5, 1)], np.float64)


def edited(arrays: SavedArrays, config: KeepConfig) -> SavedArrays:
    """The model after the edits of the flags, with the same marks; the same arrays where there are none.

    Args:
        arrays: float32, by name and in the shapes of ``GaussianModel.parameters``.
        config: the flags. Gaussians are chosen before the model is turned, scaled and moved.

    Raises:
        InputError: no Gaussian is left.
    """
    keep = kept(arrays, config)
    if len(keep) and not keep.any():
        raise InputError("no Gaussian is left: give a lower --min-opacity or another --crop")
    if not keep.all():
        arrays = arrays.replaced({name: values[keep] for name, values in arrays.items()})
    if config.sh_degree is not None:
        arrays = arrays.replaced({**arrays, "sh_rest": arrays["sh_rest"][:, : REST_COUNTS[config.sh_degree]]})
    matrix = similarity(config) if isinstance(config, EditConfig) else np.eye(4)
    return arrays if np.array_equal(matrix, np.eye(4)) else transformed(arrays, matrix)


def kept(arrays: Arrays, config: KeepConfig) -> np.ndarray:
    """(N,) bool: which Gaussians the flags keep."""
    means, opacities = arrays["means"].astype(np.float64), sigmoid(arrays["opacity_logits"][:, 0])
    keep = opacities >= config.min_opacity
    crop = config.crop_numbers
    if crop is not None and len(crop) == 6:
        keep &= ((means >= crop[:3]) & (means <= crop[3:])).all(axis=1)
    elif crop is not None:
        keep &= np.linalg.norm(means - crop[:3], axis=1) <= crop[3]
    most = config.max_gaussians if isinstance(config, EditConfig) else None
    if most is not None and keep.sum() > most:
        log_sizes = np.sort(arrays["log_scales"].astype(np.float64), axis=1)[:, 1:].mean(axis=1)
        score = np.log(np.maximum(opacities, 1e-300)) + log_sizes
        score = np.where(keep, -np.arange(len(keep)) if is_nested(arrays) else score, -np.inf)
        keep = np.zeros_like(keep)
        keep[np.argsort(-score, kind="stable")[:most]] = True
    return keep


def merged(models: Sequence[SavedArrays]) -> SavedArrays:
    """One model of several, see :func:`compression.arrays.joined`, with the notes of all.

    Raises:
        ValueError: some are anti-aliased and some not.
    """
    if len({each.antialiased for each in models}) > 1:
        raise ValueError("some are anti-aliased, others are not")
    both = joined(models)
    order = ["the order of a nested model is lost: several models become one"] if any(map(is_nested, models)) else []
    return both.replaced(both, *(text for each in models for text in each.notes), *order)


def similarity(config: EditConfig) -> np.ndarray:
    """(4,4) of --axes, then --scale, --rotate and --translate; for column vectors."""
    matrix = np.eye(4)
    turn = axes_matrix(config.target_axes)
    for axis, degrees in enumerate(config.rotation_degrees):
        turn = _turn(axis, degrees) @ turn
    matrix[:3, :3] = config.scale * turn
    matrix[:3, 3] = config.translation
    return matrix


def axes_matrix(letters: str) -> np.ndarray:
    """(3,3) matrix that takes coordinates of a model, whose axes are right, down, front, to those of other axes.

    Args:
        letters: the directions of the new x, y and z: R or L, U or D, F or B, in any order.
    """
    matrix = np.zeros((3, 3))
    for row, letter in enumerate(letters):
        is_same = letter in MODEL_AXES
        matrix[row, MODEL_AXES.index(letter if is_same else _OPPOSITE[letter])] = 1 if is_same else -1
    return matrix


def transformed(arrays: Arrays, matrix: np.ndarray) -> SavedArrays:
    """A model moved, turned, mirrored and scaled: it looks the same to cameras that move along.

    Args:
        arrays: by name and in the shapes of ``GaussianModel.parameters``.
        matrix: (4,4), a translation times a rotation or mirror times a positive scale, for column vectors.

    Returns:
        float32 arrays with the same marks; spherical harmonics are turned, too. A translation that takes the model so
        far from the origin that float32 is too coarse becomes its offset, and an offset moves along.

    Raises:
        ValueError: another matrix, such as a shear or a scale that differs by axis.
    """
    matrix = np.asarray(matrix, np.float64)
    linear = matrix[:3, :3]
    with np.errstate(all="ignore"):
        volume = float(np.linalg.det(linear)) if np.isfinite(matrix).all() else 0.0
        scale = float(np.cbrt(abs(volume)))
    if not scale > 0 or not np.allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-4 * scale**2):
        raise ValueError("no translation, rotation or mirror, and uniform scale")
    rotation = linear / scale
    # A Gaussian is symmetric about its centre, so that -R turns it as R does.
    proper = rotation * np.sign(volume)
    saved = arrays if isinstance(arrays, SavedArrays) else SavedArrays(arrays)
    means = saved["means"].astype(np.float64) @ linear.T
    shift = linear @ (saved.offset or (0.0, 0.0, 0.0)) + matrix[:3, 3]
    # A model that had an offset keeps one unless it comes close: its scene may need it more than its Gaussians show.
    is_far = bool(shift.any()) and far_from_origin(means + shift) > (FAR if saved.offset is None else 1)
    moved = {
        "means": means if is_far else means + shift,
        "log_scales": saved["log_scales"] + np.log(scale),
        "quats": _product(quaternion_of(proper), saved["quats"].astype(np.float64)),
        "sh_rest": turned_sh(saved["sh_rest"], rotation),
    }
    result = saved.replaced({**saved, **{name: values.astype(np.float32) for name, values in moved.items()}})
    result.offset = (float(shift[0]), float(shift[1]), float(shift[2])) if is_far else None
    return result


def turned_sh(sh_rest: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Coefficients (N,K,3) of functions of the direction after a rotation or mirror (3,3), as float64.

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
    quat = np.array(columns[int(squares.argmax())], np.float64)
    return quat / np.linalg.norm(quat)


def _turn(axis: int, degrees: float) -> np.ndarray:
    """(3,3) right-handed rotation about an axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    if degrees % 90 == 0:
        cos, sin = np.rint(cos), np.rint(sin)
    matrix, (i, j) = np.eye(3), ((1, 2), (2, 0), (0, 1))[axis]
    matrix[[i, i, j, j], [i, j, i, j]] = cos, -sin, sin, cos
    return matrix


def _product(first: np.ndarray, quats: np.ndarray) -> np.ndarray:
    """(N,4) Hamilton's product of one quaternion (4,) and many (N,4)."""
    w, x, y, z = first
    matrix = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return quats @ matrix.T
