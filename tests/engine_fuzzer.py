"""The fuzzer of the CPU engine: builds engine_fuzz (sanitized_engine/), and runs it on inputs old and new.

    python tests/engine_fuzzer.py --seconds 600

Inputs that reach something new are kept in output/fuzz/engine/corpus, and a later run goes on from there; one that
fails is written to output/fuzz/engine, and belongs into tests/fuzz/engine once its cause is mended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import native_build

SOURCES = Path(__file__).parent / "sanitized_engine"
INPUTS = Path(__file__).parent / "fuzz" / "engine"  # small files: starting points, and what has failed once
KEPT = native_build.ROOT / "output" / "fuzz" / "engine"

# A single allocation of more than a gigabyte is a finding: the inputs describe pictures of a megapixel at most.
OPTIONS = {
    "ASAN_OPTIONS": "abort_on_error=1:max_allocation_size_mb=1024",
    "UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "abort_on_error=1:halt_on_error=1",
}


def why_not() -> str | None:
    """What is missing for a build, if anything."""
    return native_build.why_not("the engine's fuzzer")


def build(sanitizers: str = "address,undefined", libfuzzer: bool = False, jobs: int = 2) -> Path:
    """The program engine_fuzz, built if need be.

    Args:
        sanitizers: as for the compiler's ``-fsanitize``.
        libfuzzer: by Clang with its own fuzzer, instead of the system's compiler with the one in fuzz_main.cpp.
        jobs: compilers at once.

    Raises:
        BuildError: A source does not compile, or the compiler has no such sanitizer.
    """
    name = "sanitize-" + sanitizers.partition(",")[0] + ("-libfuzzer" if libfuzzer else "")
    folder, options = native_build.folder_for(name), [f"-Dsanitizers={sanitizers}"]
    if libfuzzer:
        options += ["-Dcoverage=libfuzzer", "-DCMAKE_CXX_COMPILER=clang++"]
    native_build.build(SOURCES, folder, ["engine_fuzz"], options, jobs)
    return folder / "engine_fuzz"


def run(program: Path, arguments: Sequence[str | Path], timeout: float | None = None) -> subprocess.CompletedProcess:
    """Run engine_fuzz with all that the sanitizers see counted as failure; its words are in ``stderr``."""
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, env=os.environ | OPTIONS, stderr=subprocess.PIPE, text=True, timeout=timeout)


def main() -> int:
    """Fuzz for a while; the exit code is that of the program, 0 where nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000, help="default: the time")
    parser.add_argument("--sanitizers", default="address,undefined", help="as for -fsanitize, or thread")
    parser.add_argument("--libfuzzer", action="store_true", help="with Clang's fuzzer; needs clang++")
    options = parser.parse_args()
    program = build(options.sanitizers, options.libfuzzer)
    corpus = KEPT / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    arguments = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", f"-artifact_prefix={KEPT}/"]
    if options.libfuzzer:
        arguments += ["-max_len=4096", "-timeout=60", "-rss_limit_mb=2048"]
    command = [str(program), *arguments, str(corpus), str(INPUTS)]
    return subprocess.run(command, env=os.environ | OPTIONS).returncode


if __name__ == "__main__":
    sys.exit(main())
