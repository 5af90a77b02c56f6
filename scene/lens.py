"""Camera models with lens distortion, and undistortion of their photos to a pinhole camera.

Photos are undistorted when they are decoded; all other code knows pinhole cameras only. The map from the pixels of the
pinhole to those of the photo needs only the forward direction of each model: https://colmap.github.io/cameras.html.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

_Pair = tuple[np.ndarray, np.ndarray]

# The undistorted photo has the focal length of the original, or a smaller one that keeps more of its border, down to
# half: with less, the border of a fisheye photo would fill most of the pixels.
_MIN_ZOOM = 0.5
_PROFILE = 4001  # radii at which a lens is sampled
_BLOCK = 2**14  # pixels whose float64 values are in memory at a time


def _brown(x, y, k1=0.0, k2=0.0, p1=0.0, p2=0.0, k3=0.0, k4=0.0, k5=0.0, k6=0.0) -> _Pair:
    """OpenCV's rational model."""
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    if k4 or k5 or k6:
        radial /= 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    if not (p1 or p2):
        return x * radial, y * radial
    xy = 2 * x * y
    return x * radial + p1 * xy + p2 * (r2 + 2 * x * x), y * radial + p2 * xy + p1 * (r2 + 2 * y * y)


def _equidistant(x, y) -> _Pair:
    """As far from the centre as the angle between the ray and the optical axis, in radians."""
    r = np.hypot(x, y)
    scale = np.divide(np.arctan(r), r, out=np.ones_like(r), where=r > 0)
    return x * scale, y * scale


def _fisheye(x, y, k0=0.0, k1=0.0, k2=0.0, k3=0.0, k4=0.0, k5=0.0, p0=0.0, p1=0.0, *prism) -> _Pair:
    """Equidistant; then radial; then tangential and thin prism terms of what the radial ones give."""
    x, y = _equidistant(x, y)
    t2 = x * x + y * y
    radial = 1 + t2 * (k0 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * (k4 + t2 * k5)))))
    x, y = x * radial, y * radial
    if not (p0 or p1 or any(prism)):
        return x, y
    s0, s1, s2, s3 = prism
    r2, slope = x * x + y * y, 2 * (p0 * x + p1 * y)
    return x + x * slope + r2 * (p0 + s0 + s1 * r2), y + y * slope + r2 * (p1 + s2 + s3 * r2)


def _thin_prism(x, y, k1, k2, p1, p2, k3, k4, sx1, sy1) -> _Pair:
    """Equidistant; then radial, tangential and thin prism terms."""
    x, y = _equidistant(x, y)
    r2, xy = x * x + y * y, 2 * x * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    u = x * radial + p1 * xy + p2 * (r2 + 2 * x * x) + sx1 * r2
    return u, y * radial + p2 * xy + p1 * (r2 + 2 * y * y) + sy1 * r2


def _fov(x, y, omega) -> _Pair:
    """Devernay and Faugeras, "Straight lines have to be straight", 2001."""
    if omega == 0:
        return x, y
    r, slope = np.hypot(x, y), 2 * np.tan(omega / 2)
    scale = np.divide(np.arctan(r * slope), r * omega, out=np.full_like(r, slope / omega), where=r > 0)
    return x * scale, y * scale


def _division(x, y, k) -> _Pair:
    """The ray is the distorted point over 1 + k times its squared radius; this is the inverse."""
    scale = 2 / (1 + np.sqrt(1 - 4 * k * (x * x + y * y)))
    return x * scale, y * scale


def _eucm(x, y, alpha, beta) -> _Pair:
    """Khomutenko et al., "An Enhanced Unified Camera Model", 2016."""
    scale = 1 / (alpha * np.sqrt(1 + beta * (x * x + y * y)) + 1 - alpha)
    return x * scale, y * scale


def _equirectangular(x, y, face=0) -> _Pair:
    """Longitude and latitude in radians of a ray through a face of the cube around the camera."""
    (_, rotation), one = FACES[int(face)], np.ones_like(x + y)
    across, down, ahead = (a * x + b * y + c * one for a, b, c in rotation.tolist())
    return np.arctan2(across, ahead), np.arctan2(down, np.hypot(across, ahead))


# Names of a cube's faces, and (3,3) rotations from the axes of a face's camera to those of the photo's.
FACES = tuple(
    (name, np.array(rows, float))
    for name, rows in {
        "front": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        "right": ((0, 0, 1), (0, 1, 0), (-1, 0, 0)),
        "back": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
        "left": ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
        "up": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
        "down": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    }.items()
)

