"""Rotations."""

import torch
from torch import Tensor


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices of quaternions of any length but zero.

    Args:
        quats: (N,4), real part first.

    Returns:
        (N,3,3), from a Gaussian's own axes to the world's.
    """
    return rotation_matrices_of_unit(torch.nn.functional.normalize(quats, dim=1))


def rotation_matrices_of_unit(quats: Tensor) -> Tensor:
    """:func:`rotation_matrices` of (N,4) quaternions that have length one already."""
    w, x, y, z = quats.unbind(1)
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, 1).view(-1, 3, 3)
