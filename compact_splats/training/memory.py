"""The least main memory that a training on the CPU needs, compared with what is free before it starts and grows.

What the allocator and Python add is left out, so that nothing is refused that would have fitted.
"""

from __future__ import annotations

from typing import Any

import torch

from compact_splats.arguments.options import flags_that_save_memory
from compact_splats.arguments.schedule import Schedule
from compact_splats.arguments.sizes import memory_size
from compact_splats.scene.dataset import Scene
from compact_splats.training.densification import Densification
from compact_splats.training.processes import SingleProcess
from compact_splats.training.training import Training
from compact_splats.utils.errors import InputError, readable
from compact_splats.utils.memory import free_memory

# Measured (docs/reliability.md); rows come on top, four times: parameters, gradients, two moments.
_PER_GAUSSIAN = 400  # bytes: activations, splats, 5 instances with a gradient each
_PER_PIXEL = 100  # bytes: image, gradient, nine maps of SSIM


def check_memory(config: Any, schedule: Schedule, processes: SingleProcess, device: torch.device, scene: Scene) -> None:
    """Divide the memory: set how much photos may take, and make sure that a training fits into what is free.

    Args:
        config: a ``TrainConfig``.
        schedule: how far the set grows.
        processes: the processes, which share the memory of a machine.
        device: of the training; on a GPU only the photos need main memory.
        scene: its photos are not decoded yet. Sizes of photos and the number of points count.

    Raises:
        InputError: it does not fit.
    """
    wanted = 0
    if device.type == "cpu":
        rounds = schedule.densification_rounds
        allowed = (each.allowance(schedule.iterations, config.final_budget) for each in rounds)
        wanted += max(len(scene.points.xyz), *allowed) * _per_gaussian(config.sh_degree)
        wanted += _PER_PIXEL * max(camera.width * camera.height for camera in scene.train + scene.test)
    num, free = processes.on_this_machine, free_memory()
    most = memory_size(config.photo_memory)
    if most is None and free is not None:
        most = min(free // 2, max(0, free - num * wanted))
    scene.limit_photos(None if most is None else most // num)
    _check(config, num * (wanted + scene.photos.most_bytes), "at least")


def no_room_to_grow(config: Any, training: Training, processes: SingleProcess, step: int) -> InputError | None:
    """The error that ends a training on the CPU whose set is about to grow, if there is no memory for it.

    Args:
        config: a ``TrainConfig``.
        training: between two steps; its densification says when and how far the set grows.
        processes: they look ahead until they meet again.
        step: number of steps done.
    """
    steps = range(step + 1, step + 1 + processes.meet_every)
    model = training.model
    densifications = [each for each in training.strategies if isinstance(each, Densification)]
    rounds = [each for densification in densifications for each in densification.rounds]
    due = [(each, step) for each in rounds for step in steps if each.is_due(step)]
    if not due or model.device.type != "cpu":
        return None
    num = model.num_gaussians
    larger = max(min(each.allowance(step, config.final_budget), 2 * num) for each, step in due)
    try:
        _check(config, (larger - num) * _per_gaussian(model.max_sh_degree), f"more for {larger:,} Gaussians")
    except InputError as error:
        return error
    return None


def _per_gaussian(sh_degree: int) -> int:
    floats = 11 + 3 * (sh_degree + 1) ** 2
    return 4 * 4 * floats + _PER_GAUSSIAN


def _check(config: Any, num_bytes: int, what: str) -> None:
    free = free_memory()
    if free is not None and num_bytes > free:
        fix = f"ask for less by {flags_that_save_memory(type(config))}"
        raise InputError("memory", f"{readable(num_bytes)} {what}", f"{readable(free)} free", fix)
