"""Which CUDA compiler to build with, for which GPUs, and if none, why.

Asked by the build backend, which adds a compiler from the package index where a GPU has none, and by CMakeLists.txt.
Standard library only: at that time nothing else is installed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OLDEST_NVCC = (12, 0)  # the first that compiles C++20
OLDEST_PACKAGES = (13, 0)  # nvidia-cuda-nvcc-cu12 holds ptxas and headers, but no nvcc
PACKAGES = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-cuda-runtime", "nvidia-cuda-cccl", "nvidia-nvvm")
# Where the GPU is not known: machine code for each generation's common base, and PTX of one for what comes after it.
ARCHITECTURES = (75, 80, 90, 120)
PTX = 90
HOST_COMPILERS = ("g++-14", "g++-13", "g++-12", "g++-11")  # tried where nvcc refuses the default one
# No -use_fast_math: NaN and infinity must compare as they should, and the CPU engine computes the same.
FLAGS = (
    "-std=c++20",
    "-O3",
    "-lineinfo",
    "-DNDEBUG",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-unknown-pragmas",
)

PROBE = """
#include <cuda_runtime.h>
#include <cub/version.cuh>
template <class T> concept Number = requires(T x) { x + x; };
template <Number T> __global__ void probe(T* x) { x[threadIdx.x] += T(1); }
template __global__ void probe<float>(float*);
"""


class Unavailable(Exception):
    """Why the CUDA engine can't be built here, in one line."""


@dataclass(frozen=True)
class Gpus:
    """What the driver says.

    Attributes:
        driver: The newest CUDA that it runs, as (major, minor); None without a driver.
        capabilities: Compute capability of each usable GPU, 90 for 9.0.
        is_present: There is a GPU, though perhaps not a usable one.
    """

    driver: tuple[int, int] | None = None
    capabilities: tuple[int, ...] = ()
    is_present: bool = False


@dataclass(frozen=True)
class Toolchain:
    """What the CUDA engine is built with: compiler, its version, targets ("90", "80-real"), static runtime."""

    nvcc: Path
    version: tuple[int, int]
    architectures: tuple[str, ...]
    cudart: Path
    host_compiler: str | None

    @property
    def flags(self) -> list[str]:
        """Options of nvcc for every source of the engine."""
        host = [f"-ccbin={self.host_compiler}"] if self.host_compiler else []
        return [*FLAGS, *host, *gencode(self.architectures)]


def wanted(environ: Mapping[str, str]) -> bool | None:
    """DGR_CUDA: True = build CUDA or fail, False = CPU only, None = CUDA where it can be built.

    Raises:
        ValueError: It is something else.
    """
    value = environ.get("DGR_CUDA", "").strip()
    if value not in ("", "0", "1"):
        raise ValueError(f"DGR_CUDA is {value!r}: expected 1 (CUDA, or fail), 0 (CPU only), or unset (as possible)")
    return None if value == "" else value == "1"


