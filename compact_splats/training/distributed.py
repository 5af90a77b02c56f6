"""Several processes that train one scene, by torch.distributed with gloo or NCCL."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous
from usable_processors import num_processors

from compact_splats.training.digest import digest
from compact_splats.training.processes import Item, SingleProcess
from compact_splats.utils.errors import InputError, exit_code_of

# How long a process waits for the others, while the first measures or saves for example. A process that has ended is
# noticed at once by gloo, and by torchrun in any case.
TIMEOUT = timedelta(hours=3)
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Processes(SingleProcess):
    """One of several processes that take every step together, each with a view of its own."""

    meet_every = 10

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.count = dist.get_world_size()
        self._local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        self.threads = max(1, num_processors() // self.on_this_machine)  # torchrun sets OMP_NUM_THREADS to 1

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
        with _others_must_answer():
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:  # noqa: D102
        parameters = [each for each in parameters if each.numel()]
        for each in parameters:
            each.grad = torch.zeros_like(each) if each.grad is None else each.grad
        gradients = [each.grad for each in parameters if each.grad is not None]
        self.sum(*gradients)
        for gradient in gradients:
            gradient /= self.count

    def share(self, value: Item) -> Item:  # noqa: D102
        box = [value]
        with _others_must_answer():
            dist.broadcast_object_list(box)
        return box[0]

    def gather(self, value: Item) -> list[Item]:  # noqa: D102
        everyone: list[Any] | None = [None] * self.count if self.is_first else None
        with _others_must_answer():
            dist.gather_object(in_main_memory(value), everyone)
        return everyone or []

    def any(self, step: int, wish: bool) -> bool:  # noqa: D102
        if step % self.meet_every:
            return False
        wishes = torch.tensor(int(wish))
        self.sum(wishes)
        return bool(wishes)

    def raise_one(self, error: Exception | None) -> None:  # noqa: D102
        errors: list[Any] = [None] * self.count
        with _others_must_answer():
            dist.all_gather_object(errors, error)
        for each in errors:
            if each is not None:
                raise each if self.is_first else _EndedByFirst(exit_code_of(each))

    def check_same(self, what: str, tensors: Iterable[Tensor]) -> None:  # noqa: D102
        own = torch.tensor([digest(tensors)])
        everyone = [torch.empty_like(own) for _ in range(self.count)]
        with _others_must_answer():
            dist.all_gather(everyone, own)
        for rank, other in enumerate(everyone):
            if not torch.equal(other, everyone[0]):
                fix = "give all processes the same files, flags and kind of machine"
                raise InputError(f"process {rank}", f"the {what} of process 0", "others", fix)


@contextlib.contextmanager
def join() -> Iterator[Processes]:
    """Join the other processes; see ``training.processes.joined_processes``."""
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing or not dist.is_available():
        expected = f"{', '.join(_VARIABLES)} in the environment, and torch with torch.distributed"
        raise InputError("WORLD_SIZE", expected, f"no {', '.join(missing) or 'torch.distributed'}", "start by torchrun")
    with _others_must_answer():
        store, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
        dist.init_process_group(store=store, rank=rank, world_size=count, timeout=TIMEOUT)
    with _one_error_printed(dist.PrefixStore("failures", store)), _only_first_prints(rank):
        yield Processes()
        with _others_must_answer():
            dist.all_reduce(torch.zeros(1))  # none ends while another might still fail
    dist.destroy_process_group()


class _EndedByFirst(Exception):
    """All processes have agreed to end; the first prints the error."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@contextlib.contextmanager
def _one_error_printed(store: dist.Store) -> Iterator[None]:
    """Let the first failure pass; end this process silently where another has failed before."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _EndedByFirst) and store.add("count", 1) == 1:
            atexit.register(store.set, "printed", "")  # at exit the error has been printed
            raise
        with contextlib.suppress(RuntimeError):  # the process that keeps the store has ended
            store.wait(["printed"], timedelta(seconds=30))
        sys.exit(error.exit_code if isinstance(error, _EndedByFirst) else 2)


@contextlib.contextmanager
def _only_first_prints(rank: int) -> Iterator[None]:
    if rank == 0:
        yield
        return
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        yield


@contextlib.contextmanager
def _others_must_answer() -> Iterator[None]:
    """Turn torch's errors about processes that don't answer into an :class:`InputError`."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        message = f"torchrun: a process has ended or does not answer ('{reason}'); see its output and start again"
        raise InputError(message) from error


def in_main_memory(state: Any) -> Any:
    """The same nest of dicts, lists and tuples with no tensor left on a GPU."""
    if isinstance(state, dict):
        return {name: in_main_memory(each) for name, each in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(map(in_main_memory, state))
    return state.detach().cpu() if isinstance(state, Tensor) else state
