"""Builds the benchmarks in C++, and writes the scenes that they read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch

from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel

HERE = Path(__file__).parent
ENGINE = HERE.parent / "submodules" / "diff-gaussian-rasterization"


def find_compiler() -> str | None:
    """The path of a C++ compiler, if there is one."""
    return shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def write_case(path: Path, camera: Camera, photo: torch.Tensor, model: GaussianModel) -> None:
    """Write what engine_case.h reads."""
    sizes = [model.num_gaussians, model.sh_rest.shape[1], model.max_sh_degree, camera.width, camera.height]
    lens = [camera.fx, camera.fy, camera.cx, camera.cy]
    inputs = (model.parameters[name] for name in ("means", "quats", "log_scales", "opacity_logits", "sh_dc", "sh_rest"))
    with open(path, "wb") as file:
        file.write(np.array(sizes, np.int64).tobytes())
        for array in (torch.tensor(lens), camera.world_to_camera, *inputs):
            file.write(array.detach().float().contiguous().numpy().tobytes())
        file.write(photo.contiguous().numpy().tobytes())


def package_flags() -> list[str]:
    """The options with which the package compiles the CPU engine."""
    return re.search(r'"(-O3;[^"]*)"', (ENGINE / "CMakeLists.txt").read_text())[1].split(";")


def build(folder: Path, driver: str, architecture: str = "native", include: str | None = None) -> Path:
    """Compile the engine and a driver of this folder with the flags of the package.

    Args:
        folder: is created.
        driver: name without .cpp.
        architecture: for -march=.
        include: a header to include first in all files.
    """
    compiler = find_compiler()
    if compiler is None:
        raise FileNotFoundError("there is no C++ compiler")
    folder.mkdir()
    text = (HERE / f"{driver}.cpp").read_text()
    sources = [path for path in sorted((ENGINE / "src").glob("cpu_*.cpp")) if f'"{path.name}"' not in text]
    program = folder / driver
    subprocess.run(
        [compiler, "-std=c++20", "-w", *package_flags(), f"-march={architecture}", f"-I{ENGINE / 'src'}", f"-I{HERE}",
         *(["-include", include] if include else []), *map(str, sources),
         str(HERE / f"{driver}.cpp"), "-o", str(program), "-pthread"], check=True,
    )  # fmt: skip
    return program
