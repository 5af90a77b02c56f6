"""A folder that only one process at a time may write to. The lock goes with the process, however that ends."""

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
    fcntl = None

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # as some network file systems say


class FolderLock:
    """Hold ``FOLDER/.lock`` for the length of a ``with`` block.

    The file names who holds it, and goes at the end, as do folders that were made for it and hold nothing else by
    then; a process that is killed leaves them, and they are no obstacle. Where the system has no such locks, nothing
    is locked.

    Args:
        folder: what to lock; it is made if it is not there.

    Raises:
        InputError: another process holds it, or the folder can't be written; on entering the block.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / ".lock"
        self._file: int | None = None
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
        """Lock the folder again where somebody has removed it.

        Returns:
            Whether somebody had; it is there again then, and empty.

        Raises:
            InputError: another process has made it its own meanwhile, or the disk that held it has gone.
        """
        if self._is_mine():
            return False
        nearest = next(path for path in (self._folder.absolute(), *self._folder.absolute().parents) if path.exists())
        if os.stat(nearest).st_dev != self._device:
            found = f"{nearest} on another disk"
            raise InputError(self._folder, "the disk that it was on", found, "look whether that is still mounted")
        self._close()
        self._take()
        return True

    def _is_mine(self) -> bool:
        """Whether the file at the path is the one that is held: not if it was removed, or others made a new one."""
        try:
            return self._file is not None and os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except OSError:
            return False

    def _take(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._open()
            while not self._is_mine():  # the one who had it has removed it just now
                self._close()
                self._open()
            with contextlib.suppress(OSError):  # a full disk
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

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)  # which ends the lock
            self._file = None
