"""Intrinsics with lens distortion, and undistortion to a pinhole camera by OpenCV.

Photos are undistorted when they are decoded; all other code knows pinhole cameras only.
"""

import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

# The undistorted photo has the focal length of the original, or a smaller one that keeps more of its border, down to
# half: with less, the border of a fisheye photo would fill most of the pixels.
_MIN_ZOOM = 0.5


class Undistortion(NamedTuple):
    """Position in the original photo of each pixel of the undistorted one.

    Attributes:
        map_xy: (H,W,2) int16, and
        map_fraction: (H,W) uint16: OpenCV's fixed-point maps for ``cv2.remap``.
        valid: (H,W) bool, the position is inside the original photo.
    """

    map_xy: np.ndarray
    map_fraction: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class Lens:
    """Intrinsics of a photo before undistortion.

    Attributes:
        width, height: px.
        fx, fy, cx, cy: px; the centre of the top-left pixel is (0.5, 0.5).
        fisheye: OpenCV's fisheye (equidistant) model instead of its rational model.
        distortion: coefficients in OpenCV's order: k1 k2 p1 p2 [k3 [k4 k5 k6]], fisheye: k1 k2 k3 k4; empty: none.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    fisheye: bool = False
    distortion: tuple[float, ...] = ()

    @property
    def is_pinhole(self) -> bool:
        """Whether there is no distortion; a fisheye distorts even if all coefficients are zero."""
        return not self.fisheye and not any(self.distortion)

    def scaled(self, width: int, height: int) -> "Lens":
        """The same lens on a photo resized to ``width`` x ``height`` px."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy
        )

    def pinhole(self) -> "Lens":
        """Intrinsics of the undistorted photo: same size and principal point, same or smaller focal lengths."""
        if self.is_pinhole:
            return replace(self, distortion=())
        zoom = _zoom_without_blank_sides(self)
        return replace(self, fx=self.fx * zoom, fy=self.fy * zoom, fisheye=False, distortion=())


def undistortion(lens: Lens) -> Undistortion:
    """Maps from ``lens.pinhole()`` to ``lens``, cached for the last few lenses.

    Captures have either few lenses, or one per photo, whose maps are used once.
    """
    with _maps_lock:  # decoding threads need the same maps at the same time
        return _undistortion(lens)


_maps_lock = threading.Lock()


@lru_cache(maxsize=4)
def _undistortion(lens: Lens) -> Undistortion:
    size, coefficients = (lens.width, lens.height), np.array(lens.distortion)
    source, target = _matrix(lens), _matrix(lens.pinhole())
    if lens.fisheye:
        x, y = cv2.fisheye.initUndistortRectifyMap(source, coefficients, np.eye(3), target, size, cv2.CV_32FC1)
    else:
        x, y = cv2.initUndistortRectifyMap(source, coefficients, None, target, size, cv2.CV_32FC1)
    inside = (x >= -0.5) & (x <= lens.width - 0.5) & (y >= -0.5) & (y <= lens.height - 0.5)  # false for NaN too
    valid = inside & (_pinhole_radius(lens.pinhole()) < _fold_radius(lens))
    # Positions outside would overflow the int16 of the map; they are masked by ``valid``.
    x, y = (np.where(valid, m, -1.0).astype(np.float32) for m in (x, y))
    return Undistortion(*cv2.convertMaps(x, y, cv2.CV_16SC2), valid)


def _matrix(lens: Lens) -> np.ndarray:
    """(3,3) OpenCV camera matrix; OpenCV puts the centre of the top-left pixel at (0, 0), hence the half pixel."""
    return np.array([[lens.fx, 0, lens.cx - 0.5], [0, lens.fy, lens.cy - 0.5], [0, 0, 1]])


def _pinhole_radius(pinhole: Lens) -> np.ndarray:
    """(H,W) tangent of the angle between the ray of each pixel and the optical axis."""
    x = (np.arange(pinhole.width) + 0.5 - pinhole.cx) / pinhole.fx
    y = (np.arange(pinhole.height) + 0.5 - pinhole.cy) / pinhole.fy
    return np.hypot(x[None, :], y[:, None])


@np.errstate(divide="ignore", over="ignore", invalid="ignore")  # poles and overflows count as not increasing
def _fold_radius(lens: Lens) -> float:
    """Tangent of the angle up to which the radial polynomial increases; beyond it the mapping is not one-to-one."""
    r = np.linspace(0, 20, 20_001)[1:]
    if lens.fisheye:
        theta = np.arctan(r)
        distorted = theta * (1 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(lens.distortion)))
    else:
        k1, k2, _, _, k3, k4, k5, k6 = (*lens.distortion, *[0.0] * 8)[:8]
        distorted = r * (1 + r**2 * (k1 + r**2 * (k2 + r**2 * k3))) / (1 + r**2 * (k4 + r**2 * (k5 + r**2 * k6)))
    falls = np.flatnonzero(~(np.diff(distorted, prepend=0.0) > 0))
    return float(r[falls[0]]) if len(falls) else np.inf


def _zoom_without_blank_sides(lens: Lens) -> float:
    """The factor on the focal lengths at which the undistorted photo has no blank pixels along its sides, at most 1.

    It never zooms in, which would cut off parts of the photo; blank pixels are masked instead.
    """
    xs, ys = np.linspace(0, lens.width, 33), np.linspace(0, lens.height, 33)
    left, right = (np.stack([np.full_like(ys, x), ys], -1) for x in (0, lens.width))
    top, bottom = (np.stack([xs, np.full_like(xs, y)], -1) for y in (0, lens.height))
    rays = np.abs(_undistorted_rays(lens, np.concatenate([left, right, top, bottom])))
    left, right, top, bottom = np.nan_to_num(rays, nan=np.inf).clip(max=1e6).reshape(4, 33, 2)
    # A side has no blank pixels if its innermost ray, with the new focal length, lands on or beyond that side.
    reach = np.array([left[:, 0].min(), right[:, 0].min(), top[:, 1].min(), bottom[:, 1].min()])
    focal = np.array([lens.fx, lens.fx, lens.fy, lens.fy])
    to_side = np.array([lens.cx, lens.width - lens.cx, lens.cy, lens.height - lens.cy])
    return float(np.clip((to_side / np.maximum(focal * reach, 1e-9)).max(), _MIN_ZOOM, 1.0))


def _undistorted_rays(lens: Lens, pixels: np.ndarray) -> np.ndarray:
    """(N,2) pixel coordinates -> (N,2) x/z and y/z of their rays; NaN or infinite if OpenCV finds no ray."""
    points, coefficients = (pixels - 0.5)[:, None].astype(np.float64), np.array(lens.distortion)
    if lens.fisheye:
        rays = cv2.fisheye.undistortPoints(points, _matrix(lens), coefficients)[:, 0]
        return np.where(np.abs(rays) > 1e5, np.inf, rays)  # OpenCV's marker for "not found"
    return cv2.undistortPoints(points, _matrix(lens), coefficients)[:, 0]
