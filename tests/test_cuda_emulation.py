"""The emulation of CUDA on which the engine's kernels are tested: what it computes, and the mistakes that it shows."""

import ctypes
import threading

import emulated_engine
import numpy as np
import pytest

POISON = int(np.full(4, emulated_engine.POISON, np.uint8).view(np.int32)[0])


class Library:
    """The kernels of selftest.cu."""

    def __init__(self, path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.launch.restype = ctypes.c_char_p

    def launch(self, name: str, inputs, outputs: np.ndarray, *, blocks=1, threads=64, shared_bytes=0) -> str:
        """Runs a kernel and returns the error's text, empty where there was none."""
        inputs = np.ascontiguousarray(inputs, dtype=np.int32)
        assert outputs.dtype == np.int32
        return self._library.launch(
            name.encode(), blocks, threads, ctypes.c_size_t(shared_bytes), self.pointer(inputs), self.pointer(outputs)
        ).decode()

    def result(self, name: str, inputs, shape, **grid) -> np.ndarray:
        """What a kernel that must succeed writes to an array that is zero before."""
        outputs = np.zeros(shape, dtype=np.int32)
        assert self.launch(name, inputs, outputs, **grid) == ""
        return outputs

    def sort_pairs(self, keys: np.ndarray, values: np.ndarray, bits: int) -> None:
        rooms = [np.zeros_like(keys), np.zeros_like(values)]
        arrays = [self.pointer(array) for array in (keys, values, *rooms)]
        self._library.sort_pairs(*arrays, ctypes.c_int64(len(keys)), bits)

    def exclusive_sum(self, counts: np.ndarray) -> np.ndarray:
        sums = np.full(len(counts) + 1, POISON, dtype=np.int64)
        self._library.exclusive_sum(self.pointer(counts), self.pointer(sums), ctypes.c_int64(len(counts)))
        return sums

    def pointer(self, array: np.ndarray) -> ctypes.c_void_p:
        """The array as a kernel's argument."""
        return ctypes.c_void_p(array.ctypes.data)


@pytest.fixture(scope="module", params=["selftest", "selftest_ucontext"])
def cuda(request) -> Library:
    """Both ways to switch between fibres."""
    if reason := emulated_engine.why_not():
        pytest.skip(reason)
    return Library(emulated_engine.build(request.param) / f"{request.param}.so")


@pytest.fixture(params=["forwards", "backwards", "shuffled", "mixed"])
def order(request, monkeypatch) -> str:
    """The order in which the threads of a block run between two barriers."""
    monkeypatch.setenv("CUDA_EMULATION_ORDER", request.param)
    return request.param


def numbers(count: int, high: int = 1000) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, count, dtype=np.int32)


# ---- What is right comes out right, in any order ----


