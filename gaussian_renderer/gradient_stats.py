"""Screen-space gradients per Gaussian, which densification judges by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class GradientStats:
    """Sums over the backward passes of several views; the rasterizer adds to them in place.

    Attributes:
        abs_grad_sum: (N,) float32, sum over views of the norm of the absolute screen-space gradient pair, NDC units.
        views: (N,) float32, number of views in which the Gaussian was visible.
    """

    abs_grad_sum: Tensor
    views: Tensor

    @classmethod
    def zeros(cls, num_gaussians: int, device: torch.device | str) -> GradientStats:
        """Statistics of no view."""
        return cls(*(torch.zeros(num_gaussians, device=device) for _ in range(2)))

    def mean(self) -> Tensor:
        """(N,) mean over the views in which each Gaussian was visible; 0 where there was none."""
        return self.abs_grad_sum / self.views.clamp_min(1)
