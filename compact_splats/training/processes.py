"""The processes that train one scene together, as each of them sees the others: by torch.distributed, gloo or NCCL.

Knows tensors and no Gaussians. What a step of several views means for the schedule is in ``arguments/sharing.py``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from compact_splats.utils.errors import InputError, exit_code_of
from compact_splats.utils.machine import num_cores

# How long a process waits for the others, while the first measures or saves for example. A process that has gone is
# noticed at once by gloo, and by torchrun in any case.
TIMEOUT = timedelta(hours=3)
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_CHUNK = 1 << 20  # words of a digest at a time, which bounds its memory

Item = TypeVar("Item")


class OneRank:
    """A process that trains alone, for which everything here is free.

    Attributes:
        rank: number of this process; the first writes, shows and measures.
        count: number of processes.
        threads: CPU threads for this process where the user asks for none; 0: all cores.
        on_this_machine: number of processes that share the machine's memory.
        meet_every: steps after which processes tell each other what one of them wants to do.
    """

    rank = 0
    count = 1
    threads = 0
    on_this_machine = 1
    meet_every = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, shows and measures."""
        return self.rank == 0

    def own_device(self, device: torch.device) -> torch.device:
        """The device of this process among those of the same type."""
        return device

    def own_draw(self, draw: Callable[[], Item]) -> Item:
        """Draw once for each process, and give this process's: all must call it, with generators in the same state."""
        return draw()

    def own_share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The part of ``items`` that this process works on; possibly nothing."""
        return items

    def sum(self, *tensors: Tensor) -> None:
        """Add up each tensor over all processes, in place; every one gets the same bits."""

    def average_gradients(self, rows: Iterable[Tensor]) -> None:
        """Replace the gradient of each row by its mean over all processes; one that has none counts as zeros."""

    def share(self, value: Item) -> Item:
        """What the first process gives, in all of them: numbers, text, tensors in main memory, and nests of these."""
        return value

    def gather(self, value: Item) -> list[Item]:
        """What each process gives, in order, in the first of them; nothing in the others. As for :meth:`share`."""
        return [value]

    def any(self, step: int, wish: bool) -> bool:
        """Whether one of the processes has a wish; several ask each other when they meet."""
        return wish

    def raise_one(self, error: Exception | None) -> None:
        """Raise an error that a process has, in the first of them, and end the others with it; all must call it."""
        if error is not None:
            raise error

    def check_same(self, what: str, tensors: Iterable[Tensor]) -> None:
        """Make sure that all processes hold the same bits.

        Args:
            what: the tensors are, in words.
            tensors: of any shape and dtype.

        Raises:
            InputError: in all processes, if one holds something else.
        """


ALONE = OneRank()


class Ranks(OneRank):
    """One of several processes that take every step together, each with a view of its own."""

    meet_every = 10

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.count = dist.get_world_size()
        self._local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        self.threads = max(1, num_cores() // self.on_this_machine)

    def own_device(self, device: torch.device) -> torch.device:
        """The GPU with the number that the process has on its machine; it becomes torch's current one.

        Raises:
            InputError: there are fewer GPUs.
        """
        if device.type == "cpu":
            return device
        accelerator = getattr(torch, device.type)
        if self._local_rank >= accelerator.device_count():
            found = f"a process number {self._local_rank + 1}"
            fix = "start fewer, or use --device cpu"
            raise InputError("torchrun", f"a GPU for each process, {accelerator.device_count()} at most", found, fix)
        accelerator.set_device(self._local_rank)  # of all that goes without the name of a device: DLPack, synchronize
        return torch.device(device.type, self._local_rank)

    def own_draw(self, draw: Callable[[], Item]) -> Item:  # noqa: D102
        return [draw() for _ in range(self.count)][self.rank]

    def own_share(self, items: Sequence[Item]) -> Sequence[Item]:  # noqa: D102
        return items[self.rank :: self.count]

    def sum(self, *tensors: Tensor) -> None:  # noqa: D102
        with _others_needed():
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def average_gradients(self, rows: Iterable[Tensor]) -> None:  # noqa: D102
        rows = [row for row in rows if row.numel()]
        for row in rows:
            row.grad = torch.zeros_like(row) if row.grad is None else row.grad
        self.sum(*(row.grad for row in rows))
        for row in rows:
            row.grad /= self.count

    def share(self, value: Item) -> Item:  # noqa: D102
        box = [value]
        with _others_needed():
            dist.broadcast_object_list(box)
        return box[0]

    def gather(self, value: Item) -> list[Item]:  # noqa: D102
        everyone = [None] * self.count if self.is_first else None
        with _others_needed():
            dist.gather_object(value, everyone)
        return everyone or []

    def any(self, step: int, wish: bool) -> bool:  # noqa: D102
        if step % self.meet_every:
            return False
        wishes = torch.tensor(int(wish))
        self.sum(wishes)
        return bool(wishes)

    def raise_one(self, error: Exception | None) -> None:  # noqa: D102
        errors = [None] * self.count
        with _others_needed():
            dist.all_gather_object(errors, error)
        for each in errors:
            if each is not None:
                raise each if self.is_first else _ToldByFirst(exit_code_of(each))

    def check_same(self, what: str, tensors: Iterable[Tensor]) -> None:  # noqa: D102
        own = torch.tensor([digest(tensors)])
        everyone = [torch.empty_like(own) for _ in range(self.count)]
        with _others_needed():
            dist.all_gather(everyone, own)
        for rank, other in enumerate(everyone):
            if not torch.equal(other, everyone[0]):
                fix = "give all processes the same files, flags and kind of machine"
                raise InputError(f"process {rank}", f"the {what} of process 0", "others", fix)


@contextlib.contextmanager
def joined_ranks() -> Iterator[OneRank]:
    """Meet the other processes, if the environment that torchrun sets says that there are some.

    Others than the first print nothing meanwhile. Whichever fails first tells the user; the others end with exit code
    2 without a word, once it has done so.

    Yields:
        :data:`ALONE`, or this process's :class:`Ranks`.

    Raises:
        InputError: the environment speaks of others but does not say how to meet them.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing or not dist.is_available():
        expected = f"{', '.join(_VARIABLES)} in the environment, and torch with torch.distributed"
        raise InputError("WORLD_SIZE", expected, f"no {', '.join(missing) or 'torch.distributed'}", "start by torchrun")
    with _others_needed():
        store, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
        dist.init_process_group(store=store, rank=rank, world_size=count, timeout=TIMEOUT)
    with _failures_told_once(dist.PrefixStore("failures", store)), _only_the_first_speaks(rank):
        yield Ranks()
        with _others_needed():
            dist.all_reduce(torch.zeros(1))  # nobody leaves while another might still fail
    dist.destroy_process_group()


