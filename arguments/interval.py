"""How often checkpoints are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compact_splats.utils.errors import InputError

_MINUTES = 5.0  # between two checkpoints, where writing them is quick
_MAX_SHARE = 0.01  # of the time, for writing checkpoints


@dataclass(frozen=True)
class Interval:
    """How often checkpoints are written.

    Attributes:
        steps: after every so many steps; None: by time.
        minutes: after so many minutes; None, without steps either: see :meth:`parse`, "auto".
    """

    steps: int | None = None
    minutes: float | None = None

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read a value of ``--checkpoint-every``.

        Args:
            text: ``"500"`` steps, ``"2.5m"`` minutes, ``"0"`` never, or ``"auto"``: every 5 minutes, less often where
                writing would then take more than 1 % of the time.

        Raises:
            InputError: it is none of these.
        """
        try:
            if text == "auto":
                return cls()
            if text.endswith("m") and float(text[:-1]) > 0:
                return cls(minutes=float(text[:-1]))
            if text.isascii() and text.isdecimal():
                return cls(steps=int(text))
        except ValueError:
            pass
        raise InputError(
            "--checkpoint-every", "steps (500), minutes (2.5m), 0 or auto", f"'{text}'", "give one of these"
        )

    def is_due(self, step: int, seconds: float, cost: float) -> bool:
        """Whether a checkpoint is due after ``step``, ``seconds`` after the last, which took ``cost`` seconds."""
        if self.steps is not None:
            return self.steps > 0 and step % self.steps == 0
        if self.minutes is not None:
            return seconds >= 60 * self.minutes
        return seconds >= max(60 * _MINUTES, cost / _MAX_SHARE)

    def shared(self, num_processes: int, meet_every: int) -> Interval:
        """The same for several processes, each with a view in every step, at the steps at which they meet."""
        if not self.steps or num_processes == 1:
            return self
        return Interval(steps=math.ceil(self.steps / num_processes / meet_every) * meet_every)
