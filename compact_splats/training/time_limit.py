"""As many steps as fit into a time: measures the speed of the training and lays its schedule out anew."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from compact_splats.arguments.schedule import DensificationRound, Pace, Schedule, SelectionRound
from compact_splats.gaussian_renderer import render_pass
from compact_splats.gaussian_renderer.evaluation import ground_truth
from compact_splats.training.processes import SINGLE_PROCESS, SingleProcess
from compact_splats.training.training import Training
from compact_splats.utils.errors import InputError
from compact_splats.utils.usage import synchronize

PIXELS_PER_GAUSSIAN = 4  # a Gaussian costs as much time as so many pixels: measured, benchmarks/rasterizer.py
FEWEST_STEPS, MOST_STEPS = 100, 30_000
LOOK_EVERY = 10  # steps
MEMORY = 0.8  # weight of what was measured before, at each look


class TimeLimit:
    """Chooses the number of steps such that a training ends within a time.

    A step is taken to cost time in proportion to its pixels and Gaussians, and a view that a strategy renders as much
    as a step. How much is measured before the first step and then all the time, and after every few steps the rest of
    the schedule is made as long as the time that is left.

    Args:
        training: at its start.
        schedule: of any number of steps.
        budget: number of Gaussians at the end.
        seconds: to train for.
        processes: those that train together; the first decides.

    Raises:
        InputError: the time is too short for ``FEWEST_STEPS``.
    """

    def __init__(
        self,
        training: Training,
        schedule: Schedule,
        budget: int,
        seconds: float,
        processes: SingleProcess = SINGLE_PROCESS,
    ) -> None:
        self.training, self.schedule, self.budget, self.seconds = training, schedule, budget, seconds
        self._processes = processes
        self._pace = Pace(1.0)
        self._pixels = training.scene.train[0].width * training.scene.train[0].height
        self._seconds = processes.share(seconds_of_a_view(training))
        self._cost = self._cost_of(1, training.model.num_gaussians)
        self._views_left = self._strategies_views()
        self._seen_at, self._new_cost = 0.0, 0.0
        fastest = FEWEST_STEPS / schedule.iterations * self._seconds_left() + self._seconds_of_views()
        if fastest > seconds:
            needed = f"{FEWEST_STEPS} steps take about {fastest / 60:.2g} minutes on this machine"
            raise InputError(f"--minutes {seconds / 60:g} is too short for this scene: {needed}")
        self._lay_out()

    def after_step(self, step: int, seconds: float) -> None:
        """Count a step, and lay the rest of the schedule out anew if that is due."""
        before, self._views_left = self._views_left, self._strategies_views()
        views = 1 + before - self._views_left
        self._new_cost += views * self._cost_of(
            self.training.schedule.photo_divisor(step), self.training.model.num_gaussians
        )
        left = self.training.schedule.iterations - step
        if not left or (step % LOOK_EVERY and left > LOOK_EVERY):
            return
        self._seconds = MEMORY * self._seconds + seconds - self._seen_at
        self._cost = MEMORY * self._cost + self._new_cost
        self._seen_at, self._new_cost = seconds, 0.0
        self._pace = Pace(self._pace.factor, step, self._pace.position_of(step))
        self._lay_out()

    def _lay_out(self) -> None:
        left = self.seconds - self._seen_at - self._seconds_of_views()
        factor = left / max(1e-9, self._seconds_left())
        fewest, most = (steps / self.schedule.iterations for steps in (FEWEST_STEPS, MOST_STEPS))
        self._follow(self._processes.share(replace(self._pace, factor=min(max(factor, fewest), most))))

    def _follow(self, pace: Pace) -> None:
        self._pace = pace
        self.training.change_schedule(self.schedule.at_pace(pace))

    def _seconds_left(self) -> float:
        """How long the rest takes with one step for each of the schedule."""
        steps = np.linspace(self._pace.position, self.schedule.iterations, 100)
        costs = [self._cost_of(self.schedule.photo_divisor(step), self._expected_gaussians(step)) for step in steps]
        return float((steps[-1] - steps[0]) * np.mean(costs) * self._seconds / self._cost)

    def _seconds_of_views(self) -> float:
        """How long strategies will render, with two budgets of Gaussians in the mean."""
        return self._views_left * self._cost_of(1, 2 * self.budget) * self._seconds / self._cost

    def _strategies_views(self) -> float:
        views = sum(strategy.views_left(self.training) for strategy in self.training.strategies)
        return views / self._processes.count

    def _expected_gaussians(self, step: float) -> float:
        """How many there will be at a later step of the schedule."""
        now, count = self._pace.position, float(self.training.model.num_gaussians)
        rounds: list[DensificationRound | SelectionRound] = [*self.schedule.densification_rounds]
        rounds += self.schedule.selection_rounds
        for each in sorted(rounds, key=lambda each: each.window.start):
            first, last = max(now, each.window.start), each.window.end
            if last <= now or step <= first:
                continue
            if isinstance(each, DensificationRound):
                count = max(count, each.allowance(min(step, last), self.budget))
            else:
                count += (self.budget - count) * min(1.0, (step - first) / (last - first))
        return count

    def _cost_of(self, divisor: int, num_gaussians: float) -> float:
        return self._pixels / divisor**2 + PIXELS_PER_GAUSSIAN * num_gaussians

    def state_dict(self) -> dict[str, Any]:
        """The layout of the schedule, and the speed."""
        return {
            "pace": asdict(self._pace), "seconds": self._seconds, "cost": self._cost, "seen_at": self._seen_at,
            "views_left": self._views_left,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._seconds, self._cost = state["seconds"], state["cost"]
        self._views_left = state["views_left"]
        self._seen_at, self._new_cost = state["seen_at"], 0.0
        self._follow(Pace(**state["pace"]))


def seconds_of_a_view(training: Training) -> float:
    """Time of one forward and backward pass at full size, the second of two; the training is not changed."""
    camera, model = training.scene.train[0], training.model
    background = torch.zeros(3)
    photo, mask = ground_truth(camera, model.device, background)
    start = 0.0
    for _ in range(2):  # the first loads code
        synchronize(model.device)
        start = time.perf_counter()
        view = render_pass(camera, model, background, sums={})
        view.photometric_loss(photo, mask)
        view.backward()
    synchronize(model.device)
    return time.perf_counter() - start
