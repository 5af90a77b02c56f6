"""The cameras that a model is looked at from, which way is up, and where the middle is. Knows no browser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from compact_splats.scene.cameras import Camera
from compact_splats.scene.paths import look_at_point
from compact_splats.utils.errors import InputError

DEFAULT_SIZE = 1280, 720  # px of the camera that is made up where there is none
DEFAULT_FOV = math.radians(60)  # across its width


@dataclass(frozen=True)
class Surroundings:
    """Where to look at a model from.

    Attributes:
        cameras: at least one, training views first.
        labels: what each is called, all different: its photo's name, with its split where that is known.
        up: (3,) float64 of length 1, against the y axes of the cameras.
        centre: (3,) float64, what the cameras look at, world units.
        extent: typical distance of a camera from there, world units.
    """

    cameras: tuple[Camera, ...]
    labels: tuple[str, ...]
    up: np.ndarray
    centre: np.ndarray
    extent: float


def surroundings(splits: Mapping[str, tuple[Camera, ...]], means: np.ndarray) -> Surroundings:
    """Find up, middle and extent; where there is no camera, one is made up that sees the model.

    Args:
        splits: the cameras by what is said of them: test, train, or nothing.
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
        named = [("default view", _made_up(middle, radius))]
    labels, cameras = zip(*named, strict=True)
    if len(set(labels)) < len(labels):
        labels = tuple(f"{number}: {label}" for number, label in enumerate(labels, 1))
    poses = np.stack([camera.world_to_camera.numpy() for camera in cameras]).astype(np.float64)
    centres = np.stack([camera.centre.numpy() for camera in cameras]).astype(np.float64)
    centre = _looked_at(cameras, middle)
    extent = float(np.median(np.linalg.norm(centres - centre, axis=1)))
    return Surroundings(cameras, labels, _up(poses[:, 1, :3]), centre, extent or 1.0)


def _made_up(middle: np.ndarray, radius: float) -> Camera:
    width, height = DEFAULT_SIZE
    focal = width / 2 / math.tan(DEFAULT_FOV / 2)
    pose = torch.eye(4)
    pose[:3, 3] = torch.from_numpy(-middle + (0, 0, 2.5 * radius)).float()
    return Camera("default view", width, height, focal, focal, width / 2, height / 2, pose, None)


def _up(down: np.ndarray) -> np.ndarray:
    """Mean of the cameras' own up; that of the first where they cancel out."""
    mean = -down.mean(axis=0)
    length = np.linalg.norm(mean)
    return mean / length if length > 0.1 else -down[0]


def _looked_at(cameras: Sequence[Camera], middle: np.ndarray) -> np.ndarray:
    """The point nearest to all lines of sight, or the middle of the model where there is no such point."""
    try:
        return look_at_point(cameras)
    except InputError:
        return middle
