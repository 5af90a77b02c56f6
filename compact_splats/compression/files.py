"""Model files: reading any known format, and writing .gsz."""

from __future__ import annotations

from pathlib import Path

import torch

from compact_splats.compression import formats
from compact_splats.compression.arrays import Arrays
from compact_splats.compression.codec import decode
from compact_splats.compression.container import MAGIC, input_errors
from compact_splats.scene import ply
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.normalization import Units, Vector
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


def load_model(path: str | Path, device: torch.device | str, units: Units | None) -> GaussianModel:
    """Read a model of any known format, to be rendered in world units.

    Args:
        path: see :func:`read_model`.
        device: of the parameters.
        units: of the scene or its cameras; an offset that the file names comes first. None: those of the model alone.

    Raises:
        InputError: see :func:`read_model`; or it has no Gaussians.
    """
    arrays = read_model(path)
    if not len(arrays["means"]):
        raise InputError(f"{path} has no Gaussians: give a trained model")
    if units is None:
        units = Units.of_points(arrays["means"])
    return GaussianModel.from_arrays(arrays, device, units.with_offset(file_offset(path)))


def file_offset(path: str | Path) -> Vector | None:
    """The offset that was subtracted from the coordinates of a model, if its file names one."""
    with open_file(path, "a model that can be read", "check the path") as file:
        is_ply = file.read(3) == b"ply"
    return ply.read_offset(path) if is_ply else None


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
