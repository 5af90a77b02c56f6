"""Camera paths for videos: a circle around the scene, or through the given cameras."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline, Slerp

from compact_splats.scene.cameras import Camera
from compact_splats.scene.normalization import camera_centres
from compact_splats.utils.errors import InputError

Array = np.ndarray

MAX_KNOTS = 24  # of a spline: more would make the camera shake
_MIN_SPREAD = 1e-3  # mean squared sine between the axes and their mean: below about 2 degrees they are parallel
_CLOSED_GAP = 2.0  # a path is closed if its ends are at most this many median steps apart
_LAPS = 3  # RotationSpline has no periodic boundary, so the middle of three laps is used


def views_along(path: str, cameras: Sequence[Camera], num_frames: int, size: tuple[int, int]) -> list[Camera]:
    """The camera of each frame of a video.

    Args:
        path: "orbit", "spline" or "cameras".
        cameras: at least one, in order.
        num_frames: at least 1.
        size: (width, height) px.

    Returns:
        ``num_frames`` cameras with the intrinsics of the first one, scaled so that the frame lies inside its photo.

    Raises:
        InputError: the cameras do not define such a path.
    """
    poses = {"orbit": orbit, "spline": spline, "cameras": eased}[path](cameras, num_frames)
    camera = _resized(cameras[0], *size)
    return [
        replace(camera, name=f"{i:05d}", world_to_camera=torch.from_numpy(pose).float()) for i, pose in enumerate(poses)
    ]


def orbit(cameras: Sequence[Camera], num_frames: int) -> Array:
    """A circle around the point that the cameras look at, with their mean height and distance.

    Up is the mean up direction of the cameras. The circle starts in the direction of the first camera. The last frame
    is one step before the first, so that the video loops.

    Returns:
        (F,4,4) float64, world to camera.

    Raises:
        InputError: the cameras do not look at one point, or all are above it.
    """
    centres, rotations = _places(cameras)
    target, up = look_at_point(cameras), _unit(-rotations[:, 1].mean(0))
    away = centres - target
    height = (away @ up).mean()
    flat = away - (away @ up)[:, None] * up
    radius = np.linalg.norm(flat, axis=1).mean()
    start = flat[0] if np.linalg.norm(flat[0]) > 1e-6 * radius else flat[np.linalg.norm(flat, axis=1).argmax()]
    if not radius > 1e-3 * abs(height):
        raise _no_orbit("are all straight above the point that they look at")
    first = _unit(start)
    second = np.cross(up, first)
    angles = 2 * np.pi * np.arange(num_frames)[:, None] / num_frames
    eyes = target + height * up + radius * (np.cos(angles) * first + np.sin(angles) * second)
    return np.stack([_looking_at(target, eye, up) for eye in eyes])


def spline(cameras: Sequence[Camera], num_frames: int) -> Array:
    """A smooth path through the cameras, or through ``MAX_KNOTS`` of them.

    It is closed, with the last frame one step before the first, if the last camera is near the first.

    Returns:
        (F,4,4) float64, world to camera.

    Raises:
        InputError: there is only one camera.
    """
    if len(cameras) < 2:
        raise InputError("--path spline needs at least 2 cameras, there is 1: choose --path cameras")
    centres, rotations = _places(thinned(cameras))
    is_closed = closes(centres)
    times = path_times(centres, is_closed)
    at = np.linspace(times[0], times[-1], num_frames, endpoint=not is_closed)
    return spline_through(centres, rotations, times, at)


def spline_through(centres: Array, rotations: Array, times: Array, at: Array) -> Array:
    """Poses on the spline through given poses.

    Args:
        centres: (K,3) camera centres, world units.
        rotations: (K,3,3) world to camera.
        times: (K,) ascending, of the poses; (K+1,) for a closed path, the last for the return to the first pose.
        at: (F,) times to evaluate.

    Returns:
        (F,4,4) float64, world to camera. Positions have continuous second derivatives.
    """
    turns = Rotation.from_matrix(rotations)
    if len(times) == len(centres):
        curve = CubicSpline(times, centres)
        return _poses(curve(at), RotationSpline(times, turns)(at).as_matrix())
    curve = CubicSpline(times, np.concatenate([centres, centres[:1]]), bc_type="periodic")
    lap = times[-1] - times[0]
    laps = np.concatenate([times[:-1] + lap * i for i in range(_LAPS)])
    around = RotationSpline(laps, Rotation.concatenate([turns] * _LAPS))
    return _poses(curve(at), around(at + _LAPS // 2 * lap).as_matrix())


def eased(cameras: Sequence[Camera], num_frames: int) -> Array:
    """Straight from camera to camera, with zero speed at each.

    Returns:
        (F,4,4) float64, world to camera, from the first camera to the last.
    """
    centres, rotations = _places(cameras)
    if len(cameras) == 1:
        return _poses(centres, rotations).repeat(num_frames, axis=0)
    at = np.linspace(0, len(cameras) - 1, num_frames)
    before = np.minimum(at.astype(int), len(cameras) - 2)
    fraction = at - before
    at = before + fraction**2 * (3 - 2 * fraction)
    turns = Slerp(np.arange(len(cameras)), Rotation.from_matrix(rotations))(at)
    fraction = (at - before)[:, None]
    return _poses((1 - fraction) * centres[before] + fraction * centres[before + 1], turns.as_matrix())


def look_at_point(cameras: Sequence[Camera]) -> Array:
    """(3,) the point nearest to all optical axes, by least squares, world units.

    Raises:
        InputError: the axes are nearly parallel, or the point is behind most cameras.
    """
    centres, rotations = _places(cameras)
    axes = rotations[:, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    normal = across.mean(0)
    if np.linalg.eigvalsh(normal)[0] < _MIN_SPREAD:
        raise _no_orbit("all look in one direction")
    point = np.linalg.solve(normal, (across @ centres[:, :, None]).mean(0))[:, 0]
    if (((point - centres) * axes).sum(1) > 0).mean() < 0.5:
        raise _no_orbit("look outwards")
    return point


def thinned(cameras: Sequence[Camera]) -> list[Camera]:
    """At most ``MAX_KNOTS`` of the cameras, evenly spaced, including the first and the last."""
    chosen = np.linspace(0, len(cameras) - 1, min(len(cameras), MAX_KNOTS)).round().astype(int)
    return [cameras[i] for i in chosen]


def closes(centres: Array) -> bool:
    """Whether a path through these camera centres (K,3) ends near its start."""
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    return len(centres) > 2 and np.linalg.norm(centres[-1] - centres[0]) <= _CLOSED_GAP * np.median(steps)


def path_times(centres: Array, is_closed: bool) -> Array:
    """Times of the camera centres (K,3) of a path, in proportion to the distances, for a steady speed.

    Returns:
        (K,) from 0 to 1, or (K+1,) for a closed path. Strictly ascending, even between equal centres.
    """
    around = np.concatenate([centres, centres[:1]]) if is_closed else centres
    steps = np.linalg.norm(np.diff(around, axis=0), axis=1)
    steps = np.maximum(steps, 0.1 * steps.mean()) if steps.any() else np.ones_like(steps)
    times = np.concatenate([[0.0], steps.cumsum()])
    return times / times[-1]


def _places(cameras: Sequence[Camera]) -> tuple[Array, Array]:
    """Centres (K,3) in world units and rotations (K,3,3) world to camera, float64."""
    motions = np.stack([camera.world_to_camera.double().numpy() for camera in cameras])
    return camera_centres(motions), motions[:, :3, :3]


def _poses(centres: Array, rotations: Array) -> Array:
    motions = np.tile(np.eye(4), (len(centres), 1, 1))
    motions[:, :3, :3], motions[:, :3, 3:] = rotations, -rotations @ centres[:, :, None]
    return motions


def _looking_at(target: Array, eye: Array, up: Array) -> Array:
    forward = _unit(target - eye)
    right = _unit(np.cross(forward, up))
    return _poses(eye[None], np.stack([right, np.cross(forward, right), forward])[None])[0]


def _unit(vector: Array) -> Array:
    length = np.linalg.norm(vector)
    if not length > 1e-6:
        raise _no_orbit("have no common up direction")
    return vector / length


def _resized(camera: Camera, width: int, height: int) -> Camera:
    """The camera at another size and without its photo, scaled so that the frame lies inside the photo."""
    scale = max(width / camera.width, height / camera.height)
    return replace(
        camera,
        photo=None,
        width=width,
        height=height,
        fx=camera.fx * scale,
        fy=camera.fy * scale,
        cx=width / 2 + (camera.cx - camera.width / 2) * scale,
        cy=height / 2 + (camera.cy - camera.height / 2) * scale,
    )


def _no_orbit(problem: str) -> InputError:
    return InputError(
        "--path orbit needs cameras that look at one point from several sides, but these cameras "
        f"{problem}: choose --path spline or --path cameras"
    )
