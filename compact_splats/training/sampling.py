"""The weighted draw of densification and selection."""

import torch
from torch import Tensor


def draw_without_replacement(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` different indices, one after the other with probability proportional to weight.

    The ``count`` smallest of exponential variables with these rates are such a draw. Unlike ``torch.multinomial`` this
    works for more than 2^24 weights. Indices of weight zero come only after all others.

    Args:
        weights: (N,) >= 0, any scale.
        count: 0 to N.
        generator: random numbers are made on its device, so that a CPU generator gives the same draw on every device.

    Returns:
        (count,) int64 in ascending order, on the device of ``weights``.
    """
    assert 0 <= count <= len(weights), f"{count} of {len(weights)}"
    clocks = torch.empty(len(weights), dtype=torch.float64, device=generator.device).exponential_(generator=generator)
    clocks = clocks.to(weights.device) / weights.double()
    return clocks.topk(count, largest=False, sorted=False).indices.sort().values
