"""Views whose loss, gradients or photos are broken: how many a training has skipped, and when that ends it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compact_splats.scene.photos import Photo
from compact_splats.scene.points import MAX_BAD
from compact_splats.training.processes import SINGLE_PROCESS, SingleProcess
from compact_splats.training.progress import SHOW_EVERY
from compact_splats.utils.errors import InputError

# Nothing changes while views are skipped, so a model that causes them does not recover. One bad photo never
# gets there: it comes once in a pass over all of them.
MOST_IN_A_ROW = 20
MOST_SHARE = 0.01  # of all steps: with more missing the result is not what the flags ask for


class SkippedViews:
    """Counts the views that were skipped because something was not finite, and photos that can't be decoded.

    Args:
        num_steps: of the training.
        device: of the training.
        processes: those that train together; each counts its own views.
    """

    def __init__(self, num_steps: int, device: torch.device, processes: SingleProcess = SINGLE_PROCESS) -> None:
        self._processes = processes
        self._most = max(MOST_IN_A_ROW, math.ceil(MOST_SHARE * num_steps))
        self._device = device
        self._total = self._in_a_row = 0
        self._last = ""
        self._new: list[tuple[Tensor, str]] = []  # not counted yet
        self._left_out: set[str] = set()  # paths
        self._warned = False
        self._lock = threading.Lock()  # photos are decoded in threads

    def count(self) -> int:
        """Those of this process; waits for a GPU."""
        new, self._new = self._new, []
        flags: list[Any] = [usable for usable, _ in new]
        if len(flags) > 1:
            flags = torch.stack(flags).tolist()  # waits once
        for usable, (_, view) in zip(flags, new, strict=True):
            self._in_a_row = 0 if usable else self._in_a_row + 1
            if not usable:
                self._total += 1
                self._last = f", the last of {view}"
        return self._total

    def total(self) -> int:
        """Those of all processes, all of which call this."""
        total = torch.tensor(self.count(), device=self._device)
        self._processes.sum(total)
        return int(total)

    def total_left_out(self) -> int:
        """Number of the photos that a process could not decode; complete in the first process, all call it."""
        return len({path for paths in self._processes.gather(sorted(self._left_out)) for path in paths})

    def leave_out(self, photo: Photo, error: InputError, *, num_photos: int, warn: Callable[[str], None]) -> None:
        """Count a photo that can't be decoded. The first is a warning.

        Raises:
            InputError: it is more than one, and more than 10 % of the photos.
        """
        with self._lock:
            self._left_out.add(str(photo.path))
            num, is_first = len(self._left_out), not self._warned
            self._warned = True
        if num > max(1, MAX_BAD * num_photos):
            raise InputError(f"{num} of {num_photos} photos can't be decoded. {error}")
        if is_first:
            warn(f"{error}; until then the training leaves out its views. Others like it are only counted")

    def note(self, usable: Tensor, view: str) -> None:
        """Count a step.

        Args:
            usable: () bool, of ``training.gradients.add_gradients``.
            view: its name.
        """
        self._new.append((usable, view))

    def too_many(self, step: int) -> InputError | None:
        """The error that ends the training, if there are too many; on a GPU looked at every so many steps only."""
        if self._device.type != "cpu" and step % SHOW_EVERY:
            return None
        total, in_a_row = self.count(), self._in_a_row
        if not in_a_row or (in_a_row < MOST_IN_A_ROW and total <= self._most):
            return None
        counted = f"{total:,} views gave non-finite gradients until step {step:,}, {in_a_row:,} of them in a row"
        fix = "look at that photo and its camera, or start with another --seed"
        return InputError(f"training diverged: {counted}{self._last}; {fix}")

    def state_dict(self) -> dict[str, Any]:
        """The counts of every process, complete in the first; all call it."""
        return {
            "counts": self._processes.gather([self.count(), self._in_a_row]),
            "left_out": self._processes.gather(sorted(self._left_out)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        rank = self._processes.rank
        self._total, self._in_a_row = state["counts"][rank]
        self._left_out = set(state["left_out"][rank])
