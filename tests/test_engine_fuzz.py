"""The engine's fuzzer, briefly: with sanitizers, on the inputs that are kept, and on a hundred new ones.

``make fuzz`` runs it for longer. What it holds of every input is in sanitized_engine/engine_target.cpp.
"""

import subprocess
from pathlib import Path

import engine_fuzzer
import pytest

NUM_RUNS = 100


@pytest.fixture(scope="module")
def program() -> Path:
    if reason := engine_fuzzer.why_not():
        pytest.skip(reason)
    if not has_sanitizers():
        pytest.skip("the compiler has no AddressSanitizer to link")
    return engine_fuzzer.build()


def has_sanitizers() -> bool:
    flags = ["-fsanitize=address,undefined", "-fsanitize-coverage=trace-pc", "-x", "c++", "-", "-o", "/dev/null"]
    source = 'extern "C" void __sanitizer_cov_trace_pc() {}\nint main() {}'
    return subprocess.run(["c++", *flags], input=source, text=True, capture_output=True).returncode == 0


def test_inputs_that_are_kept_do_no_harm(program):
    """Starting points and past findings, each by its name."""
    inputs = sorted(engine_fuzzer.INPUTS.iterdir())
    assert inputs
    done = engine_fuzzer.run(program, inputs, timeout=200)
    assert done.returncode == 0, done.stderr[-5000:]


def test_new_inputs_do_no_harm(program, tmp_path):
    """The same each time, and they get further than they began."""
    arguments = [f"-runs={NUM_RUNS}", "-seed=1", f"-artifact_prefix={tmp_path}/", tmp_path, engine_fuzzer.INPUTS]
    done = engine_fuzzer.run(program, arguments, timeout=200)
    assert done.returncode == 0, done.stderr[-5000:]
    first, *_, last = (line for line in done.stderr.splitlines() if line.startswith("#"))
    assert last.startswith(f"#{NUM_RUNS} DONE") and places_seen(last) > places_seen(first) > 500


def places_seen(line: str) -> int:
    return int(line.split("cov: ")[1].split()[0])


def test_a_program_that_fails_says_so(program, tmp_path):
    """What cannot be opened is no input, and no success."""
    assert engine_fuzzer.run(program, [tmp_path / "none"]).returncode != 0
