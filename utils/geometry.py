"""Rotations."""

import torch
from torch import Tensor


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices (N,3,3), local to world axes, of quaternions (N,4) of any length but zero, real part first."""
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
