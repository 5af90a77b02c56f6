"""Ways of a camera for videos: a circle around what the photos show, or through the places they were taken from."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline, Slerp

from compact_splats.scene.cameras import Camera
from compact_splats.utils.errors import InputError

Array = np.ndarray

MOST_ON_SPLINE = 24  # more places than that in a few seconds would shake the camera
_LEAST_SPREAD = 1e-3  # mean squared sine between the axes and their mean: below some 2 degrees they have no crossing
_CLOSED_GAP = 2.0  # a path closes where last and first camera are no further apart than so many times the median step
_LAPS = 3  # of a closed path through orientations: the middle one knows of no ends


def views_along(path: str, cameras: Sequence[Camera], num_frames: int, size: tuple[int, int]) -> list[Camera]:
    """The frames of a video as cameras.

    Args:
        path: "orbit", "spline" or "cameras".
        cameras: at least one, in their order.
        num_frames: at least 1.
        size: (width, height) px.

    Returns:
        ``num_frames`` cameras with the lens of the first one: scaled so that a frame of other proportions shows no more
        than a photo does.

    Raises:
        InputError: there is no such path through or around these cameras.
    """
    poses = {"orbit": orbit, "spline": spline, "cameras": eased}[path](cameras, num_frames)
    lens = _fitted(cameras[0], *size)
    return [
        replace(lens, name=f"{i:05d}", world_to_camera=torch.from_numpy(pose).float()) for i, pose in enumerate(poses)
    ]


def orbit(cameras: Sequence[Camera], num_frames: int) -> Array:
    """A circle in the mean height and distance of the cameras around the point they look at, seen from all its places.

    Up is the mean up of the cameras. The circle begins in the direction of the first one, and the last frame stands
    one step before it, so that a loop has no seam.

    Returns:
        (F,4,4) float64, world to camera.

    Raises:
        InputError: the cameras look at no common point, or from straight above.
    """
    centres, rotations = _places(cameras)
    target, up = look_at_point(cameras), _unit(-rotations[:, 1].mean(0))
    away = centres - target
    height = (away @ up).mean()
    flat = away - (away @ up)[:, None] * up
    radius = np.linalg.norm(flat, axis=1).mean()
    start = flat[0] if np.linalg.norm(flat[0]) > 1e-6 * radius else flat[np.linalg.norm(flat, axis=1).argmax()]
    if not radius > 1e-3 * abs(height):
        raise _no_orbit("cameras that all stand above it")
    first = _unit(start)
    second = np.cross(up, first)
    angles = 2 * np.pi * np.arange(num_frames)[:, None] / num_frames
    eyes = target + height * up + radius * (np.cos(angles) * first + np.sin(angles) * second)
    return np.stack([_looking_at(target, eye, up) for eye in eyes])


def spline(cameras: Sequence[Camera], num_frames: int) -> Array:
    """A smooth path exactly through the cameras, through 24 of them where there are more.

    Closed, with the last frame one step before the first, where the last camera stands near the first one.

    Returns:
        (F,4,4) float64, world to camera.

    Raises:
        InputError: there is a single camera.
    """
    if len(cameras) < 2:
        raise InputError("--path spline", "cameras at 2 places or more", "1", "choose --path cameras")
    centres, rotations = _places(thinned(cameras))
    is_closed = closes(centres)
    times = path_times(centres, is_closed)
    at = np.linspace(times[0], times[-1], num_frames, endpoint=not is_closed)
    return spline_through(centres, rotations, times, at)


def spline_through(centres: Array, rotations: Array, times: Array, at: Array) -> Array:
    """Poses on the spline through given ones.

    Args:
        centres: (K,3) of the cameras, world units.
        rotations: (K,3,3) world to camera.
        times: (K,) ascending when the path is where; (K+1,) for a closed path, which is back at the first one then.
        at: (F,) times asked for.

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
    """From camera to camera, straight, slowly at both ends of each way.

    Returns:
        (F,4,4) float64, world to camera; the first and the last are those of the first and the last camera.
    """
    centres, rotations = _places(cameras)
    if len(cameras) == 1:
        return _poses(centres, rotations).repeat(num_frames, axis=0)
    at = np.linspace(0, len(cameras) - 1, num_frames)
    before = np.minimum(at.astype(int), len(cameras) - 2)
    share = at - before
    at = before + share**2 * (3 - 2 * share)
    turns = Slerp(np.arange(len(cameras)), Rotation.from_matrix(rotations))(at)
    share = (at - before)[:, None]
    return _poses((1 - share) * centres[before] + share * centres[before + 1], turns.as_matrix())


def look_at_point(cameras: Sequence[Camera]) -> Array:
    """(3,) the point nearest to all optical axes, by least squares.

    Raises:
        InputError: the axes are next to parallel, or most cameras have the point behind them.
    """
    centres, rotations = _places(cameras)
    axes = rotations[:, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    normal = across.mean(0)
    if np.linalg.eigvalsh(normal)[0] < _LEAST_SPREAD:
        raise _no_orbit("cameras that look in one direction")
    point = np.linalg.solve(normal, (across @ centres[:, :, None]).mean(0))[:, 0]
    if (((point - centres) * axes).sum(1) > 0).mean() < 0.5:
        raise _no_orbit("cameras that look outwards")
    return point


def thinned(cameras: Sequence[Camera]) -> list[Camera]:
    """At most ``MOST_ON_SPLINE`` of the cameras, evenly chosen, with the first and the last."""
    chosen = np.linspace(0, len(cameras) - 1, min(len(cameras), MOST_ON_SPLINE)).round().astype(int)
    return [cameras[i] for i in chosen]


def closes(centres: Array) -> bool:
    """Whether a path through these places (K,3) ends near enough to its beginning to go on there."""
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    return len(centres) > 2 and np.linalg.norm(centres[-1] - centres[0]) <= _CLOSED_GAP * np.median(steps)


def path_times(centres: Array, is_closed: bool) -> Array:
    """When a path is at its places (K,3): by the distances, so that the speed hardly changes; at the last one at 1.

    Returns:
        (K,) from 0 to 1, or (K+1,) of a closed path. Places that coincide get some time all the same.
    """
    around = np.concatenate([centres, centres[:1]]) if is_closed else centres
    steps = np.linalg.norm(np.diff(around, axis=0), axis=1)
    steps = np.maximum(steps, 0.1 * steps.mean()) if steps.any() else np.ones_like(steps)
    times = np.concatenate([[0.0], steps.cumsum()])
    return times / times[-1]


def _places(cameras: Sequence[Camera]) -> tuple[Array, Array]:
    """Centres (K,3) in world units and rotations (K,3,3) world to camera, float64."""
    motions = np.stack([camera.world_to_camera.double().numpy() for camera in cameras])
    rotations = motions[:, :3, :3]
    return -(rotations.transpose(0, 2, 1) @ motions[:, :3, 3:])[:, :, 0], rotations


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
        raise _no_orbit("cameras without a common up")
    return vector / length


def _fitted(camera: Camera, width: int, height: int) -> Camera:
    """The camera without its photo, at another size: enlarged until the frame lies inside the photo."""
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


def _no_orbit(found: str) -> InputError:
    expected = "cameras that look at one point from several sides"
    return InputError("--path orbit", expected, found, "choose --path spline or --path cameras")
