"""The pinhole camera."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from compact_splats.scene.photos import Photo


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

    def smaller(self, divisor: int) -> Camera:
        """The camera with its photo at a fraction of the size, rounded; at least one pixel."""
        width, height = (max(1, round(length / divisor)) for length in (self.width, self.height))
        x, y = width / self.width, height / self.height
        photo = self.required_photo.smaller(width, height)
        fx, fy, cx, cy = self.fx * x, self.fy * y, self.cx * x, self.cy * y
        return replace(self, width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy, photo=photo)
