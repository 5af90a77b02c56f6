"""L1 + SSIM, and SSIM alone, as torch functions. The engine computes value and gradient together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _C
from .queue import queue_for, thread_count

_MARGIN = 5  # px, half of the window without its middle


class Loss(NamedTuple):
    """Result of `photometric_loss`: scalars of the image's dtype, each with a gradient."""

    loss: Tensor
    l1: Tensor
    ssim: Tensor


def _measure(
    image: Tensor, photo: Tensor, mask: Tensor | None, ssim_weight: float, margin: int, threads: int, gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The loss (), L1 and SSIM (2,), and the gradient of the loss if it is wanted."""
    v_image = torch.empty_like(image, memory_format=torch.contiguous_format) if gradient else None
    loss, parts = image.new_empty(()), image.new_empty(2)
    _C.photometric_loss(
        image.detach().contiguous(), photo.contiguous(), queue_for(image.device),
        mask=None if mask is None else mask.contiguous(), ssim_weight=ssim_weight, margin=margin,
        threads=thread_count(threads), loss=loss, parts=parts, v_image=v_image,
    )  # fmt: skip
    return loss, parts, v_image


def _times(gradient: Tensor, v: Tensor) -> Tensor:
    is_one = v.device.type == "cpu" and v.item() == 1  # on a GPU reading it would synchronize
    return gradient if is_one else gradient * v


class _PhotometricLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, photo: Tensor, mask: Tensor | None, ssim_weight: float, threads: int):
        loss, parts, ctx.gradient = _measure(image, photo, mask, ssim_weight, 0, threads, ctx.needs_input_grad[0])
        ctx.save_for_backward(image, photo, mask)
        ctx.threads = threads
        ctx.set_materialize_grads(False)
        return loss, *parts.unbind()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v_loss: Tensor | None, v_l1: Tensor | None, v_ssim: Tensor | None):
        parts = [] if v_loss is None else [_times(ctx.gradient, v_loss)]
        # L1 and 1 - SSIM are the losses of weight 0 and 1. Few callers differentiate them, so forward does not.
        for v, weight in ((v_l1, 0.0), (None if v_ssim is None else -v_ssim, 1.0)):
            if v is not None:
                parts.append(_times(_measure(*ctx.saved_tensors, weight, 0, ctx.threads, True)[2], v))
        return sum(parts[1:], parts[0]), None, None, None, None


class _Ssim(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, photo: Tensor, margin: int, threads: int):
        _, parts, ctx.gradient = _measure(image, photo, None, 1.0, margin, threads, ctx.needs_input_grad[0])
        return parts[1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v_ssim: Tensor):
        return ctx.gradient * -v_ssim, None, None, None


def photometric_loss(
    image: Tensor, photo: Tensor, *, mask: Tensor | None = None, ssim_weight: float = 0.2, threads: int = 0
) -> Loss:
    """(1 - w) L1 + w (1 - SSIM), means over pixels and channels [3DGS, arXiv:2308.04079; docs/math.md eq. 15].

    SSIM uses an 11 x 11 Gaussian window of sigma 1.5 and zero padding.

    Args:
        image: (C, H, W) float32 or float64.
        photo: (C, H, W), of the image's dtype in [0, 1], or uint8. It has no gradient.
        mask: (H, W) bool; where it is False, image, photo and gradient are zero.
        ssim_weight: w.
        threads: CPU threads; 0: see `thread_count`. The result does not depend on it.

    Returns:
        The gradient of ``loss`` costs least; that of ``l1`` or ``ssim`` repeats the computation in backward.

    Raises:
        ValueError: A shape, dtype or device is not as above.
    """
    return Loss(*_PhotometricLoss.apply(image, photo.detach(), mask, ssim_weight, threads))


def ssim(image: Tensor, photo: Tensor, *, is_padded: bool = True, threads: int = 0) -> Tensor:
    """The mean SSIM [docs/math.md eq. 15], a scalar with a gradient; arguments as in `photometric_loss`.

    Args:
        is_padded: False: the mean is over pixels whose window lies inside the image, of 11 x 11 px or more.
    """
    return _Ssim.apply(image, photo.detach(), 0 if is_padded else _MARGIN, threads)
