"""Gradients that add up over views until the optimizer takes them; a view that is not finite is left out."""

from __future__ import annotations

import torch
from torch import Tensor

from compact_splats.scene.gaussian_model import GaussianModel

# Of the sum of the squares of a view's gradients: far from what a view gives, and from where Adam's second moments end.
LARGEST = 1e30


def add_gradients(model: GaussianModel, loss: Tensor, rendered: GaussianModel | None = None) -> Tensor:
    """Add the gradients of a view's loss to those that wait in the model, unless anything of them is not finite.

    Nothing is waited for on a GPU: there a view that is not usable adds zeros. On the CPU it adds nothing, so that Adam
    skips parameters of which nothing else waits.

    Args:
        model: gets the gradients.
        loss: (), a function of the parameters of ``model``, of ``rendered``, or of both.
        rendered: a model of the same Gaussians; its gradients count as those of ``model``.

    Returns:
        () bool on the model's device: whether the view was usable.
    """
    parameters = list(model.parameters.values())
    inputs = parameters if rendered in (None, model) else [*rendered.parameters.values(), *parameters]
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    # sh_rest, three quarters of all numbers, is left out: its gradient is that of sh_dc times numbers below 10.
    checked = (each.flatten() for each, name in zip(gradients, model.parameters, strict=False) if name != "sh_rest")
    sizes = [loss.detach().abs(), *(each.dot(each) for each in checked)]
    usable = torch.stack(sizes).sum() < LARGEST  # which NaN is not
    is_known = _is_known(usable)
    if is_known and not usable:
        return usable
    for index, gradient in enumerate(gradients):
        if gradient is None:
            continue
        parameter = parameters[index % len(parameters)]
        gradient = gradient if is_known else torch.where(usable, gradient, 0)
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return usable


def _is_known(value: Tensor) -> bool:
    """Whether a value can be looked at without waiting for it."""
    return value.device.type == "cpu"
