"""A slow, plain renderer of 3D Gaussian splatting in O(N H W), and the training loss, differentiated by autograd.

It shares no code with the engine and knows no tiles, so that the two can check each other. It leaves out every kind
of speed: each Gaussian is evaluated at each pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

NEAR = 0.2
ALPHA_MIN = 1 / 255
ALPHA_MAX = 0.99
TRANSMITTANCE_MIN = 1e-4
BLUR = 0.3
BORDER = 0.15


@dataclass(frozen=True)
class Pinhole:
    """A camera: intrinsics in px (centre of the top-left pixel at (0.5, 0.5)) and a world-to-camera matrix."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    world_to_camera: Tensor  # (4, 4), OpenCV axes
    background: Tensor  # (3,)


@dataclass
class Splats:
    """The projected Gaussians in front of the camera, sorted front to back."""

    index: Tensor  # (M,) rows of the input
    means_px: Tensor  # (M, 2)
    cov_px: Tensor  # (M, 2, 2), blur included
    depths: Tensor  # (M,)
    opacities: Tensor  # (M,), after the anti-aliasing factor
    colors: Tensor  # (M, 3)


@dataclass
class Rendering:
    """What the reference computes; per-pixel tensors are (H, W), per-Gaussian ones (N,)."""

    image: Tensor  # (3, H, W)
    transmittance: Tensor
    inverse_depth: Tensor
    weighted: Tensor  # sum over pixels of weight * T * alpha
    total: Tensor  # sum over pixels of T * alpha
    distance: Tensor  # sum over pixels of T * alpha * distance from the projected mean, px
    num_pixels: Tensor  # int64
    num_weighted: Tensor  # int64, of these, with a weight other than 0
    num_gaussians: Tensor  # int64, of the pixel
    radii: Tensor  # px, half the larger side of the box around alpha >= 1/255; 0 if no such ellipse
    margin: Tensor  # smallest relative distance of any discrete decision of a pixel to its threshold
    clamp_margin: Tensor  # the same for the cap of alpha, where only gradients jump
    splats: Splats = field(repr=False)


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices (N, 3, 3) of quaternions (N, 4), real part first, of any norm."""
    w, x, y, z = (quats / quats.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def covariances_of(quats: Tensor, scales: Tensor) -> Tensor:
    """Covariances (N, 3, 3) = R S S R^T of quaternions (N, 4) and linear scales (N, 3)."""
    rs = rotation_matrices(quats) * scales[:, None, :]
    return rs @ rs.transpose(1, 2)


def symmetric_from_six(six: Tensor) -> Tensor:
    """(N, 6) in the order xx xy xz yy yz zz to (N, 3, 3)."""
    return six[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics (N, (degree+1)^2) of unit vectors (N, 3), in the order and signs of 3DGS."""
    x, y, z = directions.unbind(1)
    xx, yy, zz = x * x, y * y, z * z

    def root(fraction: float) -> float:
        return math.sqrt(fraction / math.pi)

    basis = [torch.full_like(x, root(1 / 4))]
    if degree >= 1:
        basis += [-root(3 / 4) * y, root(3 / 4) * z, -root(3 / 4) * x]
    if degree >= 2:
        basis += [
            root(15 / 4) * x * y,
            -root(15 / 4) * y * z,
            root(5 / 16) * (2 * zz - xx - yy),
            -root(15 / 4) * x * z,
            root(15 / 16) * (xx - yy),
        ]
    if degree >= 3:
        basis += [
            -root(35 / 32) * y * (3 * xx - yy),
            root(105 / 4) * x * y * z,
            -root(21 / 32) * y * (4 * zz - xx - yy),
            root(7 / 16) * z * (2 * zz - 3 * xx - 3 * yy),
            -root(21 / 32) * x * (4 * zz - xx - yy),
            root(105 / 16) * z * (xx - yy),
            -root(35 / 32) * x * (xx - 3 * yy),
        ]
    return torch.stack(basis, 1)


def sh_colors(camera: Pinhole, means: Tensor, sh_dc: Tensor, sh_rest: Tensor | None, degree: int) -> Tensor:
    """Colours (N, 3) seen from the camera centre, plus 0.5, clamped below at 0."""
    rotation, translation = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
    directions = means + rotation.T @ translation  # the camera centre is -R^T t
    basis = sh_basis(directions / directions.norm(dim=1, keepdim=True), degree)
    coefficients = sh_dc if degree == 0 else torch.cat([sh_dc, sh_rest], 1)
    return ((basis[:, :, None] * coefficients[:, : basis.shape[1]]).sum(1) + 0.5).clamp_min(0)


