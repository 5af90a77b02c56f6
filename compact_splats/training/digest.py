"""A digest of tensors that several processes, or a run and its checkpoint, compare."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_CHUNK = 1 << 20  # words at a time, which bounds the memory


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
