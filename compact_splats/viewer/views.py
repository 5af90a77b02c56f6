"""The cameras that a viewer offers, with the up direction, centre and extent of the scene."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from compact_splats.scene.cameras import Camera
from compact_splats.scene.paths import look_at_point
from compact_splats.utils.errors import InputError

DEFAULT_SIZE = 1280, 720  # px, of the default camera
DEFAULT_FOV = math.radians(60)  # horizontal
DEFAULT_UP = 0.0, -1.0, 0.0  # of a model without cameras, as in COLMAP's scenes


@dataclass(frozen=True)
class Views:
    """The cameras that a viewer offers.

    Attributes:
        cameras: at least one, training views first.
        labels: unique: the name of the photo, with its split if known.
        up: (3,) float64 of length 1, the up direction.
        centre: (3,) float64, the point that the cameras look at, world units.
        extent: median distance of the cameras from ``centre``, world units.
    """

    cameras: tuple[Camera, ...]
    labels: tuple[str, ...]
    up: np.ndarray
    centre: np.ndarray
    extent: float


def find_views(splits: Mapping[str, tuple[Camera, ...]], means: np.ndarray, up: Sequence[float] | None = None) -> Views:
    """Label the cameras and find up, centre and extent; without cameras, a default camera sees the model.

    Args:
        splits: the cameras by split: "test", "train", or "" if unknown.
        means: (N,3) of the model, N > 0.
        up: (3,) of any length but 0; None: see :func:`up_of`, without cameras :data:`DEFAULT_UP`.
    """
    given = None if up is None else np.array(up, float) / np.linalg.norm(up)
    middle = np.median(means, axis=0).astype(np.float64)
    named = [
        (f"{split}: {camera.name}" if split else camera.name, camera)
        for split, views in splits.items()
        for camera in views
    ]
    if not named:
        radius = float(np.quantile(np.linalg.norm(means - middle, axis=1), 0.9)) or 1.0
        given = np.array(DEFAULT_UP) if given is None else given
        named = [("default view", _default_camera(middle, radius, given))]
    labels, cameras = zip(*named, strict=True)
    if len(set(labels)) < len(labels):
        labels = tuple(f"{number}: {label}" for number, label in enumerate(labels, 1))
    poses = np.stack([camera.world_to_camera.numpy() for camera in cameras]).astype(np.float64)
    centres = np.stack([camera.centre.numpy() for camera in cameras]).astype(np.float64)
    centre = _looked_at(cameras, middle)
    extent = float(np.median(np.linalg.norm(centres - centre, axis=1)))
    return Views(cameras, labels, up_of(poses) if given is None else given, centre, extent or 1.0)


def _default_camera(middle: np.ndarray, radius: float, up: np.ndarray) -> Camera:
    """Looks along z, or, where that is near up, along y or against it, and sees the model upright."""
    width, height = DEFAULT_SIZE
    focal = width / 2 / math.tan(DEFAULT_FOV / 2)
    ahead = np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.7 else np.array([0.0, np.sign(up[2]), 0.0])
    right = np.cross(ahead, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = right, -up, np.cross(right, -up)
    pose[:3, 3] = -pose[:3, :3] @ middle + (0, 0, 2.5 * radius)
    return Camera(
        "default view", width, height, focal, focal, width / 2, height / 2, torch.from_numpy(pose).float(), None
    )


def up_of(poses: np.ndarray) -> np.ndarray:
    """The up direction of cameras that are held level: perpendicular to the x axes of all of them.

    The mean of the cameras' own up directions instead, where their x axes do not span a plane; the first camera's,
    where that mean is near zero.

    Args:
        poses: (V,4,4) float64, world to camera.

    Returns:
        (3,) float64 of length 1.
    """
    mean = -poses[:, 1, :3].mean(axis=0)
    length = np.linalg.norm(mean)
    if length <= 0.1:
        return -poses[0, 1, :3]
    mean /= length
    _, spread, axes = np.linalg.svd(poses[:, 0, :3])
    if len(spread) < 3 or spread[1] < 0.2 * spread[0] or spread[2] > 0.5 * spread[1]:
        return mean
    level = axes[2] * np.sign(axes[2] @ mean)
    return level if level @ mean > 0.5 else mean


def _looked_at(cameras: Sequence[Camera], middle: np.ndarray) -> np.ndarray:
    """The point nearest to all optical axes; the middle of the model if there is none."""
    try:
        return look_at_point(cameras)
    except InputError:
        return middle
