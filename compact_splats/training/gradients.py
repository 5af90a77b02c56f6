"""Gradients that add up over views until Adam takes them; what is not finite is kept out, as it would stay for ever."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compact_splats.scene.gaussian_model import GaussianModel

# Of the sum of the squares of a view's gradients: far from what a view gives, and from where Adam's second moments end.
LARGEST = 1e30


def add_gradients(model: GaussianModel, loss: Tensor) -> Tensor:
    """Add the gradients of a view's loss to those that wait in the model, unless anything of them is not finite.

    Nothing is waited for on a GPU: there a view that is not usable adds zeros. On the CPU it adds nothing, so that Adam
    passes over rows of which nothing else waits.

    Args:
        model: of whose rows the loss is a function.
        loss: ().

    Returns:
        () bool on the model's device: whether the view was usable.
    """
    rows = list(model.rows.values())
    gradients = torch.autograd.grad(loss, rows, allow_unused=True)
    # The rest of the SH, three quarters of all, is left out: its gradient is that of sh_dc times numbers below 10.
    looked_at = (each.flatten() for each, name in zip(gradients, model.rows, strict=True) if name != "sh_rest")
    sizes = [loss.detach().abs(), *(each.dot(each) for each in looked_at)]
    usable = torch.stack(sizes).sum() < LARGEST  # which NaN is not
    is_known = _is_known(usable)
    if is_known and not usable:
        return usable
    for row, gradient in zip(rows, gradients, strict=True):
        if gradient is None:
            continue
        gradient = gradient if is_known else torch.where(usable, gradient, 0)
        row.grad = gradient if row.grad is None else row.grad.add_(gradient)
    return usable


def _is_known(value: Tensor) -> bool:
    """Whether a value can be looked at without waiting for it."""
    return value.device.type == "cpu"


class WaitingGradients:
    """The gradients that wait in a model, as a part of a run's state by themselves."""

    def __init__(self, model: GaussianModel) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        """Those of each row, or None."""
        return {name: row.grad for name, row in self._model.rows.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``; the model has as many Gaussians as it had."""
        for name, row in self._model.rows.items():
            row.grad = None if state[name] is None else state[name].to(row.device, copy=True)
