"""The rasterizer as a torch function. It allocates the outputs; the engine checks most shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _C
from .queue import queue_for, thread_count


@dataclass(frozen=True)
class View:
    """A pinhole camera, the image size and the background.

    Attributes:
        width, height: Size of the image in px.
        fx, fy: Focal lengths in px.
        cx, cy: Principal point in px; the centre of the top-left pixel is (0.5, 0.5), as in COLMAP.
        world_to_camera: (4, 4), OpenCV axes (x right, y down, z forward).
        background: (3,) RGB.

    The engine needs both tensors on the CPU. Copying them from a GPU synchronizes.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    world_to_camera: Tensor
    background: Tensor

    def _for_engine(self, dtype: torch.dtype) -> Any:
        matrix, background = (
            each if each.is_cpu and each.dtype == dtype and each.is_contiguous() else each.to("cpu", dtype).contiguous()
            for each in (self.world_to_camera, self.background)
        )
        return _C.View(self.width, self.height, self.fx, self.fy, self.cx, self.cy, matrix, background)


class Rasterized(NamedTuple):
    """Result of `rasterize`.

    Attributes:
        image: (3, H, W) RGB, with background.
        transmittance: (H, W), after all splats: the weight of the background.
        radii: (N,) int32, px: half the longer side of the splat's bounding box; 0 if invisible.
        inverse_depth: (H, W), sum of weight / z over the splats in 1 / world units, or None.
    """

    image: Tensor
    transmittance: Tensor
    radii: Tensor
    inverse_depth: Tensor | None


class Importance(NamedTuple):
    """Result of `importance`.

    Attributes:
        weighted: (N,), sum over pixels of pixel weight x transmittance x alpha.
        total: (N,), sum over pixels of transmittance x alpha.
        distance: (N,), sum over pixels of transmittance x alpha x distance of the pixel from the projected mean, px.
        num_pixels: (N,) int32, pixels to which the Gaussian contributes.
        num_weighted: (N,) int32, of these, pixels whose weight is not 0.
        num_gaussians: (H, W) int32, Gaussians that contribute to the pixel.
    """

    weighted: Tensor
    total: Tensor
    distance: Tensor
    num_pixels: Tensor
    num_weighted: Tensor
    num_gaussians: Tensor


_ROWS = (
    "means", "quats", "scales", "log_scales", "covariances", "opacities", "opacity_logits",
    "sh_dc", "sh_rest", "colors",
)  # fmt: skip


def _check(view: View, rows: dict[str, Tensor | None], extra: dict[str, tuple[Tensor, torch.dtype, tuple]]) -> None:
    """Check the dtypes and devices, and the shapes that the engine would check only in backward."""
    if view.width < 1 or view.height < 1:
        raise ValueError(f"view: expected a size of 1 x 1 or more, got {view.width} x {view.height}")
    means = rows["means"]
    if means.device.type == "meta":
        raise ValueError(f"means: expected a tensor with values, got one on {means.device}")
    if means.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"means: expected dtype float32 or float64, got {str(means.dtype).removeprefix('torch.')}")
    device, dtype = means.device, means.dtype
    for name, tensor in rows.items():
        if tensor is not None:
            _check_kind(name, tensor, device, dtype)
    for name, (tensor, its_dtype, shape) in extra.items():
        _check_kind(name, tensor, device, its_dtype)
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")


