"""Selection by removal error: prunes, in a few cuts, the Gaussians without which the images change least."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from compact_splats.arguments.schedule import Schedule, SelectionRound
from compact_splats.gaussian_renderer import removal_error
from compact_splats.gaussian_renderer.evaluation import mask_of
from compact_splats.scene.cameras import Camera
from compact_splats.training.natural_selection import highest
from compact_splats.training.strategy import Strategy
from compact_splats.training.training import Training

FEWEST_VIEWS, MOST_VIEWS = 20, 200  # that a cut looks at, where there are as many


class RemovalSelection(Strategy):
    """Prunes to the budget by removal error, in the windows of the schedule's selection rounds.

    Each cut leaves the same share of the Gaussians, and training goes on in between. A Gaussian's score is the
    :func:`gaussian_renderer.removal_error` in the mean over every second training view, others for each cut, but over
    at least ``FEWEST_VIEWS`` and at most ``MOST_VIEWS``.

    Args:
        rounds: in order of time.
        budget: B, the exact number of Gaussians that a round leaves, if it begins with as many.
    """

    def __init__(self, rounds: tuple[SelectionRound, ...], budget: int) -> None:
        self.rounds, self.budget = rounds, budget
        self._cuts = [0] * len(rounds)  # that have been made

    def change_schedule(self, schedule: Schedule) -> None:
        """Continue the rounds at another pace."""
        self.rounds = schedule.selection_rounds[: len(self.rounds)]

    def after_step(self, training: Training) -> None:
        """Make the cuts that are due."""
        for index, each in enumerate(self.rounds):
            due = each.cuts_by(training.step)
            if due > self._cuts[index]:
                self._cut(training, each.num_cuts - due)
                self._cuts[index] = due

    def _cut(self, training: Training, num_left: int) -> None:
        """Prune as one cut of which ``num_left`` more follow."""
        model = training.model
        num = model.num_gaussians
        target = round(num * (self.budget / num) ** (1 / (1 + num_left)))
        if target < num:
            model.keep(highest(self.scores(training), target))

    def scores(self, training: Training) -> Tensor:
        """(N,) >= 0: mean squared change of the training views without each Gaussian."""
        model, background = training.model, training.fixed_background

        def of_view(camera: Camera) -> Tensor:
            return removal_error(camera, model, background, mask_of(camera, model.device))

        num_views = len(training.scene.train)
        stride = _stride(num_views)
        return training.mean_over_views(range(sum(self._cuts) % stride, num_views, stride), of_view)

    def views_left(self, training: Training) -> int:
        """Those of the cuts that are left."""
        num_views = len(training.scene.train)
        cuts = sum(each.num_cuts - made for each, made in zip(self.rounds, self._cuts, strict=True))
        return cuts * num_views // _stride(num_views)

    def state_dict(self) -> dict[str, Any]:
        """The number of cuts that every round has made."""
        return {"cuts": list(self._cuts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._cuts = list(state["cuts"])


def _stride(num_views: int) -> int:
    """A cut looks at every so many views."""
    return max(math.ceil(num_views / MOST_VIEWS), min(2, num_views // FEWEST_VIEWS))
