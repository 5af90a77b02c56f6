"""Model files: finding and reading any known format, and writing .gsz."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compact_splats.compression import formats
from compact_splats.compression.container import MAGIC, input_errors
from compact_splats.scene import ply
from compact_splats.scene.parameters import SavedArrays, cleaned
from compact_splats.training.run_folder import RunFolder
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write, open_file


def model_file(path: Path, iteration: int = -1) -> Path:
    """The file of a model: itself, that of a folder of ``train.py``, or meta.json of a folder of .sog.

    Args:
        path: a file or a folder.
        iteration: of a run; -1: the last.

    Raises:
        InputError: a folder without a model.
    """
    if not path.is_dir():
        return path
    return path / formats.META if (path / formats.META).is_file() else RunFolder(path).find_ply(iteration)[0]


def read_model(path: str | Path, *, keep_nan: bool = False) -> SavedArrays:
    """Read a model of any known format, which the first bytes tell, or else the name.

    Args:
        path: a .gsz, a 3DGS .ply, or one of ``compression.formats``.
        keep_nan: refuse values that are not finite instead of leaving out their Gaussians.

    Returns:
        Finite float32 arrays, by name and in the shapes of ``GaussianModel.parameters``, with the marks of the file and
        notes about what was changed.

    Raises:
        InputError: no such file, no known format, or a damaged file.
    """
    path = model_file(Path(path))
    return _reader(path)(path, keep_nan=keep_nan)


def kind_of(path: Path) -> str:
    """The format of a file of :func:`read_model`, as a suffix such as ".compressed.ply".

    Raises:
        InputError: no such file, or no known format.
    """
    module = _reader(path).__module__.rpartition(".")[2]
    return ".gsz" if module == "files" else f".{module.replace('_', '.')}"


def _reader(path: Path) -> Callable[..., SavedArrays]:
    with open_file(path, "a model that can be read", "check the path") as file:
        start = file.read(formats.START)
    if start.startswith(MAGIC):
        return _read_gsz
    _refuse_packed_ply(path, start)
    if read := formats.reader_for(path, start):
        return read
    if start.startswith(b"ply") or path.suffix.lower() == ".ply":
        return ply.read
    if path.suffix.lower() == ".gsz":
        return _read_gsz  # fails with what is wrong
    known = ", ".join([".gsz", ".ply", *formats.MODULES])
    raise InputError(f"{path} is no model ({known}): it starts with {start[:8]!r}; give a trained model")


def _refuse_packed_ply(path: Path, start: bytes) -> None:
    """Raise if a file is a .zip or .gz with a PLY in it, as some programs offer for download."""
    name = path.name.lower()
    if name.endswith(".ply.gz") and start.startswith(b"\x1f\x8b"):
        raise InputError(f"{path} is a compressed PLY: unpack it with gunzip")
    if start.startswith(b"PK\x03\x04") and b".ply" in start[30 : 30 + int.from_bytes(start[26:28], "little")]:
        raise InputError(f"{path} is an archive with a PLY: unpack it")


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


def _read_gsz(path: Path, *, keep_nan: bool) -> SavedArrays:
    from compact_splats.compression.codec import decode  # loads torch, which other formats do without

    with open_file(path, "a model that can be read", "check the path") as file:
        data = file.read()
    with input_errors(path, "copy or make the file again"):
        return cleaned(path, decode(data), keep_nan)
