"""Pictures by the project's own renderer for a live page: any view, and a photo laid over the view it shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from compact_splats.gaussian_renderer import render
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.images import pixels_of, to_uint8
from compact_splats.viewer.ranking import sizes

MAX_PIXELS = 1600 * 1000  # of a picture at rest; larger windows get it enlarged
_HIDDEN = -100.0  # logit of an opacity that nobody sees


@dataclass(frozen=True)
class Filter:
    """Which Gaussians are shown, and how.

    Attributes:
        sh_degree: of the colours.
        min_opacity: Gaussians that are fainter are hidden.
        size_range: percentiles of the sizes (see :func:`viewer.ranking.sizes`) between which Gaussians are shown.
    """

    sh_degree: int
    min_opacity: float = 0.0
    size_range: tuple[float, float] = (0.0, 100.0)

    @torch.no_grad()
    def mask(self, model: GaussianModel) -> torch.Tensor | None:
        """(N,) bool, the Gaussians that are shown; None for all."""
        if self.min_opacity <= 0 and self.size_range == (0.0, 100.0):
            return None
        shown = model.opacities.squeeze(1) >= self.min_opacity
        if self.size_range != (0.0, 100.0):
            each = sizes(model)
            ordered = each.sort().values
            low, high = (ordered[round(share / 100 * (len(ordered) - 1))] for share in self.size_range)
            shown &= (each >= low) & (each <= high)
        return shown

    @torch.no_grad()
    def applied(self, model: GaussianModel) -> GaussianModel:
        """The model as it is shown; it shares all rows but, where something is hidden, the opacities."""
        rows = {name: row.detach() for name, row in model.parameters.items()}
        mask = self.mask(model)
        if mask is not None:
            rows["opacity_logits"] = torch.where(mask[:, None], rows["opacity_logits"], _HIDDEN)
        shown = model.with_parameters(rows)
        shown.sh_degree = min(self.sh_degree, model.max_sh_degree)
        return shown


def view_of(rotation: np.ndarray, position: np.ndarray, fov: float, width: int, height: int) -> Camera:
    """The camera of a browser's window.

    Args:
        rotation: (3,3) from OpenCV's camera axes to the world.
        position: (3,) world units.
        fov: vertical, radians.
        width: px; a window that is not shown may have none, and counts as one.
        height: px, likewise.
    """
    width, height = max(1, width), max(1, height)
    scale = min(1.0, math.sqrt(MAX_PIXELS / (width * height)))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    focal = height / 2 / math.tan(fov / 2)
    pose = np.eye(4)
    pose[:3, :3] = rotation.T
    pose[:3, 3] = -pose[:3, :3] @ position
    return Camera("window", width, height, focal, focal, width / 2, height / 2, torch.from_numpy(pose).float(), None)


def fov_of_all(camera: Camera, aspect: float) -> float:
    """Vertical field of view, in radians, that holds a photo, whose principal point may be off centre."""
    half_width = max(camera.cx, camera.width - camera.cx) / camera.fx
    half_height = max(camera.cy, camera.height - camera.cy) / camera.fy
    return 2 * math.atan(max(half_height, half_width / aspect))


@torch.no_grad()
def picture(camera: Camera, model: GaussianModel, background: torch.Tensor) -> np.ndarray:
    """A view as (H,W,3) uint8."""
    return pixels_of(to_uint8(render(camera, model, background).image))


def lay_photo_over(image: np.ndarray, window: Camera, camera: Camera, photo: np.ndarray, share: float) -> np.ndarray:
    """Replace the left part of a picture by the photo that was taken from there, to the pixel.

    Args:
        image: (H,W,3) uint8 of the window.
        window: where it was rendered; at the pose of ``camera``.
        camera: of the photo.
        photo: (H,W,3) uint8.
        share: of the photo's width that is shown, from the left, 0 to 1.
    """
    across, down = window.fx / camera.fx, window.fy / camera.fy
    size = max(1, round(across * camera.width)), max(1, round(down * camera.height))
    photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if across < 1 else cv2.INTER_LINEAR)
    left, top = round(window.cx - across * camera.cx), round(window.cy - down * camera.cy)
    columns = slice(max(0, left), max(0, min(window.width, left + round(share * size[0]))))
    lines = slice(max(0, top), max(0, min(window.height, top + size[1])))
    result = image.copy()
    result[lines, columns] = photo[lines.start - top : lines.stop - top, columns.start - left : columns.stop - left]
    return result
