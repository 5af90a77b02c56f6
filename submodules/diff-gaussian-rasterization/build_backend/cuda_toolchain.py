"""Finds the CUDA compiler and the target architectures, or the reason why there are none.

The build backend and CMakeLists.txt use it. It needs only the standard library, because it runs before anything is
installed.
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
# Without a GPU: machine code for each of these, and PTX of one for newer GPUs.
ARCHITECTURES = (75, 80, 90, 120)
PTX = 90
HOST_COMPILERS = ("g++-14", "g++-13", "g++-12", "g++-11")  # tried if nvcc rejects the default
# No -use_fast_math: comparisons with NaN and infinity have to work, as on the CPU.
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
    """The CUDA engine can't be built; the message is the reason, in one line."""


@dataclass(frozen=True)
class Gpus:
    """The GPUs and the driver.

    Attributes:
        driver: The newest CUDA version that the driver supports, as (major, minor); None without a driver.
        capabilities: Compute capabilities of the usable GPUs, 90 for 9.0.
        is_present: There is a GPU, usable or not.
    """

    driver: tuple[int, int] | None = None
    capabilities: tuple[int, ...] = ()
    is_present: bool = False


@dataclass(frozen=True)
class Toolchain:
    """Compiler, its version, targets ("90", "80-real"), static runtime, host compiler or None for nvcc's default."""

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
    """DGR_CUDA: True = build with CUDA or fail, False = CPU only, None (unset) = with CUDA if possible.

    Raises:
        ValueError: It has another value.
    """
    value = environ.get("DGR_CUDA", "").strip()
    if value not in ("", "0", "1"):
        raise ValueError(f"DGR_CUDA is {value!r}: expected 1 (CUDA, or fail), 0 (CPU only), or unset (as possible)")
    return None if value == "" else value == "1"


def detect_gpus() -> Gpus:
    """Query the driver's library."""
    is_present = Path("/dev/nvidia0").exists() or any(Path("/proc/driver/nvidia/gpus").glob("*"))
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Gpus(is_present=is_present)

    def query(function: str, *arguments: int) -> int | None:
        answer = ctypes.c_int()
        return None if getattr(cuda, function)(ctypes.byref(answer), *arguments) != 0 else answer.value

    version = query("cuDriverGetVersion")
    driver = None if not version else (version // 1000, version % 1000 // 10)
    num_gpus = (query("cuDeviceGetCount") or 0) if cuda.cuInit(0) == 0 else 0
    major, minor = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
    pairs = [[query("cuDeviceGetAttribute", part, i) for part in (major, minor)] for i in range(num_gpus)]
    capabilities = sorted({10 * a + b for a, b in pairs if a is not None and b is not None})
    return Gpus(driver, tuple(capabilities), is_present or num_gpus > 0)


def nvcc_candidates(
    environ: Mapping[str, str], root: Path = Path("/"), packages: Sequence[str] = sys.path
) -> list[Path]:
    """All nvcc in order of preference; only CUDACXX if it is set."""
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
    """Targets in CMake's notation: "90-real" = machine code, "90-virtual" = PTX, "90" = both.

    Args:
        known: The architectures that nvcc supports.
        version: nvcc's version.
        gpus: This machine's GPUs; if there are any, only they are targets.
        environ: DGR_CUDA_ARCHS overrides the targets.

    Raises:
        ValueError: DGR_CUDA_ARCHS is malformed, or nvcc does not support an architecture in it.
        Unavailable: nvcc does not support this machine's GPUs because they are too old.
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
        # For a GPU that is newer than nvcc, the driver compiles the nearest PTX at load time.
        targets = {f"{gpu}" if gpu in known else f"{max(k for k in known if k <= gpu)}-virtual" for gpu in usable}
        return tuple(sorted(targets, key=lambda target: int(target.split("-")[0])))
    common = [a for a in ARCHITECTURES if a in known] or [max(known)]
    ptx = PTX if PTX in common else common[0]
    return tuple(f"{a}" if a == ptx else f"{a}-real" for a in common)


def gencode(targets: Sequence[str]) -> list[str]:
    """The -gencode options of nvcc for the targets."""
    options = []
    for target in targets:
        number, _, kind = target.partition("-")
        code = {"": f"[compute_{number},sm_{number}]", "real": f"sm_{number}", "virtual": f"compute_{number}"}[kind]
        options.append(f"-gencode=arch=compute_{number},code={code}")
    return options


def _output(*command: str | Path) -> str:
    """Output and errors of a command. Raises Unavailable if it fails."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} does not run: {error}") from error
    output = done.stdout + done.stderr
    if done.returncode != 0:
        lines = [line.strip() for line in output.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        errors = [line for line in lines if "error" in line or "fatal" in line or "rror:" in line]
        raise Unavailable(f"{command[0]} fails: {(errors or lines)[0]}")
    return output


def _examine(nvcc: Path, environ: Mapping[str, str], gpus: Gpus) -> Toolchain:
    """The toolchain of an nvcc, after a test compilation. Raises Unavailable."""
    release = re.search(r"release (\d+)\.(\d+)", _output(nvcc, "--version"))
    if release is None:
        raise Unavailable(f"{nvcc} --version prints no version")
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
        Unavailable: There is none, or GPU, driver and toolkit are incompatible.
        ValueError: DGR_CUDA or DGR_CUDA_ARCHS is malformed.
    """
    if wanted(environ) is False:
        raise Unavailable("DGR_CUDA=0 selects the CPU only")
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
    """The packages of a CUDA compiler, if one is wanted and none is installed.

    The version is the newest that the driver supports; without a driver the oldest, whose code runs on most drivers.
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
    """Write the file that CMake includes, and build.json of the installed package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="only check for a GPU: exit code 0 if there is one, else 2")
    parser.add_argument("--cmake", type=Path, help="file to write: set() commands; dgr_nvcc is unset without CUDA")
    parser.add_argument("--json", type=Path, help="file to write: build.json")
    options = parser.parse_args()
    gpus = detect_gpus()
    if options.gpu:
        if not gpus.capabilities:
            driver = "no driver" if gpus.driver is None else "a driver that finds none"
            print(f"no usable NVIDIA GPU ({driver})", file=sys.stderr)
        return 0 if gpus.capabilities else 2
    if options.cmake is None or options.json is None:
        parser.error("--cmake and --json are both required")
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