def project(
    camera: Pinhole, means: Tensor, cov: Tensor, opacities: Tensor, colors: Tensor, antialiased: bool
) -> Splats:
    """Project Gaussians with covariances (N, 3, 3) to splats, dropping those at or before the near plane."""
    rotation, translation = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
    in_camera = means @ rotation.T + translation
    depth = in_camera[:, 2].detach()
    index = torch.argsort(depth, stable=True)
    index = index[depth[index] > NEAR]
    x, y, z = in_camera[index].unbind(1)
    means_px = torch.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], 1)

    def ratio(v: Tensor, size: int, focal: float, centre: float) -> Tensor:
        return (v / z).clamp((-BORDER * size - centre) / focal, ((1 + BORDER) * size - centre) / focal)

    rx, ry = ratio(x, camera.width, camera.fx, camera.cx), ratio(y, camera.height, camera.fy, camera.cy)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [torch.stack([camera.fx / z, zero, -camera.fx * rx / z], 1),
         torch.stack([zero, camera.fy / z, -camera.fy * ry / z], 1)],
        1,
    )  # fmt: skip
    m = jacobian @ rotation
    sharp = m @ cov[index] @ m.transpose(1, 2)
    cov_px = sharp + BLUR * torch.eye(2, dtype=means.dtype)
    opacities = opacities.reshape(-1)[index]
    if antialiased:
        opacities = opacities * (determinant(sharp) / determinant(cov_px)).clamp_min(0).sqrt()
    return Splats(index, means_px, cov_px, z, opacities, colors[index])


def determinant(m: Tensor) -> Tensor:
    """Determinants (N,) of symmetric matrices (N, 2, 2)."""
    return m[:, 0, 0] * m[:, 1, 1] - m[:, 0, 1] * m[:, 1, 0]


class _Offsets(torch.autograd.Function):
    """Pixel minus mean, (M, P, 2); its backward sums signed and absolute gradients per splat into a (M, 4) probe."""

    @staticmethod
    def forward(ctx, means_px: Tensor, probe: Tensor, pixels: Tensor, half_size: Tensor) -> Tensor:
        ctx.half_size = half_size
        return pixels[None] - means_px[:, None]

    @staticmethod
    def backward(ctx, grad: Tensor):
        signed = -grad.sum(1)
        probe = torch.cat([signed * ctx.half_size, grad.abs().sum(1) * ctx.half_size], 1)
        return signed, probe, None, None


def blend(splats: Splats, probe: Tensor, background: Tensor, pixels: Tensor, half_size: Tensor, weight: Tensor):
    """Blend all splats front to back at the pixel centres (P, 2).

    Returns:
        image (P, 3), transmittance (P,), inverse depth (P,), weighted, total, distance, num_pixels, num_weighted
        (M,), num_gaussians, margins (P,), (P,), (P,).
    """
    d = _Offsets.apply(splats.means_px, probe, pixels, half_size)
    xx, xy, yy = splats.cov_px[:, 0, 0], splats.cov_px[:, 0, 1], splats.cov_px[:, 1, 1]
    dx, dy = d.unbind(2)
    power = (yy[:, None] * dx * dx - 2 * xy[:, None] * dx * dy + xx[:, None] * dy * dy) / (xx * yy - xy * xy)[:, None]
    raw = splats.opacities[:, None] * torch.exp(-0.5 * power)
    alpha = raw.clamp_max(ALPHA_MAX)
    one = alpha.new_ones(1, len(pixels))
    with torch.no_grad():
        seen = alpha >= ALPHA_MIN
        after = torch.cumprod(1 - torch.where(seen, alpha, 0), 0)
        alive = after >= TRANSMITTANCE_MIN
        before = torch.cat([one, after], 0)[:-1]
        looked_at = before >= TRANSMITTANCE_MIN

        def closest(distance: Tensor, decided: Tensor) -> Tensor:
            return torch.cat([one, torch.where(decided, distance.abs(), 1)]).amin(0)

        margin = torch.minimum(
            closest(alpha / ALPHA_MIN - 1, looked_at), closest(after / TRANSMITTANCE_MIN - 1, looked_at & seen)
        )
        clamp_margin = closest(raw / ALPHA_MAX - 1, looked_at)
    alpha = torch.where(seen & alive, alpha, 0)
    through = torch.cumprod(torch.cat([one, 1 - alpha], 0), 0)
    share = through[:-1] * alpha
    image = share.T @ splats.colors + through[-1][:, None] * background
    inverse_depth = share.T @ (1 / splats.depths)
    return (
        image, through[-1], inverse_depth, share.detach() @ weight, share.detach().sum(1),
        (share * d.norm(dim=2)).detach().sum(1), (seen & alive).sum(1), (seen & alive & (weight != 0)).sum(1),
        (seen & alive).sum(0), margin, clamp_margin,
    )  # fmt: skip


