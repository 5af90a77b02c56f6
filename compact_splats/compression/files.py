"""Model files: reading any known format, and writing .gsz."""

from __future__ import annotations

from pathlib import Path

from compact_splats.compression import formats
from compact_splats.compression.arrays import Arrays
from compact_splats.compression.codec import decode
from compact_splats.compression.container import MAGIC, input_errors
from compact_splats.scene import ply
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write, open_file


def read_model(path: str | Path) -> Arrays:
    """Read a model of any known format, which the first bytes tell, or else the name.

    Args:
        path: a .gsz, a 3DGS .ply, or one of ``compression.formats``.

    Returns:
        float32 arrays, by name and in the shapes of ``GaussianModel.parameters``.

    Raises:
        InputError: no such file, no known format, a damaged file, or values that are not finite.
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
        return _read_gsz(path)  # fails with what is wrong
    known = ", ".join([".gsz", ".ply", *formats.MODULES])
    raise InputError(f"{path} is no model ({known}): it starts with {start[:8]!r}; give a trained model")


def write_gsz(path: str | Path, data: bytes) -> None:
    """Write the bytes of ``encode``.

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
    with input_errors(path, "copy or make the file again"):
        return decode(data)
