"""`GaussianRasterizer` and its settings: the names and signatures that most 3DGS code draws by, over `rasterize`.

Matrices are transposed, as such code keeps them: a point is a row, and its matrix follows it. Leaves out gradients for
cameras, which that interface never had.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ._C import LIMITS
from .rasterizer import View, rasterize

# How far a camera may be from what it should be, relative to its largest entry. Products in TF32 have errors of 1e-3.
_TOLERANCE = 1e-2


class GaussianRasterizationSettings(NamedTuple):
    """A camera and how to draw.

    Attributes:
        image_height, image_width: Size of the image in px.
        tanfovx, tanfovy: Half the image's size over the focal length. Not looked at: ``projmatrix`` says it, too.
        bg: (3,) RGB, what the remaining transmittance lets through; on any device.
        scale_modifier: What all scales are multiplied by; covariances are not.
        viewmatrix: (4, 4), the transpose of world_to_camera, OpenCV axes.
        projmatrix: (4, 4), ``viewmatrix`` times the transpose of a pinhole's projection to clip coordinates; it holds
            the focal lengths and the principal point, which may lie off centre.
        sh_degree: 0 to 3, the degree in use.
        campos: (3,), the camera's centre in world units.
        prefiltered: Without effect: whatever is not visible is culled.
        debug: Without effect: errors are always reported, and DGR_SYNC=1 in the environment names the kernel.
        antialiasing: Make up for splats that are widened to a pixel. Where it is given, True or False, the inverse
            depth is drawn, too, and returned as the third result; older code does not know of either.
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


class GaussianRasterizer(nn.Module):
    """Draws Gaussians from the camera of its settings.

    The camera is needed on the host. What lies on a GPU is fetched once and remembered for as long as its tensors live
    and are not written to, so that training on a fixed set of cameras does not wait for the GPU in each step. Writing
    through ``tensor.data`` goes unnoticed.
    """

    def __init__(self, raster_settings: GaussianRasterizationSettings):
        super().__init__()
        self.raster_settings = raster_settings

    @torch.no_grad()
    def markVisible(self, positions: Tensor) -> Tensor:
        """Which points lie beyond the near plane: (N,) bool for (N, 3) positions."""
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
        """Draw N Gaussians; differentiable in every tensor of the call.

        Args:
            means3D: (N, 3), world units.
            means2D: (N, 2), (N, 3) or (N, 4), of any values: its gradient becomes the screen-space gradient of each
                mean in NDC units, x and y first. Of three columns the third gets zero; of four, the last two get the
                sums over pixels of absolute values.
            opacities: (N,) or (N, 1), in [0, 1].
            shs: (N, K, 3), spherical harmonics, degree 0 first; with ``dc``, those of degree 1 and up.
            colors_precomp: (N, 3) RGB, instead of spherical harmonics.
            scales: (N, 3), world units.
            rotations: (N, 4) quaternions, real part first, of any length but zero.
            cov3D_precomp: (N, 6), xx xy xz yy yz zz in squared world units, instead of scales and rotations.
            dc: (N, 1, 3), spherical harmonics of degree 0; this and the rest apart save copies of both.

        Returns:
            The image (3, H, W) and the radii (N,) int32 in px, 0 where a Gaussian is not visible; and the expected
            inverse depth (1, H, W) where the settings say something about anti-aliasing.

        Raises:
            ValueError: A choice is missing or made twice, a shape, dtype or device is not as above, or the matrices are
                not those of a pinhole camera.
        """
        settings = self.raster_settings
        if (shs is None and dc is None) == (colors_precomp is None):
            raise ValueError("Please provide exactly one of either SHs or precomputed colors")
        given = (scales is not None, rotations is not None, cov3D_precomp is not None)
        if given not in ((True, True, False), (False, False, True)):
            raise ValueError("Please provide exactly one of either scale/rotation pair or precomputed 3D covariance")
        if shs is not None and dc is None:
            dc, shs = _split_degrees(shs)
        if scales is not None and settings.scale_modifier != 1:
            scales = scales * settings.scale_modifier
        drawn = rasterize(
            _view(settings, direction_matters=dc is not None and settings.sh_degree > 0),
            means3D, rotations, scales, opacities, sh_dc=dc, sh_rest=shs, sh_degree=settings.sh_degree,
            colors=colors_precomp, covariances=cov3D_precomp, antialiased=bool(settings.antialiasing),
            inverse_depth=settings.antialiasing is not None, screen_means=_four_columns(means2D),
        )  # fmt: skip
        if settings.antialiasing is None:
            return drawn.image, drawn.radii
        return drawn.image, drawn.radii, drawn.inverse_depth[None]


