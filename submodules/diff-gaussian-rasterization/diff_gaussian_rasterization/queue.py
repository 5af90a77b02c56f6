"""What an engine call takes from torch: stream, memory, determinism and the number of threads."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from . import _C

SCRATCH_CHUNK = 64 << 20  # bytes: the scratch memory of a call for a million Gaussians takes two to four of them


def array(tensor: Tensor) -> Any:
    """The values of a tensor for the engine, which can also take the tensor itself but needs 3 us more for that."""
    return to_dlpack(tensor.detach())


def queue_for(device: torch.device) -> Any:
    """The engine's queue for tensors on a device: torch's current stream and torch's allocator."""
    return _C.Queue(
        stream=torch.cuda.current_stream(device).cuda_stream if device.type != "cpu" else 0,
        allocate=partial(torch.empty, dtype=torch.uint8, device=device),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        chunk=SCRATCH_CHUNK if device.type != "cpu" else 0,
    )


def thread_count(threads: int) -> int:
    """``threads``; if it is 0, the number of threads that torch uses."""
    return threads or torch.get_num_threads()
