"""Photos on a GPU: they stay there while they fit, so that a step need not fetch its photo over the bus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

SHARE = 0.25  # of the memory that is free when the first copy is made

Tensors = Sequence[Any]  # Tensor | None


class DeviceCopies:
    """Copies of tensors on one device, each kept as long as its owner.

    Args:
        device: of the copies.
        most: bytes of all copies that are kept; None: ``SHARE`` of what is free on the GPU.
    """

    def __init__(self, device: torch.device, most: int | None = None) -> None:
        self._device = device
        self._most = int(SHARE * torch.cuda.mem_get_info(device)[0]) if most is None else most
        self._copies = WeakIdKeyDictionary()  # by owner: the copies and their size in bytes

    def __contains__(self, owner: object) -> bool:
        return owner in self._copies

    def of(self, owner: object, values: Callable[[], Tensors]) -> Tensors:
        """The copies of an owner's tensors, which nobody changes; kept if there is room, made anew each time if not."""
        kept = self._copies.get(owner)
        if kept is not None:
            return kept[0]
        copies = [None if each is None else each.to(self._device, non_blocking=True) for each in values()]
        size = sum(each.nbytes for each in copies if each is not None)
        if size + sum(size for _, size in self._copies.values()) <= self._most:
            self._copies[owner] = copies, size
        return copies


_copies_on = cache(DeviceCopies)


def on_device(owner: object, device: torch.device, values: Callable[[], Tensors]) -> Tensors:
    """Tensors, or on a GPU their copies, which stay there while there is room. Nobody changes either of them.

    Args:
        owner: of the copies, which are kept no longer.
        device: of the result.
        values: the tensors, in main memory; called where there is no copy.
    """
    return values() if device.type == "cpu" else _copies_on(device).of(owner, values)


def is_on_device(owner: object, device: torch.device) -> bool:
    """Whether :func:`on_device` has copies on a GPU."""
    return device.type != "cpu" and owner in _copies_on(device)