def radii_px(splats: Splats) -> Tensor:
    """Half the larger side (M,) of the box around each ellipse alpha >= 1/255; 0 where the opacity is below that."""
    reach = 2 * torch.log((splats.opacities / ALPHA_MIN).clamp_min(1))
    return (reach * torch.maximum(splats.cov_px[:, 0, 0], splats.cov_px[:, 1, 1])).sqrt().detach()


def render(
    camera: Pinhole,
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    opacities: Tensor,
    *,
    sh_dc: Tensor | None = None,
    sh_rest: Tensor | None = None,
    sh_degree: int = 0,
    colors: Tensor | None = None,
    covariances: Tensor | None = None,
    antialiased: bool = False,
    screen_means: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    chunk: int = 4096,
) -> Rendering:
    """Render Gaussians; everything floating is differentiable, in the dtype of the inputs.

    Args:
        camera: Intrinsics, pose and background.
        means: (N, 3) world units.
        quats: (N, 4) of any norm, or None with ``covariances``.
        scales: (N, 3) linear, or None with ``covariances``.
        opacities: (N,) or (N, 1) in [0, 1].
        sh_dc: (N, 1, 3).
        sh_rest: (N, K, 3).
        sh_degree: 0 to 3.
        colors: (N, 3), instead of SH; not clamped.
        covariances: (N, 6) as xx xy xz yy yz zz, instead of ``quats`` and ``scales``.
        antialiased: Multiply opacities by the root of the ratio of determinants.
        screen_means: (N, 4) zeros whose gradient becomes the signed and the absolute screen-space sums, NDC units.
        pixel_weights: (H, W) weights of the importance sums.
        chunk: Pixels at a time; more than one chunk recomputes in the backward pass to save memory.
    """
    n, (w, h) = len(means), (camera.width, camera.height)
    cov = symmetric_from_six(covariances) if covariances is not None else covariances_of(quats, scales)
    if colors is None:
        colors = sh_colors(camera, means, sh_dc, sh_rest, sh_degree)
    splats = project(camera, means, cov, opacities, colors, antialiased)
    probe = means.new_zeros(n, 4) if screen_means is None else screen_means
    ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    pixels = torch.stack([xs, ys], -1).reshape(-1, 2).to(means.dtype) + 0.5
    weight = means.new_ones(h * w) if pixel_weights is None else pixel_weights.reshape(-1)
    half_size = means.new_tensor([w / 2, h / 2])

    parts = []
    for start in range(0, h * w, chunk):
        arguments = (
            splats, probe[splats.index], camera.background, pixels[start : start + chunk], half_size,
            weight[start : start + chunk],
        )  # fmt: skip
        parts.append(blend(*arguments) if h * w <= chunk else checkpoint(blend, *arguments, use_reentrant=False))
    image, transmittance, inverse_depth, *sums, taken, margin, clamp_margin = zip(*parts, strict=True)

    def per_pixel(values) -> Tensor:
        return torch.cat(values).reshape(h, w)

    def per_gaussian(values: Tensor) -> Tensor:
        return torch.zeros(n, dtype=values.dtype).index_put((splats.index,), values)

    weighted, total, distance, num_pixels, num_weighted = (per_gaussian(sum(each)) for each in sums)
    return Rendering(
        image=torch.cat(image).T.reshape(3, h, w),
        transmittance=per_pixel(transmittance),
        inverse_depth=per_pixel(inverse_depth),
        weighted=weighted,
        total=total,
        distance=distance,
        num_pixels=num_pixels,
        num_weighted=num_weighted,
        num_gaussians=per_pixel(taken),
        radii=per_gaussian(radii_px(splats)),
        margin=per_pixel(margin),
        clamp_margin=per_pixel(clamp_margin),
        splats=splats,
    )


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of two (3, H, W) images at every pixel: 11 x 11 Gaussian window, sigma 1.5, zero padding."""
    offsets = torch.arange(-5, 6, dtype=a.dtype)
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(line, line)
    window = (window / window.sum()).expand(3, 1, 11, 11)

    def blurred(x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x[None], window, padding=5, groups=3)[0]

    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    cov = blurred(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def photometric_loss(image: Tensor, photo: Tensor, mask: Tensor | None = None, ssim_weight: float = 0.2):
    """(1 - w) L1 + w (1 - SSIM), with L1 and SSIM besides; a mask multiplies image and photo first."""
    if photo.dtype == torch.uint8:
        photo = photo.to(image.dtype) / 255
    if mask is not None:
        image, photo = image * mask, photo * mask
    l1, ssim = (image - photo).abs().mean(), ssim_map(image, photo).mean()
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim), l1, ssim
