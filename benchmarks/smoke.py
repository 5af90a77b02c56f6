"""Builds smoke.cu with the engine's sources by one call of nvcc, and runs it: the CUDA engine's first minute on a GPU.

    python -m benchmarks.smoke [--quick] [crowd] [segments] [edges] [primitives] [times]

Needs nvcc and no Python package. Exit codes: 0 = both engines agree, 1 = they differ, 2 = no GPU, 3 = no nvcc.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
ENGINE = HERE.parent / "submodules" / "diff-gaussian-rasterization"
PARTS = ("crowd", "segments", "edges", "primitives", "times")
NO_NVCC = 3
# The CPU engine's sources are compiled for any processor here, where GCC takes loops that end early for uninitialized.
HOST_WARNINGS = "-Xcompiler=-Wno-psabi,-Wno-maybe-uninitialized"


def load_toolchain() -> ModuleType:
    """The module of the engine's build that finds nvcc."""
    spec = importlib.util.spec_from_file_location("cuda_toolchain", ENGINE / "build_backend" / "cuda_toolchain.py")
    module = sys.modules["cuda_toolchain"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(nvcc: Path, flags: Sequence[str], program: Path) -> list[str]:
    """The call of nvcc that builds the program."""
    sources = ENGINE / "src"
    files = [HERE / "smoke.cu", *sorted(sources.glob("cuda_*.cu")), *sorted(sources.glob("cpu_*.cpp"))]
    # Not -I: math.h is there, too.
    options = ["--threads=0", f"-Xcompiler=-iquote,{sources}", HOST_WARNINGS]
    return [str(part) for part in (nvcc, *flags, *options, *files, "-o", program)]


def main() -> int:
    """Build and run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    toolchain = load_toolchain()
    gpus = toolchain.detect_gpus()
    if not gpus.capabilities:
        print("smoke: there is no GPU that the driver can use", file=sys.stderr)
        return 2
    try:
        found = toolchain.find(os.environ, gpus)
    except (toolchain.Unavailable, ValueError) as error:
        print(f"smoke: no CUDA compiler: {error}", file=sys.stderr)
        return NO_NVCC
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "smoke"
        flags = [*found.flags, f"-L{found.cudart.parent}"]
        if subprocess.run(command(found.nvcc, flags, program)).returncode != 0:
            return 1
        return subprocess.run([program, *["--quick"] * options.quick, *options.parts]).returncode


if __name__ == "__main__":
    sys.exit(main())