def _check_kind(name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> None:
    if tensor.device != device:
        raise ValueError(f"{name}: expected device {device}, got {tensor.device}")
    if tensor.dtype != dtype:
        want, got = (str(d).removeprefix("torch.") for d in (dtype, tensor.dtype))
        raise ValueError(f"{name}: expected dtype {want}, got {got}")


def _rows(tensors: dict[str, Tensor | None]) -> Any:
    return _C.Rows(**{name: t.contiguous() for name, t in tensors.items() if t is not None})


def _images(*tensors: Tensor | None) -> Any:
    return _C.Outputs(*(t if t is None else t.contiguous() for t in tensors))


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, settings: dict[str, Any], screen_means: Tensor | None, world_to_camera: Tensor, *rows: Tensor | None
    ):
        means, view = rows[0], settings["view"]
        inputs = dict(zip(_ROWS, rows, strict=True))
        empty = dict(dtype=means.dtype, device=means.device)
        image = torch.empty(3, view.height, view.width, **empty)
        transmittance = torch.empty(view.height, view.width, **empty)
        inverse_depth = torch.empty(view.height, view.width, **empty) if settings["inverse_depth"] else None
        radii = torch.empty(means.shape[0], dtype=torch.int32, device=means.device)
        ctx.rows = _rows(inputs)
        ctx.frame = _C.forward(
            ctx.rows, view._for_engine(means.dtype), queue_for(means.device),
            antialiased=settings["antialiased"], sh_degree=settings["sh_degree"], threads=settings["threads"],
            differentiable=any(ctx.needs_input_grad), out=_images(image, transmittance, inverse_depth), radii=radii,
        )  # fmt: skip
        ctx.stats = settings["stats"]
        ctx.has_screen_means = screen_means is not None
        ctx.pose = dict(dtype=world_to_camera.dtype, device=world_to_camera.device)
        ctx.save_for_backward(image, transmittance, inverse_depth, *rows)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(radii)
        return image, transmittance, radii, inverse_depth

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v_image, v_transmittance, _v_radii, v_inverse_depth):
        image, transmittance, inverse_depth, *rows = ctx.saved_tensors
        needs = dict(zip(_ROWS, ctx.needs_input_grad[3:], strict=True))
        v_rows = {name: torch.empty_like(t, memory_format=torch.contiguous_format) if needs[name] else None
                  for name, t in zip(_ROWS, rows, strict=True)}  # fmt: skip
        v_screen_means = None
        if ctx.has_screen_means and ctx.needs_input_grad[1]:
            v_screen_means = torch.empty(rows[0].shape[0], 4, dtype=image.dtype, device=image.device)
        v_world_to_camera = image.new_empty(4, 4) if ctx.needs_input_grad[2] else None
        abs_grad, seen = torch.empty(2, rows[0].shape[0], device=image.device) if ctx.stats else (None, None)
        _C.backward(
            ctx.frame, ctx.rows, _rows(v_rows), queue_for(image.device),
            images=_images(image, transmittance, inverse_depth),
            v_images=_images(v_image, v_transmittance, v_inverse_depth),
            v_screen_means=v_screen_means, abs_grad=abs_grad, seen=seen, v_world_to_camera=v_world_to_camera,
        )  # fmt: skip
        if ctx.stats:
            ctx.stats[0].add_(abs_grad)
            ctx.stats[1].add_(seen)
        v_pose = None if v_world_to_camera is None else v_world_to_camera.to(**ctx.pose)
        return None, v_screen_means, v_pose, *v_rows.values()


def rasterize(
    view: View,
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None = None,
    opacities: Tensor | None = None,
    *,
    log_scales: Tensor | None = None,
    opacity_logits: Tensor | None = None,
    sh_dc: Tensor | None = None,
    sh_rest: Tensor | None = None,
    sh_degree: int = 0,
    colors: Tensor | None = None,
    covariances: Tensor | None = None,
    antialiased: bool = False,
    inverse_depth: bool = False,
    screen_means: Tensor | None = None,
    stats: tuple[Tensor, Tensor] | None = None,
    threads: int = 0,
) -> Rasterized:
    """Render N Gaussians [3DGS, arXiv:2308.04079; docs/math.md].

    Differentiable in every tensor except the background, in ``world_to_camera`` in each element for itself. All tensors
    of Gaussians have the same device and dtype: float32, or float64 on the CPU. On a GPU the order of the additions in
    gradients, and thus their last bits, vary between runs; ``torch.use_deterministic_algorithms(True)`` fixes the order
    at the cost of time and memory.
    A Gaussian with NaN, infinity or a zero quaternion is culled and has zero gradient.

    Args:
        view: Camera and background.
        means: (N, 3), world units.
        quats: (N, 4), real part first; they are normalized. None with covariances.
        scales: (N, 3), world units, standard deviations.
        opacities: (N,) or (N, 1), in [0, 1].
        log_scales: (N, 3), natural logarithms, instead of scales.
        opacity_logits: (N,) or (N, 1), instead of opacities, which are their sigmoid.
        sh_dc: (N, 1, 3), spherical harmonics of degree 0.
        sh_rest: (N, K, 3), degrees 1 and up, K >= (sh_degree + 1)^2 - 1.
        sh_degree: 0 to 3, the active degree.
        colors: (N, 3) RGB, instead of spherical harmonics.
        covariances: (N, 6), xx xy xz yy yz zz in squared world units, instead of quats and scales.
        antialiased: Scale opacities by sqrt(det(cov) / det(cov + 0.3 I)), to compensate the low-pass filter.
        inverse_depth: Also render the expected inverse depth.
        screen_means: (N, 4). Its values are ignored; its gradient is the screen-space gradient of the means in NDC
            units: x, y, and the sums over pixels of the absolute values |x|, |y|.
        stats: (abs_grad_sum (N,), views (N,)), both float32. For each visible Gaussian, backward adds the norm of the
            two absolute values, and 1.
        threads: CPU threads; 0: see `thread_count`. The result does not depend on it.

    Raises:
        ValueError: A shape, dtype or device is not as above.
        CudaError: CUDA reports an error.
        torch.OutOfMemoryError: The GPU has too little free memory.
    """
    settings = dict(view=view, sh_degree=sh_degree, antialiased=antialiased, inverse_depth=inverse_depth, stats=stats,
                    threads=thread_count(threads))  # fmt: skip
    rows = (means, quats, scales, log_scales, covariances, opacities, opacity_logits, sh_dc, sh_rest, colors)
    extra = {} if screen_means is None else {"screen_means": (screen_means, means.dtype, (means.shape[0], 4))}
    if stats is not None:
        extra["abs_grad_sum"] = (stats[0], torch.float32, (means.shape[0],))
        extra["views"] = (stats[1], torch.float32, (means.shape[0],))
    _check(view, dict(zip(_ROWS, rows, strict=True)), extra)
    return Rasterized(*_Rasterize.apply(settings, screen_means, view.world_to_camera, *rows))


