"""Adds the gradients of a view to those of earlier views, unless they are not finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from . import _C
from .queue import queue_for, thread_count


def add_gradients(
    loss: Tensor, gradients: Mapping[str, tuple[Tensor, Tensor | None]], *, largest: float, unchecked: str = ""
) -> Tensor:
    """Add gradients to sums in place: all of them if the view is usable, otherwise none.

    A view is usable if |loss| and the squares of the checked gradients add up to less than ``largest``, which they do
    not if one is NaN or infinite. The CPU does not wait for a GPU to know it.

    Args:
        loss: one float32 on the device of the gradients.
        gradients: by name, a gradient and the sum that it is added to, both float32 and contiguous. Without a sum, the
            gradient stays, and becomes zero if the view is not usable.
        largest: a float32.
        unchecked: the name of a gradient that is not looked at.

    Returns:
        () bool on the device: whether the view was usable.

    Raises:
        ValueError: A shape, dtype or device is not as above.
    """
    usable = torch.empty((), dtype=torch.bool, device=loss.device)
    sums = [_C.GradientSum(name, gradient, total, name != unchecked)
            for name, (gradient, total) in gradients.items()]  # fmt: skip
    _C.add_gradients(sums, queue_for(loss.device), loss=loss, largest=largest, usable=usable,
                     threads=thread_count(0))  # fmt: skip
    return usable
