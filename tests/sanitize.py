"""Runs the engine's tests on builds of both engines that carry the compiler's sanitizers.

    python tests/sanitize.py [address] [thread]

The builds lie in build/sanitize-* and build/cuda_emulation*; the installed package is not touched. On "address" (with
undefined behaviour) and on "thread" run the CPU engine's tests in Python, with the sanitized package before the
installed one, and engine_fuzz on the fuzzer's inputs and on new ones. The CUDA kernels run on the emulation: smoke.cu
on both, with another seed each time, and on "address" the tests in Python. Exit code 1 where a test fails or a
sanitizer reports.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import emulated_engine
import engine_fuzzer
import native_build

TESTS = Path(__file__).parent
SUPPRESSIONS = TESTS / "sanitized_engine" / "thread.supp"
EMULATED = "address,undefined"
SANITIZERS = {"address": "address,undefined", "thread": "thread"}
LIBRARY = {"address": "libasan.so", "thread": "libtsan.so"}
# All that calls the CPU engine in this process; the CUDA engine's tests on the CPU have a build of their own.
FILES = (
    "test_rasterizer.py", "test_rasterizer_bad_input.py", "test_rasterizer_bits.py", "test_engine_threads.py",
    "test_rasterizer_reference.py", "test_photometric_loss.py", "test_fused_ssim.py", "test_adam.py",
    "test_add_gradients.py", "test_math_vjps.py", "test_compat.py", "test_renderer.py", "test_binding_fuzz.py",
)  # fmt: skip
KERNEL_FILES = (
    "test_rasterizer_parity.py", "test_rasterizer.py", "test_rasterizer_bad_input.py", "test_rasterizer_bits.py",
    "test_rasterizer_reference.py", "test_photometric_loss.py", "test_fused_ssim.py", "test_adam.py",
    "test_add_gradients.py", "test_compat.py",
)  # fmt: skip
# Parts of smoke.cu: ThreadSanitizer makes a shuffle a hundred times slower.
PARTS = {"address": ("crowd", "segments", "edges", "primitives"), "thread": ("tiny", "segments")}
NUM_SEEDS = 5
NUM_RUNS = {"address": 300, "thread": 300}  # of engine_fuzz


def library(name: str) -> str:
    """The path of one of the compiler's libraries."""
    compiler = os.environ.get("CXX", "g++")
    return subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()


def environment(kind: str, folder: Path) -> dict[str, str]:
    """What Python needs to load a sanitized module: the sanitizer first, and the package before the installed one."""
    # The interpreter and torch leave memory behind on purpose, so leaks are looked for in engine_fuzz only.
    options = {
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1",
        "TSAN_OPTIONS": f"halt_on_error=1:abort_on_error=1:die_after_fork=0:suppressions={SUPPRESSIONS}",
    }
    libraries = " ".join([library(LIBRARY[kind]), library("libstdc++.so.6")])
    one_thread = {"OMP_NUM_THREADS": "1"}  # of torch's own: ThreadSanitizer cannot see how they wait for each other
    return {**os.environ, **options, **one_thread, "LD_PRELOAD": libraries, "PYTHONPATH": str(folder / "packages")}


def loaded_from(variables: dict[str, str]) -> Path:
    """The extension module that Python takes."""
    command = [sys.executable, "-c", "import diff_gaussian_rasterization as d; print(d._C.__file__)"]
    done = subprocess.run(command, env=variables, cwd=TESTS, capture_output=True, text=True)
    if done.returncode != 0:
        raise native_build.BuildError(f"the sanitized module does not load:\n{done.stderr[-3000:]}")
    return Path(done.stdout.strip())


def run_python_tests(kind: str, folder: Path) -> int:
    """The exit code of pytest on the engine's tests; the sanitized module must be the one in use."""
    variables = environment(kind, folder)
    if not loaded_from(variables).is_relative_to(folder):
        raise native_build.BuildError(f"Python does not take the module in {folder}")
    files = [str(TESTS / name) for name in FILES]
    only_cpu = "not emulated and not ptx and not cuda"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", only_cpu]
    return subprocess.run([*command, "--timeout=1200", *files], env=variables, cwd=native_build.ROOT).returncode


def run_engine(kind: str, program: Path) -> int:
    """The exit code of engine_fuzz on the inputs that are kept and on new ones, with up to eight threads."""
    with tempfile.TemporaryDirectory() as new:
        inputs = [f"-runs={NUM_RUNS[kind]}", f"-artifact_prefix={program.parent}/", new, engine_fuzzer.INPUTS]
        done = engine_fuzzer.run(program, inputs)
    print(done.stderr.splitlines()[-1] if done.returncode == 0 else done.stderr[-6000:])
    return done.returncode


def run_smoke(kind: str, program: Path) -> int:
    """The number of runs of smoke.cu on the emulation that fail; a failure prints its seed."""
    failed = 0
    for _ in range(NUM_SEEDS):
        seed = random.randrange(2**31)
        variables = os.environ | {"TSAN_OPTIONS": "halt_on_error=1", "CUDA_EMULATION_SEED": str(seed)}
        command = [str(program), "--quick", *PARTS[kind]]
        done = subprocess.run(command, env=variables, capture_output=True, text=True)
        if done.returncode != 0:
            failed += 1
            print(f"CUDA_EMULATION_SEED={seed} {' '.join(command)}\n{(done.stdout + done.stderr)[-6000:]}")
    return failed


def run_kernels(kind: str, jobs: int) -> dict[str, int]:
    """What fails of the CUDA kernels on the emulation: smoke.cu, and on "address" the tests in Python."""
    if kind == "thread":
        return {"smoke.cu": run_smoke(kind, emulated_engine.build("smoke_races", jobs=jobs) / "smoke_races")}
    folder = emulated_engine.build("smoke", "_C", sanitizers=EMULATED, jobs=jobs)
    variables = environment(kind, folder) | {"EMULATED_ENGINE": str(folder / emulated_engine.MODULE)}
    files = [str(TESTS / name) for name in KERNEL_FILES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "emulated", "--timeout=1200"]
    tests = subprocess.run([*command, *files], env=variables, cwd=native_build.ROOT).returncode
    return {"smoke.cu": run_smoke(kind, folder / "smoke"), "the kernels' tests in Python": tests}


def main() -> int:
    """Build and run each; 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[[], *SANITIZERS], default=[], help="default: all")
    parser.add_argument("--engine-only", action="store_true", help="without the tests in Python")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once")
    options = parser.parse_args()
    failed = []
    for kind in options.kinds or SANITIZERS:
        started = time.perf_counter()
        program = engine_fuzzer.build(SANITIZERS[kind], jobs=options.jobs)
        failures = {"engine_fuzz": run_engine(kind, program)}
        failures |= run_kernels(kind, options.jobs)
        if not options.engine_only:
            native_build.build(engine_fuzzer.SOURCES, program.parent, ["_C"], jobs=options.jobs)
            failures["the tests in Python"] = run_python_tests(kind, program.parent)
        failed += [f"{kind}: {what}" for what, code in failures.items() if code]
        print(f"{kind}: {time.perf_counter() - started:.0f} s", flush=True)
    print("failed: " + ", ".join(failed) if failed else "no sanitizer has anything to report")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
