"""A folder that only one process at a time may write to. The lock goes with the process, however that ends."""

import os
import socket
from pathlib import Path
from types import TracebackType

from utils.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class FolderLock:
    """Hold ``FOLDER/.lock`` for the length of a ``with`` block; the file stays, and names the last who held it.

    Where the system has no such locks, nothing is locked.

    Args:
        folder: what to lock; it is made if it is not there.

    Raises:
        InputError: another process holds it, or the folder can't be written; on entering the block.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: int | None = None

    def __enter__(self) -> "FolderLock":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            if fcntl:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, 0)
            os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BlockingIOError as error:
            holder = os.pread(self._file, 200, 0).decode(errors="replace").strip() or "another process"
            self._close()
            fix = "wait until it has ended, or name another folder"
            raise InputError(self._folder, "a folder that nobody is writing to", f"{holder} at work", fix) from error
        except OSError as error:
            self._close()
            raise InputError(
                self._folder, "a folder that can be written", f"'{error}'", "choose another folder or free this one"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)  # which ends the lock
            self._file = None
