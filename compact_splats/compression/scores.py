"""Who can go: how much the photos pull at each Gaussian, over all training views [POSTHOC].

Only scores: who is removed, and when, is decided in ``compression/posthoc.py``.
"""

from collections.abc import Sequence

import torch
from diff_gaussian_rasterization import photometric_loss
from torch import Tensor

from compact_splats.gaussian_renderer import render
from compact_splats.gaussian_renderer.evaluation import ground_truth
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel


def gradient_scores(
    model: GaussianModel,
    cameras: Sequence[Camera],
    background: Tensor,
    *,
    ssim_weight: float,
) -> Tensor:
    """Sum over the parameter groups of the norm of the loss's gradient, which adds up over the views.

    One pass over the views, and memory for one gradient: opposite pulls of two views cancel, as they do in training.

    Args:
        model: the Gaussians as they are rendered; gradients that wait in it are lost.
        cameras: the training views, with photos.
        background: (3,) RGB in [0, 1].
        ssim_weight: of the loss.

    Returns:
        (N,) >= 0; 0 for Gaussians that no view sees.
    """
    for row in model.parameters.values():
        row.grad = None
    for camera in cameras:
        photo, mask = ground_truth(camera, model.device)
        image = render(camera, model, background).image
        photometric_loss(image, photo, mask=mask, ssim_weight=ssim_weight).loss.backward()
    scores = torch.zeros(model.num_gaussians, device=model.device)
    for row in model.parameters.values():
        if row.grad is not None:  # SH of degree 0 have no rest
            scores += row.grad.flatten(1).norm(dim=1)
            row.grad = None
    return scores
