"""Builds the CUDA engine with nvcc, and runs its PTX on the CPU by ``ptx_emulation/``."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import runpy
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import emulated_engine
import native_build
from emulated_engine import MODULE
from native_build import ROOT
from torch import Tensor

SOURCES = Path(__file__).parent / "ptx_emulation"


@cache
def why_not() -> str | None:
    """What is missing for a build, if anything."""
    toolchain = ROOT / "submodules" / "diff-gaussian-rasterization" / "build_backend" / "cuda_toolchain.py"
    if not runpy.run_path(str(toolchain))["nvcc_candidates"](os.environ):
        return "no nvcc to compile the CUDA engine to PTX"
    return emulated_engine.why_not()


def build(*targets: str) -> Path:
    """Builds what has changed of these targets, and returns the build folder, where they lie.

    Raises:
        BuildError: A source does not compile.
    """
    emulation = emulated_engine.build("_C")
    folder = native_build.folder_for("ptx_emulation")
    native_build.build(SOURCES, folder, targets, [f"-DEMULATION={emulation}"])
    return folder


def build_engine() -> Path:
    """The file of the extension module, built if need be; raises as ``build``."""
    return build("_C") / MODULE


def load(path: Path) -> ModuleType:
    """The extension module in a file. Its kernels may touch the arrays that its functions are given, and no other."""
    spec = importlib.util.spec_from_file_location("ptx_emulation._C", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    memory = DeviceMemory(path)
    functions = "forward", "backward", "importance", "removal_error", "photometric_loss", "adam", "add_gradients"
    for name in ("Rows", "Outputs", "AdamStep", "GradientSum", *functions):
        setattr(module, name, memory.knowing_arguments_of(getattr(module, name)))
    queue = module.Queue

    def queue_with_unwritten_memory(**settings):
        return queue(**{**settings, "allocate": partial(memory.allocate, settings["allocate"])})

    module.Queue = queue_with_unwritten_memory
    return module


class DeviceMemory:
    """Tells the emulation which memory kernels may touch, and which of it has no values yet."""

    _ALIGNMENT = 256  # the engine asks for one byte less than this too many, and starts at the first multiple

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def add(self, address: int, num_bytes: int, is_written: bool = True) -> None:
        self._library.ptx_memory_add(ctypes.c_void_p(address), ctypes.c_uint64(num_bytes), int(is_written))

    def remove(self, address: int) -> None:
        self._library.ptx_memory_remove(ctypes.c_void_p(address))

    def allocate(self, allocate: Callable[[int], Tensor], num_bytes: int) -> Tensor:
        """What the engine's TorchMemory calls, given what it would call otherwise."""
        tensor = allocate(num_bytes)
        begin = tensor.data_ptr() + -tensor.data_ptr() % self._ALIGNMENT
        self.add(begin, num_bytes - (self._ALIGNMENT - 1), is_written=False)
        weakref.finalize(tensor, self.remove, begin)
        return tensor

    def knowing_arguments_of(self, function: Callable) -> Callable:
        """The function, which first adds the arrays among its arguments."""

        def call(*arguments, **named):
            for address, num_bytes in _arrays(arguments + tuple(named.values())):
                self.add(address, num_bytes)
            return function(*arguments, **named)

        return call


def _arrays(values: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Address and bytes of each tensor, which is contiguous."""
    for value in values:
        if isinstance(value, Tensor):
            yield value.data_ptr(), value.numel() * value.element_size()
