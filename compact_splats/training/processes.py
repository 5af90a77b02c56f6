"""The processes that train one scene together.

Without others nothing here loads torch. With others: ``training/distributed.py``. What a step of several views means
for the schedule: ``arguments/sharing.py``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Item = TypeVar("Item")


class SingleProcess:
    """A process that trains alone; nothing here costs anything.

    Attributes:
        rank: number of this process; the first writes, shows and measures.
        count: number of processes.
        threads: default number of CPU threads of this process; 0: one for each core.
        on_this_machine: number of processes that share the machine's memory.
        meet_every: steps between two exchanges of requests to stop and the like.
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
        """Draw once for each process, return this process's draw. All call it, with equal generator states."""
        return draw()

    def own_share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The part of ``items`` that this process works on; may be empty."""
        return items

    def sum(self, *tensors: Tensor) -> None:
        """Add up each tensor over all processes, in place; every one gets the same bits."""

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradient of each parameter by its mean over all processes; a missing one counts as 0."""

    def share(self, value: Item) -> Item:
        """The value of the first process, in all: numbers, text, tensors in main memory, and nests of these."""
        return value

    def gather(self, value: Item) -> list[Item]:
        """The values of all processes in order, in the first; empty elsewhere. Types as in :meth:`share`."""
        return [value]

    def any(self, step: int, wish: bool) -> bool:
        """Whether ``wish`` is true in any process; several exchange it every ``meet_every`` steps only."""
        return wish

    def raise_one(self, error: Exception | None) -> None:
        """Raise the error of any process, in the first, and end the others with it. All call it."""
        if error is not None:
            raise error

    def check_same(self, what: str, tensors: Iterable[Tensor]) -> None:
        """Make sure that the tensors have the same bits in all processes.

        Args:
            what: name of the tensors, for the message.
            tensors: of any shape and dtype.

        Raises:
            InputError: in all processes, if one differs.
        """


SINGLE_PROCESS = SingleProcess()


@contextlib.contextmanager
def joined_processes() -> Iterator[SingleProcess]:
    """Join the other processes, if the environment that torchrun sets says that there are some.

    Only the first process prints meanwhile. If one fails, one error is printed; the others exit with code 2.

    Yields:
        :data:`SINGLE_PROCESS`, or this process's ``training.distributed.Processes``.

    Raises:
        InputError: the environment is incomplete.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield SINGLE_PROCESS
        return
    from compact_splats.training.distributed import join

    with join() as processes:
        yield processes
