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
        views: (N,) int32, number of views in which the Gaussian was visible.
    """

    abs_grad_sum: Tensor
    views: Tensor

    @classmethod
    def zeros(cls, num_gaussians: int, device: torch.device | str) -> GradientStats:
        """Statistics of no view."""
        return cls(
            torch.zeros(num_gaussians, device=device), torch.zeros(num_gaussians, dtype=torch.int32, device=device)
        )

    def add(self, view: GradientStats, usable: Tensor) -> None:
        """Add the statistics of one view, unless ``usable`` (() bool) is False: then they may not be finite."""
        if not usable.is_cpu:  # looking at it would wait
            self.abs_grad_sum += torch.where(usable, view.abs_grad_sum, 0)
            self.views += torch.where(usable, view.views, 0)
        elif usable:
            self.abs_grad_sum += view.abs_grad_sum
            self.views += view.views

    def mean(self) -> Tensor:
        """(N,) mean over the views in which each Gaussian was visible; 0 where there was none."""
        return self.abs_grad_sum / self.views.clamp_min(1)
