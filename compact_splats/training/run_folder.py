"""The folder of a run, in the layout of 3DGS: its paths for readers, and its one writer."""

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from compact_splats.arguments import TrainConfig
from compact_splats.arguments.options import read_json
from compact_splats.scene.normalization import Units
from compact_splats.training.run_log import RunLog, last_event
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write, check_writable, flush_to_disk, remove_leftovers, write_json
from compact_splats.utils.lock import FolderLock

UNITS = "units"  # the entry of config.json
END = "end"  # the event of the last line of the log of a finished run


class RunFolder:
    """Paths of a run folder. Reading needs no permission to write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ply_path(self, iteration: int) -> Path:
        """Where the Gaussians after an iteration are."""
        return self.folder / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply"

    def saved_iterations(self) -> list[int]:
        """The iterations whose Gaussians are saved, in ascending order."""
        files = self.folder.glob("point_cloud/iteration_*/point_cloud.ply")
        names = (path.parent.name.removeprefix("iteration_") for path in files)
        return sorted(int(name) for name in names if name.isdecimal())

    def find_ply(self, iteration: int = -1) -> tuple[Path, int]:
        """Saved Gaussians and their iteration.

        Args:
            iteration: -1: the last.

        Raises:
            InputError: there are none.
        """
        found = self.saved_iterations()
        if iteration == -1 and (self.folder / "config.json").exists():
            # Leftovers of a longer run in the same folder are not this model.
            last = self._last_iteration()
            found = [each for each in found if each <= last]
        wanted = iteration if iteration != -1 else max(found, default=None)
        if wanted not in found:
            have = f"those of steps {', '.join(map(str, found))}" if found else "none"
            what = "saved Gaussians" if iteration == -1 else f"the Gaussians of step {wanted}"
            raise InputError(self.folder / "point_cloud", what, have, "train first, or see -m and --iteration")
        return self.ply_path(wanted), wanted

    def _last_iteration(self) -> int:
        config, path = TrainConfig.from_folder(self.folder), self.folder / "summary.json"
        by_time = config.minutes is not None and path.exists()
        return read_json(path)["iterations"] if by_time else config.make_schedule().iterations

    def units(self) -> Units | None:
        """Between world units and the files of the run, from ``config.json``; None: they are not there.

        Raises:
            InputError: the file can't be read, or its units are broken.
        """
        path = self.folder / "config.json"
        values = read_json(path).get(UNITS) if path.is_file() else None
        if values is None:
            return None
        try:
            return Units.from_json(values)
        except ValueError as error:
            raise InputError(f"{path}: {UNITS} are broken ({error}); train again, or take the entry out") from error

    def is_finished(self) -> bool:
        """Whether the last run has ended: its log says so, which starts anew with every run."""
        return last_event(self.folder) == END


class Run(RunFolder):
    """The writer of a run folder.

    An older run in the same folder is replaced file by file as new files are complete, as in 3DGS. Nothing is written
    or removed before :meth:`begin`.

    Args:
        folder: where everything goes.
        tensorboard: write TensorBoard events beside the log, where the package is installed.
        writes: False: another process writes this folder; nothing is logged, and no ``write_`` method is called.
        lock: that the process holds on the folder.

    Attributes:
        first: what :meth:`begin` does; it may raise, and then nothing is written.
        write_inputs: writes what belongs in the folder from the start, again where the folder was removed.

    Raises:
        InputError: the folder can't be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tensorboard: bool = False,
        writes: bool = True,
        lock: FolderLock | None = None,
    ) -> None:
        if writes:
            check_writable(folder)
        super().__init__(folder)
        self.first: Callable[[], None] | None = None
        self.write_inputs: Callable[[], None] = lambda: None
        self._writes = writes
        self._lock = lock
        self._log = RunLog(folder, tensorboard, self.warn)
        self._failing: set[str] = set()
        self._was_removed = False

    def begin(self) -> None:
        """Do what has to be done before the first write, which calls this; later calls do nothing."""
        first, self.first = self.first, None
        if first is not None:
            first()

    def remove_leftovers(self) -> None:
        """Remove temporary files of killed processes. No other process may be training into the folder."""
        for folder in (self.folder, *self.folder.glob("point_cloud/*"), self.folder / "checkpoints"):
            remove_leftovers(folder)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file into the folder."""
        with atomic_write(self.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape")  # names of files

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file into the folder."""
        write_json(self.folder / name, content)

    def log(self, event: str, iteration: int, values: Mapping[str, float | None]) -> None:
        """Add a line to ``log.jsonl`` and scalars to TensorBoard; the first call starts the log anew.

        A line that can't be written is kept for the next call.
        """
        if not self._writes:
            return
        with self.tolerating("the log"):
            self.settle()
            self._log.add(event, iteration, values)

    def state_dict(self) -> dict[str, Any]:
        """That of the log: a continued run appends to it."""
        return self._log.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.begin()
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
        """Print a warning to stderr, above a progress bar if there is one."""
        tqdm.write(f"warning: {text}", file=sys.stderr)

    def settle(self) -> None:
        """Make the folder and its first files again if they were removed meanwhile.

        Raises:
            InputError: it can't be made again, or another process has taken it.
        """
        self.begin()
        if (self._lock and self._lock.renew()) or self._log.is_lost():
            self._was_removed = True
        if self._was_removed:
            self._log.close()
            self.write_inputs()
            self._was_removed = False
            self.warn(f"{self.folder} was removed; it is made again, without the models saved before")

    @contextmanager
    def tolerating(self, what: str) -> Iterator[None]:
        """Write something that the training can continue without: a failure is a warning, once until it works again.

        Args:
            what: is written, for the warning.

        Raises:
            InputError: of :meth:`begin`.
        """
        self.begin()
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
