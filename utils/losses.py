"""L1, PSNR and SSIM in plain torch, for metrics.py; training uses the engine's fused loss, tested against these."""

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW = 11  # px
SSIM_SIGMA = 1.5  # px
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def l1(image: Tensor, photo: Tensor) -> Tensor:
    """Mean absolute difference of two images of the same shape; ()."""
    return (image - photo).abs().mean()


def psnr(image: Tensor, photo: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of two images in [0, 1], in dB; (), infinite if they are equal."""
    return -10 * torch.log10((image - photo).square().mean())


def ssim(image: Tensor, photo: Tensor) -> Tensor:
    """Mean structural similarity with an 11x11 Gaussian window and zero padding, as 3DGS reports it.

    Args:
        image: (3,H,W) float in [0, 1].
        photo: (3,H,W), same dtype and range.

    Returns:
        (), the mean over pixels and channels.  [Wang et al. 2004]
    """
    if image.shape != photo.shape or image.dim() != 3:
        raise ValueError(f"expected two (C,H,W) images of one shape, got {tuple(image.shape)} and {tuple(photo.shape)}")
    mean_x, mean_y = _blur(image), _blur(photo)
    var_x = _blur(image * image) - mean_x * mean_x
    var_y = _blur(photo * photo) - mean_y * mean_y
    cov = _blur(image * photo) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x * mean_x + mean_y * mean_y + SSIM_C1)
    structure = (2 * cov + SSIM_C2) / (var_x + var_y + SSIM_C2)
    return (luminance * structure).mean()


def _blur(x: Tensor) -> Tensor:
    """Filter each channel of (C,H,W) with the SSIM window, one axis after the other."""
    offset = torch.arange(SSIM_WINDOW, dtype=x.dtype, device=x.device) - SSIM_WINDOW // 2
    window = torch.exp(-offset.square() / (2 * SSIM_SIGMA**2))
    window = window / window.sum()
    rows = F.conv2d(x[:, None], window.view(1, 1, -1, 1), padding=(SSIM_WINDOW // 2, 0))
    return F.conv2d(rows, window.view(1, 1, 1, -1), padding=(0, SSIM_WINDOW // 2))[:, 0]
