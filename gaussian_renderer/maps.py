"""What a view says besides its colours, as pictures: how far away things are, and how many Gaussians a pixel takes."""

import math

import torch
from torch import Tensor

from compact_splats.gaussian_renderer import importance, render
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel

LAST = 65535  # of a 16-bit PNG
_REACH = 10  # extents of a scene that a depth map reaches at least
_SOLID = 0.5  # share of a pixel's light that has to come from Gaussians for the pixel to have a depth


@torch.no_grad()
def depth_map(camera: Camera, model: GaussianModel) -> Tensor:
    """How far away what a view shows is, along the viewing direction (z, not the distance from the camera).

    Returns:
        (H,W) float, world units: the harmonic mean over the Gaussians of a pixel, weighted as in its colour, which is
        the z of a single one; 0 where more than half of the light comes from the background.
    """
    output = render(camera, model, inverse_depth=True)
    weight = 1 - output.transmittance
    return torch.where(weight > _SOLID, weight / output.inverse_depth, 0)


def count_map(camera: Camera, model: GaussianModel) -> Tensor:
    """How many Gaussians each pixel of a view takes: all that cover it, up to the one behind which nothing shows.

    Returns:
        (H,W) int32.
    """
    weights = model.means.new_zeros(camera.height, camera.width)  # of no interest here
    return importance(camera, model, weights).num_gaussians


def depth_step(extent: float) -> float:
    """World units of one step of a scene's 16-bit depth maps: the power of ten that just reaches ten extents.

    Args:
        extent: of the scene, world units.
    """
    return 10.0 ** math.ceil(math.log10(max(_REACH * extent, 1e-6) / LAST))


def quantized(values: Tensor, step: float = 1.0) -> Tensor:
    """(H,W) int32, how many ``step``, rounded and at most ``LAST``; what is above 0 is at least 1."""
    steps = (values / step).round().clamp(0, LAST)
    return torch.where(values > 0, steps.clamp(min=1), steps).int()


def shades(values: Tensor) -> Tensor:
    """(H,W) float from 0 to 1 to be shown in colours: where a view's values, the extreme hundredths aside, lie.

    Args:
        values: (H,W) float; 0 means nothing.
    """
    there = values[values > 0]
    if not len(there):
        return torch.zeros_like(values)
    ascending = there.sort().values
    low, high = ascending[len(there) // 100], ascending[-1 - len(there) // 100]
    return ((values - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
