"""Keeps the variances of the 3D smoothing filter up to date while the Gaussians move."""

from __future__ import annotations

from compact_splats.scene.smoothing import SMOOTHING, filter_variances
from compact_splats.training.strategy import Strategy
from compact_splats.training.training import Training

EVERY = 100  # steps


class Smoothing3D(Strategy):
    """Draws the model through the 3D smoothing filter of its training views; comes after what edits the set."""

    def after_step(self, training: Training) -> None:
        """Find the variances anew every ``EVERY`` steps, and where there are new Gaussians."""
        model, step = training.model, training.step
        known = model.per_gaussian.get(SMOOTHING)
        if known is None or step % EVERY == 0 or (training.schedule.may_edit(step) and not known.all()):
            model.per_gaussian[SMOOTHING] = filter_variances(model.means, training.scene.train)
