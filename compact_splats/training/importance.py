"""Importance of each Gaussian for the edges of the photos, by which densification draws [IGS, arXiv:2508.12313]."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
from torch import Tensor

from compact_splats.gaussian_renderer import importance
from compact_splats.gaussian_renderer.evaluation import ground_truth
from compact_splats.scene.cameras import Camera
from compact_splats.training.training import Training
from compact_splats.training.view_sampler import ViewSampler
from compact_splats.utils.device_copies import on_device

EDGE_KERNEL = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32)


class EdgeImportance:
    """Mean over views of the blending weights on edges of the photo.

    Args:
        views: the order in which views are drawn.
    """

    def __init__(self, views: ViewSampler) -> None:
        self._views = views
        self._edge_maps = WeakKeyDictionary[Camera, Tensor]()  # uint8: a quarter of the memory, and exact

    def __call__(self, training: Training, num_views: int | None) -> Tensor:
        """Importance of the Gaussians of ``training.model``.

        Args:
            training: renders.
            num_views: drawn for this; None: all views.

        Returns:
            (N,) float32 >= 0.
        """

        def of_view(camera: Camera) -> Tensor:
            weights = self.edge_weights(camera, training.fixed_background, training.model.device)
            return normalised_by_mean(importance(camera, training.model, weights).weighted)

        return training.mean_over_views(self._views.draw_many(num_views), of_view)

    def edge_weights(
        self,
        camera: Camera,
        background: Tensor = torch.zeros(3),  # noqa: B008
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Edges of a photo over a background; found once per view, while there is memory for photos.

        Args:
            camera: with a photo.
            background: (3,) RGB in [0,1].
            device: of the result.

        Returns:
            (H,W) float32 in [0,1]; zero where a mask excludes the pixel.
        """
        edges = self._edge_maps.get(camera)
        if edges is None:
            photo, mask = ground_truth(camera, torch.device("cpu"), background)
            edges = torch.from_numpy(edge_map(photo, mask))
            if camera.required_photo.cache.reserve(camera, edges.nbytes):
                self._edge_maps[camera] = edges
        (copy,) = on_device(edges, torch.device(device), lambda: (edges,))
        return min_max_normalised(copy)

    def state_dict(self) -> dict[str, Any]:
        """State of the order of views."""
        return self._views.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._views.load_state_dict(state)


def edge_map(photo: Tensor, mask: Tensor | None = None) -> np.ndarray:
    """Response of the grey photo to the 3x3 kernel with 8 in the middle and -1 around.

    Args:
        photo: (3,H,W) uint8.
        mask: (H,W) bool, False where the pixel does not count; neither do the pixels beside it.

    Returns:
        (H,W) uint8, clamped to [0,255].
    """
    grey = cv2.cvtColor(np.ascontiguousarray(photo.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)
    edges = cv2.filter2D(grey, cv2.CV_8U, EDGE_KERNEL)  # saturates, which is the clamp
    if mask is None:
        return edges
    # Eroded, since the kernel also reads the neighbours, and masked pixels must not count.
    return edges * cv2.erode(mask.numpy().astype(np.uint8), np.ones((3, 3), np.uint8))


def min_max_normalised(edges: Tensor) -> Tensor:
    """Scale (H,W) uint8 to float32 from 0 to 1; all 0 where all values are equal."""
    edges = edges.float()
    low, high = edges.min(), edges.max()
    return (edges - low) / (high - low).clamp_min(1)


def normalised_by_mean(sums: Tensor) -> Tensor:
    """Divide (N,) sums over the pixels of a view by the mean of the positive ones, so that all views count alike."""
    num_positive = (sums > 0).sum().clamp_min(1)
    scale = sums.clamp_min(0).sum(dtype=torch.float64) / num_positive
    return torch.where(scale > 0, sums / scale.to(sums.dtype), torch.zeros_like(sums))
