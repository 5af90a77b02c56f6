"""The log of a run, ``log.jsonl``. All lines stay in memory, so that a disk that fails for a while loses none."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write, flush_to_disk

LOG = "log.jsonl"


class RunLog:
    """Lines of JSON, and the same as scalars for TensorBoard where that is installed.

    Nothing is written before the first line.
    """

    def __init__(self, folder: Path, tensorboard: bool, warn: Callable[[str], None]) -> None:
        self._path = folder / LOG
        self._tensorboard = tensorboard
        self._warn = warn
        self._file: TextIO | None = None
        self._lines: list[str] = []
        self._events: Any = None
        self._start = time.time()

    def add(self, event: str, iteration: int, values: Mapping[str, float | None]) -> None:
        """Add a line and flush it; the first one replaces the log of an earlier run.

        Raises:
            InputError: it can't be written. It is kept, and written together with the next one.
        """
        seconds = round(time.time() - self._start, 3)
        self._lines.append(json.dumps({"event": event, "iteration": iteration, "time": seconds, **values}) + "\n")
        self._add_scalars(event, iteration, values)
        if self._file is None:
            self._open()
            return
        try:
            self._file.write(self._lines[-1])
            self._file.flush()
        except OSError as error:
            self._close_file()
            fix = "make room or choose another folder"
            raise InputError(self._path, "a file that can be written", f"'{error}'", fix) from error

    def is_lost(self) -> bool:
        """Whether the file was removed or replaced meanwhile."""
        try:
            return self._file is not None and not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        except OSError:
            return True

    def flush_to_disk(self) -> None:
        """Write all lines to the disk itself.

        Raises:
            InputError: they can't be written.
        """
        if self._file is None:
            self._open()
        self.close()
        flush_to_disk(self._path)

    def close(self) -> None:
        """Close the files; the next line opens them."""
        self._close_file()
        events, self._events = self._events, None
        if events:
            with contextlib.suppress(Exception):  # it has warned of what it could not write
                events.close()

    def state_dict(self) -> dict[str, Any]:
        """All lines, which are few, and the time."""
        return {"log": list(self._lines), "seconds": time.time() - self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``: what the log got since then is dropped.

        Raises:
            InputError: it can't be written.
        """
        self._start = time.time() - state["seconds"]
        self._lines = list(state["log"])
        self._open()

    def _open(self) -> None:
        """Write all lines and stay open for more."""
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(self._lines), encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file:
            with contextlib.suppress(OSError):  # the rest of a line on a full disk
                file.close()

    def _add_scalars(self, event: str, iteration: int, values: Mapping[str, float | None]) -> None:
        if not self._tensorboard:
            return
        try:
            if self._events is None:  # TensorBoard drops what an earlier log says from here on
                self._events = _event_writer(self._path.parent, iteration)
                self._tensorboard = self._events is not None
            for name, value in values.items() if self._events else ():
                if value is not None:  # as of views that masks cover
                    self._events.add_scalar(f"{event}/{name}", value, iteration)
        except Exception as error:  # an OSError, or one of TensorFlow's where that is installed
            self._tensorboard, self._events = False, None
            self._warn(f"no more TensorBoard events are written ({error}); {LOG} holds the same")


def last_event(folder: Path) -> str | None:
    """The event of the last line of a run's log; None where there is no such line."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1000))
            return json.loads(file.read().splitlines()[-1])["event"]
    except (OSError, ValueError, IndexError, KeyError, TypeError, RecursionError):
        return None


def _event_writer(folder: Path, next_iteration: int) -> Any:
    """TensorBoard's writer, or None where the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    writer = SummaryWriter(str(folder), purge_step=next_iteration)
    threading.excepthook = _quiet_about_events
    return writer


def _quiet_about_events(args: Any, hook: Callable = threading.excepthook) -> None:
    """Its thread would print a traceback; what went wrong is raised again where the next value is added."""
    if not (args.thread and type(args.thread).__name__ == "_AsyncWriterThread"):
        hook(args)