class _ToldByFirst(Exception):
    """All processes have agreed to end, and the first says why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@contextlib.contextmanager
def _failures_told_once(store: dist.Store) -> Iterator[None]:
    """Let the first failure pass, and end this process silently where another has failed before."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _ToldByFirst) and store.add("count", 1) == 1:
            atexit.register(store.set, "told", "")  # at exit the error has been printed
            raise
        with contextlib.suppress(RuntimeError):  # the process that keeps the store has gone
            store.wait(["told"], timedelta(seconds=30))
        sys.exit(error.exit_code if isinstance(error, _ToldByFirst) else 2)


@contextlib.contextmanager
def _only_the_first_speaks(rank: int) -> Iterator[None]:
    if rank == 0:
        yield
        return
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        yield


@contextlib.contextmanager
def _others_needed() -> Iterator[None]:
    """Torch's errors about processes that don't answer, as one for the user."""
    try:
        yield
    except RuntimeError as error:
        found = f"one that is gone or does not answer ('{str(error).splitlines()[0]}')"
        raise InputError(
            "torchrun", "all processes running", found, "look for what it said, and start again"
        ) from error


def digest(tensors: Iterable[Tensor]) -> int:
    """64 bits that follow from the bits of the tensors, their sizes and their order, on any device.

    Every 8 bytes are multiplied by an odd number that depends on their place, so that a change of one word always shows
    and several cancel out with a chance of about 2^-64. Whole numbers add up to the same in any order.
    """
    total, place = 0, 0
    for tensor in tensors:
        for words in _words(tensor.detach()):
            total += int((words * _weights(place, len(words), words.device)).sum())
            place += len(words)
    return (total + 2**63) % 2**64 - 2**63  # as int64


def _words(tensor: Tensor) -> Iterator[Tensor]:
    """Its bytes as int64, piece by piece; then what is left over, filled with zeros, and the size plus 1."""
    data = tensor.contiguous().reshape(-1).view(torch.uint8)
    whole = len(data) // 8 * 8
    yield from data[:whole].view(torch.int64).split(_CHUNK)
    rest = torch.zeros(8, dtype=torch.uint8, device=data.device)
    rest[: len(data) - whole] = data[whole:]
    yield torch.cat([rest.view(torch.int64), torch.tensor([len(data) + 1], device=data.device)])


def _weights(first: int, count: int, device: torch.device) -> Tensor:
    """Odd numbers that look random, one for each place (two rounds of multiplying and shifting)."""
    mixed = torch.arange(first + 1, first + 1 + count, device=device) * -0x61C8864680B583EB
    mixed ^= mixed >> 30
    mixed *= -0x40A7B892E31B1A47
    return mixed ^ (mixed >> 27) | 1
