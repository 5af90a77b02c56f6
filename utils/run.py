"""The folder of one run, in the layout of 3DGS; nothing else writes there. Knows no Gaussians and no cameras."""

import itertools
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.errors import InputError
from utils.files import atomic_write, flush_to_disk, remove_leftovers, write_json
from utils.images import write_png

LOG = "log.jsonl"
END = "end"  # the event of the last line, of a run that has come to its end


class Run:
    """Paths and files of a run folder.

    An older run in the same folder is replaced file by file as new files are complete, as 3DGS does it. Nothing is
    written before the first call of a ``write_`` method or of :meth:`log`.

    Args:
        folder: where everything goes.
        tensorboard: write TensorBoard events beside the log, where the package is installed.
        quiet: print nothing.
        writes: False: another process writes this folder, and nothing but paths is asked of this object.

    Raises:
        InputError: the folder can't be written.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False, quiet: bool = False, writes: bool = True) -> None:
        if writes:
            _check_writable(folder)
        self.folder = folder
        self._tensorboard = tensorboard
        self._quiet = quiet
        self._log = None
        self._lines: list[str] = []
        self._events = None
        self._start = time.time()

    def remove_leftovers(self) -> None:
        """Remove what killed processes were writing for the run. Nobody else may be training into the folder."""
        for folder in (self.folder, *self.folder.glob("point_cloud/*"), self.folder / "checkpoints"):
            remove_leftovers(folder)

    def say(self, text: str) -> None:
        """Print a line to the user."""
        if not self._quiet:
            print(text, flush=True)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file into the folder."""
        with atomic_write(self.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file into the folder."""
        write_json(self.folder / name, content)

    def write_view(self, split: str, method: str, index: int, image: Tensor, photo: Tensor) -> None:
        """Write a rendered view and its photo, both (3,H,W) uint8, as ``SPLIT/METHOD/{renders,gt}/INDEX.png``."""
        self.write_picture(split, method, "renders", index, image)
        self.write_picture(split, method, "gt", index, photo)

    def write_picture(self, split: str, method: str, kind: str, index: int, pixels: Tensor) -> None:
        """Write a picture that belongs to a view, of a kind that ``utils.images.write_png`` knows."""
        write_png(self.folder / split / method / kind / f"{index:05d}.png", pixels)

    def ply_path(self, iteration: int) -> Path:
        """Where the Gaussians after a step are."""
        return self.folder / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply"

    def log(self, event: str, iteration: int, values: Mapping[str, float]) -> None:
        """Add a line to ``log.jsonl`` and scalars to TensorBoard; the first call starts the log anew."""
        if self._log is None:
            self._open_log([], iteration)
        seconds = round(time.time() - self._start, 3)
        line = json.dumps({"event": event, "iteration": iteration, "time": seconds, **values}) + "\n"
        self._lines.append(line)
        self._log.write(line)
        self._log.flush()
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(f"{event}/{name}", value, iteration)

    def _open_log(self, lines: list[str], next_iteration: int) -> None:
        """Start a log of these lines, and let TensorBoard drop what an earlier log says from an iteration on."""
        self._lines = lines
        self.write_text(LOG, "".join(lines))
        self._log = (self.folder / LOG).open("a", encoding="utf-8")
        self._events = _event_writer(self.folder, next_iteration) if self._tensorboard else None

    def state_dict(self) -> dict[str, Any]:
        """The log, which is short, and the time: a run that is continued goes on writing from there."""
        return {"log": list(self._lines), "seconds": time.time() - self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``: what the log got since then is dropped."""
        self._start = time.time() - state["seconds"]
        lines = list(state["log"])
        self._open_log(lines, json.loads(lines[-1])["iteration"] + 1 if lines else 0)

    def finish(self, iteration: int, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json`` and the last line of the log; when this returns, they are on the disk."""
        self.write_json("summary.json", summary)
        self.log(END, iteration, {})
        self.close()
        for name in ("summary.json", LOG):
            flush_to_disk(self.folder / name)

    def close(self) -> None:
        """Finish log and events."""
        for file in (self._log, self._events):
            if file:
                file.close()


def free_folder(name: str, parent: Path = Path("output")) -> Path:
    """``parent/name``, or ``name-2``, ``name-3``, ... where that is taken."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(parent / name for name in names if not (parent / name).exists())


def saved_iterations(folder: Path) -> list[int]:
    """The steps whose Gaussians a run folder holds, in ascending order."""
    files = folder.glob("point_cloud/iteration_*/point_cloud.ply")
    names = (path.parent.name.removeprefix("iteration_") for path in files)
    return sorted(int(name) for name in names if name.isdecimal())


def _check_writable(folder: Path) -> None:
    """Try to make a file where the folder is, or would be; leaves nothing behind."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(folder, "a folder that can be written", f"'{error}'", "choose another with -m") from error


def is_finished(folder: Path) -> bool:
    """Whether the last run in a folder has come to its end: its log says so, which begins anew with every run."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1000))
            return json.loads(file.read().splitlines()[-1])["event"] == END
    except (OSError, ValueError, IndexError, KeyError, TypeError, RecursionError):
        return False


def _event_writer(folder: Path, next_iteration: int) -> Any:
    """TensorBoard's writer, or None where the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=next_iteration)
