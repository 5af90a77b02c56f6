"""The 3D smoothing filter [Mip-Splatting, arXiv:2311.16493]: no Gaussian is finer than what the photos can show.

A pixel of a camera with focal length f (px) is z / f wide at depth z. The camera nearest by this measure sets the
variance that is added to a Gaussian's along each axis; the opacity falls as the volume grows [eq. 19 of docs/math.md].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diff_gaussian_rasterization import LIMITS
from torch import Tensor

from compact_splats.scene.cameras import Camera

SMOOTHING = "smoothing"  # in GaussianModel.per_gaussian: (N,) variances in squared world units
VARIANCE_PX = 0.2  # of the filter, in squared px of the nearest camera


def smoothed(log_scales: Tensor, opacity_logits: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """The Gaussians after the filter; differentiable in the first two.

    Args:
        log_scales: (N,3).
        opacity_logits: (N,1).
        variance: (N,) of the filter, 0 or more.

    Returns:
        Log-scales and logits.
    """
    wide = 0.5 * torch.logaddexp(2 * log_scales, variance.log()[:, None])
    log_ratio = (log_scales - wide).sum(dim=1, keepdim=True).clamp_max(-1e-9)  # of the volumes; below 0 for its log
    # The logit of r o, for o = 1 / (1 + exp(-v)), is log r - log(1 - r + exp(-v)).
    return wide, log_ratio - torch.logaddexp(torch.log(-torch.expm1(log_ratio)), -opacity_logits)


@torch.no_grad()
def filter_variances(means: Tensor, cameras: Sequence[Camera]) -> Tensor:
    """Variances of the filter: ``VARIANCE_PX`` pixels of that camera in whose view a pixel is smallest at the mean.

    Args:
        means: (N,3) world units.
        cameras: the training views at their full size.

    Returns:
        (N,) squared world units; where no camera looks, the largest of the others; 0 where there are none.
    """
    border, rate = LIMITS["border"], means.new_zeros(len(means))
    for camera in cameras:
        pose = camera.world_to_camera.to(means.device)
        x, y, z = (means @ pose[:3, :3].T + pose[:3, 3]).unbind(1)
        u, v = (camera.fx * x / z + camera.cx) / camera.width, (camera.fy * y / z + camera.cy) / camera.height
        seen = (z > LIMITS["near"]) & ((u - 0.5).abs() <= 0.5 + border) & ((v - 0.5).abs() <= 0.5 + border)
        rate = torch.where(seen, torch.maximum(rate, max(camera.fx, camera.fy) / z), rate)
    variance = VARIANCE_PX / rate.square()
    largest = torch.where(rate > 0, variance, 0).amax() if len(means) else 0
    return torch.where(rate > 0, variance, largest)
