# ruff: noqa: E501, F811  tables of cases, and fixtures of another file
"""nvcc's code on the CPU: what the emulation of PTX computes, the mistakes that it shows, and machines without a GPU.

The engine's tests run on it as "ptx", beside the other engines.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import emulated_engine
import numpy as np
import ptx_engine
import pytest
import torch
from rasterizer_cases import make_case
from test_cuda_emulation import (  # noqa: F401  the same kernels, compiled by nvcc; sort and sum are CUB's
    Library,
    numbers,
    order,
    test_a_block_of_a_thousand_threads_with_deep_stacks_runs,
    test_a_grid_that_no_gpu_takes_is_an_error,
    test_a_scan_by_shuffles_is_right,
    test_atomics_lose_nothing,
    test_barriers_make_a_block_sum_right,
    test_every_thread_knows_its_place,
    test_exclusive_sum_has_one_more_number_and_64_bits,
    test_many_collectives_are_right,
    test_shuffles_read_the_lane_that_cuda_says,
    test_sort_is_stable_and_looks_at_the_lowest_bits_only,
    test_two_threads_of_the_process_may_launch_at_once,
    test_votes_count_every_lane_and_every_thread,
)
from test_planted_errors import MISTAKES, Mistake


class PtxLibrary(Library):
    """The kernels of selftest.cu, and any PTX text."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._memory = ptx_engine.DeviceMemory(path)
        self._library.ptx_run.restype = ctypes.c_char_p

    def pointer(self, array: np.ndarray) -> ctypes.c_void_p:
        """The array as a kernel's argument, which kernels may touch from then on."""
        self._memory.add(array.ctypes.data, array.nbytes)
        return super().pointer(array)

    def run(self, text: str, *arrays: np.ndarray, blocks: int = 1, threads: int = 32) -> str:
        """Runs the only kernel of a text, "test", and returns the error's text, empty where there was none."""
        addresses = [ctypes.c_uint64(self.pointer(array).value) for array in arrays]
        arguments = (ctypes.c_void_p * len(arrays))(*map(ctypes.addressof, addresses))
        return self._library.ptx_run(text.encode(), b"test", blocks, threads, ctypes.c_size_t(0), arguments).decode()


@pytest.fixture(scope="module")
def cuda() -> PtxLibrary:
    if reason := ptx_engine.why_not():
        pytest.skip(reason)
    return PtxLibrary(ptx_engine.build("selftest") / "selftest.so")


def kernel(body: str, num_arrays: int) -> str:
    """A kernel "test" with arrays in %rd0, %rd1 ...; %r0 is the thread's number in the grid, %rd9 the same."""
    params = ", ".join(f".param .u64 p{i}" for i in range(num_arrays))
    loads = "".join(f"ld.param.u64 %rd{i}, [p{i}];\n" for i in range(num_arrays))
    return f""".version 9.0
.target sm_75
.address_size 64
.visible .entry test({params})
{{
.reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<30>; .reg .b64 %rd<30>; .reg .f32 %f<9>; .reg .f64 %fd<9>;
.shared .align 4 .b8 room[256];
{loads}
mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;
mad.lo.s32 %r0, %r1, %r2, %r3; cvt.u64.u32 %rd9, %r0;
{body}
ret;
}}
"""


# ---- Arithmetic, against this machine's ----

FLOATS = np.array(
    [0.0, -0.0, 1, -1, 1.5, 2.5, -2.5, 0.1, 3e9, -3e9, 1e20, 1e-20, 1e-40, -1e-45, 1.17549435e-38, 3.4e38, np.inf, -np.inf, np.nan],
    np.float32,
)  # fmt: skip
INTEGERS = np.array([0, 1, 2, 5, 7, 31, 32, 33, 64, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 7, 2**32 - 1], np.uint32)


def pairs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.meshgrid(values, values)
    return a.ravel().copy(), b.ravel().copy()


