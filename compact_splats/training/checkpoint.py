"""The checkpoints of one run: when they are due, which are kept, and from which of them a run continues.

What is in a checkpoint, its parts say by ``state_dict`` and ``load_state_dict``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from compact_splats.arguments.interval import Interval
from compact_splats.training.processes import SINGLE_PROCESS, SingleProcess
from compact_splats.training.state_file import DamagedFile, num_bytes, read_state, write_state
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write, remove_leftovers

FOLDER = "checkpoints"
KEPT = 2
VERSION = 3  # of the content; another is refused


class Stateful(Protocol):
    """A part of a run that changes."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, of the types that ``training.state_file`` writes."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""


class Checkpoints:
    """The folder ``checkpoints`` of a run, which holds the last two while the run is not finished.

    Args:
        run_folder: of the run; nothing is made there before :meth:`save`.
        interval: how often :meth:`is_due`.
        processes: the processes of the run. The first reads and writes, for all.

    Attributes:
        about: what to note in each, to be read without the parts; the step is added.
    """

    def __init__(self, run_folder: Path, interval: Interval, processes: SingleProcess = SINGLE_PROCESS) -> None:
        self.folder = run_folder / FOLDER
        self._interval = interval.shared(processes.count, processes.meet_every)
        self._processes = processes
        self.about: dict[str, Any] = {}
        self._found: Path | None = None
        self._own: list[Path] = []  # of this run, and the one that it continues: others are removed
        self._last, self._cost = time.monotonic(), 0.0

    def find(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Look for the newest checkpoint that can be used, for :meth:`restore`.

        Args:
            say: prints a line for each that can't be used.

        Returns:
            What it is about, and its ``step``; None where there are no checkpoints at all.

        Raises:
            InputError: there are some, and none can be used.
        """
        return self._processes.share(self._find(say) if self._processes.is_first else None)

    def _find(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        paths = sorted(self.folder.glob("step_*.ckpt"), reverse=True)
        for path in paths:
            try:
                about = self._read(path)["about"]
            except (OSError, DamagedFile) as error:
                say(f"{path} can't be used ({error})")
                continue
            self._found, self._own = path, [path]
            return about
        if paths:
            fix = "leave out --resume to begin anew"
            raise InputError(self.folder, "a checkpoint that can be read", f"{len(paths)} that can't", fix)
        return None

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        state = read_state(path)
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise DamagedFile("the state of another version of this program")
        return state

    def restore(self, parts: Mapping[str, Stateful]) -> int:
        """Continue the parts from what :meth:`find` has found, if anything.

        Args:
            parts: as they were given to :meth:`save`.

        Returns:
            The step after which it was written; 0 where there is nothing to continue, and the parts stay as they are.

        Raises:
            InputError: the file has changed since, or it is not the state of such parts.
        """
        fix = "remove it to continue from the one before, or leave out --resume to begin anew"
        path = self._found or self.folder
        try:
            state = self._processes.share(None if self._found is None else self._read(self._found))
            if state is None:
                return 0
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
            return state["about"]["step"]
        except (OSError, DamagedFile) as error:
            raise InputError(path, "a checkpoint", f"'{error}'", fix) from error
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(path, "the state of this program's parts", f"'{error!r}'", fix) from error

    def is_due(self, step: int) -> bool:
        """Whether one is to be written after ``step``."""
        return self._interval.is_due(step, time.monotonic() - self._last, self._cost)

    @property
    def newest(self) -> int | None:
        """The step of the newest one of this run, that can be gone back to; known in the first process."""
        there = [path for path in self._own if path.exists()]
        return int(there[-1].stem.removeprefix("step_")) if there else None

    def save(self, step: int, parts: Mapping[str, Stateful], prepare: Callable[[], None] = lambda: None) -> None:
        """Write a checkpoint; when this returns, it is on the disk, and older ones but the last are gone.

        All processes of a run call this, for what each of them has.

        Args:
            step: the last that is done.
            parts: all that changes.
            prepare: called in the process that writes, before it does.

        Raises:
            InputError: it can't be written; the ones before are still there.
        """
        start = time.monotonic()
        state = {
            "version": VERSION,
            "about": {**self.about, "step": step},
            "parts": {name: part.state_dict() for name, part in parts.items()},
        }
        self._last = start  # of the last try
        if not self._processes.is_first:
            return
        prepare()
        path = self.folder / f"step_{step:08}.ckpt"
        with atomic_write(path, durable=True, num_bytes=num_bytes(state)) as temporary:
            write_state(temporary, state)
            if not self._own:
                self._remove_others()  # of an earlier run, whose steps may be higher
        self._own = [*(own for own in self._own if own != path), path][-KEPT:]
        self._remove_others()
        self._last = time.monotonic()
        self._cost = self._last - start

    @contextmanager
    def pointed_to(self) -> Iterator[None]:
        """Add to an error of the block from which step ``--resume`` would continue, if there is such a step."""
        try:
            yield
        except InputError as error:
            if self.newest is None:
                raise
            raise error.with_hint(f"--resume continues after step {self.newest}") from error

    def clear(self) -> None:
        """Remove them all: the run is finished."""
        if not self._processes.is_first:
            return
        self._own = []
        self._remove_others()
        remove_leftovers(self.folder)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _remove_others(self) -> None:
        for path in self.folder.glob("step_*.ckpt"):
            if path not in self._own:
                with contextlib.suppress(OSError):  # the next one tries again
                    path.unlink()
