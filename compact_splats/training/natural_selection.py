"""Natural selection (GNS): pressure on every opacity, so that only Gaussians which the photos defend survive.

Decides who dies; that the model forgets them is one call of ``GaussianModel.keep``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from compact_splats.arguments.schedule import Selection
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.sampling import draw_without_replacement

DEATH_LOGIT = -20.0  # where the pressure pushes the logits: opacity 2e-9
MIN_TRANSPARENCY = 0.05  # floor of the denominator of the finite prior


@dataclass
class _Round:
    """What one round of selection has learnt so far."""

    pressure: float
    first_goal: float | None = None
    ended_at: int | None = None


class NaturalSelection:
    """Runs the selection rounds of a schedule [GNS, arXiv:2511.16980].

    Each round starts anew: first pressure, its own goal, its own end.

    Args:
        selections: the rounds, in order of time.
        budget: B, exactly how many Gaussians a round leaves, if it finds as many.
        generator: of the final draw.
        mode: ``"cutoff"`` replaces the last round, for comparison, by keeping the B highest opacities at its start;
            everything else stays the same. ``"none"`` leaves the rounds out, and the set as large as it has grown.
    """

    def __init__(
        self,
        selections: tuple[Selection, ...],
        budget: int,
        generator: torch.Generator,
        mode: Literal["natural", "cutoff", "none"] = "natural",
    ) -> None:
        assert mode in ("natural", "cutoff", "none"), mode
        self.selections = () if mode == "none" else selections
        self.budget = budget
        self.generator = generator
        self.mode = mode
        self.rounds = [_Round(selection.first_pressure) for selection in self.selections]

    def _begun(self, step: int) -> list[tuple[Selection, _Round]]:
        return [pair for pair in zip(self.selections, self.rounds, strict=True) if pair[0].window.start <= step]

    def _running(self, step: int) -> tuple[Selection, _Round] | None:
        """The round that selects at ``step``, unless it has ended."""
        begun = self._begun(step)
        return begun[-1] if begun and begun[-1][1].ended_at is None else None

    def _is_cutoff(self, selection: Selection) -> bool:
        return self.mode == "cutoff" and selection is self.selections[-1]

    def has_ended(self, step: int) -> bool:
        """Whether the last round is over, so that the number of Gaussians is final."""
        return all(state.ended_at is not None and state.ended_at <= step for state in self.rounds)

    def opacity_rate_factor(self, step: int) -> float:
        """What the opacity rate is multiplied by at ``step``: more from the start of a round until some time after."""
        for selection, state in self._begun(step)[-1:]:
            if state.ended_at is None or step < state.ended_at + selection.rate_back_after:
                return selection.opacity_rate_factor
        return 1.0

    @torch.no_grad()
    def adapt(self, step: int, opacities: Tensor) -> None:
        """Tune the pressure: the B-th largest opacity shall sink along a straight line. Before the penalty of a step.

        Args:
            step: of the training; nothing happens where none is due.
            opacities: (N,1) in (0,1).
        """
        running = self._running(step)
        if running is None:
            return
        selection, state = running
        if state.first_goal is None:
            state.first_goal = 0.8 * _nth_largest(opacities, self.budget)
        elif selection.adapts(step):
            goal = _goal(step, selection, state)
            marginal = _nth_largest(opacities, self.budget)
            if marginal < 0.9 * goal:
                state.pressure *= 0.8
            elif marginal > 1.1 * goal:
                state.pressure *= 1.2

    @torch.no_grad()
    def figures(self, step: int, opacities: Tensor) -> dict[str, float]:
        """For the log: ``goal`` (opacity), ``marginal`` (the B-th largest opacity) and ``pressure`` (lambda).

        Args:
            step: of the training, after its :meth:`adapt`.
            opacities: (N,1) in (0,1).

        Returns:
            Nothing where no round runs after ``step``.
        """
        running = self._running(step)
        if running is None:
            return {}
        marginal = _nth_largest(opacities, self.budget)
        return {"goal": _goal(step, *running), "marginal": marginal, "pressure": running[1].pressure}

    def penalty(self, step: int, opacity_logits: Tensor) -> Tensor:
        """The term that selection adds to the loss of ``step``.

        Args:
            step: of the training.
            opacity_logits: (N,1).

        Returns:
            () with gradient for the logits; zero where no pressure is due.
        """
        running = self._running(step)
        if running is None or self._is_cutoff(running[0]) or not running[0].is_due(step):
            return opacity_logits.new_zeros(())
        selection, state = running
        if selection.follows_prior(step):
            return state.pressure * finite_prior(opacity_logits)
        return 3 * state.pressure * (opacity_logits.mean() - DEATH_LOGIT) ** 2

    @torch.no_grad()
    def victims(self, step: int, opacities: Tensor) -> Tensor | None:
        """Who dies after the optimizer step of ``step``, and whether the round ends with it.

        Args:
            step: of the training.
            opacities: (N,1) in (0,1).

        Returns:
            (N,) bool; None where nobody dies.
        """
        running = self._running(step)
        if running is None:
            return None
        selection, state = running
        opacities = opacities.flatten()
        is_last_step = step >= selection.window.end
        if self._is_cutoff(selection):
            survives = self._highest(opacities)
            state.ended_at = step
        elif is_last_step or selection.is_due(step):
            survives = torch.ones_like(opacities, dtype=torch.bool)
            if selection.prunes(step):
                survives = opacities >= selection.min_opacity
                if survives.sum() < self.budget:  # the threshold would take more than the budget allows
                    survives = self._highest(opacities)
            if is_last_step or survives.sum() < selection.enough * self.budget:
                survives = self._exactly_budget(opacities, survives)
                state.ended_at = step
        else:
            return None
        return None if survives.all() else ~survives

    def _highest(self, opacities: Tensor) -> Tensor:
        survives = torch.zeros_like(opacities, dtype=torch.bool)
        order = opacities.argsort(descending=True, stable=True)
        survives[order[: self.budget]] = True
        return survives

    def _exactly_budget(self, opacities: Tensor, survives: Tensor) -> Tensor:
        rows = survives.nonzero().squeeze(1)
        if len(rows) > self.budget:
            rows = rows[draw_without_replacement(opacities[rows], self.budget, self.generator)]
        kept = torch.zeros_like(survives)
        kept[rows] = True
        return kept

    def edit(self, step: int, model: GaussianModel) -> int:
        """Remove the victims of ``step`` from the model, and say how many they were."""
        victims = self.victims(step, model.opacities)
        if victims is None:
            return 0
        model.keep(~victims)
        return int(victims.sum())

    def state_dict(self) -> dict[str, Any]:
        """Pressure, goal and end of every round; the generator is saved by its owner."""
        return {"rounds": [asdict(state) for state in self.rounds]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.rounds = [_Round(**values) for values in state["rounds"]]


def finite_prior(opacity_logits: Tensor) -> Tensor:
    """Pressure that grows with opacity: ``mean((v + 20) / max(0.05, 1 - o))^2``; the denominator has a gradient too.

    Args:
        opacity_logits: (N,1), v; o is its sigmoid.

    Returns:
        ().
    """
    transparency = (1 - opacity_logits.sigmoid()).clamp_min(MIN_TRANSPARENCY)
    return ((opacity_logits - DEATH_LOGIT) / transparency).mean() ** 2


def _goal(step: int, selection: Selection, state: _Round) -> float:
    return state.first_goal * max(0.0, 1 - (step - selection.window.start) / selection.goal_span)


def _nth_largest(opacities: Tensor, n: int) -> float:
    opacities = opacities.flatten()
    return float(opacities.kthvalue(max(1, len(opacities) - n + 1)).values)
