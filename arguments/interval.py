"""The interval between checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compact_splats.utils.errors import InputError

_MINUTES = 5.0  # of "auto"
_MAX_TIME_FRACTION = 0.01  # that "auto" spends on writing checkpoints


@dataclass(frozen=True)
class Interval:
    """The interval between checkpoints.

    Attributes:
        steps: in steps; 0: no checkpoints; None: by time.
        minutes: in minutes; None, if ``steps`` is None too: "auto" of :meth:`parse`.
    """

    steps: int | None = None
    minutes: float | None = None

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read a value of ``--checkpoint-every``.

        Args:
            text: ``"500"`` steps, ``"2.5m"`` minutes, ``"0"`` never, or ``"auto"``: 5 minutes, or more if writing would
                take over 1 % of the time.

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
        raise InputError(f"--checkpoint-every must be steps (500), minutes (2.5m), 0 or auto, not '{text}'")

    def is_due(self, step: int, seconds: float, cost: float) -> bool:
        """Whether a checkpoint is due after ``step``, ``seconds`` after the last one, which took ``cost`` seconds."""
        if self.steps is not None:
            return self.steps > 0 and step % self.steps == 0
        if self.minutes is not None:
            return seconds >= 60 * self.minutes
        return seconds >= max(60 * _MINUTES, cost / _MAX_TIME_FRACTION)

    def shared(self, num_processes: int, meet_every: int) -> Interval:
        """The same interval for several processes, in multiples of the steps at which they synchronise."""
        if not self.steps or num_processes == 1:
            return self
        return Interval(steps=math.ceil(self.steps / num_processes / meet_every) * meet_every)
