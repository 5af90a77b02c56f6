"""How a benchmark takes times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from compact_splats.utils.usage import synchronize


def median_seconds(
    work: Callable[[], object],
    repeats: int,
    device: torch.device,
    prepare: Callable[[], object] | None = None,
) -> float:
    """Median wall time of one call of ``work``, after some that are not counted.

    A GPU is waited for. It is given several calls at a time, as in a training, where the next call is made ready
    while it works; with ``prepare``, which runs before each call and is not timed, only one.
    """
    on_gpu = device.type != "cpu"
    batch = 10 if on_gpu and prepare is None else 1
    num_warm_up = 3 if on_gpu else 1
    times = []
    for _ in range(repeats + num_warm_up):
        if prepare is not None:
            prepare()
        synchronize(device)
        start = time.perf_counter()
        for _ in range(batch):
            work()
        synchronize(device)
        times.append((time.perf_counter() - start) / batch)
    return statistics.median(times[num_warm_up:])
