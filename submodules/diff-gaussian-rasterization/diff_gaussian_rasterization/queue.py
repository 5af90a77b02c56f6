"""What an engine call takes from torch: stream, memory, determinism and the number of threads."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from usable_processors import default_threads

from . import _C

SCRATCH_CHUNK = 64 << 20  # bytes: the scratch memory of a call for a million Gaussians takes two to four of them


def queue_for(device: torch.device) -> Any:
    """The engine's queue for tensors on a device: torch's current stream and torch's allocator."""
    return _C.Queue(
        stream=torch.cuda.current_stream(device).cuda_stream if device.type != "cpu" else 0,
        allocate=partial(torch.empty, dtype=torch.uint8, device=device),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        chunk=SCRATCH_CHUNK if device.type != "cpu" else 0,
    )


def thread_count(threads: int) -> int:
    """``threads``; if it is 0, ``torch.get_num_threads()``, but not more than the processors that can be used.

    torch's number is that of ``torch.set_num_threads``, or else of OMP_NUM_THREADS. The processors are those of the
    process's affinity and CPU limit.
    """
    return threads or default_threads()
