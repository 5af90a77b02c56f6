"""The progress bar of a training."""

import math
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from compact_splats.training.training import Step

SHOW_EVERY = 10  # steps between two looks at the figures, each of which makes a GPU wait
SMOOTHING = 0.9  # share of the old value in the running means


class Progress:
    """A progress bar with running means of loss and PSNR, the number of Gaussians, speed and time left.

    Args:
        num_steps: of the training.
        quiet: show nothing; the means are kept all the same.
        label: text before the bar.
        leave: keep the bar on the screen when it is closed.
    """

    def __init__(self, num_steps: int, quiet: bool, *, label: str = "training", leave: bool = True) -> None:
        self._bar = tqdm(total=num_steps, desc=label, unit="step", leave=leave, disable=quiet, dynamic_ncols=True)
        self.means: dict[str, float] = {}

    @property
    def num_steps(self) -> int:
        """Number of steps of the training."""
        return self._bar.total

    @num_steps.setter
    def num_steps(self, value: int) -> None:
        self._bar.total = value

    def update(self, step: Step, num_gaussians: int, skipped: Callable[[], int] | None = None) -> None:
        """Show a step.

        Args:
            step: its record.
            num_gaussians: after it.
            skipped: gives the number of views that were not usable.
        """
        if step.number % SHOW_EVERY and step.number != self.num_steps:
            return
        error = (step.image - step.photo / 255).square()
        error = error.mean() if step.mask is None else error.mean(0)[step.mask].mean()
        self._note("loss", step.loss.item())
        self._note("psnr", -10 * math.log10(max(error.item(), 1e-10)))
        means = {name: self.means.get(name, math.nan) for name in ("loss", "psnr")}
        shown = {"loss": f"{means['loss']:.4f}", "PSNR": f"{means['psnr']:.2f}", "Gaussians": f"{num_gaussians:,}"}
        if skipped is not None and (number := skipped()):
            shown["skipped"] = f"{number:,}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step.number - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def state_dict(self) -> dict[str, Any]:
        """The running means, and where the bar is."""
        return {"means": dict(self.means), "step": self._bar.n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``; the bar's speed is that of the steps to come."""
        self.means = dict(state["means"])
        self._bar.initial = self._bar.n = state["step"]

    def _note(self, name: str, value: float) -> None:
        if math.isfinite(value):
            self.means[name] = SMOOTHING * self.means.get(name, value) + (1 - SMOOTHING) * value
