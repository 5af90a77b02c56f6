"""The order of a Gaussian's axes: of the 24 ways to write the same shape, the one with the smallest rotation."""

import math
from itertools import permutations, product

import torch
from torch import Tensor

from compact_splats.utils.geometry import rotation_matrices_of_unit


def close_to_identity(quats: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
    """The same Gaussians, with rotations of at most 63 degrees.

    A permutation of the axes with signs that keep them right-handed is one of the 24 rotations of the cube. The result
    is the Gaussian's rotation times the one of these that leaves the smallest angle: its imaginary parts are small.

    Args:
        quats: (N,4) real part first, any length but zero.
        log_scales: (N,3).

    Returns:
        quats (N,4) of length one with real parts above 0.85, and log_scales (N,3) in the new order of the axes.
    """
    unit = torch.nn.functional.normalize(quats.double(), dim=1)
    rotations = _cube_rotations().to(quats.device)
    choices = _multiply(unit[:, None], rotations)
    best = choices[..., 0].abs().argmax(1)
    chosen = choices[torch.arange(len(unit), device=unit.device), best]
    chosen = chosen * torch.where(chosen[:, :1] < 0, -1.0, 1.0)
    return chosen.to(quats), log_scales.gather(1, _axes_of(rotations)[best])


def _cube_rotations() -> Tensor:
    """(24,4) unit quaternions, one of each pair of opposite signs."""
    half, root = 0.5, math.sqrt(0.5)
    axes = [[float(i == k) for i in range(4)] for k in range(4)]
    diagonals = [[half, *signs] for signs in product((half, -half), repeat=3)]
    edges = {
        tuple(values)
        for places in permutations(range(4), 2)
        for sign in (root, -root)
        for values in [[root if i == min(places) else sign if i == max(places) else 0.0 for i in range(4)]]
    }
    return torch.tensor([*axes, *diagonals, *sorted(edges)], dtype=torch.float64)


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton's product along the last axis."""
    (aw, ax, ay, az), (bw, bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def _axes_of(rotations: Tensor) -> Tensor:
    """(M,3): the old axis that each new axis is, for (M,4) rotations of the cube."""
    return rotation_matrices_of_unit(rotations).abs().argmax(-2)