def detect_gpus() -> Gpus:
    """Asks the driver's library, which every installed driver has."""
    is_present = Path("/dev/nvidia0").exists() or any(Path("/proc/driver/nvidia/gpus").glob("*"))
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Gpus(is_present=is_present)

    def ask(function: str, *arguments: int) -> int | None:
        answer = ctypes.c_int()
        return None if getattr(cuda, function)(ctypes.byref(answer), *arguments) != 0 else answer.value

    version = ask("cuDriverGetVersion")
    driver = None if not version else (version // 1000, version % 1000 // 10)
    num_gpus = (ask("cuDeviceGetCount") or 0) if cuda.cuInit(0) == 0 else 0
    major, minor = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
    pairs = [(ask("cuDeviceGetAttribute", major, i), ask("cuDeviceGetAttribute", minor, i)) for i in range(num_gpus)]
    capabilities = sorted({10 * a + b for a, b in pairs if a is not None and b is not None})
    return Gpus(driver, tuple(capabilities), is_present or num_gpus > 0)


def nvcc_candidates(
    environ: Mapping[str, str], root: Path = Path("/"), packages: Sequence[str] = sys.path
) -> list[Path]:
    """Every nvcc there is, in order of preference; CUDACXX leaves no choice."""
    if environ.get("CUDACXX"):
        return [Path(environ["CUDACXX"])]
    homes = [Path(environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)]
    on_path = shutil.which("nvcc", path=environ.get("PATH", ""))
    toolkits = [root / "usr/local/cuda", root / "opt/cuda", *sorted((root / "usr/local").glob("cuda-*"), reverse=True)]
    wheels = [home for folder in packages for home in sorted(Path(folder or ".").glob("nvidia/cu*"), reverse=True)]
    paths = [home / "bin" / "nvcc" for home in homes] + ([Path(on_path)] if on_path else [])
    paths += [home / "bin" / "nvcc" for home in toolkits + wheels]
    files = [path for path in paths if path.is_file()]
    resolved = [path.resolve() for path in files]
    return [path for i, path in enumerate(files) if resolved[i] not in resolved[:i]]


def architectures(
    known: Sequence[int], version: tuple[int, int], gpus: Gpus, environ: Mapping[str, str]
) -> tuple[str, ...]:
    """Targets, as CMake writes them: "90" is machine code and PTX, "90-real" and "90-virtual" are one of the two.

    Args:
        known: What nvcc can compile for.
        version: Its version.
        gpus: Those of this machine are the only targets if there are any.
        environ: DGR_CUDA_ARCHS overrides.

    Raises:
        ValueError: DGR_CUDA_ARCHS is malformed or names what nvcc does not know.
        Unavailable: nvcc no longer compiles for a GPU as old as this one.
    """
    label = f"nvcc {version[0]}.{version[1]}"
    chosen = re.split(r"[;,\s]+", environ.get("DGR_CUDA_ARCHS", "").strip())
    if chosen != [""]:
        for each in chosen:
            match = re.fullmatch(r"(\d{2,3})[af]?(-real|-virtual)?", each)
            if match is None:
                raise ValueError(f"DGR_CUDA_ARCHS has {each!r}: expected numbers as in '80-real;90', without a dot")
            if int(match[1]) not in known:
                raise ValueError(f"DGR_CUDA_ARCHS has {each!r}: {label} knows {', '.join(map(str, sorted(known)))}")
        return tuple(chosen)
    if gpus.capabilities:
        usable = [gpu for gpu in gpus.capabilities if gpu >= min(known)]
        if not usable:
            newest = max(gpus.capabilities)
            raise Unavailable(
                f"the GPU's compute capability is {newest // 10}.{newest % 10}, {label} compiles for "
                f"{min(known) // 10}.{min(known) % 10} and newer: an older toolkit is needed, name one with CUDACXX"
            )
        # A GPU that is newer than nvcc compiles the nearest PTX when the engine is loaded.
        targets = {f"{gpu}" if gpu in known else f"{max(k for k in known if k <= gpu)}-virtual" for gpu in usable}
        return tuple(sorted(targets, key=lambda target: int(target.split("-")[0])))
    common = [a for a in ARCHITECTURES if a in known] or [max(known)]
    ptx = PTX if PTX in common else common[0]
    return tuple(f"{a}" if a == ptx else f"{a}-real" for a in common)


def gencode(targets: Sequence[str]) -> list[str]:
    """The targets as options of nvcc."""
    options = []
    for target in targets:
        number, _, kind = target.partition("-")
        code = {"": f"[compute_{number},sm_{number}]", "real": f"sm_{number}", "virtual": f"compute_{number}"}[kind]
        options.append(f"-gencode=arch=compute_{number},code={code}")
    return options


def _output(*command: str | Path) -> str:
    """What a command prints, on either stream. Raises Unavailable where it fails."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} does not run: {error}") from error
    output = done.stdout + done.stderr
    if done.returncode != 0:
        lines = [line.strip() for line in output.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        telling = [line for line in lines if "error" in line or "fatal" in line or "rror:" in line]
        raise Unavailable(f"{command[0]} fails: {(telling or lines)[0]}")
    return output


def _examine(nvcc: Path, environ: Mapping[str, str], gpus: Gpus) -> Toolchain:
    """The toolchain around an nvcc, proven by compiling with it. Raises Unavailable."""
    release = re.search(r"release (\d+)\.(\d+)", _output(nvcc, "--version"))
    if release is None:
        raise Unavailable(f"{nvcc} --version does not tell a version")
    version = (int(release[1]), int(release[2]))
    label = f"{nvcc} is of CUDA {version[0]}.{version[1]}"
    if version < OLDEST_NVCC:
        raise Unavailable(f"{label}, 12.0 or newer is needed")
    if gpus.is_present and gpus.driver and gpus.driver[0] < version[0] and not wanted(environ):
        raise Unavailable(f"{label}, too new for the driver, which runs CUDA {gpus.driver[0]}.{gpus.driver[1]}: "
                          "a newer driver is needed, or an older toolkit, named with CUDACXX")  # fmt: skip
    known = [int(number) for number in re.findall(r"compute_(\d+)\b", _output(nvcc, "--list-gpu-arch"))]
    targets = architectures(known, version, gpus, environ)

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cu"
        source.write_text(PROBE)
        plan = _output(nvcc, "-dryrun", source, "-o", Path(folder) / "probe")
        places = [Path(place) for place in re.findall(r'"-L([^"]+)"', plan)]
        places += [nvcc.resolve().parent.parent / name for name in ("lib64", "lib")]
        cudart = next((file for place in places if (file := place / "libcudart_static.a").is_file()), None)
        if cudart is None:
            raise Unavailable(f"{nvcc} comes without libcudart_static.a")
        host = environ.get("CUDAHOSTCXX") or None
        hosts = [host] if host else [None, *filter(None, (environ.get("CXX"), *map(shutil.which, HOST_COMPILERS)))]
        reasons = []
        for host in hosts:
            toolchain = Toolchain(nvcc, version, targets, cudart.resolve(), host)
            try:
                _output(nvcc, *toolchain.flags, "-c", source, "-o", Path(folder) / "probe.o")
                return toolchain
            except Unavailable as error:
                reasons.append(error)
    raise reasons[0]


def find(environ: Mapping[str, str], gpus: Gpus) -> Toolchain:
    """The first toolchain that works.

    Raises:
        Unavailable: There is none, or the GPU, the driver and the toolkit don't go together.
        ValueError: DGR_CUDA or DGR_CUDA_ARCHS is malformed.
    """
    if wanted(environ) is False:
        raise Unavailable("DGR_CUDA=0 asked for the CPU only")
    reasons = []
    for nvcc in nvcc_candidates(environ):
        try:
            return _examine(nvcc, environ, gpus)
        except Unavailable as error:
            reasons.append(error)
    if reasons:
        raise reasons[0]
    reason = "no nvcc, neither in CUDACXX, CUDA_HOME or PATH nor in /usr/local/cuda or as a package"
    if gpus.driver and gpus.driver < OLDEST_PACKAGES:
        reason += (
            f"; the package index has compilers for CUDA 13 and newer only, and the driver runs CUDA "
            f"{gpus.driver[0]}.{gpus.driver[1]}: update it to 580 or newer, or install a CUDA 12 toolkit"
        )
    raise Unavailable(reason)


def requirements(environ: Mapping[str, str], gpus: Gpus | None = None) -> list[str]:
    """Packages that bring a compiler, where one is wanted and there is none.

    Not newer than what the driver runs; without a driver, the oldest, whose code runs on the most drivers.
    """
    choice = wanted(environ)
    gpus = detect_gpus() if gpus is None else gpus
    if choice is False or not (choice or gpus.is_present) or environ.get("CUDACXX"):
        return []
    if platform.system() != "Linux" or (gpus.driver or OLDEST_PACKAGES) < OLDEST_PACKAGES:
        return []
    try:
        find(environ, gpus)
        return []
    except Unavailable:
        major, minor = gpus.driver or OLDEST_PACKAGES
        return [f"{name}>={OLDEST_PACKAGES[0]}.{OLDEST_PACKAGES[1]},<{major}.{minor + 1}" for name in PACKAGES]


def main() -> int:
    """Writes what CMake includes, and what the installed package says about its build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="only tell whether there is a GPU: exit code 0, or 2")
    parser.add_argument("--cmake", type=Path, help="file to write: set() commands; without dgr_nvcc there is no CUDA")
    parser.add_argument("--json", type=Path, help="file to write: the same for people")
    options = parser.parse_args()
    gpus = detect_gpus()
    if options.gpu:
        if not gpus.capabilities:
            driver = "no driver" if gpus.driver is None else "a driver that finds none"
            print(f"no NVIDIA GPU that can be used here ({driver})", file=sys.stderr)
        return 0 if gpus.capabilities else 2
    if options.cmake is None or options.json is None:
        parser.error("--cmake and --json belong together")
    try:
        found = find(os.environ, gpus)
    except (Unavailable, ValueError) as error:
        if isinstance(error, ValueError) or wanted(os.environ):
            print(f"The CUDA engine can't be built: {error}", file=sys.stderr)
            return 1
        reason = os.environ.get("DGR_CUDA_FAILURE") or str(error)
        level = "WARNING" if gpus.is_present else "STATUS"
        options.cmake.write_text(f"message({level} [==[No CUDA engine: {reason}]==])\n")
        options.json.write_text(json.dumps({"cuda": None, "reason": reason}) + "\n")
        return 0
    version = f"{found.version[0]}.{found.version[1]}"
    lines = {"nvcc": found.nvcc, "nvcc_flags": ";".join(found.flags), "cudart": found.cudart}
    text = "".join(f"set(dgr_{name} [==[{value}]==])\n" for name, value in lines.items())
    about = f"CUDA engine: nvcc {version} for {' '.join(found.architectures)}"
    options.cmake.write_text(f"{text}message(STATUS [==[{about}]==])\n")
    report = {"nvcc": version, "architectures": found.architectures, "driver": gpus.driver}
    options.json.write_text(json.dumps({"cuda": report, "reason": None}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
