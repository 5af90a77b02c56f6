"""Builds what the tests have in C++, by CMake, in folders below build/; once for each change of the sources."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


class BuildError(RuntimeError):
    """The compiler or CMake failed; the message ends with what it said."""


def why_not(what: str) -> str | None:
    """What is missing for a build, if anything."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        return f"no C++ compiler to build {what}"
    if _tool("cmake") is None:
        return f"no CMake to build {what}"
    if importlib.util.find_spec("nanobind") is None:
        return f"no nanobind to build {what}"
    return None


def folder_for(name: str) -> Path:
    """A build folder, which Git ignores. Two environments share none: each has its own Python, nanobind and CMake."""
    return ROOT / "build" / f"{name}-{sys.implementation.cache_tag}-{zlib.crc32(sys.prefix.encode()):08x}"


def build(sources: Path, folder: Path, targets: Sequence[str], options: Sequence[str] = (), jobs: int = 2) -> None:
    """Builds what has changed of the targets of a CMake project; ``options`` go into a new folder only.

    Raises:
        BuildError: A source does not compile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once build once
        cmake, ninja = _tool("cmake"), _tool("ninja")
        if not (folder / "build.ninja").exists() and not (folder / "Makefile").exists():
            generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
            python = f"-DPython_EXECUTABLE={sys.executable}"
            run([cmake, "-S", str(sources), "-B", str(folder), python, *generator, *options])
        run([cmake, "--build", str(folder), "--parallel", str(jobs), "--target", *targets])


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


def _tool(name: str) -> str | None:
    """A program of this environment, or of the system."""
    here = Path(sys.executable).parent / name
    return str(here) if here.is_file() else shutil.which(name)
