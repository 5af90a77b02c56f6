"""``fused_ssim``, the name that 3DGS code imports for a fast SSIM, computed by the engine on the CPU or on CUDA."""

from diff_gaussian_rasterization.loss import ssim
from torch import Tensor

__all__ = ["fused_ssim"]

_PADDINGS = ("same", "valid")


def fused_ssim(img1: Tensor, img2: Tensor, padding: str = "same", train: bool = True) -> Tensor:
    """The mean SSIM of two batches of images: 11 x 11 Gaussian window of sigma 1.5 [docs/math.md eq. 15].

    Args:
        img1: (B, C, H, W) float32, or float64 on the CPU, in [0, 1].
        img2: (B, C, H, W), of the same dtype and device. It has no gradient.
        padding: "same": zeros around the images, and the mean over all pixels. "valid": the mean over the pixels whose
            window lies inside the image, which has to be 11 x 11 px or larger.
        train: Whether the result has a gradient with respect to ``img1``.

    Returns:
        A scalar.

    Raises:
        ValueError: An argument is not as above.
    """
    if padding not in _PADDINGS:
        raise ValueError(f"padding: expected one of {_PADDINGS}, got {padding!r}")
    if img1.ndim != 4 or img1.shape != img2.shape:
        raise ValueError(
            f"img1 and img2: expected the same shape (B, C, H, W), got {tuple(img1.shape)} and {tuple(img2.shape)}"
        )
    image = img1 if train else img1.detach()
    return ssim(image.flatten(0, 1), img2.flatten(0, 1), is_padded=padding == "same")
