"""The level of the processor's instruction set that the CPU engine of a portable build uses."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType


def choose_level(levels: Mapping[str, bool], wanted: str = "") -> str:
    """The highest level that the machine supports, or the wanted one.

    Args:
        levels: by name, the lowest first: whether processor and operating system support it.
        wanted: a name, or empty.

    Raises:
        ImportError: The machine does not support the wanted level, or not even the lowest.
    """
    usable = [name for name, is_supported in levels.items() if is_supported]
    if levels and not usable:
        problem = (
            f"this processor is below x86-64-{next(iter(levels))}, the lowest level of this build of the engine: "
            "install the engine from its source, which needs a C++ compiler"
        )
    elif wanted and wanted not in usable:
        reason = "processor or operating system lack it" if wanted in levels else "this build has no such level"
        names = f" or name one of {', '.join(usable)}" if usable else ""
        problem = f"DGR_ISA={wanted}: {reason}; unset DGR_ISA{names}"
    else:
        return wanted or usable[-1]
    raise ImportError(problem, name=__package__)


def load_level(module: ModuleType) -> str:
    """Load the library of the level that DGR_ISA names, or of the highest, for the engine's extension module.

    Returns:
        The level; empty if the build has only one.

    Raises:
        ImportError: See `choose_level`.
    """
    wanted = os.environ.get("DGR_ISA", "")
    if not module.LEVELS and not wanted:
        return ""
    name = choose_level(module.LEVELS, wanted)
    module.use_level(open_level(library_of(name)))
    return name


def library_of(level: str) -> Path:
    """The file of a level."""
    (path,) = Path(__file__).parent.glob(f"cpu_{level}.*")
    return path


def open_level(path: Path) -> int:
    """Load a level's library for good. Returns the address that `use_level` of the extension module takes."""
    return ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL(str(path)), "dgr_level"))
