"""Builds the CUDA engine for the CPU from ``cuda_emulation/`` and loads it; once for each change of its sources."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
SOURCES = Path(__file__).parent / "cuda_emulation"
KERNELS = ROOT / "submodules" / "diff-gaussian-rasterization" / "src"
# Git ignores it. Two environments do not share one: each has its own Python, nanobind and CMake.
BUILD = ROOT / "build" / f"cuda_emulation-{sys.implementation.cache_tag}-{zlib.crc32(sys.prefix.encode()):08x}"
MODULE = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"


class BuildError(RuntimeError):
    """The compiler or CMake failed; the message ends with what it said."""


def why_not() -> str | None:
    """What is missing for a build, if anything."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        return "no C++ compiler to build the emulated CUDA engine"
    if _tool("cmake") is None:
        return "no CMake to build the emulated CUDA engine"
    if importlib.util.find_spec("nanobind") is None:
        return "no nanobind to build the emulated CUDA engine"
    return None


def build(*targets: str) -> Path:
    """Builds what has changed of these targets, and returns the build folder, where they lie.

    Raises:
        BuildError: A source does not compile.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once build once
        cmake, ninja = _tool("cmake"), _tool("ninja")
        if not (BUILD / "build.ninja").exists() and not (BUILD / "Makefile").exists():
            options = [f"-DPython_EXECUTABLE={sys.executable}"]
            options += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
            run([cmake, "-S", str(SOURCES), "-B", str(BUILD), *options])
        run([cmake, "--build", str(BUILD), "--parallel", "2", "--target", *targets])
    return BUILD


def build_engine() -> Path:
    """The file of the extension module, built if need be; raises as ``build``."""
    return build("_C") / MODULE


def run(command: Sequence[str]) -> str:
    """The standard output of a command that must succeed.

    Raises:
        BuildError: It did not.
    """
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        said = (result.stdout + result.stderr)[-6000:]
        raise BuildError(f"{command[0]} failed with exit code {result.returncode}:\n{said}")
    return result.stdout


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

    _POISON = 255  # four of them are a NaN, or the largest unsigned number
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


def _tool(name: str) -> str | None:
    """A program of this environment, or of the system."""
    here = Path(sys.executable).parent / name
    return str(here) if here.is_file() else shutil.which(name)
