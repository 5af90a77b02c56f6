"""Ctrl-C and SIGTERM as a flag, so that the running step is finished and its work saved before the process ends."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from compact_splats.utils.errors import Stopped


class StopRequest:
    """True after SIGINT (Ctrl-C) or SIGTERM inside a ``with`` block.

    A second signal has its usual effect. Outside of the main thread, where Python can't handle signals, it stays False.
    """

    def __init__(self) -> None:
        self._number = 0  # of the signal; 0: no signal yet
        self._before: dict[int, Any] = {}  # handlers

    def __bool__(self) -> bool:
        return self._number > 0

    def stopped(self, said: str) -> Stopped:
        """The exception to raise once the work is saved; ``said`` is the line for the user."""
        return Stopped(self._number, said)

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:  # ignored in background jobs of a shell
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
