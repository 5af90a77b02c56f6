"""Views whose loss or gradients are not finite: how many a training has passed over, and when it has to stop."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from compact_splats.training.progress import SHOW_EVERY
from compact_splats.utils.errors import InputError

# Nothing changes while one view after the other is passed over, so a model that is at fault itself will not recover.
# One bad photo never gets there: it comes once in a pass over all of them.
MOST_IN_A_ROW = 20
MOST_SHARE = 0.01  # of all steps: with more missing it is not the training that was asked for


class SkippedViews:
    """Counts the views of this process that gave nothing, as something was not finite.

    Args:
        num_steps: of the training.
        device: of the training.
    """

    def __init__(self, num_steps: int, device: torch.device) -> None:
        self._most = max(MOST_IN_A_ROW, math.ceil(MOST_SHARE * num_steps))
        self._counts = torch.zeros(2, dtype=torch.int64, device=device)  # in all, in a row
        self._last = ""

    @property
    def count(self) -> Tensor:
        """() int64 on the device: how many in all."""
        return self._counts[0]

    def note(self, usable: Tensor, view: str) -> None:
        """Count a step.

        Args:
            usable: () bool, of ``training.gradients.add_gradients``.
            view: its name.
        """
        skipped = (~usable).long()
        self._counts += skipped
        self._counts[1] *= skipped
        if usable.device.type == "cpu" and not usable:
            self._last = f", the last of {view}"

    def too_many(self, step: int) -> InputError | None:
        """What to end the training with, if it has to; on a GPU looked at every so many steps only."""
        if self._counts.device.type != "cpu" and step % SHOW_EVERY:
            return None
        total, in_a_row = self._counts.tolist()
        if not in_a_row or (in_a_row < MOST_IN_A_ROW and total <= self._most):
            return None
        found = f"{total:,} steps without until step {step:,}, {in_a_row:,} of them in a row{self._last}"
        fix = "look at that photo and its camera, or begin with another --seed"
        return InputError("training", "loss and gradients that are finite", found, fix)

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"counts": self._counts.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._counts = state["counts"].to(self._counts.device, copy=True)
