"""Atomic writes, and reading of untrusted files."""

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
MAX_JSON = 1 << 27  # bytes; the parsed objects take up to 30 times as much memory


@contextmanager
def atomic_write(path: str | Path, *, durable: bool = False, num_bytes: int = 0) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move the file into place if the block succeeds, else delete it.

    The temporary name keeps the suffix, because image and array writers choose their format by it. Missing folders are
    created. Do nothing but write in the block: any ``OSError`` in it counts as a failure to write ``path``.

    Args:
        path: the final path; an existing file is replaced.
        durable: return only when the file is on the disk and survives a power failure.
        num_bytes: the minimum size of the file; a shorter one is a failure.

    Yields:
        The path to write to. It is an empty file.

    Raises:
        InputError: the folder or the file can't be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:_RANDOM]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # fails early in an unwritable folder, and applies the user's umask
        yield temporary
        if temporary.stat().st_size < num_bytes:  # not all writers report a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    except OSError as error:
        _remove_if_there(temporary)  # before the free space is measured
        raise _cannot_write(path, num_bytes, error) from error
    finally:
        _remove_if_there(temporary)


def _cannot_write(path: Path, num_bytes: int, error: OSError) -> InputError:
    """The reason; for a full disk, the space needed and the space free."""
    free = free_space(path)
    if error.errno == errno.ENOSPC or (free is not None and free < num_bytes):
        needed = f"{readable(num_bytes)} needed, " if num_bytes else ""
        is_quota = free is not None and free > max(num_bytes, 1 << 20)
        left = f"'{error}'" if is_quota else f"{readable(free or 0)} free"
        return InputError(f"{path} can't be written, the disk is full: {needed}{left}; free some space there")
    return InputError(f"{path} can't be written: '{error}'; choose another folder or free this one")


def free_space(path: Path) -> int | None:
    """Bytes free on the disk of a path, which need not exist; None if unknown."""
    try:
        return shutil.disk_usage(existing_parent(path)).free
    except OSError:
        return None


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        InputError: the file can't be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def open_file(path: str | Path, expected: str, fix: str) -> Iterator[BinaryIO]:
    """Open a regular file to read bytes; a device or a pipe, which may never end, is refused.

    Args:
        path: the file.
        expected: what it must be, for the message.
        fix: what the user can do, for the message.

    Yields:
        The open file. Any ``OSError`` in the block counts as a failure to read it.

    Raises:
        InputError: the file does not exist, is not a regular file, or can't be read.
    """
    if not os.path.isfile(path):  # Path.is_file would raise for names that are too long
        raise InputError(path, expected, "something else" if os.path.exists(path) else "nothing", fix)
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise InputError(path, expected, f"'{error}'", fix) from error


def read_json(path: str | Path, expected: str, fix: str) -> Any:
    """Read a JSON file in UTF-8, 16 or 32 of at most 2^27 bytes.

    Args:
        path: the file.
        expected: what it must be, for the message.
        fix: what the user can do, for the message.

    Raises:
        InputError: the file does not exist, is too large, is not JSON, or is nested deeper than Python reads.
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
    except ValueError as error:  # not UTF, not JSON, or integers of thousands of digits
        raise InputError(path, expected, f"'{error}'", fix) from error


def check_writable(folder: Path) -> None:
    """Check that a folder can be written or created, without leaving anything in it.

    Raises:
        InputError: it can't.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=existing_parent(folder)):
            pass
    except OSError as error:
        raise InputError(f"folder {folder} can't be written: '{error}'; choose another folder") from error


def flush_to_disk(path: Path) -> None:
    """Return only when a file and its directory entry are on the disk and survive a power failure.

    Raises:
        InputError: the disk fails.
    """
    try:
        _sync(path)
        _sync(path.parent)
    except OSError as error:
        raise InputError(f"{path} can't be flushed to the disk: '{error}'; choose another folder") from error


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes directly in a folder. No other process may be writing there."""
    for path in folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            _remove_if_there(path)


def _sync(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows can't open directories
        return
    number = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _remove_if_there(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # moved into place, or never created
        pass
