"""`GaussianRasterizer` and its settings: the interfaces of several lines of 3DGS code, implemented with `rasterize`.

Matrices are transposed: they multiply row vectors from the right. Cameras have no gradient.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ._C import LIMITS
from .rasterizer import Importance, View, importance, rasterize

# Relative error that a camera matrix may have. Products in TF32 have errors of 1e-3.
_TOLERANCE = 1e-2


class GaussianRasterizationSettings(NamedTuple):
    """Camera and options.

    Attributes:
        image_height, image_width: Size of the image in px.
        tanfovx, tanfovy: Half the image's size over the focal length. Ignored: ``projmatrix`` has the focal lengths.
        bg: (3,) RGB background; on any device.
        scale_modifier: Factor of all scales, but not of ``cov3D_precomp``.
        viewmatrix: (4, 4), the transpose of world_to_camera, OpenCV axes.
        projmatrix: (4, 4), ``viewmatrix`` times the transpose of a pinhole's projection to clip coordinates; it defines
            the focal lengths and the principal point.
        sh_degree: 0 to 3, the active degree.
        campos: (3,), the camera's position in world units.
        prefiltered: Ignored: invisible Gaussians are always culled.
        debug: Ignored: errors are always reported, and the environment variable DGR_SYNC=1 makes them name the kernel.
        antialiasing: ``antialiased`` of `rasterize`. If it is True or False, the rasterizer also returns the inverse
            depth.
        pixel_weights: (H, W), (1, H, W) or (H W,), or None. If it is given, the rasterizer returns `TamingResults`.
        get_flag: If it is given, the rasterizer returns three results, as FastGS expects; the third is computed if it
            is True.
        metric_map: (H, W), (1, H, W) or (H W,), for ``get_flag``: the pixels to count are not 0.
        mult: Ignored: the image does not depend on the size of the boxes around Gaussians.
    """

    image_height: int
    image_width: int
    tanfovx: float
    tanfovy: float
    bg: Tensor
    scale_modifier: float
    viewmatrix: Tensor
    projmatrix: Tensor
    sh_degree: int
    campos: Tensor
    prefiltered: bool = False
    debug: bool = False
    antialiasing: bool | None = None
    pixel_weights: Tensor | None | bool = False
    get_flag: bool | None = None
    metric_map: Tensor | None = None
    mult: float = 1.0


class TamingResults(NamedTuple):
    """The 13 results that Taming 3DGS, Improved-GS and GNS unpack; only the image has a gradient.

    Without pixel weights all but the first two are None. Those that no source describes are always None.

    Attributes:
        rendered_image: (3, H, W).
        radii: (N,) int32 px, 0 if invisible.
        counts, lists, listsRender, listsDistance: None.
        centers: (N, 2) px, the projected means, 0 if invisible; the centre of the top-left pixel is (0, 0).
        depths: (N,), z in camera coordinates, world units.
        my_radii: (N,), the radii as floating-point numbers.
        accum_weights: (N,), sum over pixels of pixel weight x transmittance x alpha.
        accum_count: (N,) int32, pixels to which the Gaussian contributes.
        accum_blend: (N,), sum over pixels of transmittance x alpha.
        accum_dist: (N,), sum over pixels of transmittance x alpha x distance of the pixel from the projected mean, px.
    """

    rendered_image: Tensor
    radii: Tensor
    counts: None = None
    lists: None = None
    listsRender: None = None
    listsDistance: None = None
    centers: Tensor | None = None
    depths: Tensor | None = None
    my_radii: Tensor | None = None
    accum_weights: Tensor | None = None
    accum_count: Tensor | None = None
    accum_blend: Tensor | None = None
    accum_dist: Tensor | None = None


class GaussianRasterizer(nn.Module):
    """Renders Gaussians with the camera of its settings.

    The engine needs the camera on the CPU. Camera tensors on a GPU are copied once and cached until they are modified
    or freed, so that training with fixed cameras does not synchronize in each step. Modifications through
    ``tensor.data`` are not detected.
    """

    def __init__(self, raster_settings: GaussianRasterizationSettings):
        super().__init__()
        self.raster_settings = raster_settings

    @torch.no_grad()
    def markVisible(self, positions: Tensor) -> Tensor:
        """Whether points are beyond the near plane: (N, 3) -> (N,) bool."""
        viewmatrix = self.raster_settings.viewmatrix.to(positions)
        return positions @ viewmatrix[:3, 2] + viewmatrix[3, 2] > LIMITS["near"]

    def forward(
        self,
        means3D: Tensor,
        means2D: Tensor | None,
        opacities: Tensor,
        shs: Tensor | None = None,
        colors_precomp: Tensor | None = None,
        scales: Tensor | None = None,
        rotations: Tensor | None = None,
        cov3D_precomp: Tensor | None = None,
        *,
        dc: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Render N Gaussians; differentiable in every tensor argument.

        Args:
            means3D: (N, 3), world units.
            means2D: (N, 2), (N, 3) or (N, 4). Its values are ignored; its gradient is the screen-space gradient of the
                means in NDC units: x, y. A third column gets zero; with four columns, the last two get the sums over
                pixels of the absolute values.
            opacities: (N,) or (N, 1), in [0, 1].
            shs: (N, K, 3), spherical harmonics; with ``dc``, those of degree 1 and up.
            colors_precomp: (N, 3) RGB, instead of spherical harmonics.
            scales: (N, 3), world units.
            rotations: (N, 4) quaternions, real part first; they are normalized.
            cov3D_precomp: (N, 6), xx xy xz yy yz zz in squared world units, instead of scales and rotations.
            dc: (N, 1, 3), spherical harmonics of degree 0; separate tensors save a copy.

        Returns:
            Image (3, H, W) and radii (N,) int32 in px, 0 if invisible. If ``antialiasing`` is given, also the expected
            inverse depth (1, H, W). If ``get_flag`` is given, instead the number (N,) int32 of pixels in
            ``metric_map`` to which a Gaussian contributes, or None. If ``pixel_weights`` is given, `TamingResults`.

        Raises:
            ValueError: An argument is missing, redundant or not as above, or the matrices are not those of a pinhole
                camera.
        """
        settings = self.raster_settings
        if (shs is None and dc is None) == (colors_precomp is None):
            raise ValueError("colours: expected either shs or colors_precomp, got both or neither")
        shape = _shape(settings, scales, rotations, cov3D_precomp)
        dc, shs = _split_degrees(dc, shs)
        is_first_line = settings.pixel_weights is False and settings.get_flag is None
        wants_depth = is_first_line and settings.antialiasing is not None
        drawn = rasterize(
            _view(settings, direction_matters=dc is not None and settings.sh_degree > 0),
            means=means3D, opacities=opacities, **shape, sh_dc=dc, sh_rest=shs, sh_degree=settings.sh_degree,
            colors=colors_precomp, antialiased=bool(settings.antialiasing), inverse_depth=wants_depth,
            screen_means=_four_columns(means2D),
        )  # fmt: skip
        if settings.pixel_weights is not False:
            return self._taming_results(drawn.image, drawn.radii, means3D, opacities, shape)
        if settings.get_flag is not None:
            return drawn.image, drawn.radii, self._metric_counts(means3D, opacities, shape)
        return (drawn.image, drawn.radii, drawn.inverse_depth[None]) if wants_depth else (drawn.image, drawn.radii)

    def importance(
        self,
        pixel_weights: Tensor,
        means3D: Tensor,
        opacities: Tensor,
        scales: Tensor | None = None,
        rotations: Tensor | None = None,
        cov3D_precomp: Tensor | None = None,
    ) -> Importance:
        """The blending weights of each Gaussian, summed over the image. No gradient; Gaussians as in `forward`.

        Args:
            pixel_weights: (H, W), (1, H, W) or (H W,), on any device.

        Raises:
            ValueError: An argument is missing, redundant or not as above.
        """
        shape = _shape(self.raster_settings, scales, rotations, cov3D_precomp)
        return self._importance("pixel_weights", pixel_weights, means3D, opacities, shape)

    def _importance(self, name: str, weights: Any, means3D: Tensor, opacities: Tensor, shape: dict) -> Importance:
        settings = self.raster_settings
        height, width = int(settings.image_height), int(settings.image_width)
        _check_tensor(name, weights, (height, width), (1, height, width), (height * width,))
        weights = weights.detach().to(means3D).reshape(height, width)
        view = _view(settings, direction_matters=False)
        antialiased = bool(settings.antialiasing)
        return importance(
            view, means=means3D, opacities=opacities, **shape, pixel_weights=weights, antialiased=antialiased
        )

    def _metric_counts(self, means3D: Tensor, opacities: Tensor, shape: dict) -> Tensor | None:
        if not self.raster_settings.get_flag:
            return None
        return self._importance("metric_map", self.raster_settings.metric_map, means3D, opacities, shape).num_weighted

    @torch.no_grad()
    def _taming_results(
        self, image: Tensor, radii: Tensor, means3D: Tensor, opacities: Tensor, shape: dict
    ) -> TamingResults:
        settings = self.raster_settings
        if settings.pixel_weights is None:
            return TamingResults(image, radii)
        sums = self._importance("pixel_weights", settings.pixel_weights, means3D, opacities, shape)
        viewmatrix, projmatrix = settings.viewmatrix.to(means3D), settings.projmatrix.to(means3D)
        clip = means3D @ projmatrix[:3] + projmatrix[3]
        size = clip.new_tensor([settings.image_width, settings.image_height])
        centers = ((clip[:, :2] / clip[:, 3:] + 1) * size - 1) / 2
        return TamingResults(
            image, radii, centers=centers.where((radii > 0)[:, None], 0),
            depths=means3D @ viewmatrix[:3, 2] + viewmatrix[3, 2], my_radii=radii.to(means3D.dtype),
            accum_weights=sums.weighted, accum_count=sums.num_pixels, accum_blend=sums.total, accum_dist=sums.distance,
        )  # fmt: skip


