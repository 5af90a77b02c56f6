"""Scenes on disk (photos, cameras, points) and the set of Gaussians that is fitted to them."""

from scene.cameras import Camera as Camera
