"""From a camera and a set of Gaussians to an image.

The engine, ``diff_gaussian_rasterization``, takes the parameters as the model has them, before activation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diff_gaussian_rasterization import DEVICES, Importance, RenderPass, View, rasterize
from diff_gaussian_rasterization import importance as rasterize_importance
from diff_gaussian_rasterization import removal_error as rasterize_removal_error
from torch import Tensor

from compact_splats.gaussian_renderer.gradient_stats import GradientStats
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel

__all__ = ["DEVICES", "RenderOutput", "importance", "removal_error", "render", "render_pass"]


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
    background: Tensor = torch.zeros(3),  # noqa: B008  never written to
    *,
    inverse_depth: bool = False,
    stats: GradientStats | None = None,
) -> RenderOutput:
    """Render a view; differentiable with respect to the parameters of the model.

    Args:
        camera: pose and lens; it needs no photo.
        model: the Gaussians; the image is computed on their device.
        background: (3,) RGB in [0, 1], in main memory; black by default.
        inverse_depth: compute the expected inverse depth, too.
        stats: the backward pass adds the screen-space gradients of the visible Gaussians.
    """
    output = rasterize(
        _view(camera, background),
        **_rows(model),
        sh_degree=model.sh_degree,
        antialiased=model.antialiased,
        inverse_depth=inverse_depth,
        stats=None if stats is None else (stats.abs_grad_sum, stats.views),
    )
    return RenderOutput(output.image, output.transmittance, output.radii, output.inverse_depth)


def render_pass(
    camera: Camera,
    model: GaussianModel,
    background: Tensor,
    sums: Mapping[str, Tensor | None],
    *,
    stats: Sequence[GradientStats] = (),
    pose: bool = False,
    inverse_depth: bool = False,
) -> RenderPass:
    """Render a view without autograd, for training. Image and gradients have the same bits as those of :func:`render`.

    Args:
        camera: as for :func:`render`.
        model: as for :func:`render`.
        background: as for :func:`render`.
        sums: by parameter name, what gradients are added to, if anything.
        stats: what the screen-space gradients of the visible Gaussians are added to.
        pose: compute the gradient for the pose of the camera, too.
        inverse_depth: as for :func:`render`.
    """
    return RenderPass(
        _view(camera, background),
        {name: row if row.is_leaf else row.detach().requires_grad_() for name, row in _rows(model).items()},
        sums,
        stats=[(each.abs_grad_sum, each.views) for each in stats],
        # Three quarters of all numbers; its gradient is that of sh_dc times numbers below 10.
        unchecked="sh_rest",
        sh_degree=model.sh_degree,
        antialiased=model.antialiased,
        pose=pose,
        inverse_depth=inverse_depth,
    )


@torch.no_grad()
def importance(camera: Camera, model: GaussianModel, pixel_weights: Tensor) -> Importance:
    """Contribution of each Gaussian to a view [SPEEDY, arXiv:2412.00578].

    Args:
        camera: the view.
        model: the Gaussians.
        pixel_weights: (H,W) float on the model's device.

    Returns:
        Per Gaussian the sum over pixels of weight * T * alpha, the sum of T * alpha, and the number of pixels; and for
        each pixel the number of Gaussians.
    """
    rows = model.drawn_parameters()
    return rasterize_importance(
        _view(camera, torch.zeros(3)),
        model.means,
        model.quats,
        log_scales=rows["log_scales"],
        opacity_logits=rows["opacity_logits"],
        antialiased=model.antialiased,
        pixel_weights=pixel_weights,
    )


@torch.no_grad()
def removal_error(camera: Camera, model: GaussianModel, background: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared change of a view if one Gaussian is removed, for each Gaussian [docs/math.md eq. 20].

    The image is compared with that of the whole model, not with the photo. The error to the photo falls where one of
    several Gaussians that cause it together is removed; but all of them would be pruned for the same error.

    Args:
        camera: the view.
        model: the Gaussians.
        background: as for :func:`render`.
        mask: (H,W) bool, False where the pixel does not count.

    Returns:
        (N,) >= 0; 0 for Gaussians that the view does not show.
    """
    change = rasterize_removal_error(
        _view(camera, background),
        **_rows(model),
        sh_degree=model.sh_degree,
        antialiased=model.antialiased,
        pixel_weights=None if mask is None else mask.to(model.means.dtype),
    )
    return change / (3 * camera.width * camera.height)


def _rows(model: GaussianModel) -> dict[str, Tensor]:
    """The parameters that an image depends on."""
    return {name: row for name, row in model.drawn_parameters().items() if name != "sh_rest" or model.max_sh_degree}


def _view(camera: Camera, background: Tensor) -> View:
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
