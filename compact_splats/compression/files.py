"""Models in files, whatever the format: which reader a file wants, and the writing of .gsz."""

from __future__ import annotations

from pathlib import Path

from compact_splats.compression import formats
from compact_splats.compression.arrays import Arrays
from compact_splats.compression.codec import decode
from compact_splats.compression.container import MAGIC, FormatError
from compact_splats.scene import ply
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write, open_file


def read_model(path: str | Path) -> Arrays:
    """Read a model of any format that this project knows: by its first bytes, or else by its name.

    Args:
        path: a .gsz, a 3DGS .ply, or one of ``compression.formats``.

    Returns:
        float32 arrays in the shapes of ``GaussianModel.parameters``.

    Raises:
        InputError: no such file, of no known format, damaged, or with values that are not finite.
    """
    path = Path(path)
    with open_file(path, "a model that can be read", "check the path") as file:
        start = file.read(formats.START)
    if start.startswith(MAGIC):
        return _read_gsz(path)
    if read := formats.reader_for(path, start):
        return read(path)
    if start.startswith(b"ply") or path.suffix.lower() == ".ply":
        return ply.read(path)
    if path.suffix.lower() == ".gsz":
        return _read_gsz(path)  # says what is wrong with it
    known = ", ".join([".gsz", ".ply", *formats.MODULES])
    raise InputError(path, f"a model ({known})", f"a file that starts with {start[:8]!r}", "give a trained model")


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


def _read_gsz(path: Path) -> Arrays:
    with open_file(path, "a model that can be read", "check the path") as file:
        data = file.read()
    try:
        return decode(data)
    except FormatError as error:
        raise InputError(path, error.expected, error.found, "copy or make the file again") from error
