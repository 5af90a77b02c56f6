"""The strategies of the method: densification of Improved-GS, natural selection of GNS."""

from __future__ import annotations

from compact_splats.arguments.schedule import FEWEST_PHOTOS, MOST_STEPS_PER_PHOTO, Schedule
from compact_splats.scene.dataset import Scene
from compact_splats.training.averaging import MeanOfLastSteps
from compact_splats.training.densification import Densification
from compact_splats.training.importance import EdgeImportance
from compact_splats.training.natural_selection import NaturalSelection, OpacityCutoff
from compact_splats.training.random_streams import random_stream
from compact_splats.training.removal_selection import RemovalSelection
from compact_splats.training.smoothing import Smoothing3D
from compact_splats.training.strategy import Strategy
from compact_splats.training.view_sampler import ViewSampler


def standard_strategies(
    scene: Scene,
    schedule: Schedule,
    budget: int,
    *,
    seed: int = 0,
    selection: str = "auto",
    smoothing: bool = False,
) -> list[Strategy]:
    """Densification up to two or three budgets, and selection down to the budget, as the schedule says.

    Args:
        scene: to be trained on.
        schedule: of the training.
        budget: exact number of Gaussians at the end.
        seed: of all draws.
        selection: ``"natural"``; ``"error"``, by removal error; ``"cutoff"``, which prunes by opacity at the start of
            the last round, for comparison; ``"none"``, which leaves the set as large as it has become; or ``"auto"``,
            which is that of the schedule with at least ``FEWEST_PHOTOS`` for training and at most
            ``MOST_STEPS_PER_PHOTO``, and natural in other runs, where its regularisation is worth more.
        smoothing: draw through the 3D smoothing filter.
    """
    views = ViewSampler(len(scene.train), random_stream(seed, "importance views"))
    densification = Densification(
        schedule.densification_rounds, budget, random_stream(seed, "densification"), EdgeImportance(views)
    )
    strategies: list[Strategy] = [densification]
    rounds, generator = schedule.selection_rounds, random_stream(seed, "selection")
    if selection == "auto":
        num_photos = len(scene.train)
        sees_much = num_photos >= FEWEST_PHOTOS and schedule.iterations <= MOST_STEPS_PER_PHOTO * num_photos
        selection = schedule.selection if sees_much else "natural"
    if selection == "natural":
        strategies.append(NaturalSelection(rounds, budget, generator))
    elif selection == "error":
        strategies.append(RemovalSelection(rounds, budget))
    elif selection == "cutoff" and rounds:
        strategies += [NaturalSelection(rounds[:-1], budget, generator), OpacityCutoff(rounds[-1], budget)]
    if schedule.mean_from is not None:
        strategies.append(MeanOfLastSteps(schedule.mean_from))
    if smoothing:
        strategies.append(Smoothing3D())
    return strategies
