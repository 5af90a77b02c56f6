"""The loss of a rendered view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import diff_gaussian_rasterization as engine
import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # of image, photo and mask, with gradient for the image


@dataclass(frozen=True)
class PhotometricLoss:
    """``(1 - w) L1 + w (1 - SSIM)`` of a rendered view [3DGS, arXiv:2308.04079].

    Args:
        ssim_weight: w.
    """

    ssim_weight: float = 0.2

    def __call__(self, image: Tensor, photo: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss, () float32 with gradient for the image.

        Args:
            image: (3,H,W) float32.
            photo: (3,H,W) uint8.
            mask: (H,W) bool, False where a pixel does not count.
        """
        return engine.photometric_loss(image, photo, mask=mask, ssim_weight=self.ssim_weight).loss


photometric_loss = PhotometricLoss()


def measure(view: engine.RenderPass, loss: Loss, photo: Tensor, mask: Tensor | None) -> Tensor:
    """The loss () of a view, without graph; its gradient for the image goes to ``view.v_image``."""
    if isinstance(loss, PhotometricLoss):  # needs no autograd
        return view.photometric_loss(photo, mask, loss.ssim_weight)
    value, v_image = with_gradient(loss, view.image, photo, mask)
    view.v_image.copy_(v_image)
    return value


def with_gradient(loss: Loss, image: Tensor, photo: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss () of an image, without graph, and its gradient for the image."""
    image = image.detach().requires_grad_()
    value = loss(image, photo, mask)
    return value.detach(), torch.autograd.grad(value, image)[0]