def _check_tensor(name: str, value: Any, *shapes: tuple[int, ...]) -> None:
    """Check that a value is a tensor of one of the shapes."""
    found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if found not in shapes:
        raise ValueError(f"{name}: expected shape {' or '.join(map(str, shapes))}, got {found}")


def _shape(
    settings: GaussianRasterizationSettings, scales: Tensor | None, rotations: Tensor | None, cov3D: Tensor | None
) -> dict[str, Tensor | None]:
    """The arguments of `rasterize` that say how large Gaussians are."""
    given = (scales is not None, rotations is not None, cov3D is not None)
    if given not in ((True, True, False), (False, False, True)):
        raise ValueError("shapes: expected either scales and rotations, or cov3D_precomp")
    if scales is not None and settings.scale_modifier != 1:
        scales = scales * settings.scale_modifier
    return {"scales": scales, "quats": rotations, "covariances": cov3D}


def _split_degrees(dc: Tensor | None, shs: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Degree 0, and the other degrees if any."""
    if shs is None:
        return dc, None
    if shs.ndim != 3 or (dc is None and shs.shape[1] < 1):
        raise ValueError(f"shs: expected shape (N, K, 3), got {tuple(shs.shape)}")
    if dc is None:
        # The gradient of split is one concatenation; that of two slices would be two padded copies and their sum.
        dc, shs = shs.split((1, shs.shape[1] - 1), dim=1)
    return dc, shs if shs.shape[1] else None


def _four_columns(means2D: Tensor | None) -> Tensor | None:
    """``screen_means`` of `rasterize`: (N, 4), padded if necessary."""
    if means2D is None or (means2D.ndim == 2 and means2D.shape[1] == 4):
        return means2D
    if means2D.ndim != 2 or means2D.shape[1] not in (2, 3):
        raise ValueError(f"means2D: expected shape (N, 2), (N, 3) or (N, 4), got {tuple(means2D.shape)}")
    return nn.functional.pad(means2D[:, :2], (0, 2))


def _view(settings: GaussianRasterizationSettings, direction_matters: bool) -> View:
    """The settings' camera and background on the CPU."""
    shapes = {"viewmatrix": (4, 4), "projmatrix": (4, 4), "campos": (3,), "bg": (3,)}
    tensors = [getattr(settings, name) for name in shapes]
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        _check_tensor(name, tensor, shape)
    viewmatrix, projmatrix, centre, background = _host.of(tensors)
    world_to_camera, (fx, fy, cx, cy) = _camera(
        viewmatrix.tobytes(), projmatrix.tobytes(), centre.tobytes() if direction_matters else None
    )
    width, height = int(settings.image_width), int(settings.image_height)
    return View(
        width, height, 0.5 * width * fx, 0.5 * height * fy, 0.5 * width * (cx + 1), 0.5 * height * (cy + 1),
        world_to_camera, torch.from_numpy(background),
    )  # fmt: skip


@lru_cache(maxsize=4096)  # a trainer uses the same views repeatedly
def _camera(viewmatrix: bytes, projmatrix: bytes, centre: bytes | None) -> tuple[Tensor, tuple[float, ...]]:
    """World_to_camera, and fx, fy, cx, cy in NDC units, from row-major float64."""
    world_to_camera, full = (np.frombuffer(matrix).reshape(4, 4).T for matrix in (viewmatrix, projmatrix))
    _check_pose(world_to_camera, None if centre is None else np.frombuffer(centre))
    intrinsics = _intrinsics(full, world_to_camera[:3, :3])
    return torch.from_numpy(world_to_camera.copy("C")), intrinsics


def _check_pose(world_to_camera: np.ndarray, centre: np.ndarray | None) -> None:
    """Check that the matrix is a rigid motion with this camera centre."""
    rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max() + np.abs(world_to_camera[3] - (0, 0, 0, 1)).max()
    if not error <= _TOLERANCE:  # also true for NaN
        raise ValueError(
            "viewmatrix: expected the transpose of a rigid motion from world to camera, "
            f"got {np.round(world_to_camera.T, 3).tolist()}"
        )
    if centre is not None:
        expected = -rotation.T @ translation
        if not np.abs(centre - expected).max() <= _TOLERANCE * (1 + np.abs(expected).max()):
            raise ValueError(f"campos: expected {expected.tolist()}, the centre in viewmatrix, got {centre.tolist()}")


def _intrinsics(full: np.ndarray, rotation: np.ndarray) -> tuple[float, float, float, float]:
    """Focal lengths and principal point in NDC units, from the projection of world coordinates to clip coordinates.

    A pinhole projects (x, y, z) to (fx x + cx z, fy y + cy z, z) up to a factor. The left three columns of ``full`` are
    this matrix times the rotation, so the translation, which would cost precision, is not needed.
    """
    pinhole = full[[0, 1, 3], :3] @ np.linalg.inv(rotation)
    scale = np.abs(pinhole).max()
    zeros = pinhole[[0, 1, 2, 2], [1, 0, 0, 1]]
    if not np.abs(zeros).max() <= _TOLERANCE * scale or pinhole[2, 2] == 0:
        raise ValueError(
            f"projmatrix: expected viewmatrix @ projection of a pinhole camera, got {np.round(full.T, 3).tolist()}"
        )
    (fx, _, cx), (_, fy, cy) = (pinhole[:2] / pinhole[2, 2]).tolist()
    return fx, fy, cx, cy


class _HostCopies:
    """Values of small tensors on the CPU; copies from other devices are cached for the lifetime of the tensor."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()  # tensor -> (its version, its values)

    def of(self, tensors: list[Tensor]) -> list[np.ndarray]:
        """float64 arrays of the tensors' shapes, with at most one transfer."""
        copies = [self._recall(tensor) for tensor in tensors]
        missing = [i for i, copy in enumerate(copies) if copy is None]
        for i, copy in zip(missing, _fetch([tensors[i].detach() for i in missing]), strict=True):
            copies[i] = copy
            if not tensors[i].is_inference():  # those have no version
                self._known[tensors[i]] = (tensors[i]._version, copy)
        return copies

    def _recall(self, tensor: Tensor) -> np.ndarray | None:
        if _is_on_host(tensor):
            return tensor.detach().double().numpy()
        version, copy = self._known.get(tensor, (None, None))
        return copy if version is not None and version == tensor._version else None


def _is_on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _fetch(tensors: list[Tensor]) -> list[np.ndarray]:
    """Copies on the CPU, with one transfer."""
    if not tensors:
        return []
    device = tensors[0].device
    together = torch.cat([tensor.to(device, torch.float64).reshape(-1) for tensor in tensors]).cpu().numpy()
    parts = np.split(together, np.cumsum([tensor.numel() for tensor in tensors])[:-1])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


_host = _HostCopies()
