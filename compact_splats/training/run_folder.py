"""The folder of one run, in the layout of 3DGS; nothing else writes there. Knows no Gaussians and no cameras."""

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from compact_splats.training.run_log import RunLog, last_event
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write, flush_to_disk, remove_leftovers, write_json
from compact_splats.utils.images import write_png
from compact_splats.utils.lock import FolderLock

END = "end"  # the event of the last line, of a run that has come to its end


class Run:
    """Paths and files of a run folder.

    An older run in the same folder is replaced file by file as new files are complete, as 3DGS does it. Nothing is
    written before the first call of a ``write_`` method or of :meth:`log`.

    Args:
        folder: where everything goes.
        tensorboard: write TensorBoard events beside the log, where the package is installed.
        quiet: print nothing.
        writes: False: another process writes this folder; nothing is logged, and no ``write_`` method is called.
        lock: that the process holds on the folder.

    Attributes:
        write_inputs: writes what belongs in the folder from the start, again where the folder was removed.

    Raises:
        InputError: the folder can't be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tensorboard: bool = False,
        quiet: bool = False,
        writes: bool = True,
        lock: FolderLock | None = None,
    ) -> None:
        if writes:
            _check_writable(folder)
        self.folder = folder
        self.write_inputs: Callable[[], None] = lambda: None
        self._quiet = quiet
        self._writes = writes
        self._lock = lock
        self._log = RunLog(folder, tensorboard, self.warn)
        self._failing: set[str] = set()
        self._was_removed = False

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
        """Add a line to ``log.jsonl`` and scalars to TensorBoard; the first call starts the log anew.

        A line that can't be written is kept for the next call.
        """
        if not self._writes:
            return
        with self.tolerating("the log"):
            self.settle()
            self._log.add(event, iteration, values)

    def state_dict(self) -> dict[str, Any]:
        """That of the log: a run that is continued goes on writing from there."""
        return self._log.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._log.load_state_dict(state)

    def finish(self, iteration: int, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json`` and the last line of the log; when this returns, they are on the disk.

        Raises:
            InputError: they can't be written.
        """
        self.settle()
        self.write_json("summary.json", summary)
        self._log.add(END, iteration, {})
        self._log.flush_to_disk()
        flush_to_disk(self.folder / "summary.json")

    def close(self) -> None:
        """Finish log and events."""
        self._log.close()

    # ---- when something goes wrong ----

    def warn(self, text: str) -> None:
        """Tell the user of something that has gone wrong, beside a progress bar, too."""
        tqdm.write(f"warning: {text}", file=sys.stderr)

    def settle(self) -> None:
        """Where somebody has removed the folder, or what is in it, make it again with what belongs there.

        Raises:
            InputError: it can't be made again, or another process has made it its own.
        """
        if (self._lock and self._lock.renew()) or self._log.is_lost():
            self._was_removed = True
        if self._was_removed:
            self._log.close()
            self.write_inputs()
            self._was_removed = False
            self.warn(f"{self.folder} was removed; it is made again, without the models saved before")

    @contextmanager
    def tolerating(self, what: str) -> Iterator[None]:
        """Write something that the training can go on without: a failure is told, once until it works again.

        Args:
            what: is written, in words.
        """
        try:
            yield
        except InputError as error:
            if what not in self._failing:
                self.warn(f"{what} can't be written: {error}")
            self._failing.add(what)
            return
        if what in self._failing:
            self._failing.remove(what)
            self.warn(f"{what} can be written again")


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
    return last_event(folder) == END
