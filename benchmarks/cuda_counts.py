"""Counts what the CUDA kernels need, from their machine code: no GPU takes part.

    python -m benchmarks.cuda_counts                  # the kernels of a training step, on an H200
    python -m benchmarks.cuda_counts --arch 75 --all  # every kernel, with the code for a T4

For each kernel: registers of a thread, spilled bytes, shared memory of a block, warps that a multiprocessor of three
GPUs holds, the instructions of its innermost loop, and those of the loop around it without its inner loops. Where
the kernel blends, the innermost loop takes one splat and the 32 pixels of a warp; in a segment_kernel the loop around
it takes 8 splats and the 256 pixels of a tile. Exits with 1 where a kernel spills or is above its limit. Needs nvcc;
the loops are read with nvdisasm, of the CUDA toolkit or of the package nvidia-cuda-nvdisasm.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from compact_splats.utils.errors import InputError, run_script

SOURCES = Path(__file__).parent.parent / "submodules" / "diff-gaussian-rasterization" / "src"
FLAGS = ("-std=c++20", "-O3", "-DNDEBUG", "-Xptxas=-v")
# Shared memory of a multiprocessor in bytes, what each block takes besides, warps, blocks. 64 K registers on all.
GPUS = {"T4": (64 << 10, 0, 32, 16), "4090": (100 << 10, 1024, 48, 24), "H200": (228 << 10, 1024, 64, 32)}


@dataclass(frozen=True)
class Kernel:
    """A kernel of a step: its threads, and the bytes of shared memory of a block.

    ``loop`` and ``around`` are the most instructions of the innermost loop and of the rest of the loop around it, on
    compute capability 9.0; None: without a limit.
    """

    threads: int
    shared: int = 0
    loop: int | None = None
    around: int | None = None


# The sizes are those of the structures in the sources.
def segment_bytes(of_pixel: int, of_state: int, of_pair: int) -> int:
    """SegmentShared: of 256 pixels, 8 blocks and the tile; then of 8 splats in each of 4 warps, or pixels' state."""
    of_tile = 256 * (of_pixel + 4) + 8 * 4 + 8
    return -(-of_tile // 16) * 16 + max(4 * 8 * (48 + 32 * of_pair), 256 * of_state)


REST_ROWS = 128 * 45 * 4


KERNELS = {
    "blend_kernel<3>": Kernel(256, 256 * 64 + 256 + 64, 40, 55),
    "segment_kernel<GradientPass<false, true>>": Kernel(128, segment_bytes(12, 8, 8), 40, 1440),
    "segment_kernel<GradientPass<false, false>>": Kernel(128, segment_bytes(12, 8, 8), 40, 990),
    "segment_kernel<ImportancePass>": Kernel(128, segment_bytes(4, 4, 4), 30, 1170),
    "segment_kernel<RemovalPass>": Kernel(128, segment_bytes(16, 16, 4)),
    "similarity_kernel": Kernel(256, 4 * (2 * 42 * 44 + 4 * 42 * 32 + 16)),
    "gradient_kernel": Kernel(256, 4 * (3 * 42 * 44 + 3 * 42 * 32)),
    "emit_kernel": Kernel(256),
    "project_kernel": Kernel(128, REST_ROWS),
    "project_backward_kernel<false>": Kernel(128, REST_ROWS),
    "adam_kernel": Kernel(256),
}


@dataclass
class Counts:
    """What the compiler reports of a kernel, and instructions of its innermost loop and of the loop around it."""

    registers: int = 0
    spilled: int = 0
    loop: int = 0
    around: int = 0


def run(*command: str | Path) -> str:
    """Output and errors of a command; InputError with its first line if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(f"{command[0]} fails: {(done.stdout + done.stderr).strip().splitlines()[0]}")
    return done.stdout + done.stderr


def short_names(mangled: list[str]) -> dict[str, str]:
    """Names without namespaces and parameters."""
    lines = subprocess.run(["c++filt"], input="\n".join(mangled), check=True, capture_output=True, text=True).stdout
    names = {}
    for name, line in zip(mangled, lines.splitlines(), strict=True):
        plain = re.sub(r"\(anonymous namespace\)::|dgr::|cuda::|^void ", "", line).replace("> >", ">>")
        names[name] = plain.split("(")[0]
    return names


def compiler_report(text: str) -> dict[str, Counts]:
    """Registers and spilled bytes of each kernel, from what ptxas prints."""
    counts: dict[str, Counts] = {}
    name = ""
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
            counts[name] = Counts()
        elif (match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)) and name:
            counts[name].spilled = int(match[1]) + int(match[2])
        elif (match := re.search(r"Used (\d+) registers", line)) and name:
            counts[name].registers = int(match[1])
    return counts


def innermost_loop(lines: list[str]) -> tuple[int, int]:
    """Instructions of the innermost loop, one with exponentials if there is one, and of the rest of the loop around it.

    The rest is counted without inner loops. Both are 0 without such a loop.
    """
    labels: dict[str, int] = {}
    code: list[str] = []
    for line in lines:
        if match := re.match(r"(\.L_\w+):", line):
            labels[match[1]] = len(code)
        elif (match := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", line)) and match[1] != "NOP":
            code.append(match[1])
    # Behind the last EXIT, a jump without a condition is the way back from code that is rarely run.
    last_exit = max((i for i, instruction in enumerate(code) if instruction.endswith("EXIT")), default=len(code))
    loops = []
    for end, instruction in enumerate(code):
        match = re.match(r"(@\S+ )?BRA(?:\.U)? .*\((\.L_\w+)\)", instruction)
        if match and (match[1] or end < last_exit) and labels.get(match[2], end + 1) < end:
            loops.append((labels[match[2]], end + 1))
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    if not inner:
        return 0, 0
    begin, end = max(inner, key=lambda loop: ("MUFU.EX2" in " ".join(code[slice(*loop)]), loop[1] - loop[0]))
    around = [each for each in loops if each != (begin, end) and each[0] <= begin and end <= each[1]]
    if not around:
        return end - begin, 0
    first, last = min(around, key=lambda loop: loop[1] - loop[0])
    return end - begin, last - first - sum(b - a for a, b in inner if first <= a and b <= last)


def find_disassembler(nvcc: str) -> Path | None:
    """Nvdisasm on the PATH, beside nvcc, or of a package."""
    places = [
        Path(nvcc).resolve().parent,
        *(p for folder in sys.path for p in Path(folder or ".").glob("nvidia/cu*/bin")),
    ]
    found = shutil.which("nvdisasm") or next((p / "nvdisasm" for p in places if (p / "nvdisasm").is_file()), None)
    return Path(found) if found else None


def count(source: Path, architecture: str, folder: Path) -> dict[str, Counts]:
    """The counts of the kernels of a source file, by short name."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise InputError("there is no nvcc on the PATH: install a CUDA toolkit")
    binary = folder / f"{source.stem}.cubin"
    counts = compiler_report(run(nvcc, *FLAGS, f"-arch=sm_{architecture}", "-cubin", source, "-o", binary))
    if disassembler := find_disassembler(nvcc):
        for section in run(disassembler, "-c", binary).split("\n.text.")[1:]:
            name, *lines = section.splitlines()
            if name.rstrip(":") in counts:
                each = counts[name.rstrip(":")]
                each.loop, each.around = innermost_loop(lines)
    names = short_names(list(counts))
    return {names[name]: each for name, each in counts.items() if not name.startswith("_ZN3cub")}


def warps_held(gpu: str, registers: int, kernel: Kernel) -> int:
    """Warps that a multiprocessor holds at once."""
    shared, reserved, max_warps, max_blocks = GPUS[gpu]
    warps = kernel.threads // 32
    of_registers = (64 << 10) // (-(-registers // 8) * 8 * 32) // warps
    of_shared = shared // (kernel.shared + reserved) if kernel.shared + reserved else max_blocks
    return min(of_registers, of_shared, max_blocks, max_warps // warps) * warps


def report(counts: dict[str, Counts], architecture: str, everything: bool) -> bool:
    """Print a line for each kernel; returns whether none spills or is above its limit."""
    print(f"{'kernel':<46}{'registers':>9}{'spilled':>8}{'shared':>8}" + "".join(f"{gpu:>6}" for gpu in GPUS)
          + f"{'loop':>6}{'limit':>7}{'around':>8}{'limit':>7}")  # fmt: skip
    good = True
    for name in sorted(counts):
        each, kernel = counts[name], KERNELS.get(name)
        good = good and each.spilled == 0
        if kernel is None and not everything:
            continue
        line = f"{name:<46}{each.registers:>9}{each.spilled:>8}"
        if kernel is None:
            print(f"{line}{'':>26}{each.loop or '':>6}")
            continue
        line += f"{kernel.shared:>8}" + "".join(f"{warps_held(gpu, each.registers, kernel):>6}" for gpu in GPUS)
        line += f"{each.loop or '':>6}{kernel.loop or '':>7}{each.around or '':>8}{kernel.around or '':>7}"
        limits = (each.loop, kernel.loop), (each.around, kernel.around)
        above = architecture == "90" and any(limit is not None and found > limit for found, limit in limits)
        good = good and not above
        print(f"{line}{'  ABOVE THE LIMIT' if above else ''}")
    return good


def main() -> None:
    """Count, print, and exit with 1 if a kernel spills or is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="90", help="compute capability without the dot (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="also the kernels that are a small part of a step")
    options = parser.parse_args()
    if shutil.which("nvcc") is None:
        print("skipped: there is no nvcc")
        return
    counts: dict[str, Counts] = {}
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted(SOURCES.glob("cuda_*.cu")):
            counts |= count(source, options.arch, Path(folder))
    sys.exit(0 if report(counts, options.arch, options.all) else 1)


if __name__ == "__main__":
    run_script(main)
