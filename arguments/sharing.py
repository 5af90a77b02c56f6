"""The schedule of several processes that train one scene, each with a view of its own in every step.

The run sees the same number of views in fewer steps. The processes: ``training/processes.py``.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from compact_splats.arguments.schedule import (
    MIN_DENSIFICATION_INTERVAL,
    OptimizerPhase,
    Schedule,
    SelectionRound,
    scaled_densification,
    scaled_selection,
)


def shared(schedule: Schedule, count: int) -> Schedule:
    """The same run by ``count`` processes: each event after as many views, so after ``count`` times fewer steps.

    - Where an update of Adam takes r times the views that it takes with one process, learning rates are multiplied by
      sqrt(r) and betas become beta^r [Grendel-GS, arXiv:2406.18533]. Phases that wait for several steps wait for fewer,
      so that r is close to 1 there.
    - The gradient of a step is the mean over its views. Regularisation, which comes once in a number of views, gets a
      weight that is smaller by the same factor as that number of steps.
    - Opacity caps and pruning of the lowest stay: ``Schedule.scaled`` judges by views whether a run is too short.
    - Splits are at least ``MIN_DENSIFICATION_INTERVAL`` views apart.

    Args:
        schedule: of one process.
        count: number of processes.
    """
    if count == 1:
        return schedule

    def at(step: int) -> int:
        return max(1, round(step / count))

    interval = math.ceil(MIN_DENSIFICATION_INTERVAL / count)
    return replace(
        schedule,
        iterations=math.ceil(schedule.iterations / count),
        sh_degree_every=at(schedule.sh_degree_every),
        densification_rounds=tuple(
            scaled_densification(each, at, min_interval=interval) for each in schedule.densification_rounds
        ),
        selection_rounds=tuple(_shared_selection(selection, at) for selection in schedule.selection_rounds),
        optimizer_phases=tuple(_shared_phase(phase, at, count) for phase in schedule.optimizer_phases),
        learning_rates=schedule.learning_rates.scaled(1.0, at),
        photo_divisors=tuple((at(until), divisor) for until, divisor in schedule.photo_divisors),
        mean_from=None if schedule.mean_from is None else at(schedule.mean_from),
    )


def _shared_selection(selection: SelectionRound, at: Callable[[int], int]) -> SelectionRound:
    shorter = scaled_selection(selection, at)
    weight = shorter.window.every / selection.window.every
    return replace(shorter, initial_weight=selection.initial_weight * weight)


def _shared_phase(phase: OptimizerPhase, at: Callable[[int], int], count: int) -> OptimizerPhase:
    every, sh_rest_every = at(phase.every), at(phase.sh_rest_every)
    return OptimizerPhase(
        until=math.ceil(phase.until / count),
        every=every,
        sh_rest_every=sh_rest_every,
        batch=every * count / phase.every,
        sh_rest_batch=sh_rest_every * count / phase.sh_rest_every,
    )
