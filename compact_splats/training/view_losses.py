"""The training views that the model fits worst: a wrong pose, a blurred photo, something that moved."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from compact_splats.training.processes import SINGLE_PROCESS, SingleProcess

_FEWEST = 8  # views from which on one can stand out
_DEVIATIONS, _RATIO = 6.0, 1.5  # robust standard deviations above the median, and times the median
_MOST_SHARE = 0.1  # of the views; if more stand out, it is the scene


class ViewLosses:
    """The loss of each training view when it was last seen. Nothing is waited for on a GPU before the end.

    Args:
        processes: those that train together, each with views of its own.
    """

    def __init__(self, processes: SingleProcess = SINGLE_PROCESS) -> None:
        self._processes = processes
        self._losses: dict[str, Tensor] = {}

    def note(self, view: str, loss: Tensor) -> None:
        """Keep the loss () of a view."""
        self._losses[view] = loss

    def worst(self) -> list[str]:
        """Names of the views whose loss stands out, the worst first; all processes call it, the first knows all."""
        names = sorted(self._losses)
        own = dict(zip(names, self._values(names), strict=True))
        found = {name: loss for each in self._processes.gather(own) for name, loss in each.items()}
        losses = {name: loss for name, loss in found.items() if math.isfinite(loss)}
        if len(losses) < _FEWEST:
            return []
        values = torch.tensor(list(losses.values()), dtype=torch.float64)
        median = float(values.median())
        deviation = 1.4826 * float((values - median).abs().median())
        limit = max(median + _DEVIATIONS * deviation, _RATIO * median)
        outside = sorted((name for name in losses if losses[name] > limit), key=lambda name: -losses[name])
        return outside if len(outside) <= max(1, _MOST_SHARE * len(losses)) else []

    def _values(self, names: list[str]) -> list[float]:
        return torch.stack([self._losses[name] for name in names]).tolist() if names else []

    def state_dict(self) -> dict[str, Any]:
        """The losses of every process, complete in the first; all call it."""
        names = sorted(self._losses)
        return {"losses": self._processes.gather(dict(zip(names, self._values(names), strict=True)))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        own = state["losses"][self._processes.rank]
        self._losses = {name: torch.tensor(loss) for name, loss in own.items()}
