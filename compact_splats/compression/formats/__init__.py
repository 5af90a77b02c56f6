"""File formats of other tools, a module each: ``read(path)`` and, but for .ksplat, ``write(path, arrays)``.

- ``write`` takes a model of at least one Gaussian, by name and in the shapes of ``GaussianModel.parameters``, and
  replaces the file in one move. It returns sentences about what the file has lost. ``InputError``: these are not the
  arrays of a model, the format can't hold it, or the file can't be written.
- ``read`` takes ``keep_nan``, see ``scene.parameters.cleaned``. ``InputError``: there is no such file, it is damaged,
  or it has a version that is not read.

``docs/formats.md`` says how large each of them is, what it loses, and which tools read it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from compact_splats.scene.parameters import SavedArrays

# By the suffix of the file. A plain .ply is read and written by scene.ply.
MODULES = {
    ".compressed.ply": "compressed_ply",
    ".splat": "splat",
    ".sog": "sog",
    ".spz": "spz",
    ".glb": "glb",
    ".ksplat": "ksplat",
}
WRITTEN = tuple(suffix for suffix in MODULES if suffix != ".ksplat")
META = "meta.json"  # of a .sog
START = 1 << 16  # bytes that identify a format: those of the longest PLY header
_MAGICS = ((b"PK\x03\x04", "sog"), (b"\x1f\x8b", "spz"), (b"NGSP", "spz"), (b"glTF", "glb"))


def reader_for(path: str | Path, start: bytes) -> Callable[..., SavedArrays] | None:
    """The reader of a file, by its first bytes, or else by its name.

    Args:
        path: the file.
        start: its first ``START`` bytes, or all of them.

    Returns:
        ``read`` of the format's module; None: no format of this package.
    """
    name = Path(path).name.lower()
    if start.startswith(b"ply"):
        packed = b"packed_position" in start.partition(b"end_header")[0]
        return _module("compressed_ply").read if packed else None
    if name.endswith(".json") and start.lstrip().startswith(b"{"):
        return _module("sog").read
    names = [module for magic, module in _MAGICS if start.startswith(magic)]
    names += [module for ending, module in MODULES.items() if name.endswith(ending)]
    return _module(names[0]).read if names else None


def writer_for(name: str) -> Callable[..., list[str]]:
    """The writer of a format.

    Args:
        name: its suffix without the first dot, for example "compressed.ply".

    Returns:
        ``write(path, arrays)`` of the format's module, which returns sentences about what the file has lost.
    """
    return _module(MODULES[f".{name}"]).write


def _module(name: str):
    return importlib.import_module(f"compact_splats.compression.formats.{name}")
