"""benchmarks/smoke.cu, the first program that runs on a GPU: on the emulation, and compiled by nvcc."""

import os
import re
import subprocess
import sys

import emulated_engine
import pytest

from benchmarks import smoke as first_minute


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
    assert said.count("beyond the last tile: 0") == 3  # these kernels round alike
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


@pytest.fixture(scope="module")
def toolchain():
    module = first_minute.load_toolchain()
    try:
        return module.find({**os.environ, "DGR_CUDA": "", "DGR_CUDA_ARCHS": "90-real"}, module.Gpus())
    except module.Unavailable as reason:
        pytest.skip(str(reason))


def test_nvcc_compiles_it_without_a_warning(toolchain, tmp_path):
    """Its own source, with the flags of the whole call; the engine's sources: test_install.py."""
    call = first_minute.command(
        toolchain.nvcc, [*toolchain.flags, "-O0", "-Werror", "all-warnings"], tmp_path / "smoke.o"
    )
    call = [part for part in call if not part.startswith(str(emulated_engine.KERNELS)) or part.endswith("smoke.cu")]
    done = subprocess.run([*call, "-c"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_a_gpu_it_is_one_line_and_exit_code_2(monkeypatch, capsys):
    module = first_minute.load_toolchain()
    monkeypatch.setattr(module, "detect_gpus", lambda: module.Gpus())
    monkeypatch.setattr(first_minute, "load_toolchain", lambda: module)
    monkeypatch.setattr(sys, "argv", ["smoke"])
    assert first_minute.main() == 2
    assert capsys.readouterr().err == "smoke: there is no GPU that the driver can use\n"
