"""The files of other tools, one module for each: ``write(path, rows)`` and ``read(path)``.

``docs/formats.md`` has what each of them loses, how large it is, and who reads it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

# Modules by the endings of their files; .ply alone is the lossless one of scene.ply.
MODULES = {".compressed.ply": "compressed_ply", ".splat": "splat", ".sog": "sog", ".spz": "spz"}
START = 4096  # bytes that tell a format
_MAGICS = ((b"PK\x03\x04", "sog"), (b"\x1f\x8b", "spz"), (b"NGSP", "spz"))


def reader_for(path: str | Path, start: bytes) -> Callable[[str | Path], dict[str, np.ndarray]] | None:
    """The reader that a file wants, by its first bytes, or else by its name.

    Args:
        path: the file.
        start: its first ``START`` bytes, or all of them.

    Returns:
        ``read`` of a module of this package; None: no format of this package.
    """
    if start.startswith(b"ply"):
        packed = b"packed_position" in start
        return _module("compressed_ply").read if packed else None
    names = [name for magic, name in _MAGICS if start.startswith(magic)]
    names += [name for ending, name in MODULES.items() if Path(path).name.lower().endswith(ending)]
    return _module(names[0]).read if names else None


def writer_for(name: str) -> Callable[[str | Path, Mapping[str, np.ndarray]], None]:
    """The writer of a format.

    Args:
        name: its ending without the first dot, "compressed.ply" for example.
    """
    return _module(MODULES[f".{name}"]).write


def _module(name: str):
    return importlib.import_module(f"compact_splats.compression.formats.{name}")
