"""The mean of the parameters over the last steps, which averages the noise of high learning rates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compact_splats.arguments.schedule import Schedule
from compact_splats.training.strategy import Strategy
from compact_splats.training.training import Training


class MeanOfLastSteps(Strategy):
    """Gives the model, after the last step, the mean of its parameters over the last steps.

    Args:
        first: step whose result is the first to count; the set of Gaussians does not change from then on.
    """

    def __init__(self, first: int) -> None:
        self.first = max(1, first)
        self._count = 0
        self._mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def after_step(self, training: Training) -> None:
        """Add the parameters to the mean."""
        if training.step < self.first:
            return
        self._count += 1
        is_last = training.step == training.schedule.iterations
        for name, values in training.model.parameters.items():
            mean = self._mean.get(name)
            mean = values.detach().clone() if mean is None else torch.lerp(mean, values, 1 / self._count)
            self._mean[name] = mean
            if is_last:
                values.copy_(mean)

    def change_schedule(self, schedule: Schedule) -> None:
        """Begin when the schedule says, unless the mean has begun."""
        self.first = schedule.mean_from or self.first

    def state_dict(self) -> dict[str, Any]:
        """The mean so far, and of how many steps."""
        return {"mean": dict(self._mean), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._mean, self._count = dict(state["mean"]), state["count"]