def _split_degrees(shs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Degree 0, and the others if there are any."""
    if shs.ndim != 3 or shs.shape[1] < 1:
        raise ValueError(f"shs: expected shape (N, K, 3), got {tuple(shs.shape)}")
    # Two slices would do, but the gradient of a split is one concatenation instead of two padded copies and their sum.
    dc, rest = shs.split((1, shs.shape[1] - 1), dim=1)
    return dc, rest if rest.shape[1] else None


def _four_columns(means2D: Tensor | None) -> Tensor | None:
    """Screen means as `rasterize` takes them: x, y, and two whose gradient falls away with them."""
    if means2D is None or (means2D.ndim == 2 and means2D.shape[1] == 4):
        return means2D
    if means2D.ndim != 2 or means2D.shape[1] not in (2, 3):
        raise ValueError(f"means2D: expected shape (N, 2), (N, 3) or (N, 4), got {tuple(means2D.shape)}")
    return nn.functional.pad(means2D[:, :2], (0, 2))


def _view(settings: GaussianRasterizationSettings, direction_matters: bool) -> View:
    """The camera of the settings, on the host."""
    shapes = {"viewmatrix": (4, 4), "projmatrix": (4, 4), "campos": (3,), "bg": (3,)}
    tensors = [getattr(settings, name) for name in shapes]
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    viewmatrix, projmatrix, centre, background = _host.of(tensors)
    world_to_camera, (fx, fy, cx, cy) = _camera(
        viewmatrix.tobytes(), projmatrix.tobytes(), centre.tobytes() if direction_matters else None
    )
    width, height = int(settings.image_width), int(settings.image_height)
    return View(
        width, height, 0.5 * width * fx, 0.5 * height * fy, 0.5 * width * (cx + 1), 0.5 * height * (cy + 1),
        world_to_camera, torch.from_numpy(background),
    )  # fmt: skip


@lru_cache(maxsize=4096)  # a trainer draws the same views over and over
def _camera(viewmatrix: bytes, projmatrix: bytes, centre: bytes | None) -> tuple[Tensor, tuple[float, ...]]:
    """World_to_camera, and focal lengths and principal point in NDC units, from float64 in rows."""
    world_to_camera, full = (np.frombuffer(matrix).reshape(4, 4).T for matrix in (viewmatrix, projmatrix))
    _check_pose(world_to_camera, None if centre is None else np.frombuffer(centre))
    intrinsics = _intrinsics(full, world_to_camera[:3, :3])
    return torch.from_numpy(world_to_camera.copy("C")), intrinsics


def _check_pose(world_to_camera: np.ndarray, centre: np.ndarray | None) -> None:
    """Refuse what is not a rigid motion, or has its centre elsewhere."""
    rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max() + np.abs(world_to_camera[3] - (0, 0, 0, 1)).max()
    if not error <= _TOLERANCE:  # NaN is no camera either
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

    With a pinhole's projection (x, y, z) -> (fx x + cx z, fy y + cy z, z) up to a factor, the left three columns of
    ``full`` are its matrix times the rotation. The translation need not be undone, which would cost digits far from
    the origin.
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
    """Values of small tensors, read on the host; what lies elsewhere is remembered while its tensor lives."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()  # tensor -> (its version when it was read, its values)

    def of(self, tensors: list[Tensor]) -> list[np.ndarray]:
        """float64, each of its tensor's shape. All that must be fetched comes in one transfer."""
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
    """Copies on the host, by one transfer."""
    if not tensors:
        return []
    device = tensors[0].device
    together = torch.cat([tensor.to(device, torch.float64).reshape(-1) for tensor in tensors]).cpu().numpy()
    parts = np.split(together, np.cumsum([tensor.numel() for tensor in tensors])[:-1])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


_host = _HostCopies()
