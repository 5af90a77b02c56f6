"""Photos on a GPU: they stay there while they fit, so that a step need not fetch its photo over the bus."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

SHARE = 0.25  # of the memory that is free when the first copy is made


class DeviceCopies:
    """Copies of tensors on one device, each kept as long as its original.

    Args:
        device: of the copies.
        most: bytes of all copies that are kept; None: ``SHARE`` of what is free on the GPU.
    """

    def __init__(self, device: torch.device, most: int | None = None) -> None:
        self._device = device
        self._most = int(SHARE * torch.cuda.mem_get_info(device)[0]) if most is None else most
        self._copies = WeakIdKeyDictionary()

    def of(self, values: Tensor) -> Tensor:
        """The copy of a tensor, which nobody changes; kept if there is room, made anew each time if not."""
        copy = self._copies.get(values)
        if copy is None:
            copy = values.to(self._device, non_blocking=True)
            if copy.nbytes + sum(each.nbytes for each in self._copies.values()) <= self._most:
                self._copies[values] = copy
        return copy


_copies_on = cache(DeviceCopies)


def on_device(values: Tensor, device: torch.device | str) -> Tensor:
    """A tensor, or its copy on a device, which stays there while there is room. Nobody changes either of them."""
    device = torch.device(device)
    return values if values.device == device else _copies_on(device).of(values)
