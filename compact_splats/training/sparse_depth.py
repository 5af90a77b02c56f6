"""The depths of the points of structure from motion, as a term of the loss that holds scenes of few photos together."""

from __future__ import annotations

import torch
from diff_gaussian_rasterization import RenderPass
from torch import Tensor

from compact_splats.scene.cameras import Camera
from compact_splats.scene.dataset import Scene
from compact_splats.scene.tracks import in_view
from compact_splats.training.strategy import Strategy
from compact_splats.training.training import Training

FIRST, LAST = 1.0, 0.1  # weight of the term in the first and the last step, log-linear in between
FEW_PHOTOS = 12  # the most training photos with which it is on by default
_FEWEST = 100  # a view of fewer points has a smaller weight, so that no single point decides


class SparseDepth(Strategy):
    """Adds the mean of ``|z D - 1|`` over the points that a view observes.

    D is the rendered inverse depth (the sum of w / z of the splats) at the pixel of a point, z the depth of the point.
    It is relative, so that near and far points count alike. As an absolute value it is bounded in its effect where a
    track is wrong. The weight falls during training, as that of depth maps does in 3DGS.

    Args:
        scene: loaded with ``max_tracked``.
    """

    def __init__(self, scene: Scene) -> None:
        self._xyz, self._observed = scene.points.xyz, scene.observed
        self._targets: dict[int, tuple[Camera, Tensor, Tensor]] = {}  # by view: its camera, pixels, depths

    def wants_inverse_depth(self, step: int) -> bool:
        """In every step."""
        return True

    @torch.no_grad()
    def view_loss(self, training: Training, index: int, view: RenderPass) -> Tensor | None:
        """The term; its gradient is added to ``view.v_inverse_depth``."""
        pixels, depths = self._targets_of(training.view(index), index, training.model.device)
        weight = FIRST * (LAST / FIRST) ** (training.step / training.schedule.iterations) / max(len(depths), _FEWEST)
        errors = view.inverse_depth.flatten()[pixels] * depths - 1
        view.v_inverse_depth.view(-1).index_add_(0, pixels, weight * errors.sign() * depths)
        return weight * errors.abs().sum()

    def _targets_of(self, camera: Camera, index: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Flat index of the pixel (K,) int64 and depth (K,) of each point that a view observes, on the device."""
        if index not in self._targets or self._targets[index][0] is not camera:
            rows, columns, depths, seen = in_view(camera, self._xyz[self._observed[index]])
            pixels = (rows * camera.width + columns)[seen]
            self._targets[index] = camera, pixels.to(device), depths[seen].to(device)
        return self._targets[index][1:]
