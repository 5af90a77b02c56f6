"""Depth maps and maps of the number of Gaussians per pixel."""

import math

import torch
from torch import Tensor

from compact_splats.gaussian_renderer import importance, render
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel

MAX_VALUE = 65535  # of a 16-bit PNG
_MAX_DEPTH_EXTENTS = 10  # depth that a map can hold at least, in extents of the scene
_MIN_OPACITY = 0.5  # accumulated opacity of a pixel that has a depth


@torch.no_grad()
def depth_map(camera: Camera, model: GaussianModel) -> Tensor:
    """Depth of a view: z in camera axes, not the distance from the camera.

    Returns:
        (H,W) float, world units: the harmonic mean of the z of a pixel's Gaussians with their blending weights; 0 where
        the accumulated opacity is at most 0.5.
    """
    output = render(camera, model, inverse_depth=True)
    assert output.inverse_depth is not None
    opacity = 1 - output.transmittance
    return torch.where(opacity > _MIN_OPACITY, opacity / output.inverse_depth, 0)


def count_map(camera: Camera, model: GaussianModel) -> Tensor:
    """(H,W) int32, the number of Gaussians that are blended into each pixel, until its transmittance is used up."""
    weights = model.means.new_zeros(camera.height, camera.width)  # not used
    return importance(camera, model, weights).num_gaussians


def depth_step(extent: float) -> float:
    """Units per step of 16-bit depth maps: the smallest power of ten with which they reach ten extents.

    Args:
        extent: of the scene, positive, in any unit.
    """
    return 10.0 ** math.ceil(math.log10(_MAX_DEPTH_EXTENTS * extent / MAX_VALUE))


def quantized(values: Tensor, step: float = 1.0) -> Tensor:
    """(H,W) int32, ``values`` in steps, rounded, at most ``MAX_VALUE``; positive values become at least 1."""
    steps = (values / step).round().clamp(0, MAX_VALUE)
    return torch.where(values > 0, steps.clamp(min=1), steps).int()


def shades(values: Tensor) -> Tensor:
    """(H,W) float in [0, 1] for a colour map: values scaled from their 1st to their 99th percentile.

    Args:
        values: (H,W) float; zeros are ignored.
    """
    positive = values[values > 0]
    if not len(positive):
        return torch.zeros_like(values)
    ascending = positive.sort().values
    low, high = ascending[len(positive) // 100], ascending[-1 - len(positive) // 100]
    return ((values - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