# From the ray (x, y, 1) and the parameters after the principal point to the position over the focal lengths.
_FORWARD: dict[str, Callable[..., _Pair]] = {
    "SIMPLE_PINHOLE": _brown,
    "PINHOLE": _brown,
    "SIMPLE_RADIAL": _brown,
    "RADIAL": _brown,
    "OPENCV": _brown,
    "FULL_OPENCV": _brown,
    "SIMPLE_FISHEYE": _fisheye,
    "FISHEYE": _fisheye,
    "SIMPLE_RADIAL_FISHEYE": _fisheye,
    "RADIAL_FISHEYE": _fisheye,
    "OPENCV_FISHEYE": _fisheye,
    "RAD_TAN_THIN_PRISM_FISHEYE": _fisheye,
    "THIN_PRISM_FISHEYE": _thin_prism,
    "FOV": _fov,
    "SIMPLE_DIVISION": _division,
    "DIVISION": _division,
    "EUCM": _eucm,
    "EQUIRECTANGULAR": _equirectangular,
}


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
        model: the name of COLMAP's camera model.
        distortion: the model's parameters after the principal point, in COLMAP's order; of a panorama, the index in
            ``FACES`` of the one that is seen.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: str = "PINHOLE"
    distortion: tuple[float, ...] = ()

    @property
    def is_pinhole(self) -> bool:
        """Whether there is no distortion; a fisheye distorts even if all coefficients are zero."""
        return _FORWARD[self.model] is _brown and not any(self.distortion)

    @property
    def is_panorama(self) -> bool:
        """Whether the photo shows all directions; its pinholes are the faces of a cube, see ``faces``."""
        return self.model == "EQUIRECTANGULAR"

    @property
    def is_blind(self) -> bool:
        """Whether the map is nowhere one-to-one around the optical axis, as with impossible parameters."""
        return not (self.is_pinhole or self.is_panorama) and _limits(self)[0] == 0

    def faces(self) -> list["Lens"]:
        """One lens for each of ``FACES`` of a panorama."""
        return [replace(self, distortion=(float(i),)) for i in range(len(FACES))]

    def scaled(self, width: int, height: int) -> "Lens":
        """The same lens on a photo resized to ``width`` x ``height`` px."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy
        )

    def pinhole(self) -> "Lens":
        """Intrinsics of the undistorted photo: same size and principal point, same or smaller focal lengths.

        Of a panorama: 90 degrees wide, with sides of a quarter of its width.
        """
        if self.is_panorama:
            side = max(1, self.width // 4)
            return Lens(side, side, side / 2, side / 2, side / 2, side / 2)
        zoom = 1.0 if self.is_pinhole else _limits(self)[1]
        return replace(self, fx=self.fx * zoom, fy=self.fy * zoom, model="PINHOLE", distortion=())

    @np.errstate(all="ignore")  # what is not finite has no place in the photo
    def project(self, x: np.ndarray, y: np.ndarray) -> _Pair:
        """Pixels, of the shape of ``x`` and ``y``, of the rays (x, y, 1); NaN or infinite where there is none."""
        u, v = _FORWARD[self.model](x, y, *self.distortion)
        return self.fx * u + self.cx, self.fy * v + self.cy


def panorama(width: int, height: int) -> Lens:
    """The lens of an equirectangular photo: longitude along x, latitude along y, the front in the middle."""
    return Lens(width, height, width / (2 * np.pi), height / np.pi, width / 2, height / 2, "EQUIRECTANGULAR")


def undistortion(lens: Lens) -> Undistortion:
    """Maps from ``lens.pinhole()`` to ``lens``, cached for the last few lenses.

    Captures have either few lenses, or one per photo, whose maps are used once.
    """
    with _maps_lock:  # decoding threads need the same maps at the same time
        return (_face_maps if lens.is_panorama else _maps)(lens)


_maps_lock = threading.Lock()


@np.errstate(over="ignore")  # of positions far outside, in float32
def _undistortion(lens: Lens) -> Undistortion:
    pinhole, fold = lens.pinhole(), np.inf if lens.is_panorama else _limits(lens)[0]
    x = (np.arange(pinhole.width) + 0.5 - pinhole.cx) / pinhole.fx
    rows = (np.arange(pinhole.height) + 0.5 - pinhole.cy) / pinhole.fy
    map_x, map_y = (np.empty((pinhole.height, pinhole.width), np.float32) for _ in range(2))
    valid = np.empty((pinhole.height, pinhole.width), bool)
    step = max(1, _BLOCK // pinhole.width)
    for top in range(0, pinhole.height, step):
        block = slice(top, top + step)
        y = rows[block, None]
        u, v = lens.project(x, y)
        valid[block] = (u >= 0) & (u <= lens.width) & (v >= 0) & (v <= lens.height)  # false for NaN too
        if fold < np.inf:
            valid[block] &= x * x + y * y < fold * fold
        # OpenCV puts the centre of the top-left pixel at (0, 0).
        map_x[block], map_y[block] = u - 0.5, v - 0.5
    if not valid.all():  # positions outside would overflow the int16 of the map
        map_x[~valid] = map_y[~valid] = -1
    return Undistortion(*cv2.convertMaps(map_x, map_y, cv2.CV_16SC2), valid)


_maps = lru_cache(maxsize=4)(_undistortion)
_face_maps = lru_cache(maxsize=len(FACES))(_undistortion)  # of one size of panoramas; they are small


@lru_cache(maxsize=4096)  # all photos of a lens ask
def _limits(lens: Lens) -> tuple[float, float]:
    """The tangent of the angle up to which the map is one-to-one; and the zoom of the pinhole."""
    radii, profile = _radial_profile(lens)
    fold = radii[-1] if len(radii) < _PROFILE else np.inf
    return float(fold), _zoom_without_blank_sides(lens, radii, profile)


@np.errstate(all="ignore")  # poles and overflows count as not increasing
def _radial_profile(lens: Lens) -> _Pair:
    """(N,) radii of rays, up to the corners of any pinhole, and of their positions over the focal lengths.

    Both end where the positions stop increasing in one of four directions: beyond, the map is not one-to-one.
    """
    corner = max(lens.cx, lens.width - lens.cx) / lens.fx, max(lens.cy, lens.height - lens.cy) / lens.fy
    r = np.tan(np.linspace(0, np.arctan(np.hypot(*corner) / _MIN_ZOOM), _PROFILE))
    zero, forward = np.zeros_like(r), _FORWARD[lens.model]
    profiles = np.stack([
        *(sign * forward(sign * r, zero, *lens.distortion)[0] for sign in (1, -1)),
        *(sign * forward(zero, sign * r, *lens.distortion)[1] for sign in (1, -1)),
    ])  # fmt: skip
    falls = np.flatnonzero(~(np.diff(profiles) > 0).all(0))
    end = falls[0] + 1 if len(falls) else _PROFILE
    return r[:end], profiles.mean(0)[:end]  # the mean has no tangential and thin prism terms: they are even


def _zoom_without_blank_sides(lens: Lens, radii: np.ndarray, profile: np.ndarray) -> float:
    """The factor on the focal lengths at which the undistorted photo has no blank pixels along its sides, at most 1.

    It never zooms in, which would cut off parts of the photo; blank pixels are masked instead.
    """
    xs, ys = np.linspace(0, lens.width, 33), np.linspace(0, lens.height, 33)
    left, right = (np.stack([np.full_like(ys, x), ys], -1) for x in (0, lens.width))
    top, bottom = (np.stack([xs, np.full_like(xs, y)], -1) for y in (0, lens.height))
    rays = np.abs(_undistorted_rays(lens, np.concatenate([left, right, top, bottom]), radii, profile))
    left, right, top, bottom = np.nan_to_num(rays, nan=np.inf).clip(max=1e6).reshape(4, 33, 2)
    # A side has no blank pixels if its innermost ray, with the new focal length, lands on or beyond that side.
    reach = np.array([left[:, 0].min(), right[:, 0].min(), top[:, 1].min(), bottom[:, 1].min()])
    focal = np.array([lens.fx, lens.fx, lens.fy, lens.fy])
    to_side = np.array([lens.cx, lens.width - lens.cx, lens.cy, lens.height - lens.cy])
    return float(np.clip((to_side / np.maximum(focal * reach, 1e-9)).max(), _MIN_ZOOM, 1.0))


@np.errstate(all="ignore")
def _undistorted_rays(lens: Lens, pixels: np.ndarray, radii: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """(N,2) pixel coordinates -> (N,2) x/z and y/z of their rays; NaN if there is none."""
    focal = np.array([lens.fx, lens.fy])
    radial = (pixels - [lens.cx, lens.cy]) / focal  # where a lens without tangential terms would put the rays
    for _ in range(8):
        distance = np.hypot(*radial.T)[:, None]
        rays = radial * np.interp(distance, profile, radii, right=np.nan) / distance
        radial = radial + (pixels - np.stack(lens.project(*rays.T), -1)) / focal
    return rays
