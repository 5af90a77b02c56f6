"""Growth of the set as in Improved-GS: where the gradient asks for it and the edges of the photos weigh it.

Never renders: the importance of the Gaussians comes from the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from compact_splats.arguments.schedule import Growth
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.processes import ALONE, OneRank
from compact_splats.training.sampling import draw_without_replacement

# Long-axis split: both children lie this share of three standard deviations off the centre, and shrink accordingly.
SPLIT_OFFSET = 0.45
SPLIT_OPACITY = 0.6
EDGE_KERNEL = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32)


@dataclass
class GradientStats:
    """What the backward passes of several views say about each Gaussian; filled in place by the rasterizer.

    Attributes:
        abs_grad_sum: (N,) float32, sum over views of the norm of the absolute screen-space gradient pair, NDC units.
        views: (N,) int32, in how many views it was visible.
    """

    abs_grad_sum: Tensor
    views: Tensor

    @classmethod
    def zeros(cls, num_gaussians: int, device: torch.device | str) -> GradientStats:
        """Nothing seen yet."""
        return cls(
            torch.zeros(num_gaussians, device=device), torch.zeros(num_gaussians, dtype=torch.int32, device=device)
        )

    def mean(self) -> Tensor:
        """(N,) mean over the views that saw it; 0 where none did."""
        return self.abs_grad_sum / self.views.clamp_min(1)

    def to(self, device: torch.device) -> GradientStats:
        """The same on a device."""
        return GradientStats(self.abs_grad_sum.to(device), self.views.to(device))

    def keep(self, rows: Tensor) -> None:
        """Follow a removal: rows is (M,) int64 or (N,) bool."""
        self.abs_grad_sum, self.views = self.abs_grad_sum[rows], self.views[rows]


class EdgeWeights:
    """Edge map of each training photo, as weights for the importance render; computed once per view."""

    def __init__(self) -> None:
        self._edges: dict[Camera, np.ndarray] = {}  # uint8: a quarter of the memory, and exact

    def __call__(self, camera: Camera) -> Tensor:
        """Weights of the pixels of one view.

        Args:
            camera: with a photo.

        Returns:
            (H,W) float32 in [0,1] on the CPU; zero where a mask leaves the pixel out of the loss.
        """
        if camera not in self._edges:
            self._edges[camera] = edge_map(camera.photo.pixels(), camera.photo.mask())
        return normalised(torch.from_numpy(self._edges[camera]))


def edge_map(photo: Tensor, mask: Tensor | None = None) -> np.ndarray:
    """Strength of the edges of the grey photo: how much brighter a pixel is than its eight neighbours.

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
    # Eroded, since the kernel also sees the neighbours, and what is hidden must not count.
    return edges * cv2.erode(mask.numpy().astype(np.uint8), np.ones((3, 3), np.uint8))


def normalised(edges: Tensor) -> Tensor:
    """Stretch (H,W) uint8 to float32 from 0 to 1; all 0 where the edges are all alike."""
    edges = edges.float()
    low, high = edges.min(), edges.max()
    return (edges - low) / (high - low).clamp_min(1)


def add_view_scores(total: Tensor, view_sums: Iterable[Tensor]) -> Tensor:
    """Add up the importance of the Gaussians over views, each view on its own scale first.

    Args:
        total: (N,) that is added to, in place.
        view_sums: per view (N,), the sum over pixels of edge weight times blending weight.

    Returns:
        ``total``; what contributes to none of the views has gained nothing.
    """
    for sums in view_sums:
        num_positive = (sums > 0).sum().clamp_min(1)
        scale = sums.clamp_min(0).sum(dtype=torch.float64) / num_positive  # the mean over the positive entries
        total += torch.where(scale > 0, sums / scale.to(sums.dtype), torch.zeros_like(sums))
    return total