def test_every_thread_knows_its_place(cuda, order):
    """Thread, block and grid are a thread's own, also after others ran."""
    rows = cuda.result("where_am_i", [], (3 * 96, 4), blocks=3, threads=96)
    index = np.arange(3 * 96)
    np.testing.assert_array_equal(rows, np.stack([index % 96, index // 96, 0 * index + 96, 0 * index + 3], 1))


def test_barriers_make_a_block_sum_right(cuda, order):
    values = numbers(10 * 256)
    sums = cuda.result("block_sum", values, 10, blocks=10, threads=256, shared_bytes=1024)
    np.testing.assert_array_equal(sums, values.reshape(10, 256).sum(1))


def test_missing_barriers_show(cuda):
    """Without its barriers the same sum is wrong. One order alone may hide it (here backwards), so blocks differ."""
    values = numbers(30 * 256)
    sums = cuda.result("block_sum_without_barriers", values, 30, blocks=30, threads=256, shared_bytes=1024)
    is_wrong = sums != values.reshape(30, 256).sum(1)
    assert 5 < is_wrong.sum() < 30


def test_a_scan_by_shuffles_is_right(cuda, order):
    values = numbers(4 * 128)
    sums = cuda.result("warp_scan", values, 4 * 128, blocks=4, threads=128)
    np.testing.assert_array_equal(sums, values.reshape(-1, 32).cumsum(1).reshape(-1))


@pytest.mark.parametrize("width", [32, 16, 4])
@pytest.mark.parametrize("argument", [0, 1, 3, 5, 16, 31])
def test_shuffles_read_the_lane_that_cuda_says(cuda, order, argument, width):
    """As in the programming guide: within groups of `width`; what points outside reads the lane itself."""
    rows = cuda.result("shuffles", [argument, width], (64, 8))
    lane = np.arange(64)
    first = lane // width * width
    wanted = np.stack([
        first + argument % width,
        np.where(lane - argument >= first, lane - argument, lane),
        np.where(lane + argument < first + width, lane + argument, lane),
        np.where((lane ^ argument) < first + width, lane ^ argument, lane),
        lane ^ 1,
        lane // 32 * 32 + 31,
    ], 1)  # fmt: skip
    np.testing.assert_array_equal(rows[:, :6], wanted + 100)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_votes_count_every_lane_and_every_thread(cuda, order, share):
    votes = (np.random.default_rng(1).random(128) < share).astype(np.int32)
    rows = cuda.result("votes", votes, (128, 8), threads=128)
    for warp in range(4):
        mine, of_warp = rows[32 * warp : 32 * warp + 32], votes[32 * warp : 32 * warp + 32]
        ballot = sum(1 << lane for lane in range(32) if of_warp[lane])
        assert (mine[:, 0].view(np.uint32) == ballot).all()
        assert (mine[:, 1] == of_warp.any()).all() and (mine[:, 2] == of_warp.all()).all()
        assert (mine[:, 3] == of_warp.sum()).all()
        assert (mine[:, 4] == (ballot & -ballot).bit_length()).all()
        assert (mine[:, 5] == 32 - ballot.bit_length()).all()
    assert (rows[:, 6] == votes.sum()).all()
    assert (rows[:, 7] == votes.all() + 2 * votes.any()).all()


def test_half_warps_meet_on_their_own_and_see_nothing_of_each_other(cuda, order):
    """Collectives of disjoint masks do not wait for each other; a source outside the mask gives poison."""
    rows = cuda.result("halves", [], (32, 2), threads=32)
    np.testing.assert_array_equal(rows[:, 0], np.repeat([sum(range(16)), sum(range(16, 32))], 16))
    assert (rows[:, 1] == POISON).all()


def test_atomics_lose_nothing(cuda, order):
    values = numbers(8 * 64, high=8)
    out = cuda.result("atomics", values, 17, blocks=8)
    np.testing.assert_array_equal(out[:8], np.bincount(values, minlength=8))
    assert out[8] == out[9] == values.max()
    assert out[10:12].view(np.uint64)[0] == len(values) << 31
    assert out[12:13].view(np.float32)[0] == 0.5 * values.sum()
    assert out[14:16].view(np.float64)[0] == 0.25 * values.sum()
    assert out[16] == values.sum()


def test_reruns_take_other_orders_unless_one_is_asked_for(cuda, monkeypatch):
    """A kernel that depends on the order shows it; all threads come once, whatever the order."""

    def orders(name: str) -> list:
        monkeypatch.setenv("CUDA_EMULATION_ORDER", name)
        return [cuda.result("order_of_arrival", [], 257, blocks=4)[1:].tolist() for _ in range(8)]

    assert all(order == list(range(256)) for order in orders("forwards"))
    assert all(order == list(range(255, -1, -1)) for order in orders("backwards"))
    for name in ("shuffled", "mixed"):
        seen = orders(name)
        assert all(sorted(order) == list(range(256)) for order in seen)
        assert len({tuple(order) for order in seen}) > 2


def test_a_block_of_a_thousand_threads_with_deep_stacks_runs(cuda):
    values = numbers(1024)
    np.testing.assert_array_equal(cuda.result("stack_user", values, 1024, threads=1024), values)


def test_many_collectives_are_right(cuda):
    """3000 in a row by 256 threads: 15 ms, or 200 ms where a switch is a system call."""
    values = numbers(256)
    rotated = np.roll(values.reshape(8, 32), -(3000 % 32), axis=1).reshape(-1)
    np.testing.assert_array_equal(cuda.result("many_collectives", values, 256, threads=256), rotated)


def test_two_threads_of_the_process_may_launch_at_once(cuda):
    values, sums = numbers(10 * 256), {}

    def work(name: int) -> None:
        sums[name] = cuda.result("block_sum", values, 10, blocks=10, threads=256, shared_bytes=1024)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all((sums[i] == values.reshape(10, 256).sum(1)).all() for i in range(4))


def test_sort_is_stable_and_looks_at_the_lowest_bits_only(cuda):
    keys = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    keys[::3] = keys[0]
    for bits in (0, 1, 5, 31, 32):
        order = np.argsort(keys & np.uint32(2**bits - 1), kind="stable")
        sorted_keys, values = keys.copy(), np.arange(1000, dtype=np.uint32)
        cuda.sort_pairs(sorted_keys, values, bits)
        np.testing.assert_array_equal(values, order)
        np.testing.assert_array_equal(sorted_keys, keys[order])


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_exclusive_sum_has_one_more_number_and_64_bits(cuda, count):
    counts = np.full(count, 2**31 - 1, dtype=np.int32)
    np.testing.assert_array_equal(cuda.exclusive_sum(counts), np.arange(count + 1) * (2**31 - 1))


# ---- What is wrong is shown, and the process goes on ----


def test_shared_memory_is_poison_before_it_is_written(cuda):
    """In every block: what the block before left is gone."""
    cuda.result("block_sum", numbers(64), 1, shared_bytes=256)
    assert (cuda.result("reads_before_it_writes", [], (5, 64), blocks=5, shared_bytes=256) == POISON).all()


WRONG = {
    "returns_before_the_barrier": ["63 of 64 threads at __syncthreads in selftest.cu", "1 of 64 threads returned"],
    "waits_elsewhere": ["63 of 64 threads at __syncthreads", "1 of 64 threads at __shfl_sync", "thread 40"],
    "two_barriers": ["32 of 64 threads at __syncthreads in selftest.cu", "thread 32 and others"],
    "different_collectives": ["32 of 64 threads at __any_sync", "32 of 64 threads at __ballot_sync"],
    "lanes_that_do_not_come": ["16 of 64 threads at __ballot_sync of lanes 0x1000ff", "48 of 64 threads returned"],
    "not_in_its_mask": ["__ballot_sync", "a mask that leaves it out"],
    "throws": ["the kernel threw std::bad_alloc"],
    "writes_beyond": ["byte 128 of shared memory", "asked for 128"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_is_an_error_that_says_what_is_wrong_and_where(cuda, order, name):
    """It neither hangs nor ends the process, and the next launch is right."""
    message = cuda.launch(name, [], np.zeros(128, dtype=np.int32), blocks=2, shared_bytes=128)
    assert message.startswith("cudaErrorLaunchFailure: block ") and "\n" not in message
    for words in WRONG[name]:
        assert words in message, message
    test_barriers_make_a_block_sum_right(cuda, order)


@pytest.mark.parametrize(
    ("grid", "error"),
    [
        ({"threads": 1025}, "cudaErrorInvalidConfiguration"),
        ({"threads": 0}, "cudaErrorInvalidConfiguration"),
        ({"blocks": 0}, "cudaErrorInvalidConfiguration"),
        ({"shared_bytes": 48 * 1024 + 1}, "cudaErrorInvalidValue"),
    ],
    ids=str,
)
def test_a_grid_that_no_gpu_takes_is_an_error(cuda, grid, error):
    assert cuda.launch("where_am_i", [], np.zeros(4, dtype=np.int32), **grid).startswith(error)
