"""The schedule of several processes that train one scene, each with a view of its own in every step.

The run sees the same number of views in fewer steps. The processes: ``training/processes.py``.
"""

import math
from dataclasses import replace

from compact_splats.arguments.schedule import (
    MIN_DENSIFICATION_INTERVAL,
    OptimizerPhase,
    Pace,
    Schedule,
    SelectionRound,
    paced_densification,
    paced_selection,
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

    pace = Pace(1 / count)
    interval = math.ceil(MIN_DENSIFICATION_INTERVAL / count)
    return replace(
        schedule.at_pace(pace),
        iterations=math.ceil(schedule.iterations / count),
        densification_rounds=tuple(
            paced_densification(each, pace, min_interval=interval) for each in schedule.densification_rounds
        ),
        selection_rounds=tuple(_shared_selection(selection, pace) for selection in schedule.selection_rounds),
        optimizer_phases=tuple(_shared_phase(phase, pace, count) for phase in schedule.optimizer_phases),
        learning_rates=replace(schedule.learning_rates.at_pace(pace), factor=schedule.learning_rates.factor),
    )


def _shared_selection(selection: SelectionRound, pace: Pace) -> SelectionRound:
    shorter = paced_selection(selection, pace)
    weight = shorter.window.every / selection.window.every
    return replace(shorter, initial_weight=selection.initial_weight * weight)


def _shared_phase(phase: OptimizerPhase, pace: Pace, count: int) -> OptimizerPhase:
    every, sh_rest_every = pace.span(phase.every), pace.span(phase.sh_rest_every)
    return OptimizerPhase(
        until=math.ceil(phase.until / count),
        every=every,
        sh_rest_every=sh_rest_every,
        batch=every * count / phase.every,
        sh_rest_batch=sh_rest_every * count / phase.sh_rest_every,
    )
