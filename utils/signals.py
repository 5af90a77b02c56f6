"""Being asked to stop: the running step is finished and its work saved before the process ends."""

import signal
import threading
from types import FrameType, TracebackType

from compact_splats.utils.errors import Stopped


class StopRequest:
    """Whether Ctrl-C (SIGINT) or SIGTERM has come since the start of a ``with`` block.

    A second one takes its usual effect, at once. In other threads than the first, where Python can't know of signals,
    nothing changes.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: dict[int, object] = {}

    def __bool__(self) -> bool:
        return self._number is not None

    def stopped(self, said: str) -> Stopped:
        """The exception to end with, after the work is saved.

        Args:
            said: what the user is told.
        """
        return Stopped(self._number, said)

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:  # as for a job that a shell runs in the background
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