@torch.no_grad()
def importance(
    view: View,
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None = None,
    opacities: Tensor | None = None,
    *,
    pixel_weights: Tensor,
    log_scales: Tensor | None = None,
    opacity_logits: Tensor | None = None,
    covariances: Tensor | None = None,
    antialiased: bool = False,
    threads: int = 0,
) -> Importance:
    """The blending weights of each Gaussian, summed over a view. No gradient; other arguments as in `rasterize`.

    Args:
        pixel_weights: (H, W).

    Raises:
        ValueError: A shape, dtype or device is not as above.
    """
    rows = dict(means=means, quats=quats, scales=scales, log_scales=log_scales, covariances=covariances,
                opacities=opacities, opacity_logits=opacity_logits)  # fmt: skip
    _check(view, rows, {"pixel_weights": (pixel_weights, means.dtype, (view.height, view.width))})
    count, counters = means.shape[0], dict(dtype=torch.int32, device=means.device)
    result = Importance(
        *means.new_empty(3, count), *torch.empty(2, count, **counters), torch.empty(view.height, view.width, **counters)
    )
    _C.importance(
        _rows(rows), view._for_engine(means.dtype), queue_for(means.device), antialiased=antialiased,
        threads=thread_count(threads), pixel_weights=pixel_weights.contiguous(), **result._asdict(),
    )  # fmt: skip
    return result


@torch.no_grad()
def removal_error(
    view: View,
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None = None,
    opacities: Tensor | None = None,
    *,
    photo: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    log_scales: Tensor | None = None,
    opacity_logits: Tensor | None = None,
    sh_dc: Tensor | None = None,
    sh_rest: Tensor | None = None,
    sh_degree: int = 0,
    colors: Tensor | None = None,
    covariances: Tensor | None = None,
    antialiased: bool = False,
    threads: int = 0,
) -> Tensor:
    """How much the squared error of a view changes if one Gaussian is removed, for each Gaussian [docs/math.md eq. 20].

    For Gaussian i this is the sum over pixels and channels of w dC_i (2 (C - photo) + dC_i), C being the rendered
    colour, w the weight of the pixel, and dC_i = T_i alpha_i (B_i - c_i) what the removal adds to C: B_i is the colour
    behind i, the background included. It is exact where blending does not stop early; splats that are left out because
    the transmittance is too small are taken to be left out without i, too. No gradient; other arguments as in
    `rasterize`.

    Args:
        photo: (3, H, W), of the dtype of the Gaussians. None: the render itself, so that the result is how much the
            removal changes it, the sum of w dC_i^2.
        pixel_weights: (H, W), also of this dtype; 0 where a pixel does not count. None: 1 everywhere.

    Returns:
        (N,), of this dtype; negative where the removal reduces the error, 0 for Gaussians that are not seen.

    Raises:
        ValueError: A shape, dtype or device is not as above.
    """
    rows = dict(zip(_ROWS, (means, quats, scales, log_scales, covariances, opacities, opacity_logits, sh_dc, sh_rest,
                            colors), strict=True))  # fmt: skip
    size, kind = (view.height, view.width), dict(dtype=means.dtype, device=means.device)
    image, transmittance, change = torch.empty(3, *size, **kind), torch.empty(size, **kind), means.new_empty(len(means))
    photo = image if photo is None else photo
    weights = torch.ones(size, **kind) if pixel_weights is None else pixel_weights
    _check(view, rows, {"photo": (photo, means.dtype, (3, *size)), "pixel_weights": (weights, means.dtype, size)})
    queue = queue_for(means.device)
    frame = _C.forward(
        _rows(rows), view._for_engine(means.dtype), queue, antialiased=antialiased, sh_degree=sh_degree,
        threads=thread_count(threads), differentiable=True, out=_images(image, transmittance, None),
        radii=torch.empty(len(means), dtype=torch.int32, device=means.device),
    )  # fmt: skip
    _C.removal_error(
        frame, queue, image=image, photo=photo.contiguous(), pixel_weights=weights.contiguous(), change=change
    )
    return change
