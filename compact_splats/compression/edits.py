"""Changes to a whole model: which Gaussians stay, and the model's axes, scale, rotation and position."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from compact_splats.arguments.edits import MODEL_AXES, EditConfig
from compact_splats.compression.arrays import REST_COUNTS, Arrays
from compact_splats.scene.spherical_harmonics import sh_basis

_OPPOSITE = {"R": "L", "L": "R", "U": "D", "D": "U", "F": "B", "B": "F"}


def edited(arrays: Arrays, config: EditConfig) -> Arrays:
    """The model after the edits of the flags; the same arrays where there are none.

    Args:
        arrays: float32, by name and in the shapes of ``GaussianModel.parameters``.
        config: the flags. Gaussians are chosen before the model is turned, scaled and moved.
    """
    arrays = select(arrays, kept(arrays, config))
    if config.sh_degree is not None:
        arrays = {**arrays, "sh_rest": arrays["sh_rest"][:, : REST_COUNTS[config.sh_degree]]}
    turned = Rotation.from_euler("xyz", config.rotation_degrees, degrees=True).as_matrix() @ axes_matrix(
        config.target_axes
    )
    return transformed(arrays, turned, config.scale, np.array(config.translation))


def kept(arrays: Arrays, config: EditConfig) -> np.ndarray:
    """(N,) bool: which Gaussians the flags keep."""
    means, logits = arrays["means"].astype(np.float64), arrays["opacity_logits"][:, 0].astype(np.float64)
    opacities = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
    keep = opacities >= config.min_opacity
    crop = config.crop_numbers
    if crop is not None and len(crop) == 6:
        keep &= ((means >= crop[:3]) & (means <= crop[3:])).all(1)
    elif crop is not None:
        keep &= np.linalg.norm(means - crop[:3], axis=1) <= crop[3]
    if config.max_gaussians is not None and keep.sum() > config.max_gaussians:
        scales = np.sort(arrays["log_scales"].astype(np.float64), 1)
        score = np.where(keep, np.log(np.maximum(opacities, 1e-300)) + scales[:, 1:].mean(1), -np.inf)
        keep = np.zeros_like(keep)
        keep[np.argsort(-score, kind="stable")[: config.max_gaussians]] = True
    return keep


def select(arrays: Arrays, which: np.ndarray) -> Arrays:
    """Some of the Gaussians, in the same order.

    Args:
        arrays: by name of the parameter.
        which: (N,) bool.
    """
    return arrays if which.all() else {name: values[which] for name, values in arrays.items()}


def merged(models: Sequence[Arrays]) -> Arrays:
    """One model of the Gaussians of several, in order; missing SH coefficients are zero."""
    most = max(each["sh_rest"].shape[1] for each in models)
    padded = [
        {**each, "sh_rest": np.pad(each["sh_rest"], ((0, 0), (0, most - each["sh_rest"].shape[1]), (0, 0)))}
        for each in models
    ]
    return {name: np.concatenate([each[name] for each in padded]) for name in padded[0]}


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


def transformed(arrays: Arrays, rotation: np.ndarray, scale: float, translation: np.ndarray) -> Arrays:
    """A model whose point x is now at scale * rotation x + translation; it looks the same to cameras moved so, too.

    Args:
        arrays: float32, by name of the parameter.
        rotation: (3,3) orthogonal; a determinant of -1 mirrors the model.
        scale: above 0.
        translation: (3,) world units.
    """
    if np.array_equal(rotation, np.eye(3)) and scale == 1 and not translation.any():
        return arrays
    # A Gaussian looks the same mirrored at its centre, so that -R turns it as R does.
    proper = rotation * np.sign(np.linalg.det(rotation))
    x, y, z, w = Rotation.from_matrix(proper).as_quat()
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])  # Hamilton's product
    result = dict(arrays)
    result["means"] = scale * arrays["means"].astype(np.float64) @ rotation.T + translation
    result["quats"] = arrays["quats"].astype(np.float64) @ left.T
    result["log_scales"] = arrays["log_scales"].astype(np.float64) + math.log(scale)
    result["sh_rest"] = _rotated_harmonics(arrays["sh_rest"].astype(np.float64), rotation)
    return {name: values.astype(np.float32) for name, values in result.items()}


def _rotated_harmonics(coefficients: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """(N,K,3) coefficients of the colours f(R^T d), where the given ones are those of f(d)."""
    degree = REST_COUNTS.index(coefficients.shape[1])
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    new, old = (sh_basis(torch.from_numpy(each), degree).numpy() for each in (directions, directions @ rotation))
    result = coefficients.copy()
    for band in range(1, degree + 1):  # a rotation mixes the functions of a degree among themselves
        columns = slice(band * band, (band + 1) ** 2)
        matrix = np.linalg.lstsq(new[:, columns], old[:, columns], rcond=None)[0]
        result[:, band * band - 1 : (band + 1) ** 2 - 1] = np.einsum(
            "ij,njc->nic", matrix, coefficients[:, band * band - 1 : (band + 1) ** 2 - 1]
        )
    return result
