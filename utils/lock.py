"""A lock by which only one process at a time writes to a folder. It ends with the process."""

import contextlib
import errno
import os
import socket
from pathlib import Path
from types import TracebackType

from compact_splats.utils.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # mypy knows no optional modules

_CLOSED = -1  # instead of a file descriptor
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # as some network file systems say


class FolderLock:
    """Hold ``FOLDER/.lock`` for the length of a ``with`` block.

    The file names the process that holds it. At the end it is removed, with the folders that were created for it if
    they are empty. A killed process leaves them, and they do not block the next one. On file systems without locks
    nothing is locked.

    Args:
        folder: to lock; created if missing.

    Raises:
        InputError: on entering the block: another process holds the lock, or the folder can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / ".lock"
        self._file = _CLOSED
        self._made: list[Path] = []
        self._device = 0

    def __enter__(self) -> "FolderLock":
        self._made = [path for path in (self._folder, *self._folder.parents) if not path.exists()]
        self._take()
        self._device = os.stat(self._folder).st_dev
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            if self._is_mine():
                self._path.unlink()
            for folder in self._made:
                folder.rmdir()
        self._close()

    def renew(self) -> bool:
        """Create and lock the folder again if it was removed.

        Returns:
            Whether it was removed; it exists again and is empty.

        Raises:
            InputError: another process has locked it meanwhile, or its disk is no longer mounted.
        """
        if self._is_mine():
            return False
        nearest = next(path for path in (self._folder.absolute(), *self._folder.absolute().parents) if path.exists())
        if os.stat(nearest).st_dev != self._device:
            raise InputError(f"{self._folder} was removed and its disk is not mounted any more; mount it again")
        self._close()
        self._take()
        return True

    def _is_mine(self) -> bool:
        """Whether the file at the path is the one that this process holds, not a new one or none."""
        try:
            return self._file != _CLOSED and os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except OSError:
            return False

    def _take(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._open()
            while not self._is_mine():  # another process removed the file at this moment
                self._close()
                self._open()
            with contextlib.suppress(OSError):  # a full disk
                os.ftruncate(self._file, 0)
                os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BlockingIOError as error:
            holder = os.pread(self._file, 200, 0).decode(errors="replace").strip() or "another process"
            self._close()
            raise InputError(
                f"{self._folder} is in use by {holder}; wait until it has ended, or name another folder"
            ) from error
        except OSError as error:
            self._close()
            raise InputError(
                f"folder {self._folder} can't be written: '{error}'; choose another folder or free this one"
            ) from error

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise

    def _close(self) -> None:
        if self._file != _CLOSED:
            os.close(self._file)  # this releases the lock
            self._file = _CLOSED
