"""What a user sees while a training runs."""

import math
from typing import Any

from torch import Tensor
from tqdm import tqdm

SHOW_EVERY = 10  # steps between two looks at the figures, each of which makes a GPU wait
SMOOTHING = 0.9  # share of the old value in the running means


class Progress:
    """A progress bar with running means of loss and PSNR, the number of Gaussians, speed and time left.

    Args:
        num_steps: of the training.
        quiet: show nothing; the means are kept all the same.
        label: what stands before the bar.
        leave: keep the bar on the screen when it is closed.
    """

    def __init__(self, num_steps: int, quiet: bool, *, label: str = "training", leave: bool = True) -> None:
        self._bar = tqdm(total=num_steps, desc=label, unit="step", leave=leave, disable=quiet, dynamic_ncols=True)
        self._num_steps = num_steps
        self.means: dict[str, float] = {}

    def update(
        self,
        step: int,
        loss: Tensor,
        image: Tensor,
        photo: Tensor,
        mask: Tensor | None,
        count: int,
        skipped: Tensor | None = None,
    ) -> None:
        """Count a step.

        Args:
            step: from 1.
            loss: ().
            image: (3,H,W) as rendered in training.
            photo: (3,H,W) uint8.
            mask: (H,W) bool, the pixels that count, or None.
            count: number of Gaussians now.
            skipped: () how many views were not usable, by a caller that leaves out what is not finite, as the means do.
        """
        if step % SHOW_EVERY and step != self._num_steps:
            return
        error = (image.detach() - photo / 255).square()
        error = error.mean() if mask is None else error.mean(0)[mask].mean()
        for name, value in (("loss", loss.item()), ("psnr", -10 * math.log10(max(error.item(), 1e-10)))):
            assert skipped is not None or math.isfinite(value), f"the {name} of the training is {value}"
            self._note(name, value)
        means = {name: self.means.get(name, math.nan) for name in ("loss", "psnr")}
        shown = {"loss": f"{means['loss']:.4f}", "PSNR": f"{means['psnr']:.2f}", "Gaussians": f"{count:,}"}
        if skipped is not None and (number := int(skipped)):
            shown["skipped"] = f"{number:,}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)

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
