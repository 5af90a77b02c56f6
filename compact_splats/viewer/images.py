"""Images of the project's renderer for a live page, and the overlay of a photo."""

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

MAX_PIXELS = 1600 * 1000  # of an image at rest; larger windows enlarge it
_HIDDEN_LOGIT = -100.0  # opacity logit of hidden Gaussians


@dataclass(frozen=True)
class Filter:
    """The Gaussians that are shown.

    Attributes:
        sh_degree: of the colours.
        min_opacity: Gaussians of lower opacity are hidden.
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
            all_sizes = sizes(model)
            ascending = all_sizes.sort().values
            low, high = (ascending[round(percent / 100 * (len(ascending) - 1))] for percent in self.size_range)
            shown &= (all_sizes >= low) & (all_sizes <= high)
        return shown

    @torch.no_grad()
    def applied(self, model: GaussianModel) -> GaussianModel:
        """The filtered model; it shares all parameters except, if Gaussians are hidden, the opacities."""
        parameters = {name: values.detach() for name, values in model.parameters.items()}
        mask = self.mask(model)
        if mask is not None:
            parameters["opacity_logits"] = torch.where(mask[:, None], parameters["opacity_logits"], _HIDDEN_LOGIT)
        shown = model.with_parameters(parameters)
        shown.sh_degree = min(self.sh_degree, model.max_sh_degree)
        return shown


def window_camera(rotation: np.ndarray, position: np.ndarray, fov: float, width: int, height: int) -> Camera:
    """The camera of a browser window.

    Args:
        rotation: (3,3) camera to world, OpenCV axes.
        position: (3,) world units.
        fov: vertical, radians.
        width: px; 0, of a hidden window, counts as 1.
        height: px; 0 counts as 1.
    """
    width, height = max(1, width), max(1, height)
    scale = min(1.0, math.sqrt(MAX_PIXELS / (width * height)))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    focal = height / 2 / math.tan(fov / 2)
    pose = np.eye(4)
    pose[:3, :3] = rotation.T
    pose[:3, 3] = -pose[:3, :3] @ position
    return Camera("window", width, height, focal, focal, width / 2, height / 2, torch.from_numpy(pose).float(), None)


def containing_fov(camera: Camera, aspect: float) -> float:
    """Vertical field of view, radians, of a window (with a centred principal point) that contains the whole photo."""
    half_width = max(camera.cx, camera.width - camera.cx) / camera.fx
    half_height = max(camera.cy, camera.height - camera.cy) / camera.fy
    return 2 * math.atan(max(half_height, half_width / aspect))


@torch.no_grad()
def rendered(camera: Camera, model: GaussianModel, background: torch.Tensor) -> np.ndarray:
    """A rendered view, (H,W,3) uint8."""
    return pixels_of(to_uint8(render(camera, model, background).image))


def overlay_photo(image: np.ndarray, window: Camera, camera: Camera, photo: np.ndarray, fraction: float) -> np.ndarray:
    """Replace the left part of an image by the photo with the same pose, pixel by pixel.

    Args:
        image: (H,W,3) uint8 of the window.
        window: its camera, with the pose of ``camera``.
        camera: of the photo.
        photo: (H,W,3) uint8.
        fraction: of the photo's width that is shown, from the left, 0 to 1.
    """
    across, down = window.fx / camera.fx, window.fy / camera.fy
    size = max(1, round(across * camera.width)), max(1, round(down * camera.height))
    photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if across < 1 else cv2.INTER_LINEAR)
    left, top = round(window.cx - across * camera.cx), round(window.cy - down * camera.cy)
    columns = slice(max(0, left), max(0, min(window.width, left + round(fraction * size[0]))))
    lines = slice(max(0, top), max(0, min(window.height, top + size[1])))
    result = image.copy()
    result[lines, columns] = photo[lines.start - top : lines.stop - top, columns.start - left : columns.stop - left]
    return result
