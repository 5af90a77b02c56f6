"""Builds the CUDA engine for the CPU from ``cuda_emulation/`` and loads it; once for each change of its sources."""

from __future__ import annotations

import importlib.util
import os
import random
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import native_build
import torch
from native_build import ROOT, BuildError, run
from torch import Tensor

__all__ = [
    "KERNELS", "MODULE", "POISON", "SEED", "BuildError", "GuardedMemory", "build", "build_engine", "load", "run",
    "why_not",
]  # fmt: skip

SOURCES = Path(__file__).parent / "cuda_emulation"
KERNELS = ROOT / "submodules" / "diff-gaussian-rasterization" / "src"
SEED = int(os.environ.setdefault("CUDA_EMULATION_SEED", str(random.randrange(2**31))))  # of the emulation, too
POISON = 1 + SEED % 255  # each byte of memory that nothing has been written to, in this run
MODULE = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"


def why_not() -> str | None:
    """What is missing for a build, if anything."""
    return native_build.why_not("the emulated CUDA engine")


def build(*targets: str, sanitizers: str = "", jobs: int = 2) -> Path:
    """Builds what has changed of these targets, and returns the build folder, where they lie.

    Args:
        targets: of cuda_emulation/CMakeLists.txt.
        sanitizers: as for the compiler's ``-fsanitize``; such builds have folders of their own.
        jobs: compilers at once.

    Raises:
        BuildError: A source does not compile.
    """
    folder = native_build.folder_for("cuda_emulation" + (f"-{sanitizers.partition(',')[0]}" if sanitizers else ""))
    native_build.build(SOURCES, folder, targets, [f"-Dsanitizers={sanitizers}"], jobs)
    return folder


def build_engine() -> Path:
    """The file of the extension module, built if need be; raises as ``build``."""
    return build("_C") / MODULE


def load(path: Path, memory: GuardedMemory) -> ModuleType:
    """The extension module in a file, beside any other of its name; its device memory goes through ``memory``."""
    spec = importlib.util.spec_from_file_location("cuda_emulation._C", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    queue = module.Queue

    def queue_with_guarded_memory(**settings):
        return queue(**{**settings, "allocate": partial(memory.allocate, settings["allocate"])})

    module.Queue = queue_with_guarded_memory
    return module


class GuardedMemory:
    """Device memory for the emulated engine: poison until it is written, and nothing may be written beside it."""

    _POISON = POISON
    _GUARD = 4096  # bytes behind each allocation
    _ALIGNMENT = 256  # the engine asks for one byte less than this too many, and starts at the first multiple

    def __init__(self) -> None:
        self._given: list[tuple[Tensor, int]] = []

    def allocate(self, allocate: Callable[[int], Tensor], num_bytes: int) -> Tensor:
        """What the engine's TorchMemory calls, given what it would call otherwise."""
        tensor = allocate(num_bytes + self._GUARD).fill_(self._POISON)
        self._given.append((tensor, num_bytes - (self._ALIGNMENT - 1)))
        return tensor

    def check(self) -> None:
        """Forgets what it gave, after a look at the bytes around each allocation.

        Raises:
            AssertionError: A kernel has written there.
        """
        given, self._given = self._given, []
        for tensor, num_bytes in given:
            begin = -tensor.data_ptr() % self._ALIGNMENT
            around = torch.cat([tensor[:begin], tensor[begin + num_bytes :]])
            assert (around == self._POISON).all(), f"a kernel wrote beside an array of {num_bytes} bytes"
