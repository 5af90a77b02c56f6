"""Views whose loss or gradients are not finite: how many a training has skipped, and when that ends it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from compact_splats.training.processes import SINGLE_PROCESS, SingleProcess
from compact_splats.training.progress import SHOW_EVERY
from compact_splats.utils.errors import InputError

# Nothing changes while views are skipped, so a model that causes them does not recover. One bad photo never
# gets there: it comes once in a pass over all of them.
MOST_IN_A_ROW = 20
MOST_SHARE = 0.01  # of all steps: with more missing the result is not what the flags ask for


class SkippedViews:
    """Counts the views that were skipped because something was not finite.

    Args:
        num_steps: of the training.
        device: of the training.
        processes: those that train together; each counts its own views.
    """

    def __init__(self, num_steps: int, device: torch.device, processes: SingleProcess = SINGLE_PROCESS) -> None:
        self._processes = processes
        self._most = max(MOST_IN_A_ROW, math.ceil(MOST_SHARE * num_steps))
        self._counts = torch.zeros(2, dtype=torch.int64, device=device)  # in all, in a row
        self._last = ""

    @property
    def count(self) -> Tensor:
        """() int64 on the device: those of this process."""
        return self._counts[0]

    def total(self) -> int:
        """Those of all processes, all of which call this."""
        total = self.count.clone()
        self._processes.sum(total)
        return int(total)

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
        """The error that ends the training, if there are too many; on a GPU looked at every so many steps only."""
        if self._counts.device.type != "cpu" and step % SHOW_EVERY:
            return None
        total, in_a_row = self._counts.tolist()
        if not in_a_row or (in_a_row < MOST_IN_A_ROW and total <= self._most):
            return None
        counted = f"{total:,} views gave non-finite gradients until step {step:,}, {in_a_row:,} of them in a row"
        fix = "look at that photo and its camera, or start with another --seed"
        return InputError(f"training diverged: {counted}{self._last}; {fix}")

    def state_dict(self) -> dict[str, Any]:
        """The counts of every process, complete in the first; all call it."""
        return {"counts": self._processes.gather(self._counts.tolist())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._counts = torch.tensor(state["counts"][self._processes.rank], device=self._counts.device)