def compute(cuda: PtxLibrary, operation: str, a: np.ndarray, b: np.ndarray, result: str) -> np.ndarray:
    """An operation on pairs of 32-bit numbers in %r4 and %r5, which leaves 32 bits in %r6."""
    out = np.zeros(len(a), result)
    text = kernel(
        f"""shl.b64 %rd8, %rd9, 2; add.s64 %rd10, %rd0, %rd8; add.s64 %rd11, %rd1, %rd8; add.s64 %rd12, %rd2, %rd8;
        ld.global.u32 %r4, [%rd10]; ld.global.u32 %r5, [%rd11]; mov.b32 %f4, %r4; mov.b32 %f5, %r5;
        {operation}
        st.global.u32 [%rd12], %r6;""", 3,
    )  # fmt: skip
    assert cuda.run(text, a, b, out, blocks=len(a), threads=1) == ""
    return out


def flush(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.float32(1.17549435e-38), np.copysign(np.float32(0), x), x).astype(np.float32)


def saturated(x: np.ndarray, low: int, high: int) -> np.ndarray:
    return (
        np.where(np.isnan(x), 0, np.clip(np.trunc(x.astype(np.float64)), low, high)).astype(np.int64).astype(np.uint32)
    )


# One instruction on %f4 and %f5, with the result in %f6, and the same in numpy, which rounds to the nearest, too.
FLOAT_OPERATIONS = {
    "add.f32 %f6, %f4, %f5": lambda a, b: a + b,
    "sub.f32 %f6, %f4, %f5": lambda a, b: a - b,
    "mul.rn.f32 %f6, %f4, %f5": lambda a, b: a * b,
    "div.rn.f32 %f6, %f4, %f5": lambda a, b: a / b,
    "rcp.rn.f32 %f6, %f4": lambda a, b: np.float32(1) / a,
    "sqrt.rn.f32 %f6, %f4": lambda a, b: np.sqrt(a),
    "ex2.approx.f32 %f6, %f4": lambda a, b: np.exp2(a.astype(np.float64)).astype(np.float32),
    "min.f32 %f6, %f4, %f5": np.fmin,
    "max.f32 %f6, %f4, %f5": np.fmax,
    "fma.rn.f32 %f6, %f4, %f5, 0f3F800000": lambda a, b: (a.astype(np.longdouble) * b + 1).astype(np.float32),
    "cvt.rmi.f32.f32 %f6, %f4": lambda a, b: np.floor(a),
    "cvt.rpi.f32.f32 %f6, %f4": lambda a, b: np.ceil(a),
    "cvt.rni.f32.f32 %f6, %f4": lambda a, b: np.rint(a),
    "add.ftz.f32 %f6, %f4, %f5": lambda a, b: flush(flush(a) + flush(b)),
    "mul.ftz.f32 %f6, %f4, %f5": lambda a, b: flush(flush(a) * flush(b)),
    "cvt.sat.f32.f32 %f6, %f4": lambda a, b: np.where(np.isnan(a), 0, np.clip(a, 0, 1)),
}


@pytest.mark.parametrize("operation", FLOAT_OPERATIONS)
def test_floats_are_those_of_this_machine(cuda, operation):
    """To the bit, also for zeros, subnormal numbers and infinities; a NaN has the bits that PTX says."""
    a, b = pairs(FLOATS)
    actual = compute(cuda, f"{operation}; mov.b32 %r6, %f6;", a, b, np.uint32)
    with np.errstate(all="ignore"):
        expected = FLOAT_OPERATIONS[operation](a, b).astype(np.float32)
    bits = np.where(np.isnan(expected), np.uint32(0x7FFFFFFF), expected.view(np.uint32))
    if operation.startswith(("min", "max")):  # numpy may give either zero
        bits, actual = (np.where(x == 1 << 31, np.uint32(0), x) for x in (bits, actual))
    if "sat" in operation:
        bits = np.where(bits == 1 << 31, np.uint32(0), bits)
    np.testing.assert_array_equal(actual, bits)


