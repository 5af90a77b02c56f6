"""The build backend: scikit-build-core's, which also sees to a CUDA compiler and falls back to the CPU.

Where there is a GPU, or DGR_CUDA=1, and no toolkit, pip is asked for the compiler's packages. Where a build with CUDA
that nobody insisted on fails, the build is done once more without it, so that the install does not fail.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import cuda_toolchain
from scikit_build_core import build as _build
from scikit_build_core.build import *  # noqa: F403  the hooks that stay as they are

__all__ = _build.__all__


def _requirements() -> list[str]:
    try:
        return cuda_toolchain.requirements(os.environ)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def _may_go_without_cuda() -> bool:
    """Nobody insists on it. Ends the build where a variable is malformed: no fallback should hide that."""
    try:
        is_open = cuda_toolchain.wanted(os.environ) is None
        if is_open and os.environ.get("DGR_CUDA_ARCHS"):
            cuda_toolchain.find(os.environ, cuda_toolchain.detect_gpus())
    except ValueError as error:
        raise SystemExit(str(error)) from error
    except cuda_toolchain.Unavailable:
        pass
    return is_open


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    """What scikit-build-core needs, and a CUDA compiler where one is missing."""
    return _build.get_requires_for_build_wheel(config_settings) + _requirements()


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    """What scikit-build-core needs, and a CUDA compiler where one is missing."""
    return _build.get_requires_for_build_editable(config_settings) + _requirements()


def _with_fallback(build: Callable[..., str], *arguments) -> str:
    is_open = _may_go_without_cuda()
    try:
        return build(*arguments)
    except (Exception, SystemExit) as error:
        if not is_open:
            raise
        print(f"\n*** The build failed ({error}). Once more, without CUDA.\n", file=sys.stderr, flush=True)
    os.environ["DGR_CUDA"] = "0"
    os.environ["DGR_CUDA_FAILURE"] = "the build with it failed; DGR_CUDA=1 pip install -v shows why"
    return build(*arguments)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """A wheel; see the top of this file."""
    return _with_fallback(_build.build_wheel, wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    """An editable wheel; see the top of this file."""
    return _with_fallback(_build.build_editable, wheel_directory, config_settings, metadata_directory)
