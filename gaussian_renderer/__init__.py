"""From a camera and the set of Gaussians to an image: what the trainer knows of the engine.

Activations happen in the model, everything after them in ``diff_gaussian_rasterization``.
"""

from dataclasses import dataclass

import torch
from diff_gaussian_rasterization import DEVICES, Importance, View, rasterize
from diff_gaussian_rasterization import importance as rasterize_importance
from torch import Tensor

from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.densification import GradientStats

__all__ = ["DEVICES", "RenderOutput", "importance", "render"]


@dataclass
class RenderOutput:
    """A rendered view.

    Attributes:
        image: (3,H,W) float, RGB, not clamped.
        transmittance: (H,W) float, share of the background in each pixel.
        radii: (N,) int32 px, 0 where the Gaussian is not visible.
        inverse_depth: (H,W) float, expected 1 / depth in world units, if asked for.
    """

    image: Tensor
    transmittance: Tensor
    radii: Tensor
    inverse_depth: Tensor | None


def render(
    camera: Camera,
    model: GaussianModel,
    background: Tensor,
    *,
    antialiased: bool = False,
    inverse_depth: bool = False,
    stats: GradientStats | None = None,
    threads: int = 0,
) -> RenderOutput:
    """Render a view; differentiable with respect to the rows of the model.

    Args:
        camera: where from; its photo is not looked at.
        model: the Gaussians; their device is where it happens.
        background: (3,) RGB in [0, 1], in main memory: from a GPU it would have to be waited for.
        antialiased: compensate the opacity of splats that are widened to a pixel.
        inverse_depth: compute the expected inverse depth, too.
        stats: receives the screen-space gradients of the visible Gaussians in the backward pass.
        threads: CPU threads, 0: all cores.
    """
    output = rasterize(
        _view(camera, background),
        model.means,
        model.quats,
        model.scales,
        model.opacities,
        sh_dc=model.sh_dc,
        sh_rest=model.sh_rest if model.max_sh_degree else None,
        sh_degree=model.sh_degree,
        antialiased=antialiased,
        inverse_depth=inverse_depth,
        stats=None if stats is None else (stats.abs_grad_sum, stats.views),
        threads=threads,
    )
    return RenderOutput(output.image, output.transmittance, output.radii, output.inverse_depth)


@torch.no_grad()
def importance(
    camera: Camera, model: GaussianModel, pixel_weights: Tensor, *, antialiased: bool = False, threads: int = 0
) -> Importance:
    """What each Gaussian contributes to a view  [SPEEDY, arXiv:2412.00578].

    Args:
        camera: the view.
        model: the Gaussians.
        pixel_weights: (H,W) float on the model's device.
        antialiased: as in :func:`render`.
        threads: CPU threads, 0: all cores.

    Returns:
        Per Gaussian the sum over pixels of weight * T * alpha, the sum of T * alpha, and the number of pixels; and for
        each pixel the number of Gaussians.
    """
    return rasterize_importance(
        _view(camera, torch.zeros(3)),
        model.means,
        model.quats,
        model.scales,
        model.opacities,
        antialiased=antialiased,
        pixel_weights=pixel_weights,
        threads=threads,
    )


def _view(camera: Camera, background: Tensor) -> View:
    """The engine's view."""
    return View(
        camera.width,
        camera.height,
        camera.fx,
        camera.fy,
        camera.cx,
        camera.cy,
        camera.world_to_camera,
        background,
    )
