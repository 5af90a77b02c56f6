"""`GaussianRasterizer` and its settings: the interface that most 3DGS code uses, implemented with `rasterize`.

Matrices are transposed: they multiply row vectors from the right. Cameras have no gradient.
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
            Image (3, H, W) and radii (N,) int32 in px, 0 if invisible; also the expected inverse depth (1, H, W) if
            ``antialiasing`` is not None.

        Raises:
            ValueError: An argument is missing, redundant or not as above, or the matrices are not those of a pinhole
                camera.
        """
        settings = self.raster_settings
        if (shs is None and dc is None) == (colors_precomp is None):
            raise ValueError("colours: expected either shs or colors_precomp, got both or neither")
        given = (scales is not None, rotations is not None, cov3D_precomp is not None)
        if given not in ((True, True, False), (False, False, True)):
            raise ValueError("shapes: expected either scales and rotations, or cov3D_precomp")
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
    """Degree 0, and the other degrees if any."""
    if shs.ndim != 3 or shs.shape[1] < 1:
        raise ValueError(f"shs: expected shape (N, K, 3), got {tuple(shs.shape)}")
    # The gradient of split is one concatenation; that of two slices would be two padded copies and their sum.
    dc, rest = shs.split((1, shs.shape[1] - 1), dim=1)
    return dc, rest if rest.shape[1] else None


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
