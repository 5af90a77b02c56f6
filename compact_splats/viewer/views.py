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


@dataclass(frozen=True)
class Views:
    """The cameras that a viewer offers.

    Attributes:
        cameras: at least one, training views first.
        labels: unique: the name of the photo, with its split if known.
        up: (3,) float64 of length 1, the mean up direction of the cameras.
        centre: (3,) float64, the point that the cameras look at, world units.
        extent: median distance of the cameras from ``centre``, world units.
    """

    cameras: tuple[Camera, ...]
    labels: tuple[str, ...]
    up: np.ndarray
    centre: np.ndarray
    extent: float


def find_views(splits: Mapping[str, tuple[Camera, ...]], means: np.ndarray) -> Views:
    """Label the cameras and find up, centre and extent; without cameras, a default camera sees the model.

    Args:
        splits: the cameras by split: "test", "train", or "" if unknown.
        means: (N,3) of the model, N > 0.
    """
    middle = np.median(means, axis=0).astype(np.float64)
    named = [
        (f"{split}: {camera.name}" if split else camera.name, camera)
        for split, views in splits.items()
        for camera in views
    ]
    if not named:
        radius = float(np.quantile(np.linalg.norm(means - middle, axis=1), 0.9)) or 1.0
        named = [("default view", _default_camera(middle, radius))]
    labels, cameras = zip(*named, strict=True)
    if len(set(labels)) < len(labels):
        labels = tuple(f"{number}: {label}" for number, label in enumerate(labels, 1))
    poses = np.stack([camera.world_to_camera.numpy() for camera in cameras]).astype(np.float64)
    centres = np.stack([camera.centre.numpy() for camera in cameras]).astype(np.float64)
    centre = _looked_at(cameras, middle)
    extent = float(np.median(np.linalg.norm(centres - centre, axis=1)))
    return Views(cameras, labels, _up(poses[:, 1, :3]), centre, extent or 1.0)


def _default_camera(middle: np.ndarray, radius: float) -> Camera:
    width, height = DEFAULT_SIZE
    focal = width / 2 / math.tan(DEFAULT_FOV / 2)
    pose = torch.eye(4)
    pose[:3, 3] = torch.from_numpy(-middle + (0, 0, 2.5 * radius)).float()
    return Camera("default view", width, height, focal, focal, width / 2, height / 2, pose, None)


def _up(down: np.ndarray) -> np.ndarray:
    """Mean up direction of the cameras; that of the first if the mean is near zero."""
    mean = -down.mean(axis=0)
    length = np.linalg.norm(mean)
    return mean / length if length > 0.1 else -down[0]


def _looked_at(cameras: Sequence[Camera], middle: np.ndarray) -> np.ndarray:
    """The point nearest to all optical axes; the middle of the model if there is none."""
    try:
        return look_at_point(cameras)
    except InputError:
        return middle