class Densification:
    """Runs the growth rounds of a schedule on a model.

    Args:
        growths: the rounds, in order of time.
        budget: number of Gaussians wanted at the end.
        generator: of the draws.
        ranks: the processes whose views count; each fills statistics of its own.
    """

    def __init__(
        self, growths: tuple[Growth, ...], budget: int, generator: torch.Generator, ranks: OneRank = ALONE
    ) -> None:
        self.growths = growths
        self.budget = budget
        self.generator = generator
        self.ranks = ranks
        self.stats: GradientStats | None = None

    def stats_for(self, step: int, model: GaussianModel) -> GradientStats | None:
        """The statistics that the backward pass of ``step`` fills; None where none are wanted."""
        if not any(growth.accumulates(step) for growth in self.growths):
            self.stats = None
        elif self.stats is None:
            self.stats = GradientStats.zeros(model.num_gaussians, model.device)
        elif self.stats.views.device != model.device:  # a state that was read from a file
            self.stats = self.stats.to(model.device)
        return self.stats

    def stats_of_view(self, step: int, model: GaussianModel) -> GradientStats | None:
        """Statistics for the backward pass of one view of ``step``, which count once they are added."""
        wanted = self.stats_for(step, model) is not None
        return GradientStats.zeros(model.num_gaussians, model.device) if wanted else None

    def add(self, view: GradientStats | None, usable: Tensor) -> None:
        """Count the statistics of a view.

        Args:
            view: from :meth:`stats_of_view`, filled.
            usable: () bool; False: they are not finite, and pass as nothing seen.
        """
        if view is not None:
            self.stats.abs_grad_sum += torch.where(usable, view.abs_grad_sum, 0)
            self.stats.views += torch.where(usable, view.views, 0)

    def edit(self, step: int, model: GaussianModel, importance: Callable[[int | None], Tensor]) -> tuple[int, int]:
        """Do what is due after the optimizer step of ``step``.

        Args:
            step: of the training.
            model: grows and shrinks.
            importance: gives the (N,) scores of the model as it is when called, from that many views; None: from all.
                Called only where a draw needs it.

        Returns:
            Numbers of Gaussians that were split and that were removed.
        """
        num_split = num_removed = 0
        for growth in self.growths:
            if step == growth.faint_at:
                num_removed += self._remove(model, model.opacities < growth.faint_opacity)
            if step in growth.thin_at:  # before growth: children of this step have had no time to earn their opacity
                num_removed += self._remove(model, lowest(model.opacities, growth.thin_share))
            if growth.is_due(step):
                num_split += self._grow(step, model, growth, importance)
                num_removed += self._remove(model, model.opacities < growth.min_opacity)
            if step in growth.cap_at:
                model.cap_opacity(growth.max_opacity)
        return num_split, num_removed

    def _remove(self, model: GaussianModel, dead: Tensor) -> int:
        keep = ~dead.flatten()
        if keep.all():
            return 0
        num_before = model.num_gaussians
        model.keep(keep)
        if self.stats is not None:
            self.stats.keep(keep)
        return num_before - model.num_gaussians

    def _grow(self, step: int, model: GaussianModel, growth: Growth, importance: Callable[[int | None], Tensor]) -> int:
        self.ranks.sum(self.stats.abs_grad_sum, self.stats.views)
        mean_gradient = self.stats.mean()
        late = growth.is_late(step)
        candidates = mean_gradient >= (growth.late_threshold if late else growth.gradient_threshold)
        room = growth.allowance(step, self.budget) - model.num_gaussians  # a split adds one
        num_split = 0
        if room > 0 and candidates.any():
            num_views = None if step in growth.all_views_at else growth.num_views
            weights = mean_gradient if late else importance(num_views)
            parents = draw_parents(candidates, weights, room, self.generator)
            split_long_axis(model, parents)
            num_split = len(parents)
        self.stats = GradientStats.zeros(model.num_gaussians, model.device)
        return num_split

    def state_dict(self) -> dict[str, Any]:
        """The statistics of the running interval; the generator is saved by its owner."""
        stats = self.stats
        return {"stats": None if stats is None else (stats.abs_grad_sum, stats.views)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.stats = None if state["stats"] is None else GradientStats(*state["stats"])


def lowest(opacities: Tensor, share: float) -> Tensor:
    """(N,) bool: the ``share`` of the Gaussians with the lowest opacities, rounded down; of equals the first."""
    order = opacities.flatten().argsort(stable=True)
    dead = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    dead[order[: int(share * len(order))]] = True
    return dead


def draw_parents(candidates: Tensor, weights: Tensor, room: int, generator: torch.Generator) -> Tensor:
    """Choose whom to split.

    Args:
        candidates: (N,) bool.
        weights: (N,) >= 0, the odds; what weighs nothing is never drawn.
        room: how many more Gaussians there may be.
        generator: of the draw.

    Returns:
        (M,) int64 rows in ascending order, M <= room.
    """
    rows = (candidates & (weights > 0)).nonzero().squeeze(1)
    drawn = draw_without_replacement(weights[rows], min(room, len(rows)), generator)
    return rows[drawn]


@torch.no_grad()
def split_long_axis(model: GaussianModel, parents: Tensor) -> None:
    """Replace each parent by two children along its longest axis [IGS, arXiv:2508.12313].

    The children take the last rows of the model, each parent's two side by side; moments start at zero.

    Args:
        model: M Gaussians larger afterwards.
        parents: (M,) int64, different rows.
    """
    survives = torch.ones(model.num_gaussians, dtype=torch.bool, device=model.device)
    survives[parents] = False
    survivors = survives.nonzero().squeeze(1)
    source = torch.cat([survivors, parents.repeat_interleave(2)])
    model.remap(source, torch.arange(len(source), device=model.device) >= len(survivors))

    children = {name: row[len(survivors) :] for name, row in model.rows.items()}
    log_scales = children["log_scales"]
    long_axis = torch.nn.functional.one_hot(log_scales.argmax(1), 3).bool()
    sign = torch.tensor([1.0, -1.0], device=model.device).repeat(len(parents))
    sigma = log_scales[long_axis].exp()
    direction = rotation_matrices(children["quats"]).transpose(1, 2)[long_axis]  # the column of the longest axis
    children["means"] += (sign * SPLIT_OFFSET * 3 * sigma)[:, None] * direction
    shrink = torch.where(long_axis, math.log(1 - SPLIT_OFFSET), 0.5 * math.log(1 - SPLIT_OFFSET**2))
    log_scales += shrink
    children["opacity_logits"].copy_((SPLIT_OPACITY * children["opacity_logits"].sigmoid()).logit())


def rotation_matrices(quats: Tensor) -> Tensor:
    """(N,4) quaternions, real part first, of any length -> (N,3,3) from a Gaussian's own axes to the world's."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=1).unbind(1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, 1).view(-1, 3, 3)
