"""benchmarks/smoke.cu, the first program that runs on a GPU: on the emulation, and compiled by nvcc."""

import os
import re
import subprocess

import emulated_engine
import pytest


def smoke(name: str, *parts: str) -> subprocess.CompletedProcess:
    """Run a build of smoke on the emulation: work waits in its stream until it is synchronized."""
    if reason := emulated_engine.why_not():
        pytest.skip(reason)
    command = [str(emulated_engine.build(name) / name), "--quick", *parts]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True)


def test_both_engines_agree_and_all_stages_are_timed():
    done = smoke("smoke")
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "FAILED" not in said, f"CUDA_EMULATION_SEED={emulated_engine.SEED}\n{said}"
    for scene in ("crowd", "segments", "edges"):
        assert f"ok     {scene}: by atomics, and the CPU" in said and f"ok     {scene}: deterministic, and the" in said
    assert "ok     sort and scan: 0 to 4097 keys, 1 to 32 bits" in said
    for stage in ("copy", "project", "forward", "backward, by atomics", "loss", "Adam of sh_rest", "sort, 32 bits"):
        assert re.search(rf"^{stage} +[\d.]+ ms", said, re.MULTILINE), stage


def test_kernels_that_round_differently_count_tiles_differently_and_the_results_stay_right():
    """Projection with fused multiply-adds counts tiles that the kernel which writes the instances does not find: they
    get a tile beyond the last one, and no pixel changes.
    """
    if "fma" not in open("/proc/cpuinfo").read():
        pytest.skip("this processor has no fused multiply-add")
    done = smoke("smoke_fused", "edges")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"beyond the last tile: (\d+)", done.stdout)[1]) > 0, done.stdout
    assert "beyond the last tile: 0" in smoke("smoke", "edges").stdout
