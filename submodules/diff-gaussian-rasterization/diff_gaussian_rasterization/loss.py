"""L1 + SSIM as a torch function. The engine computes value and gradient together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _C
from .queue import queue_for, thread_count


class Loss(NamedTuple):
    """Result of `photometric_loss`: scalars of the image's dtype; only ``loss`` has a gradient."""

    loss: Tensor
    l1: Tensor
    ssim: Tensor


class _PhotometricLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, photo: Tensor, mask: Tensor | None, ssim_weight: float, threads: int):
        gradient = torch.empty_like(image, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        values = image.new_empty(3)
        _C.photometric_loss(
            image.contiguous(), photo.contiguous(), queue_for(image.device),
            mask=None if mask is None else mask.contiguous(), ssim_weight=ssim_weight,
            threads=thread_count(threads), values=values, v_image=gradient,
        )  # fmt: skip
        ctx.gradient = gradient
        loss, l1, ssim = values.unbind()
        ctx.mark_non_differentiable(l1, ssim)
        return loss, l1, ssim

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v_loss: Tensor, _v_l1, _v_ssim):
        is_one = v_loss.device.type == "cpu" and v_loss.item() == 1  # on a GPU reading it would synchronize
        return ctx.gradient if is_one else ctx.gradient * v_loss, None, None, None, None


def photometric_loss(
    image: Tensor, photo: Tensor, *, mask: Tensor | None = None, ssim_weight: float = 0.2, threads: int = 0
) -> Loss:
    """(1 - w) L1 + w (1 - SSIM), means over pixels and channels [3DGS, arXiv:2308.04079; docs/math.md eq. 15].

    SSIM uses an 11 x 11 Gaussian window of sigma 1.5 and zero padding.

    Args:
        image: (3, H, W) float32 or float64.
        photo: (3, H, W), of the image's dtype in [0, 1], or uint8. It has no gradient.
        mask: (H, W) bool; where it is False, image, photo and gradient are zero.
        ssim_weight: w.
        threads: CPU threads; 0 = ``torch.get_num_threads()``. The result does not depend on it.

    Raises:
        ValueError: A shape, dtype or device is not as above.
    """
    return Loss(*_PhotometricLoss.apply(image, photo, mask, ssim_weight, threads))
