"""Writing files so that nothing half-written is ever seen under its final name, and reading those of strangers."""

import errno
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from compact_splats.utils.errors import InputError, readable

_RANDOM = 12  # hexadecimal digits in the name of a temporary file
_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{{_RANDOM}}}(\.\w+)?")
MAX_JSON = 1 << 27  # bytes; what Python makes of them takes up to 30 times as much


@contextmanager
def atomic_write(path: str | Path, *, durable: bool = False, num_bytes: int = 0) -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it into place when the block ends well, delete it otherwise.

    The temporary name keeps the suffix, because image and array writers choose their format by it. Missing folders are
    created. The block should do nothing but write: any ``OSError`` in it is taken for a failure to write ``path``.

    Args:
        path: where the finished file belongs; an existing file is replaced.
        durable: return only when the file is on the disk, so that it outlives a power failure.
        num_bytes: the least that the file will have, as far as the caller knows; a shorter one is a failure.

    Yields:
        The path to write to; an empty file is there already.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:_RANDOM]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # an unwritable folder shows before the work, and the file gets the user's umask
        yield temporary
        if temporary.stat().st_size < num_bytes:  # not all writers tell when the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    except OSError as error:
        _remove_if_there(temporary)  # first, as it may be what fills the disk
        raise _cannot_write(path, num_bytes, error) from error
    finally:
        _remove_if_there(temporary)


def _cannot_write(path: Path, num_bytes: int, error: OSError) -> InputError:
    """What is wrong with a place; where it is full, what is wanted and what is free."""
    free = free_space(path)
    if error.errno == errno.ENOSPC or (free is not None and free < num_bytes):
        wanted = f"room for {readable(num_bytes)}" if num_bytes else "room on the disk"
        is_quota = free is not None and free > max(num_bytes, 1 << 20)
        return InputError(path, wanted, f"'{error}'" if is_quota else f"{readable(free or 0)} free", "make room there")
    return InputError(path, "a place that can be written", f"'{error}'", "choose another folder or free this one")


def free_space(path: Path) -> int | None:
    """Bytes free on the disk on which a path is, or would be; None where the disk does not say."""
    try:
        nearest = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
        return shutil.disk_usage(nearest).free
    except OSError:
        return None


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file that is either the whole new one or the old one.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def open_file(path: str | Path, expected: str, fix: str) -> Iterator[BinaryIO]:
    """Open a file to read bytes from: an ordinary one, as a device or a pipe may never end.

    Args:
        path: the file.
        expected: what it has to be, for the message.
        fix: what the user can do where it isn't that.

    Yields:
        The open file; any ``OSError`` in the block is taken for a failure to read it.

    Raises:
        InputError: no such file, or none that can be read.
    """
    if not os.path.isfile(path):  # Path.is_file would raise for names that are too long
        raise InputError(path, expected, "something else" if os.path.exists(path) else "nothing", fix)
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise InputError(path, expected, f"'{error}'", fix) from error


def read_json(path: str | Path, expected: str, fix: str) -> Any:
    """Read a JSON file in UTF-8, 16 or 32 of at most 2^27 bytes, whatever it holds.

    Args:
        path: the file.
        expected: what it has to be, for the message.
        fix: what the user can do where it isn't that.

    Raises:
        InputError: no such file, too large, no JSON, or nested deeper than Python reads.
    """
    with open_file(path, expected, fix) as file:
        size = os.path.getsize(path)
        if size > MAX_JSON:
            raise InputError(path, f"{expected} of at most {MAX_JSON:,} bytes", f"{size:,}", fix)
        content = file.read()
    try:
        return json.loads(content)
    except RecursionError as error:
        raise InputError(path, expected, "lists or objects that are nested too deep", fix) from error
    except ValueError as error:  # no UTF-8, no JSON, integers of thousands of digits
        raise InputError(path, expected, f"'{error}'", fix) from error


def check_writable(folder: Path) -> None:
    """Make sure that a folder can be written, or made; leaves nothing behind.

    Raises:
        InputError: it can't.
    """
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(folder, "a folder that can be written", f"'{error}'", "choose another folder") from error


def flush_to_disk(path: Path) -> None:
    """Return only when a file, and its name in its folder, would outlive a power failure.

    Raises:
        InputError: the disk fails.
    """
    try:
        _sync(path)
        _sync(path.parent)
    except OSError as error:
        raise InputError(path, "a file on a disk that works", f"'{error}'", "choose another folder") from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes have left directly in a folder. Nobody may be writing there."""
    for path in folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            _remove_if_there(path)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    number = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _remove_if_there(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # moved into place, or never created: nothing is left to clean
        pass
