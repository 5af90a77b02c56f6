"""The CUDA kernels under ThreadSanitizer, on the emulation: between the threads of a block, which are fibres, only
barriers and the values of shuffles are an order. Each barrier of the kernels is left out once, and a race is reported.
"""

import os
import platform
import re
import subprocess

import emulated_engine
import pytest

BARRIER = re.compile(r"\b(__syncthreads\w*|__syncwarp)\(")
RACE = 66  # exit code


def barriers() -> list[str]:
    """file:line of each barrier of the kernels."""
    return [
        f"{path.name}:{number}"
        for path in sorted(emulated_engine.KERNELS.glob("cuda_*.cu"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BARRIER.search(line.partition("//")[0])
    ]


@pytest.fixture(scope="module")
def program() -> str:
    if reason := emulated_engine.why_not():
        pytest.skip(reason)
    if not (platform.system() == "Linux" and platform.machine() == "x86_64"):
        pytest.skip("the emulation's fibres and ThreadSanitizer work together on Linux on x86-64 only")
    return str(emulated_engine.build("smoke_races") / "smoke_races")


def run(program: str, without: str = "", trace: bool = False) -> subprocess.CompletedProcess:
    """Run all kernels of the engine on a small scene.

    Args:
        program: the file.
        without: file:line of a barrier that is taken to be not there.
        trace: print where in the program each kernel lies that is launched.
    """
    environment = os.environ | {"TSAN_OPTIONS": f"halt_on_error=1:exitcode={RACE}"}
    if trace:
        environment["CUDA_EMULATION_TRACE"] = "1"
    if without:
        environment["CUDA_EMULATION_UNORDERED"] = without
    done = subprocess.run([program, "--quick", "tiny"], env=environment, capture_output=True, text=True)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this system's random addresses leave ThreadSanitizer no room")
    return done


def test_the_kernels_have_no_race(program):
    """Nor any instance of a template: each is run."""
    done = run(program, trace=True)
    assert done.returncode == 0 and "ThreadSanitizer" not in done.stderr, done.stdout + done.stderr[-6000:]
    sources = "".join(path.read_text() for path in emulated_engine.KERNELS.glob("cuda_*.cu"))
    names = set(re.findall(r"__global__ void\s+(?:__launch_bounds__\([^()]*(?:\([^()]*\))?\)\s*)?(\w+)\(", sources))
    assert len(names) == sources.count("__global__")
    symbols = subprocess.run(["nm", "-C", program], capture_output=True, text=True, check=True).stdout.splitlines()
    kernels = {int(line.split()[0], 16): line for line in symbols if re.search(rf"[ :]({'|'.join(names)})[<(]", line)}
    launched = {int(each, 16) for each in re.findall(r"^kernel (\w+)$", done.stderr, re.MULTILINE)}
    assert len(kernels) >= len(names) and not [kernels[each] for each in kernels.keys() - launched]


@pytest.mark.parametrize("barrier", barriers())
def test_each_barrier_is_needed_and_its_lack_is_reported(program, barrier):
    """A barrier that is left out is no order: the accesses that it keeps apart are a race, whatever came first."""
    done = run(program, without=barrier)
    assert done.returncode == RACE and "ThreadSanitizer: data race" in done.stderr, done.stdout + done.stderr[-3000:]