def test_a_fused_multiply_add_rounds_down(cuda):
    """The largest float that is not above the exact value, also where the sum cancels or one part is tiny."""
    draw = np.random.default_rng(3)
    a = np.concatenate([draw.normal(size=500), draw.normal(size=500) * 1e-20, draw.normal(size=500) * 1e10])
    a = a.astype(np.float32)
    b = np.roll(a, 250)
    found = compute(cuda, "fma.rm.f32 %f6, %f4, %f5, 0f3F800000; mov.b32 %r6, %f6;", a, b, np.float32)
    for x, y, value in zip(a, b, found, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + 1
        above = np.nextafter(value, np.float32(np.inf))
        assert Fraction(float(value)) <= exact < Fraction(float(above))


def test_a_fused_multiply_add_rounds_once(cuda):
    """(1 + 2^-12)^2 = 1 + 2^-11 + 2^-24: the last term is lost where the product is rounded."""
    a = np.array([1 + 2**-12], np.float32)
    fused = compute(cuda, "fma.rn.f32 %f6, %f4, %f5, 0fBF801000; mov.b32 %r6, %f6;", a, a, np.float32)
    apart = compute(cuda, "mul.f32 %f6, %f4, %f5; add.f32 %f6, %f6, 0fBF801000; mov.b32 %r6, %f6;", a, a, np.float32)
    assert fused[0] == 2**-24 and apart[0] == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("lt", lambda a, b: a < b), ("le", lambda a, b: a <= b), ("gt", lambda a, b: a > b), ("ge", lambda a, b: a >= b),
        ("eq", lambda a, b: a == b), ("ne", lambda a, b: (a < b) | (a > b)), ("ltu", lambda a, b: ~(a >= b)),
        ("leu", lambda a, b: ~(a > b)), ("gtu", lambda a, b: ~(a <= b)), ("geu", lambda a, b: ~(a < b)),
        ("equ", lambda a, b: ~((a < b) | (a > b))), ("neu", lambda a, b: a != b), ("nan", lambda a, b: np.isnan(a) | np.isnan(b)),
    ],
)  # fmt: skip
def test_comparisons_know_nan(cuda, words, expected):
    a, b = pairs(FLOATS)
    actual = compute(cuda, f"setp.{words}.f32 %p1, %f4, %f5; selp.u32 %r6, 1, 0, %p1;", a, b, np.uint32)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(actual, expected(a, b))


@pytest.mark.parametrize(("kind", "low", "high"), [("s32", -(2**31), 2**31 - 1), ("u32", 0, 2**32 - 1)])
def test_floats_too_large_for_an_integer_become_the_nearest(cuda, kind, low, high):
    actual = compute(cuda, f"cvt.rzi.{kind}.f32 %r6, %f4;", FLOATS, FLOATS, np.uint32)
    np.testing.assert_array_equal(actual, saturated(FLOATS, low, high))


def signed(x: int) -> int:
    return x - (1 << 32) if x >> 31 else x


INTEGER_OPERATIONS = {
    "add.s32 %r6, %r4, %r5": lambda a, b: a + b,
    "sub.s32 %r6, %r4, %r5": lambda a, b: a - b,
    "mul.lo.s32 %r6, %r4, %r5": lambda a, b: a * b,
    "mul.hi.u32 %r6, %r4, %r5": lambda a, b: a * b >> 32,
    "mul.hi.s32 %r6, %r4, %r5": lambda a, b: signed(a) * signed(b) >> 32,
    "mul.wide.s32 %rd6, %r4, %r5; shr.s64 %rd6, %rd6, 16; cvt.u32.u64 %r6, %rd6": lambda a, b: (
        signed(a) * signed(b) >> 16
    ),
    "mad.lo.s32 %r6, %r4, %r5, %r4": lambda a, b: a * b + a,
    "div.u32 %r6, %r4, %r5": lambda a, b: a // b if b else -1,
    "rem.u32 %r6, %r4, %r5": lambda a, b: a % b if b else a,
    "div.s32 %r6, %r4, %r5": lambda a, b: int(signed(a) / signed(b)) if b else -1,
    "min.s32 %r6, %r4, %r5": lambda a, b: min(signed(a), signed(b)),
    "max.u32 %r6, %r4, %r5": lambda a, b: max(a, b),
    "shl.b32 %r6, %r4, %r5": lambda a, b: a << b if b < 32 else 0,
    "shr.u32 %r6, %r4, %r5": lambda a, b: a >> min(b, 32),
    "shr.s32 %r6, %r4, %r5": lambda a, b: signed(a) >> min(b, 31),
    "popc.b32 %r6, %r4": lambda a, b: a.bit_count(),
    "clz.b32 %r6, %r4": lambda a, b: 32 - a.bit_length(),
    "brev.b32 %r6, %r4": lambda a, b: int(f"{a:032b}"[::-1], 2),
    "bfind.u32 %r6, %r4": lambda a, b: a.bit_length() - 1,
    "bfind.shiftamt.u32 %r6, %r4": lambda a, b: 32 - a.bit_length() if a else -1,
    "bmsk.clamp.b32 %r6, %r4, %r5": lambda a, b: ((1 << min(b, 32)) - 1) << a if a < 32 else 0,
    "bfe.u32 %r6, %r4, 5, 9": lambda a, b: a >> 5 & 511,
    "bfi.b32 %r6, %r4, %r5, 5, 9": lambda a, b: (b & ~(511 << 5)) | (a & 511) << 5,
    "lop3.b32 %r6, %r4, %r5, %r4, 0x60": lambda a, b: a & (b ^ a),
    "prmt.b32 %r6, %r4, %r5, 0x7610": lambda a, b: (b >> 16 & 0xFFFF) << 16 | (a & 0xFFFF),
    "shf.l.wrap.b32 %r6, %r4, %r5, 8": lambda a, b: b << 8 | a >> 24,
    "cvt.s32.s8 %r6, %r4": lambda a, b: (a & 255) - 256 * (a >> 7 & 1),
    "setp.lt.s32 %p1, %r4, %r5; selp.b32 %r6, %r4, %r5, %p1": lambda a, b: min(signed(a), signed(b)),
}


