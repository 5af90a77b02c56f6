"""The weighted draw that growth and selection share."""

import torch
from torch import Tensor


def draw_without_replacement(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` different rows, one after the other with probability proportional to weight.

    By exponential clocks: of independent clocks with these rates, the order in which they ring is such a draw. Unlike
    ``torch.multinomial`` this has no limit of 2^24 rows. Rows of weight zero come only after all others.

    Args:
        weights: (N,) >= 0, any scale.
        count: 0 to N.
        generator: its device is where the random numbers are made, so that a CPU generator gives every device the
            same draw.

    Returns:
        (count,) int64 rows in ascending order, on the device of ``weights``.
    """
    assert 0 <= count <= len(weights), f"{count} of {len(weights)}"
    clocks = torch.empty(len(weights), dtype=torch.float64, device=generator.device).exponential_(generator=generator)
    clocks = clocks.to(weights.device) / weights.double()
    return clocks.topk(count, largest=False, sorted=False).indices.sort().values
