"""What a training has around it, which is the same for any model: where it writes, its meters, and what may stop it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from compact_splats.training.checkpoint import Checkpoints, Stateful
from compact_splats.training.faults import SkippedViews
from compact_splats.training.processes import OneRank
from compact_splats.training.progress import Progress
from compact_splats.training.run_folder import Run
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import flush_to_disk
from compact_splats.utils.signals import StopRequest
from compact_splats.utils.usage import MemoryMeter, Stopwatch


@dataclass(frozen=True)
class Around:
    """The run's folder, clock, bar and so on, of this process among those that take part."""

    run: Run
    clock: Stopwatch
    memory: MemoryMeter
    progress: Progress
    checkpoints: Checkpoints
    skipped: SkippedViews
    stop: StopRequest
    ranks: OneRank

    def parts(self) -> dict[str, Stateful]:
        """What of this changes from step to step, and has to be in a checkpoint."""
        shown = {"run": self.run} if self.ranks.is_first else {}
        return {**shown, "clock": self.clock, "memory": self.memory, "progress": self.progress, "skipped": self.skipped}

    def num_skipped(self) -> int:
        """Views that gave nothing so far, in all processes, all of which call this."""
        count = self.skipped.count.clone()
        self.ranks.sum(count)
        return int(count)

    def save_model(self, model: Any, iteration: int) -> None:
        """Save the model of a step on the way to the last, in the first process; a failure is told, no more.

        Args:
            model: has ``save_ply``.
            iteration: of the step.
        """
        if self.ranks.is_first:
            with self.clock.paused(), self.run.tolerating(f"the model of step {iteration}"):
                self._save_ply(model, iteration)

    def save_result(self, model: Any, iteration: int, step: int, changing: Mapping[str, Stateful]) -> None:
        """Save the model of the last step, or at least a checkpoint from which it can be saved later.

        Args:
            model: has ``save_ply``.
            iteration: in whose folder it goes.
            step: the last.
            changing: as in :meth:`pause`.

        Raises:
            InputError: it can't be written.
        """
        error = None
        with self.clock.paused():
            try:
                if self.ranks.is_first:
                    self._save_ply(model, iteration)
            except InputError as caught:
                error = caught
            if self.ranks.share(error) is not None:
                with suppress(InputError):  # where there is no room for the one, there may be none for the other
                    self.checkpoints.save(step, changing, self.run.settle)
        self.ranks.raise_one(error)

    def _save_ply(self, model: Any, iteration: int) -> None:
        self.run.settle()
        path = self.run.ply_path(iteration)
        model.save_ply(path)
        flush_to_disk(path)

    def pause(self, step: int, changing: Mapping[str, Stateful], error: Exception | None = None) -> None:
        """Write a checkpoint if one is due, or if the training has to end after this step, and then end it.

        All processes call this after every step but the last. A checkpoint that can't be written is told, and no
        reason to end.

        Args:
            step: that is done.
            changing: whatever a step leaves behind for the next.
            error: why the training can't go on, if something besides signals and skipped views says so.

        Raises:
            Stopped: the user has asked for it.
            InputError: the training can't go on.
        """
        error = error or self.skipped.too_many(step)
        asked = bool(self.stop)
        if not self.ranks.any(step, asked or error is not None or self.checkpoints.is_due(step)):
            return
        with self.clock.paused(), self.run.tolerating("a checkpoint"):
            self.checkpoints.save(step, changing, self.run.settle)
        saved = self.ranks.share(self.checkpoints.newest)
        self.ranks.raise_one(self.stop.stopped(_said_at_stop(step, saved)) if asked else error)


def _said_at_stop(step: int, saved: int | None) -> str:
    if saved is None:
        return f"stopped after step {step}; there is no checkpoint, the same command begins anew"
    where = "from there" if saved == step else f"after step {saved}"
    return f"stopped after step {step}; the same command with --resume goes on {where}"
