"""The Gaussians to send to browsers that can't draw all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from compact_splats.scene.gaussian_model import GaussianModel


@torch.no_grad()
def sizes(model: GaussianModel) -> Tensor:
    """(N,) world units: the geometric mean of the two longest axes."""
    longest = model.parameters["log_scales"].topk(2, dim=1).values
    return longest.mean(dim=1).exp()


@torch.no_grad()
def most_important(model: GaussianModel, most: int, among: Tensor | None = None) -> Tensor:
    """Indices of the Gaussians with the largest opacity times size; of a nested model, of the first ones.

    Args:
        model: the Gaussians.
        most: maximum number.
        among: (N,) bool, the Gaussians to choose from; None: all.

    Returns:
        (M,) int64, ascending.
    """
    indices = torch.arange(model.num_gaussians, device=model.device) if among is None else among.nonzero().squeeze(1)
    if len(indices) <= most or model.nested:
        return indices[:most]
    importance = (model.opacities.squeeze(1) * sizes(model))[indices]
    return indices[importance.topk(most).indices].sort().values
