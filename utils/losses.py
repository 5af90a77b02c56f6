"""L1, PSNR, SSIM and a fit of colours in plain torch; training uses the engine's fused loss, tested against these."""

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW = 11  # px
SSIM_SIGMA = 1.5  # px
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2
_CHUNK = 1 << 18  # px: of the sums in double, which would not fit beside a large photo


def l1(image: Tensor, photo: Tensor) -> Tensor:
    """Mean absolute difference of two images of the same shape; ()."""
    return (image - photo).abs().mean()


def psnr(image: Tensor, photo: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of two images in [0, 1], in dB; (), infinite if they are equal."""
    return -10 * torch.log10((image - photo).square().mean())


def color_corrected(image: Tensor, photo: Tensor) -> Tensor:
    """An image in the colours of its photo, so that PSNR measures everything but exposure and white balance.

    The colour of each pixel, as a column (r, g, b, 1), is multiplied by the 3x4 matrix of least squared error, and
    clamped to [0, 1]. Pixels that are black in both images are left out and stay black: a mask makes them so.

    Args:
        image: (3,H,W) float in [0, 1].
        photo: (3,H,W), same dtype and range.

    Returns:
        (3,H,W), same dtype.
    """
    image_rows, photo_rows = image.flatten(1), photo.flatten(1)
    products = torch.zeros(7, 7, dtype=torch.float64)
    for columns, targets in zip(image_rows.split(_CHUNK, 1), photo_rows.split(_CHUNK, 1), strict=True):
        counts = (columns + targets).sum(0, keepdim=True) > 0
        rows = torch.cat([columns, counts, targets]).double()
        products += (rows @ rows.T).cpu()
    # Grey images leave the matrix undetermined: the pseudo-inverse takes the smallest.
    matrix = products[4:, :4] @ torch.linalg.pinv(products[:4, :4], rtol=1e-12, hermitian=True)
    matrix = matrix.to(image)
    fitted = (matrix[:, :3] @ image_rows + matrix[:, 3:]).clamp(0, 1)
    return (fitted * ((image_rows + photo_rows).sum(0) > 0)).view_as(image)


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
