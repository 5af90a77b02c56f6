"""Densification as in Improved-GS: Gaussians with a large gradient split, drawn by their importance.

Never renders: the importance comes from a callable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compact_splats.arguments.schedule import DensificationRound, Schedule
from compact_splats.gaussian_renderer.gradient_stats import GradientStats
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.sampling import draw_without_replacement
from compact_splats.training.strategy import Strategy
from compact_splats.training.training import Training
from compact_splats.utils.geometry import rotation_matrices

# Long-axis split: both children lie this share of three standard deviations off the centre, and shrink accordingly.
SPLIT_OFFSET = 0.45
SPLIT_OPACITY = 0.6
_STATS = {"abs_grad_sum", "views"}  # in GaussianModel.per_gaussian


class Densification(Strategy):
    """Runs the densification rounds of a schedule [IGS, arXiv:2508.12313].

    Args:
        rounds: in order of time.
        budget: number of Gaussians wanted at the end.
        generator: of the draws, on the CPU.
        importance: gives the (N,) weights of a draw, from so many training views; None: from all of them. It is called
            only where a draw needs it. If it has ``state_dict``, that is part of the state.
    """

    def __init__(
        self,
        rounds: tuple[DensificationRound, ...],
        budget: int,
        generator: torch.Generator,
        importance: Callable[[Training, int | None], Tensor],
    ) -> None:
        self.rounds = rounds
        self.budget = budget
        self.generator = generator
        self.importance = importance

    def change_schedule(self, schedule: Schedule) -> None:
        """Continue the rounds at another pace."""
        self.rounds = schedule.densification_rounds

    def interval_stats(self, step: int, model: GaussianModel) -> GradientStats | None:
        """The statistics of the running interval, to which the view of ``step`` adds; None outside of the rounds."""
        if any(each.accumulates(step) for each in self.rounds):
            return _stats_of(model)
        _forget_stats(model)
        return None

    def gradient_stats(self, training: Training) -> GradientStats | None:
        """Those of the running interval."""
        return self.interval_stats(training.step, training.model)

    def after_step(self, training: Training) -> None:
        """Split and prune what is due."""
        if any(each.is_due(training.step) for each in self.rounds):
            stats = _stats_of(training.model)
            training.sum(stats.abs_grad_sum, stats.views)
        self.edit(training.step, training.model, partial(self.importance, training))

    def edit(self, step: int, model: GaussianModel, importance: Callable[[int | None], Tensor]) -> tuple[int, int]:
        """Split and prune what is due at ``step``.

        Args:
            step: from 1.
            model: is edited.
            importance: gives the (N,) weights of the model as it is when called, from so many views.

        Returns:
            Number of Gaussians that were split, and number of those that were pruned.
        """
        num_split = num_pruned = 0
        for each in self.rounds:
            if step == each.early_prune_at:
                num_pruned += self._prune(model, model.opacities < each.early_prune_opacity)
            if step in each.prune_lowest_at:  # before the split, whose children have had no time to gain opacity
                num_pruned += self._prune(model, lowest(model.opacities, each.prune_lowest_share))
            if each.is_due(step):
                num_split += self._split(step, model, each, importance)
                num_pruned += self._prune(model, model.opacities < each.min_opacity)
            if step in each.opacity_cap_at:
                model.cap_opacity(each.opacity_cap)
        return num_split, num_pruned

    def _prune(self, model: GaussianModel, prune_mask: Tensor) -> int:
        num_before = model.num_gaussians
        model.keep(~prune_mask.flatten())
        return num_before - model.num_gaussians

    def _split(
        self, step: int, model: GaussianModel, each: DensificationRound, importance: Callable[[int | None], Tensor]
    ) -> int:
        mean_gradient = _stats_of(model).mean()
        late = each.is_late(step)
        candidates = mean_gradient >= (each.late_threshold if late else each.gradient_threshold)
        room = each.allowance(step, self.budget) - model.num_gaussians  # a split adds one
        num_split = 0
        if room > 0 and candidates.any():
            num_views = None if step in each.all_views_at else each.num_views
            weights = mean_gradient if late else importance(num_views)
            parents = draw_parents(candidates, weights, room, self.generator)
            split_long_axis(model, parents)
            num_split = len(parents)
        _forget_stats(model)
        return num_split

    def state_dict(self) -> dict[str, Any]:
        """Generator, and state of the importance; the statistics are in ``GaussianModel.per_gaussian``."""
        importance = self.importance.state_dict() if hasattr(self.importance, "state_dict") else {}
        return {"generator": self.generator.get_state(), "importance": importance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.generator.set_state(state["generator"])
        if hasattr(self.importance, "load_state_dict"):
            self.importance.load_state_dict(state["importance"])


def _stats_of(model: GaussianModel) -> GradientStats:
    """The statistics in the model, which start at zero."""
    if not _STATS <= model.per_gaussian.keys():
        stats = GradientStats.zeros(model.num_gaussians, model.device)
        model.per_gaussian |= {"abs_grad_sum": stats.abs_grad_sum, "views": stats.views}
    return GradientStats(model.per_gaussian["abs_grad_sum"], model.per_gaussian["views"])


def _forget_stats(model: GaussianModel) -> None:
    for name in _STATS:
        model.per_gaussian.pop(name, None)


def lowest(opacities: Tensor, share: float) -> Tensor:
    """(N,) bool: the ``share`` of the Gaussians with the lowest opacities, rounded down; of equals the first."""
    order = opacities.flatten().argsort(stable=True)
    mask = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    mask[order[: int(share * len(order))]] = True
    return mask


def draw_parents(candidates: Tensor, weights: Tensor, room: int, generator: torch.Generator) -> Tensor:
    """Draw the Gaussians to split, without replacement.

    Args:
        candidates: (N,) bool.
        weights: (N,) >= 0, to which probabilities are proportional; weight zero is never drawn.
        room: number of Gaussians that may be added.
        generator: of the draw.

    Returns:
        (M,) int64 indices in ascending order, M <= room.
    """
    indices = (candidates & (weights > 0)).nonzero().squeeze(1)
    drawn = draw_without_replacement(weights[indices], min(room, len(indices)), generator)
    return indices[drawn]


@torch.no_grad()
def split_long_axis(model: GaussianModel, parents: Tensor) -> None:
    """Replace each parent by two children along its longest axis [IGS, arXiv:2508.12313].

    The children come last in the model, those of a parent side by side; their moments start at zero.

    Args:
        model: has M Gaussians more afterwards.
        parents: (M,) int64, different indices.
    """
    children = model.duplicate(parents)
    log_scales = children["log_scales"]
    longest = log_scales.argmax(1, keepdim=True)
    sign = torch.ones(len(parents), 2, device=model.device)
    sign[:, 1] = -1
    sigma = log_scales.gather(1, longest).exp()
    column = longest[:, :, None].expand(-1, 3, 1)  # of the rotation: the longest axis
    direction = rotation_matrices(children["quats"]).gather(2, column).squeeze(2)
    children["means"] += sign.view(-1, 1) * SPLIT_OFFSET * 3 * sigma * direction
    long_axis = torch.arange(3, device=model.device) == longest
    log_scales += torch.where(long_axis, math.log(1 - SPLIT_OFFSET), 0.5 * math.log(1 - SPLIT_OFFSET**2))
    children["opacity_logits"].copy_((SPLIT_OPACITY * children["opacity_logits"].sigmoid()).logit())
