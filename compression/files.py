"""Models in files, whatever the format: which reader a file wants, and the writing of .gsz."""

from __future__ import annotations

from pathlib import Path

from compression.codec import decode
from compression.container import MAGIC, FormatError
from compression.rows import Rows
from scene import ply
from utils.errors import InputError
from utils.files import atomic_write


def read_model(path: str | Path) -> Rows:
    """Read a model of any format that this project knows: by its first bytes, or else by its name.

    Args:
        path: a .gsz or a 3DGS .ply.

    Returns:
        float32 arrays in the shapes of ``GaussianModel.rows``.

    Raises:
        InputError: no such file, of no known format, damaged, or with values that are not finite.
    """
    path = Path(path)
    start = _read(path, len(MAGIC))
    if start == MAGIC or path.suffix.lower() == ".gsz":
        return _read_gsz(path)
    if start.startswith(b"ply") or path.suffix.lower() == ".ply":
        return ply.read(path)
    raise InputError(path, "a model (.gsz, .ply)", f"a file that starts with {start!r}", "give a trained model")


def write_gsz(path: str | Path, data: bytes) -> None:
    """Write what ``encode`` made.

    Args:
        path: the file; replaced in one move.
        data: its content.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _read_gsz(path: Path) -> Rows:
    try:
        return decode(_read(path))
    except FormatError as error:
        raise InputError(path, error.expected, error.found, "copy or make the file again") from error


def _read(path: Path, num_bytes: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(num_bytes)
    except OSError as error:
        raise InputError(path, "a model that can be read", f"'{error}'", "check the path") from error
