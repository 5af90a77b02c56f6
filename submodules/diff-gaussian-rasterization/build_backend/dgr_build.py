"""The build backend: scikit-build-core, with a check of the C++ compiler, a CUDA compiler if needed, and a fallback.

If there is a GPU, or DGR_CUDA=1, but no CUDA toolkit, the backend requires the packages of a CUDA compiler. If a build
with CUDA fails and DGR_CUDA is unset, the backend builds again without CUDA.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path

import cuda_toolchain
from scikit_build_core import build as _build
from scikit_build_core.build import *  # noqa: F403  the hooks that stay as they are

__all__ = _build.__all__


# Most of what the sources use of C++20, and the vector extensions of GCC and clang.
_CXX_PROBE = """
#include <atomic>
#include <bit>
typedef float Vector __attribute__((vector_size(16)));
template <class T> concept Number = requires(T x) { x + x; };
template <Number T> T twice(T x) { return x + x; }
unsigned probe(Vector v, std::atomic<int>& a) { a.wait(0); return std::bit_cast<unsigned>(twice(v[0])); }
"""
_CXX_NEEDED = (
    "diff-gaussian-rasterization needs a C++20 compiler (g++ 11 or newer, or clang++ 14 or newer): {}; "
    "install one, or name one with CXX=/path/to/g++"
)


def check_compiler(environ: Mapping[str, str]) -> None:
    """Check that the C++ compiler that CMake uses compiles C++20, and that Python's headers are there.

    Raises:
        SystemExit: It does not, or one of them is missing; the message is one line.
    """
    named = shlex.split(environ.get("CXX", ""))
    path = environ.get("PATH", "")
    found = [name for name in named[:1] or ("c++", "g++", "clang++") if shutil.which(name, path=path)]
    if not found:
        reason = f"CXX={environ['CXX']} does not exist" if named else "there is no c++, g++ or clang++ in PATH"
        raise SystemExit(_CXX_NEEDED.format(reason))
    command = [shutil.which(found[0], path=path), *named[1:], "-std=c++20", "-x", "c++", "-fsyntax-only", "-"]
    try:
        done = subprocess.run(command, input=_CXX_PROBE, env=dict(environ), capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemExit(_CXX_NEEDED.format(f"{found[0]} does not run ({error})")) from error
    if done.returncode != 0:
        raise SystemExit(_CXX_NEEDED.format(f"{found[0]} does not compile C++20"))
    folder = sysconfig.get_config_var("INCLUDEPY")
    if not Path(folder, "Python.h").is_file():
        raise SystemExit(
            f"diff-gaussian-rasterization needs Python's headers, and {folder} has no Python.h: "
            "install them (Debian and Ubuntu: apt-get install python3-dev)"
        )


def _requirements() -> list[str]:
    check_compiler(os.environ)
    try:
        return cuda_toolchain.requirements(os.environ)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def _may_fall_back() -> bool:
    """Whether DGR_CUDA is unset. Raises SystemExit if a variable is malformed, which a fallback would hide."""
    try:
        is_unset = cuda_toolchain.wanted(os.environ) is None
        if is_unset and os.environ.get("DGR_CUDA_ARCHS"):
            cuda_toolchain.find(os.environ, cuda_toolchain.detect_gpus())
    except ValueError as error:
        raise SystemExit(str(error)) from error
    except cuda_toolchain.Unavailable:
        pass
    return is_unset


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    """The packages that the build needs."""
    return _build.get_requires_for_build_wheel(config_settings) + _requirements()


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    """The packages that the build needs."""
    return _build.get_requires_for_build_editable(config_settings) + _requirements()


def _with_fallback(build: Callable[..., str], *arguments) -> str:
    check_compiler(os.environ)
    may_fall_back = _may_fall_back()
    try:
        return build(*arguments)
    except (Exception, SystemExit) as error:
        if not may_fall_back:
            raise
        print(f"\n*** The build failed ({error}). Building again without CUDA.\n", file=sys.stderr, flush=True)
    os.environ["DGR_CUDA"] = "0"
    os.environ["DGR_CUDA_FAILURE"] = "the build with CUDA failed; DGR_CUDA=1 pip install -v shows why"
    return build(*arguments)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """Build a wheel; returns its file name."""
    return _with_fallback(_build.build_wheel, wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """Build an editable wheel; returns its file name."""
    return _with_fallback(_build.build_editable, wheel_directory, config_settings, metadata_directory)
