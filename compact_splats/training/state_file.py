"""A state on disk: what ``torch.save`` writes, with the SHA-256 of these bytes behind it.

The digest is needed: ``torch.load`` alone does not notice most flipped bits.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

_DIGEST = hashlib.sha256().digest_size
_BLOCK = 1 << 20  # bytes read at a time


class DamagedFile(Exception):
    """The file is not one that :func:`write_state` has completed."""


class _HashingWriter:
    """Hashes what it writes, and keeps the error that ``torch.save`` would replace by one of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self.digest.update(data)
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def write_state(path: Path, state: Any) -> None:
    """Write tensors, numbers, strings and None, in dicts, lists and tuples.

    Raises:
        OSError: the file can't be written.
    """
    with path.open("wb") as file:
        writer = _HashingWriter(file)
        try:
            torch.save(state, writer)  # type: ignore[arg-type]  # it calls write and flush only
        except RuntimeError as error:
            raise writer.error or error from error
        file.write(writer.digest.digest())


def read_state(path: Path) -> Any:
    """Check the whole file and map its state into main memory; pages are read where they are used.

    Raises:
        DamagedFile: a byte is missing, changed or added, or the file is of another kind.
        OSError: the file can't be read.
    """
    _check_digest(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise DamagedFile("no state") from error


def _check_digest(path: Path) -> None:
    total, left = hashlib.sha256(), path.stat().st_size - _DIGEST
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            total.update(block)
            left -= len(block)
        if left or file.read() != total.digest():
            raise DamagedFile("bytes that are not those that were written")


def num_bytes(state: Any) -> int:
    """Bytes of the tensors of a state, which its file has at least."""
    if isinstance(state, dict):
        return sum(map(num_bytes, state.values()))
    if isinstance(state, (list, tuple)):
        return sum(map(num_bytes, state))
    return state.nbytes if isinstance(state, Tensor) else 0
