"""Adam for numbers of which each training photo has its own: a step changes those of the photos that it has seen."""

import torch
from torch import Tensor


def adam_change(
    moments: Tensor, counts: Tensor, rows: Tensor, gradients: Tensor, rate: float, betas: tuple[float, float],
    epsilon: float,
) -> Tensor:  # fmt: skip
    """(R,...) what to subtract.

    Args:
        moments: (2,V,...) of all photos; those of the step change in place.
        counts: (V,) how often each photo was seen; the same.
        rows: (R,) the photos of the step.
        gradients: (R,...).
        rate: of learning.
        betas: of the moments.
        epsilon: added to the root of the second.
    """
    counts[rows] += 1
    times = counts[rows].view(-1, *[1] * (gradients.ndim - 1))
    for moment, beta, power in zip(moments, betas, (gradients, gradients.square()), strict=True):
        moment[rows] = torch.lerp(power, moment[rows], beta)
    mean, square = (moment[rows] / (1 - beta**times) for moment, beta in zip(moments, betas, strict=True))
    return rate * mean / (square.sqrt() + epsilon)
