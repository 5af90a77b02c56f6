"""Gradients that add up over views until the optimizer takes them; a view that is not finite is left out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diff_gaussian_rasterization import RenderPass
from torch import Tensor

from compact_splats.scene.gaussian_model import GaussianModel

# Of the sum of the squares of a view's gradients: far from what a view gives, and from where Adam's second moments end.
LARGEST = 1e30


def add_gradients(model: GaussianModel, view: RenderPass, loss: Tensor, terms: Sequence[Tensor] = ()) -> Tensor:
    """Add the gradients of a view to those that wait in the model, unless anything of them is not finite.

    Nothing is waited for on a GPU: there a view that is not usable adds zeros. On the CPU it adds nothing, so that Adam
    skips parameters of which nothing else waits.

    Args:
        model: gets the gradients.
        view: after its backward pass; made with the model's waiting gradients.
        loss: () float32, of the view.
        terms: (), functions of the model's parameters that are added to the loss, each with its graph.

    Returns:
        () bool on the model's device: whether the view was usable.
    """
    model.to_parameters(view.gradients)
    for term in terms:
        loss = loss + term.detach().float()
        if term.requires_grad:
            rows = [model.parameters[name] for name in view.gradients]
            found = torch.autograd.grad(term, rows, allow_unused=True)
            for gradient, further in zip(view.gradients.values(), found, strict=True):
                if further is not None:
                    gradient += further
    usable = view.add_gradients(loss, largest=LARGEST)
    for name, gradient in view.gradients.items():
        if model.parameters[name].grad is None:
            model.parameters[name].grad = gradient
    return usable
