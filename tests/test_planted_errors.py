"""Mistakes put into the CUDA kernels, one at a time: the tests that pass on the right kernels fail on each.

A mistake is a replacement in a copy of one source file, which is compiled alone and linked with the good build's rest.
Barriers that are missing have a test of their own: test_races.py.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import emulated_engine
import pytest


@dataclass(frozen=True)
class Mistake:
    """Replaces ``right``, which is there once, by ``wrong``; a test of ``shown_by`` then fails and says ``says``."""

    source: str
    right: str
    wrong: str
    shown_by: str = "test_rasterizer_parity.py"
    says: str = "AssertionError"


CRASH = "FAILED crowd"

MISTAKES = {
    "index: the last splat of a pixel is counted from 0": Mistake(
        "cuda_blend.cu", "last = seen + newest + 1", "last = seen + newest"
    ),
    "index: a tile's instances begin one too early": Mistake(
        "cuda_tiles.cu", "begin[group] = i;", "begin[group] = i > 0 ? i - 1 : 0;"
    ),
    "index: a segment begins with the state of the next": Mistake(
        "cuda_blend.cu", "tile_begin / kSegment + segment - 1)", "tile_begin / kSegment + segment)"
    ),
    "index: a block of pixels lies one row too low": Mistake(
        "cuda_blend.cu", "block / kWarpsAcross * kBlockHeight)", "block / kWarpsAcross * kBlockHeight + 1)"
    ),
    "numbers: a reciprocal has 10 right bits": Mistake(
        "cuda_blend.cu", "approximate_reciprocal(1 - capped)", "approximate_reciprocal(1 - capped) * 1.001f"
    ),
    "index: a wide gap between groups is filled one too late": Mistake(
        "cuda_tiles.cu", "group = wide.begin + lane;", "group = wide.begin + lane + 1;"
    ),
    "barrier: a batch of splats is read before all of it is loaded": Mistake(
        "cuda_blend.cu", "splat[i % 4];\n    }\n    __syncthreads();\n", "splat[i % 4];\n    }\n"
    ),
    "barrier: rows are blurred before all of the tile is loaded": Mistake(
        "cuda_loss.cu",
        "pair.x - pair.y;\n    }\n    __syncthreads();\n",
        "pair.x - pair.y;\n    }\n",
        shown_by="test_photometric_loss.py",
    ),
    "barrier: threads without a pixel do not come": Mistake(
        "cuda_blend.cu",
        "if (is_inside) write_pixel(",
        "if (!is_inside) return;\n    write_pixel(",
        says="CudaError: blend: cudaErrorLaunchFailure",
    ),
    "shuffle: the sums of another splat are added": Mistake(
        "cuda_blend.cu", "from_lane(pass.sum, lanes)", "from_lane(pass.sum, lanes / 2)"
    ),
    "shuffle: a splat visits the pixels of a block that it does not touch": Mistake(
        "cuda_blend.cu", "touched >> block & 1;", "touched >> (block ^ 1) & 1;"
    ),
    "shuffle: the pose has the sums of half of the lanes": Mistake(
        "cuda_project.cu", "lanes > 0; lanes /= 2) pose", "lanes > 1; lanes /= 2) pose"
    ),
    "stream: the number of instances is read before it is there": Mistake(
        "cuda_tiles.cu",
        'check(cudaStreamSynchronize(context.stream), "projection and sort by depth");',
        "",
        shown_by="smoke",
        says=CRASH,
    ),
    "stream: a kernel on another stream": Mistake(
        "cuda_tiles.cu",
        'launch("count_up", context,',
        'launch("count_up", Context{context.device, nullptr, context.scratch},',
        shown_by="smoke",
        says=CRASH,
    ),
    "stream: memory that backward needs is freed after forward": Mistake(
        "cuda_tiles.cu",
        "frame.block_tile = kept.array",
        "frame.block_tile = context.scratch.array",
        shown_by="smoke",
        says="FAILED crowd",
    ),
    "memory: one more than there is": Mistake(
        "cuda_tiles.cu", "if (i < count) values[i] =", "if (i <= count) values[i] =", says="wrote beside an array"
    ),
}


def build_with(mistake: Mistake, folder: Path) -> Path:
    """The extension module, or the program smoke, with a mistake in it, in a folder."""
    text = (emulated_engine.KERNELS / mistake.source).read_text()
    assert text.count(mistake.right) == 1, f"{mistake.source} has changed: adapt this test"
    wrong_source, wrong_object = folder / mistake.source, folder / f"{mistake.source}.o"
    wrong_source.write_text(text.replace(mistake.right, mistake.wrong))

    is_smoke = mistake.shown_by == "smoke"
    build = emulated_engine.build("smoke" if is_smoke else "_C")
    parts = ("kernels", "emulation", "cpu_engine", "smoke_main" if is_smoke else "_C")
    commands = [shlex.split(unit["command"]) for unit in json.loads((build / "compile_commands.json").read_text())]
    units = {command[command.index("-c") + 1]: command for command in commands
             if any(f"/{part}.dir/" in f"/{object_of(command)}" for part in parts)}  # fmt: skip
    source = next(file for file in units if Path(file).name == mistake.source)
    compiler, *arguments = units[source]
    options = [argument for argument in arguments if argument.startswith(("-I", "-D", "-O", "-f", "-std"))]
    emulated_engine.run([compiler, *options, "-x", "c++", "-w", "-c", str(wrong_source), "-o", str(wrong_object)])
    objects = [build / object_of(command) for file, command in units.items() if file != source]
    result = folder / ("smoke" if is_smoke else emulated_engine.MODULE)
    kind = [] if is_smoke else ["-shared", *map(str, sorted(build.glob("libnanobind*.a")))]
    emulated_engine.run([compiler, "-o", str(result), *map(str, [*objects, wrong_object]), *kind, "-pthread"])
    return result


def object_of(command: list[str]) -> str:
    """The object file that a compiler's command makes."""
    return command[command.index("-o") + 1]


def run_tests(shown_by: str, program: Path) -> subprocess.CompletedProcess:
    """Runs smoke, or a test file on an extension module in a process of its own, up to the first failure."""
    environment = os.environ | {"EMULATED_ENGINE": str(program), "CUDA_EMULATION_SEED": "254"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-k", "emulated", shown_by]
    if shown_by == "smoke":
        command = [str(program), "--quick", "crowd"]
    return subprocess.run(command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True)


@pytest.fixture(scope="module", autouse=True)
def needs_a_build() -> None:
    if reason := emulated_engine.why_not():
        pytest.skip(reason)


@pytest.mark.parametrize("shown_by", sorted({mistake.shown_by for mistake in MISTAKES.values()}))
def test_the_right_kernels_pass(shown_by):
    """Or the failures below would show nothing."""
    smoke = shown_by == "smoke"
    result = run_tests(shown_by, emulated_engine.build("smoke") / "smoke" if smoke else emulated_engine.build_engine())
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_kernel_fails(name, tmp_path):
    mistake = MISTAKES[name]
    result = run_tests(mistake.shown_by, build_with(mistake, tmp_path))
    said = result.stdout + result.stderr
    if result.returncode in (-signal.SIGSEGV, -signal.SIGABRT):
        return  # it read or wrote far beside its arrays, or took poison for an index
    assert result.returncode == 1 and mistake.says in said, said[-3000:]
