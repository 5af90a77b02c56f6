"""Where memory runs out, the GPU fails or there is none to use, a script says so in one line and ends with code 2."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diff_gaussian_rasterization import CudaError, queue
from rasterizer_cases import make_case

from compact_splats.arguments import TrainConfig, pick_device
from compact_splats.arguments.options import flags_that_save_memory, given
from compact_splats.arguments.render import RenderConfig
from compact_splats.utils.errors import InputError, run_script

# Texts as torch 2.4 to 2.13 writes them.
CACHING = (
    "CUDA out of memory. Tried to allocate 22.78 GiB. GPU 0 has a total capacity of 31.47 GiB of which 12.73 GiB is "
    "free. Including non-PyTorch memory, this process has 18.73 GiB memory in use. Of the allocated memory 9.08 GiB is "
    "allocated by PyTorch, and 9.35 GiB is reserved by PyTorch but unallocated."
)
STREAM_ORDERED = (
    "Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated     : 9.08 GiB\n"
    "Requested               : 22.78 GiB\nDevice limit            : 31.47 GiB\nFree (according to CUDA): 12.73 GiB\n"
    "PyTorch limit (set by user-supplied memory fraction)\n                        : 17179869184.00 GiB"
)
OLD = "CUDA out of memory. Tried to allocate 22.78 GiB (GPU 0; 31.47 GiB total capacity; 9.08 GiB already allocated; 12.73 GiB free; 9.35 GiB reserved)"  # fmt: skip # noqa: E501
ON_GPU = "error: out of GPU memory: 22.78 GiB more needed, 12.73 GiB free; to use less, see --flag\n"
HOST = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


def ended(error: Exception, capsys, **options) -> str:
    """What a script prints that meets an error and ends with code 2."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_script(main, **options)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("text", [CACHING, STREAM_ORDERED, OLD], ids=["caching", "stream-ordered", "old"])
def test_a_full_gpu_tells_what_is_needed_what_is_free_and_which_flags_help(text, capsys):
    assert ended(torch.OutOfMemoryError(text), capsys, less_memory="--flag") == ON_GPU


def test_a_full_gpu_without_numbers_is_one_line_too(capsys):
    expected = "error: out of GPU memory; to use less, see -r\n"
    said = "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call."
    for error in (RuntimeError(said), CudaError("allocate: cudaErrorMemoryAllocation (out of memory)")):
        assert ended(error, capsys, less_memory="-r") == expected


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        (RuntimeError(HOST), "3725.29 GiB more needed, "),
        (
            MemoryError("Unable to allocate 7.11 PiB for an array with shape (10,) and data type float64"),
            "7.11 PiB more needed, ",
        ),
        (MemoryError(), ""),
        (MemoryError("std::bad_alloc"), ""),
    ],
    ids=["torch", "numpy", "Python", "C++"],
)
def test_full_main_memory_is_one_line(error, needed, capsys):
    line = ended(error, capsys)
    free = r"[\d.]+ [GMK]iB free" if sys.platform == "linux" else ""
    assert re.fullmatch(
        f"error: out of memory: {needed}{free}; close other programs or use a machine with more memory\n", line
    )


def test_what_the_allocators_really_raise_is_known_and_leaves_the_process_usable(capsys):
    for allocate, wanted in (
        (torch.empty, "3725290.30 GiB"),
        (np.empty, "7.11 PiB"),
        (lambda n: bytearray(1000 * n), ""),
    ):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate(10**15)
        assert wanted in ended(caught.value, capsys)
    assert torch.ones(3).sum() == 3


CROWDED = """
import resource, torch
from diff_gaussian_rasterization import View, rasterize
from compact_splats.utils.errors import run_script

def draw(size, num):
    g = torch.Generator().manual_seed(0)
    rows = [torch.rand(num, columns, generator=g) for columns in (3, 4, 3, 1, 3)]
    means, quats, scales, opacities, colors = (row.requires_grad_() for row in rows)
    view = View(size, size, size, size, size / 2, size / 2, torch.eye(4), torch.zeros(3))
    shift = torch.tensor([-0.5, -0.5, 2.0])
    return rasterize(view, means + shift, quats, 0.3 * scales, opacities, colors=colors).image

soft, hard = resource.getrlimit(resource.RLIMIT_AS)

def limit(more):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    now = int(status["VmSize"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (now + more if more else soft, hard))

draw(64, 10).sum().backward()
before, large = draw(64, 100), draw(1024, 20000)
limit({room})
try:
    {what}
except (MemoryError, RuntimeError) as caught:
    error = caught
limit(0)
del large
assert torch.equal(draw(64, 100), before)
limit(9 << 20)
def main():
    raise error
run_script(main, less_memory="-r")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set by Linux's names")
@pytest.mark.parametrize(("what", "room"), [("draw(1024, 200000)", 60 << 20), ("large.sum().backward()", 4 << 20)])
def test_the_engine_survives_memory_that_runs_out(what, room):
    """Forward or backward under a limit of the process end in the one line, and it draws on as before."""
    code = CROWDED.replace("{what}", what).replace("{room}", str(room))
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    line = r"error: out of memory: (.* more needed, )?[0-9] MiB free; to use less, see -r\n"
    assert re.fullmatch(line, result.stderr)


def test_a_gpu_that_is_full_fails_at_any_allocation_and_draws_on(engine, monkeypatch):
    """Torch's exception comes out of the engine as it is, from forward and backward, and the next call is as before."""
    case = make_case(40, 60, 40, 30)
    before = engine.run(case, torch.float32)
    left = 0

    def allocate(size: int, **options) -> torch.Tensor:
        nonlocal left
        left -= 1
        if left < 0:
            raise torch.OutOfMemoryError(CACHING)
        return torch.empty(size, **options)

    for allocations in range(1000):
        left = allocations
        with monkeypatch.context() as patch:
            patch.setattr(queue, "partial", lambda function, **options: partial(allocate, **options))
            try:
                engine.run(case, torch.float32)
                break
            except torch.OutOfMemoryError as error:
                assert str(error) == CACHING
        assert torch.equal(engine.run(case, torch.float32)["image"], before["image"])
    assert allocations == 0 if engine.name == "cpu" else allocations > 10  # measured: 0 and 20


