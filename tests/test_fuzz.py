"""Fuzzing of all that reads a stranger's file: what was found stays fixed, and a few seconds of looking for more.

python -m tests.fuzz --seconds 60    looks longer
"""

import importlib.util
import json
import random
import subprocess
import sys

import pytest

from tests.fuzz import FINDINGS, json_mutator
from tests.fuzz.run_target import is_read, keep_inputs, kept_inputs
from tests.fuzz.targets import ROOT, TARGETS

FOUND = sorted(path for path in FINDINGS.glob("*/*") if path.is_file())
SECONDS = 1  # for each target


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_begins_with_is_read(tmp_path, name):
    """Every seed is a whole file; what the fuzzer changes in it starts from where readers get to."""
    for folder in ("seeds", "work"):
        (tmp_path / folder).mkdir()
    for i, seed in enumerate(TARGETS[name].seeds(tmp_path / "seeds")):
        assert is_read(name, seed, tmp_path / "work"), i


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name[:20]}")
@pytest.mark.timeout(60)
def test_what_was_found_stays_fixed(tmp_path, path):
    """Each is refused in one line, or read."""
    is_read(path.parent.name, path.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_what_long_searches_have_reached_is_read_or_refused(tmp_path, name):
    inputs = kept_inputs(name)
    assert len(inputs) > 20
    for data in inputs:
        is_read(name, data, tmp_path)


def test_kept_inputs_come_back(tmp_path, monkeypatch):
    folder = tmp_path / "found"
    folder.mkdir()
    for name, data in (("b", b"\x00" * 500), ("a", b""), ("c", b"x")):
        (folder / name).write_bytes(data)
    monkeypatch.setattr("tests.fuzz.run_target.CORPORA", tmp_path / "kept")
    keep_inputs("photo", folder)
    assert kept_inputs("photo") == [b"", b"\x00" * 500, b"x"]


@pytest.mark.parametrize("name", TARGETS)
def test_a_crash_would_be_seen(tmp_path, name, monkeypatch):
    """An exception that is no InputError gets through to the fuzzer."""

    def broken(data, folder):
        raise KeyError(data)

    monkeypatch.setitem(TARGETS, name, type(TARGETS[name])(broken, TARGETS[name].seeds))
    with pytest.raises(KeyError):
        is_read(name, b"", tmp_path)


@pytest.mark.parametrize(
    "text", ["1" + "0" * 400, "-" + "9" * 4299, "1e400", "NaN", "[" * 990 + "]" * 990, '{"a": ' * 900]
)
def test_the_mutator_changes_whatever_is_json(text):
    """Or leaves it to libFuzzer; an exception of its own would end the search."""
    for seed in range(200):
        changed = json_mutator.mutate(text.encode(), random.Random(seed))
        if changed is not None:
            json.loads(changed)


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_a_short_fuzz_finds_nothing():
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(SECONDS), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"{name}: " in done.stdout for name in TARGETS)
