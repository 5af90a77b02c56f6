"""The loss of a rendered view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import diff_gaussian_rasterization as engine
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

_COUNTED, _SMALL = 0.8, 0.1  # share of the residuals that never differ, and their size in [0,1]
_PATCH = 8  # px

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # of image, photo and mask, with gradient for the image


@dataclass(frozen=True)
class PhotometricLoss:
    """``(1 - w) L1 + w (1 - SSIM)`` of a rendered view [3DGS, arXiv:2308.04079].

    Args:
        ssim_weight: w.
        robust: leave out what looks like a thing that moved, see :func:`unmoved`.
    """

    ssim_weight: float = 0.2
    robust: bool = False

    def __call__(self, image: Tensor, photo: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss, () float32 with gradient for the image.

        Args:
            image: (3,H,W) float32.
            photo: (3,H,W) uint8.
            mask: (H,W) bool, False where a pixel does not count.
        """
        mask = self.counted(image, photo, mask)
        return engine.photometric_loss(image, photo, mask=mask, ssim_weight=self.ssim_weight).loss

    def counted(self, image: Tensor, photo: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask of the pixels that count, as ``mask``."""
        if not self.robust:
            return mask
        kept = unmoved(image.detach(), photo, mask)
        return kept if mask is None else kept & mask


photometric_loss = PhotometricLoss()


def unmoved(image: Tensor, photo: Tensor, mask: Tensor | None = None) -> Tensor:
    """The pixels that may show what the other photos show, by trimmed residuals [RobustNeRF, arXiv:2302.00833].

    A pixel differs if its residual, the mean over the channels of the absolute difference, is among the largest fifth
    of the view and above a tenth of the range. Differing pixels count by the majority of 3x3 pixels, and patches of
    8x8 pixels are left out where half of the 16x16 around differ: a thing that moved, not an edge or a fine texture.

    Args:
        image: (3,H,W) float32.
        photo: (3,H,W) uint8.
        mask: (H,W) bool; pixels where it is False differ from nothing.

    Returns:
        (H,W) bool, False where a pixel is left out.
    """
    height, width = photo.shape[1:]
    residuals = (image - photo / 255).abs().mean(dim=0)
    if mask is not None:
        residuals = residuals * mask
    limit = residuals.flatten().kthvalue(max(1, int(_COUNTED * residuals.numel()))).values.clamp_min(_SMALL)
    alike = (residuals <= limit).float()[None, None]
    alike = (avg_pool2d(alike, 3, 1, 1, count_include_pad=False) > 0.5).float()
    padding = 0, -width % _PATCH, 0, -height % _PATCH
    votes = avg_pool2d(pad(alike, padding, mode="replicate"), 2 * _PATCH, _PATCH, _PATCH // 2, count_include_pad=False)
    kept = (votes > 0.5)[0, 0].repeat_interleave(_PATCH, dim=0).repeat_interleave(_PATCH, dim=1)
    return kept[:height, :width]


def measure(view: engine.RenderPass, loss: Loss, photo: Tensor, mask: Tensor | None) -> Tensor:
    """The loss () float32 of a view, without graph; its gradient for the image goes to ``view.v_image``."""
    if isinstance(loss, PhotometricLoss):  # needs no autograd
        return view.photometric_loss(photo, loss.counted(view.image, photo, mask), loss.ssim_weight)
    value, v_image = with_gradient(loss, view.image, photo, mask)
    view.v_image.copy_(v_image)
    return value


def with_gradient(loss: Loss, image: Tensor, photo: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss () float32 of an image, without graph, and its gradient for the image."""
    image = image.detach().requires_grad_()
    value = loss(image, photo, mask)
    return value.detach().float(), torch.autograd.grad(value, image)[0]
