"""The pinhole camera."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compact_splats.scene.photo_cache import MOST_AHEAD
from compact_splats.scene.photos import Photo
from compact_splats.utils.device_copies import is_on_device


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with its pose. Compared and hashed by identity, so it can be the key of per-view caches.

    Attributes:
        name: of the photo, relative to the images folder, for instance ``"0001.jpg"``.
        width: px, after any resizing.
        height: px, after any resizing.
        fx: focal length in px.
        fy: focal length in px.
        cx: principal point in px; the centre of the top-left pixel is (0.5, 0.5), as in COLMAP.
        cy: principal point in px.
        world_to_camera: (4,4) float32 on the CPU, OpenCV axes (x right, y down, z forward), a rigid motion.
        photo: the ground truth, decoded on first use; None for a view without one.
    """

    name: str
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    world_to_camera: Tensor
    photo: Photo | None

    @property
    def centre(self) -> Tensor:
        """(3,) float32, the camera centre in world units."""
        rotation, translation = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        return -rotation.T @ translation

    @property
    def required_photo(self) -> Photo:
        """The photo of a training or test view.

        Raises:
            ValueError: the camera has none.
        """
        if self.photo is None:
            raise ValueError(f"camera {self.name} has no photo")
        return self.photo

    def smaller(self, divisor: float) -> Camera:
        """The camera with its photo, if it has one, at a fraction of the size, rounded; at least one pixel."""
        width, height = (max(1, round(length / divisor)) for length in (self.width, self.height))
        x, y = width / self.width, height / self.height
        photo = None if self.photo is None else self.photo.smaller(width, height)
        fx, fy, cx, cy = self.fx * x, self.fy * y, self.cx * x, self.cy * y
        return replace(self, width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy, photo=photo)


def want_photos(cameras: Sequence[Camera], device: torch.device) -> None:
    """Have the photos of cameras of one scene decoded in threads, in this order.

    Args:
        cameras: those whose photos are used next.
        device: where they are used; photos that are there already are not decoded.
    """
    photos = [camera.photo for camera in cameras if camera.photo is not None]
    if photos and photos[0].cache.num_ahead:
        photos[0].cache.want([photo for photo in photos if not is_on_device(photo, device)])


def in_turn(cameras: Sequence[Camera], device: torch.device) -> Iterator[Camera]:
    """The cameras of a scene one after the other, while the photos of the next ones are decoded in threads."""
    for index, camera in enumerate(cameras):
        want_photos(cameras[index : index + MOST_AHEAD], device)
        yield camera