def test_an_error_of_the_gpu_is_its_own_line(capsys):
    text = "forward: cudaErrorInsufficientDriver: the driver is for CUDA 11.4,\nthis build needs 13.0"
    assert ended(CudaError(text), capsys) == "error: " + text.replace("\n", " ") + "\n"


def test_a_bug_keeps_its_traceback():
    def main() -> None:
        raise RuntimeError("expected a tensor")

    with pytest.raises(RuntimeError, match="expected a tensor"):
        run_script(main)


def test_the_flags_that_save_memory_exist():
    """What the line proposes can be typed."""
    assert flags_that_save_memory(TrainConfig) == "-r/--resolution, --photo-memory, --final-budget or --sh-degree"
    assert flags_that_save_memory(RenderConfig) == "-r/--resolution or --photo-memory"
    words = ["-r", "2", "--final-budget", "5", "--sh-degree", "1"]
    assert given(TrainConfig, words) == {"resolution": 2, "final_budget": 5, "sh_degree": 1}


def pretend(
    monkeypatch, *, sees_gpu: bool, built_for: str | None = "13.0", init_error: Exception | None = None
) -> None:
    """Make torch seem to be of a certain build, on a certain machine."""

    def init() -> None:
        if init_error is not None:
            raise init_error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees_gpu)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA Test 1")
    monkeypatch.setattr(torch.version, "cuda", built_for)


def refusal(usable: tuple[str, ...] = ("cpu", "cuda")) -> str:
    with pytest.raises(InputError) as error:
        pick_device("cuda", usable)
    assert str(error.value).startswith("--device cuda can't be used: ") and "\n" not in str(error.value)
    return str(error.value)


TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
TORCH_FOR_CPU = AssertionError("Torch not compiled with CUDA enabled")


def test_a_gpu_beside_an_engine_for_the_cpu_only(monkeypatch, capsys):
    pretend(monkeypatch, sees_gpu=True)
    message = refusal(usable=("cpu",))
    for words in ("built for the CPU only, not for the NVIDIA Test 1;", "DGR_CUDA=1", "--device cpu"):
        assert words in message
    assert capsys.readouterr().err == ""
    assert pick_device("auto", ("cpu",)).type == "cpu"
    note = capsys.readouterr().err
    assert note.startswith("note: the NVIDIA Test 1 is not used: ") and note.count("\n") == 1
    assert pick_device("cuda", ("cpu", "cuda")).type == pick_device("auto", ("cpu", "cuda")).type == "cuda"
    assert pick_device("cpu", ("cpu", "cuda")).type == pick_device("cpu", ("cpu",)).type == "cpu"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("built_for", "error", "words"),
    [
        (
            "13.0",
            RuntimeError(TOO_OLD),
            "torch needs an NVIDIA driver for CUDA 13.0, this one is for CUDA 11.4;",
        ),
        (
            "12.4",
            RuntimeError("Found no NVIDIA driver on your system. Please"),
            "used: Found no NVIDIA driver on your system;",
        ),
        ("12.4", RuntimeError("No CUDA GPUs are available"), "used: No CUDA GPUs are available;"),
        ("12.4", None, "used: torch finds no NVIDIA GPU;"),
        (None, TORCH_FOR_CPU, f"used: torch {torch.__version__} was built without CUDA;"),
    ],
    ids=["driver too old", "no driver", "hidden", "unknown", "torch for the CPU"],
)
def test_a_gpu_that_torch_cannot_use(monkeypatch, built_for, error, words):
    pretend(monkeypatch, sees_gpu=False, built_for=built_for, init_error=error)
    assert words in refusal()
    assert "and the engine was built for the CPU only" in refusal(usable=("cpu",))
    assert pick_device("auto", ("cpu", "cuda")).type == "cpu"
