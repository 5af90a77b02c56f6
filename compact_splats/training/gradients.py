"""Gradients that add up over views until the optimizer takes them; a view that is not finite is left out."""

from __future__ import annotations

import torch
from diff_gaussian_rasterization import gradients as engine
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
    models = [model] if rendered in (None, model) else [rendered, model]
    inputs = [(name, row) for each in models for name, row in each.parameters.items()]
    gradients: dict[str, Tensor] = {}
    for (name, _), gradient in zip(
        inputs, torch.autograd.grad(loss, [row for _, row in inputs], allow_unused=True), strict=True
    ):
        if gradient is not None:
            gradients[name] = gradients[name] + gradient if name in gradients else gradient.contiguous()
    waiting = model.waiting_gradients()
    # sh_rest, three quarters of all numbers, is left out: its gradient is that of sh_dc times numbers below 10.
    usable = engine.add_gradients(
        loss.detach().float(),
        {name: (gradient, waiting[name]) for name, gradient in gradients.items()},
        largest=LARGEST,
        unchecked="sh_rest",
    )
    if _is_known(usable) and not usable:
        return usable
    for name, gradient in gradients.items():
        if waiting[name] is None:
            model.parameters[name].grad = gradient
    return usable


def _is_known(value: Tensor) -> bool:
    """Whether a value can be looked at without waiting for it."""
    return value.device.type == "cpu"