@pytest.mark.parametrize("operation", INTEGER_OPERATIONS)
def test_integers_are_those_of_python(cuda, operation):
    a, b = pairs(INTEGERS)
    actual = compute(cuda, f"{operation};", a, b, np.uint32)
    expected = [INTEGER_OPERATIONS[operation](int(x), int(y)) & 0xFFFFFFFF for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(actual, np.array(expected, np.uint32))


# ---- Control flow ----

COLLATZ = """add.u32 %r4, %r0, 1; mov.u32 %r5, 0;
again: setp.eq.u32 %p1, %r4, 1; @%p1 bra done;
and.b32 %r6, %r4, 1; setp.eq.u32 %p2, %r6, 0; @%p2 bra even;
mad.lo.u32 %r4, %r4, 3, 1; bra.uni next;
even: shr.u32 %r4, %r4, 1;
next: add.u32 %r5, %r5, 1; bra.uni again;
done: bar.warp.sync 0xffffffff; vote.sync.ballot.b32 %r7, %p1, 0xffffffff;
shl.b64 %rd8, %rd9, 3; add.s64 %rd10, %rd0, %rd8; st.global.v2.u32 [%rd10], {%r5, %r7};"""


def test_lanes_part_and_come_together(cuda, order):
    """Each lane has a number of rounds of its own; all meet behind the loop."""

    def rounds(n: int) -> int:
        return 0 if n == 1 else 1 + rounds(n // 2 if n % 2 == 0 else 3 * n + 1)

    out = np.zeros((96, 2), np.uint32)
    assert cuda.run(kernel(COLLATZ, 1), out, blocks=1, threads=96) == ""
    np.testing.assert_array_equal(out[:, 0], [rounds(n) for n in range(1, 97)])
    assert (out[:, 1] == 0xFFFFFFFF).all()


def test_reruns_take_other_orders(cuda, monkeypatch):
    """All threads come once, whatever the order."""

    def orders(name: str) -> list:
        monkeypatch.setenv("CUDA_EMULATION_ORDER", name)
        return [cuda.result("order_of_arrival", [], 513, blocks=4, threads=128)[1:].tolist() for _ in range(8)]

    assert all(order == list(range(512)) for order in orders("forwards"))
    assert all(order[:32] == list(range(96, 128)) for order in orders("backwards"))
    for name in ("shuffled", "mixed"):
        seen = orders(name)
        assert all(sorted(order) == list(range(512)) for order in seen)
        assert len({tuple(order) for order in seen}) > 2


# ---- What is wrong is shown, with kernel, thread and PTX line, and the process goes on ----

WRONG = {
    "block_sum_without_barriers": ["this shared memory, with no barrier between or was never written", "block_sum"],
    "returns_before_the_barrier": ["63 of 64 threads wait, 1 returned", "bar.sync"],
    "waits_elsewhere": ["lanes 0x100 wait for other lanes", "bar.sync"],
    "two_barriers": ["64 threads wait at two barriers", "bar.sync"],
    "different_collectives": ["lanes 0x55555555 wait", "lanes 0xaaaaaaaa wait at vote.sync"],
    "not_in_its_mask": ["is not in its own mask 0xfffffffe"],
    "writes_beyond": ["the block's 128 bytes of shared memory", "st.shared"],
    "reads_before_it_writes": ["the array's value depends on a value that was never written", "st.global"],
    "halves": ["never written"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_is_an_error_that_says_what_is_wrong_and_where(cuda, name, order):
    shared_bytes = {"writes_beyond": 128}.get(name, 256)
    message = cuda.launch(name, [0] * 64, np.zeros(128, dtype=np.int32), shared_bytes=shared_bytes)
    assert message.startswith("cudaErrorLaunchFailure: ") and "\n" not in message
    for words in [*WRONG[name], ", block 0, thread ", "(PTX line ", "selftest.cu line "]:
        assert any(part in message for part in words.split(" or ")), message
    test_barriers_make_a_block_sum_right(cuda, order)


WRONG_TEXTS = {
    "the address is a register that nothing wrote": ("ld.global.u32 %r4, [%rd20];", "the address depends on a value that was never"),
    "a branch on a register that nothing wrote": ("@%p5 bra out; out:", "what is executed depends on a value that was never"),
    "one number too far": ("ld.global.u32 %r4, [%rd0+128];", "4 bytes at 0x"),
    "a number before": ("st.global.u32 [%rd0+-4], %r0;", "are outside of all arrays: st.global.u32 [%rd0+-4]"),
    "half a number": ("ld.global.u32 %r4, [%rd0+2];", "is not a multiple of 4"),
    "a loop without an end": ("again: bra again;", "does not end"),
    "an atomic on what nothing wrote": ("atom.shared.add.u32 %r4, [room], 1;", "atomic operation depends on a value that was never"),
    "an instruction of other GPUs": ("wgmma.fence.sync.aligned.f32 %r4;", "cudaErrorInvalidPtx: PTX line"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_TEXTS)
def test_wrong_texts_are_errors(cuda, name):
    body, words = WRONG_TEXTS[name]
    message = cuda.run(kernel(body, 1), np.zeros(32, np.int32))
    assert words in message and "\n" not in message, message


def test_what_was_never_written_may_be_moved_but_not_used(cuda):
    """Rows of padding travel through shared memory, as CUB's do; only a chosen value reaches the array."""
    body = """setp.lt.u32 %p1, %r3, 5; shl.b32 %r8, %r3, 2; mov.u32 %r9, room; add.u32 %r9, %r9, %r8;
    @%p1 mov.u32 %r4, 7;
    st.shared.u32 [%r9], %r4; ld.shared.u32 %r5, [%r9]; selp.u32 %r6, %r5, 1, %p1;
    shl.b64 %rd8, %rd9, 2; add.s64 %rd10, %rd0, %rd8; st.global.u32 [%rd10], %r6;"""
    out = np.zeros(32, np.int32)
    assert cuda.run(kernel(body, 1), out) == ""
    assert (out == np.where(np.arange(32) < 5, 7, 1)).all()
    assert "never written" in cuda.run(kernel(body.replace("%r6;", "%r5;"), 1), out)


RACE = """shl.b32 %r4, %r3, 2; mov.u32 %r5, room; add.u32 %r5, %r5, %r4; xor.b32 %r6, %r4, 128;
mov.u32 %r7, room; add.u32 %r7, %r7, %r6;
st.shared.u32 [%r5], %r3; bar.sync 0; st.shared.u32 [%r5], %r4; BARRIER ld.shared.u32 %r8, [%r7];
shl.b64 %rd8, %rd9, 2; add.s64 %rd10, %rd0, %rd8; st.global.u32 [%rd10], %r8;"""


def test_a_missing_barrier_shows_whatever_the_order(cuda, order):
    """Each warp reads what the other writes; with the barrier all is well."""
    out = np.zeros(64, np.int32)
    assert cuda.run(kernel(RACE.replace("BARRIER", "bar.sync 0;"), 1), out, threads=64) == ""
    assert (out == 4 * (np.arange(64) ^ 32)).all()
    message = cuda.run(kernel(RACE.replace("BARRIER", ""), 1), out, threads=64)
    assert "this shared memory, with no barrier between: " in message, message


# ---- Mistakes in the engine's kernels ----

PLANTED = {
    "barrier: a batch of splats is read before all of it is loaded": "no barrier between or was never written",
    "barrier: threads without a pixel do not come": " returned: bar.",
    "memory: one more than there is": "are outside of all arrays",
    "memory: the last block of a tile has no number": "depends on a value that was never written",
    "barrier: sums of the pose are read before they are there": "no barrier between or was never written",
}
MISTAKES = MISTAKES | {
    "barrier: sums of the pose are read before they are there": Mistake(
        "cuda_project.cu", "    __syncthreads();\n        if (static_cast", "    if (static_cast"
    ),
    "memory: the last block of a tile has no number": Mistake(
        "cuda_tiles.cu", "block < end; ++block", "block + 1 < end; ++block"
    ),
}
RUN = """
import pathlib, sys, torch, ptx_engine, test_rasterizer_parity as parity
from rasterizer_cases import Engine
torch.use_deterministic_algorithms(True)
engine = Engine("ptx", "cpu", False, ptx_engine.load(pathlib.Path(sys.argv[1])))
parity.run(engine, parity.CASES["several segments and batches"])
print("no error")
"""


def said_by(module: Path) -> str:
    """What a process prints that runs the engine of a module: two modules with the same types cannot be in one process."""
    command = [sys.executable, "-c", RUN, str(module)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=200)
    return done.stdout + done.stderr


def build_with(mistake: Mistake, folder: Path) -> Path:
    """The extension module with a mistake in one source."""
    text = (emulated_engine.KERNELS / mistake.source).read_text()
    assert text.count(mistake.right) == 1, f"{mistake.source} has changed: adapt this test"
    sources = shutil.copytree(emulated_engine.KERNELS, folder / "src")
    (sources / mistake.source).write_text(text.replace(mistake.right, mistake.wrong))
    build = ptx_engine.build("_C")
    wrong = folder / "wrong.o"
    compiler = (build / "compile.txt").read_text().split("\n")
    emulated_engine.run([*compiler, "-c", str(sources / mistake.source), "-o", str(wrong)])
    good = f"{Path(mistake.source).stem}.o"
    objects = [line for line in (build / "objects.txt").read_text().split("\n") if Path(line).name != good]
    module = folder / ptx_engine.MODULE
    emulated_engine.run(["c++", "-shared", "-Wl,-Bsymbolic", "-o", str(module), *objects, str(wrong), "-pthread"])
    return module


takes_a_minute = pytest.mark.skipif(os.environ.get("PTX_PLANTED") != "1", reason="PTX_PLANTED=1 runs it: a minute")


@takes_a_minute
def test_the_right_kernels_say_nothing(cuda):
    """Or the failures below would show nothing."""
    assert said_by(ptx_engine.build_engine()) == "no error\n"


@takes_a_minute
@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_in_a_kernel_of_the_engine_is_found(cuda, name, tmp_path):
    said = said_by(build_with(MISTAKES[name], tmp_path))
    assert "CudaError: " in said and any(words in said for words in PLANTED[name].split(" or ")), said[-3000:]


# ---- Machines on which nothing runs ----

MACHINES = {
    "old_driver": "cudaErrorInsufficientDriver .*the driver is for CUDA 12.4, this build needs [0-9.]+; update the driver",
    "none": "cudaErrorNoDevice .*there is no GPU; use the CPU",
    "no_image": "cudaErrorNoKernelImageForDevice .*no code for this GPU; install again",
    "old_ptx": "cudaErrorUnsupportedPtxVersion",
}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_without_a_usable_gpu_is_one_line(engine_on_ptx, machine, monkeypatch):
    """And the next call, where all is well, is right."""
    case = make_case(0)
    monkeypatch.setenv("PTX_EMULATION_DEVICE", machine)
    with pytest.raises(RuntimeError, match=MACHINES[machine]) as caught:
        engine_on_ptx.run(case, torch.float32)
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("PTX_EMULATION_DEVICE")
    assert engine_on_ptx.run(case, torch.float32)["image"].isfinite().all()
