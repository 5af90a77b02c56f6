"""What a schedule becomes when several processes train one scene, each with a view of its own in every step.

The run sees the same number of views in fewer steps. How the processes meet is in ``utils/ranks.py``.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from compact_splats.arguments.schedule import (
    MIN_GROWTH_INTERVAL,
    OptimizerPhase,
    Schedule,
    Selection,
    scaled_growth,
    scaled_selection,
)


def shared(schedule: Schedule, count: int) -> Schedule:
    """The same run by ``count`` processes: events after as many views as with one, in ``count`` times fewer steps.

    - Where an update of Adam takes r times the views that it takes with one process, its rates grow by sqrt(r) and its
      betas become beta^r, which for independent gradients moves and remembers as much per view [Grendel-GS,
      arXiv:2406.18533]. Phases that wait for several steps wait for fewer, so that r is close to 1 there.
    - The gradient of a step is the mean over its views, so the pressure of natural selection, which comes once in a
      number of views, weighs as much less as that number of steps is smaller.
    - Capping and thinning of opacities stay: whether a run is too short for them is judged by its views, in
      ``Schedule.scaled``.
    - Growth events are no closer than ``MIN_GROWTH_INTERVAL`` views.

    Args:
        schedule: of one process.
        count: number of processes.
    """
    if count == 1:
        return schedule

    def at(step: int) -> int:
        return max(1, round(step / count))

    interval = math.ceil(MIN_GROWTH_INTERVAL / count)
    return replace(
        schedule,
        iterations=math.ceil(schedule.iterations / count),
        sh_degree_every=at(schedule.sh_degree_every),
        growths=tuple(scaled_growth(growth, at, min_interval=interval) for growth in schedule.growths),
        selections=tuple(_shared_selection(selection, at) for selection in schedule.selections),
        optimizer_phases=tuple(_shared_phase(phase, at, count) for phase in schedule.optimizer_phases),
        rates=replace(schedule.rates, horizon=at(schedule.rates.horizon)),
    )


def _shared_selection(selection: Selection, at: Callable[[int], int]) -> Selection:
    shorter = scaled_selection(selection, at)
    weight = shorter.window.every / selection.window.every
    return replace(shorter, first_pressure=selection.first_pressure * weight)


def _shared_phase(phase: OptimizerPhase, at: Callable[[int], int], count: int) -> OptimizerPhase:
    every, sh_rest_every = at(phase.every), at(phase.sh_rest_every)
    return OptimizerPhase(
        until=math.ceil(phase.until / count),
        every=every,
        sh_rest_every=sh_rest_every,
        batch=every * count / phase.every,
        sh_rest_batch=sh_rest_every * count / phase.sh_rest_every,
    )
