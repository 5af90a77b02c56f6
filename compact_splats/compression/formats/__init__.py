"""File formats of other tools, a module each: ``write(path, arrays)`` and ``read(path)``.

``docs/formats.md`` says how large each of them is, what it loses, and which tools read it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from compact_splats.compression.arrays import Arrays

# By the suffix of the file. A plain .ply is read and written by scene.ply.
MODULES = {".compressed.ply": "compressed_ply", ".splat": "splat", ".sog": "sog", ".spz": "spz"}
START = 4096  # bytes that identify a format
_MAGICS = ((b"PK\x03\x04", "sog"), (b"\x1f\x8b", "spz"), (b"NGSP", "spz"))


def reader_for(path: str | Path, start: bytes) -> Callable[[str | Path], Arrays] | None:
    """The reader of a file, by its first bytes, or else by its name.

    Args:
        path: the file.
        start: its first ``START`` bytes, or all of them.

    Returns:
        ``read`` of the format's module; None: no format of this package.
    """
    if start.startswith(b"ply"):
        packed = b"packed_position" in start
        return _module("compressed_ply").read if packed else None
    names = [name for magic, name in _MAGICS if start.startswith(magic)]
    names += [name for ending, name in MODULES.items() if Path(path).name.lower().endswith(ending)]
    return _module(names[0]).read if names else None


def writer_for(name: str) -> Callable[[str | Path, Arrays], None]:
    """The writer of a format.

    Args:
        name: its suffix without the first dot, for example "compressed.ply".
    """
    return _module(MODULES[f".{name}"]).write


def _module(name: str):
    return importlib.import_module(f"compact_splats.compression.formats.{name}")
