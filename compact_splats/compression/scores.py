"""Pruning scores, over all training views: of a Gaussian, how much worse the views become without it.

``compression/posthoc.py`` and ``ordering.py`` decide what is pruned by them, and when.
"""

from collections.abc import Sequence

import torch
from diff_gaussian_rasterization import photometric_loss
from torch import Tensor

from compact_splats.gaussian_renderer import removal_error, render
from compact_splats.gaussian_renderer.evaluation import ground_truth, mask_of
from compact_splats.scene.cameras import Camera, in_turn
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.exposure import Exposure


def removal_scores(model: GaussianModel, cameras: Sequence[Camera], background: Tensor) -> Tensor:
    """Mean of the :func:`gaussian_renderer.removal_error` of the views.

    Args:
        model: is rendered.
        cameras: the training views; pixels that their masks leave out do not count.
        background: (3,) RGB in [0, 1].

    Returns:
        (N,) >= 0; 0 for Gaussians that no view sees.
    """
    scores = torch.zeros(model.num_gaussians, device=model.device)
    for camera in in_turn(cameras, model.device):
        scores += removal_error(camera, model, background, mask_of(camera, model.device)) / len(cameras)
    return scores


def gradient_scores(
    model: GaussianModel,
    cameras: Sequence[Camera],
    background: Tensor,
    *,
    ssim_weight: float,
    exposure: Exposure | None = None,
) -> Tensor:
    """Sum over the parameters of the norm of the loss's gradient, added up over the views [POSTHOC].

    One pass over the views and memory for one gradient. Opposite gradients of two views cancel, as in training.

    Args:
        model: its gradients are cleared, before and after.
        cameras: the training views, with photos.
        background: (3,) RGB in [0, 1].
        ssim_weight: of the loss.
        exposure: of the photos.

    Returns:
        (N,) >= 0; 0 for Gaussians that no view sees.
    """
    for values in model.parameters.values():
        values.grad = None
    for index, camera in enumerate(in_turn(cameras, model.device)):
        photo, mask = ground_truth(camera, model.device, background)
        image = render(camera, model, background).image
        if exposure is not None:
            image = exposure.applied(index, image)
        photometric_loss(image, photo, mask=mask, ssim_weight=ssim_weight).loss.backward()
    scores = torch.zeros(model.num_gaussians, device=model.device)
    for values in model.parameters.values():
        if values.grad is not None:  # sh_rest of degree 0 has none
            scores += values.grad.flatten(1).norm(dim=1)
            values.grad = None
    return scores
