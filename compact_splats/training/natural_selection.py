"""Natural selection (GNS): regularisation lowers every opacity; Gaussians that the photos do not need are pruned."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from compact_splats.arguments.schedule import Schedule, SelectionRound
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.sampling import draw_without_replacement
from compact_splats.training.strategy import Strategy
from compact_splats.training.training import Training

TARGET_LOGIT = -20.0  # where regularisation pulls the logits: opacity 2e-9
MIN_TRANSPARENCY = 0.05  # floor of the denominator of the finite prior
FIRST_GOAL = 0.8  # of the budget-th opacity at the start of a round


@dataclass
class _RoundState:
    """What changes in one round: regularisation weight, first goal, and the step at which the round has ended."""

    weight: float
    first_goal: float | None = None
    ended_at: int | None = None


class NaturalSelection(Strategy):
    """Runs the selection rounds of a schedule [GNS, arXiv:2511.16980].

    Each round starts anew, with its own regularisation weight, goal and end.

    Args:
        rounds: in order of time.
        budget: B, the exact number of Gaussians that a round leaves, if it begins with as many.
        generator: of the last draw of a round, on the CPU.
    """

    def __init__(self, rounds: tuple[SelectionRound, ...], budget: int, generator: torch.Generator) -> None:
        self.budget = budget
        self.generator = generator
        self.rounds = rounds
        self.states = [_RoundState(each.initial_weight) for each in rounds]

    def change_schedule(self, schedule: Schedule) -> None:
        """Continue the rounds at another pace."""
        self.rounds = schedule.selection_rounds[: len(self.rounds)]

    def _begun(self, step: int) -> list[tuple[SelectionRound, _RoundState]]:
        return [pair for pair in zip(self.rounds, self.states, strict=True) if pair[0].window.start <= step]

    def _running(self, step: int) -> tuple[SelectionRound, _RoundState] | None:
        """The round that selects at ``step``, unless it has ended."""
        begun = self._begun(step)
        return begun[-1] if begun and begun[-1][1].ended_at is None else None

    def _is_due(self, step: int) -> bool:
        """Whether ``step`` regularises, and may tune the weight and prune."""
        running = self._running(step)
        return running is not None and (running[0].is_due(step) or step >= running[0].window.end)

    def has_ended(self, step: int) -> bool:
        """Whether all rounds have ended by ``step``, so that the number of Gaussians is final."""
        return all(state.ended_at is not None and state.ended_at <= step for state in self.states)

    def learning_rates(self, step: int, rates: dict[str, float]) -> dict[str, float]:
        """A higher learning rate of the opacities, from the start of a round until some time after its end."""
        return {**rates, "opacity_logits": rates["opacity_logits"] * self.opacity_lr_factor(step)}

    def opacity_lr_factor(self, step: int) -> float:
        """By what the learning rate of the opacities is multiplied at ``step``."""
        for each, state in self._begun(step)[-1:]:
            if state.ended_at is None or step < state.ended_at + each.lr_reset_after:
                return each.opacity_lr_factor
        return 1.0

    def loss_term(self, training: Training) -> Tensor | None:
        """Tune the weight, and give the regularisation."""
        if not self._is_due(training.step):
            return None
        if self._tunes(training.step):
            self.tune(training.step, training.model.opacities)
        return self.regularisation(training.step, training.model.parameters["opacity_logits"])

    def _tunes(self, step: int) -> bool:
        """Whether ``step`` reads the budget-th opacity."""
        running = self._running(step)
        return running is not None and (running[1].first_goal is None or running[0].tunes_weight(step))

    @torch.no_grad()
    def tune(self, step: int, opacities: Tensor) -> None:
        """Tune the weight so that the budget-th opacity falls linearly; does nothing where no tuning is due.

        Args:
            step: from 1.
            opacities: (N,1) in (0,1).
        """
        running = self._running(step)
        if running is None:
            return
        each, state = running
        if state.first_goal is None:
            state.first_goal = FIRST_GOAL * _nth_largest(opacities, self.budget)
        elif each.tunes_weight(step):
            goal = _goal(step, each, state)
            budget_opacity = _nth_largest(opacities, self.budget)
            if budget_opacity < 0.9 * goal:
                state.weight *= 0.8
            elif budget_opacity > 1.1 * goal:
                state.weight *= 1.2

    def regularisation(self, step: int, opacity_logits: Tensor) -> Tensor:
        """The term that ``step`` adds to the loss.

        Args:
            step: from 1.
            opacity_logits: (N,1).

        Returns:
            () with gradient for the logits; zero where none is due.
        """
        running = self._running(step)
        if running is None or not running[0].is_due(step):
            return opacity_logits.new_zeros(())
        each, state = running
        if each.follows_prior(step):
            return state.weight * finite_prior(opacity_logits)
        return 3 * state.weight * (opacity_logits.mean() - TARGET_LOGIT) ** 2

    def after_step(self, training: Training) -> None:
        """Prune what is due."""
        self.edit(training.step, training.model)

    def edit(self, step: int, model: GaussianModel) -> int:
        """Prune what is due at ``step``, and return the number of Gaussians pruned."""
        mask = self.prune_mask(step, model.opacities) if self._may_prune(step, model.num_gaussians) else None
        if mask is None:
            return 0
        num_before = model.num_gaussians
        model.keep(~mask)
        return num_before - model.num_gaussians

    def _may_prune(self, step: int, num_gaussians: int) -> bool:
        """Whether ``step`` looks at the opacities: it prunes, or the round ends."""
        running = self._running(step)
        if running is None or not self._is_due(step):
            return False
        each = running[0]
        return each.prunes(step) or step >= each.window.end or num_gaussians < each.enough * self.budget

    @torch.no_grad()
    def prune_mask(self, step: int, opacities: Tensor) -> Tensor | None:
        """The Gaussians to prune after the update of ``step``; decides, too, whether the round ends with it.

        Args:
            step: from 1.
            opacities: (N,1) in (0,1).

        Returns:
            (N,) bool; None where there are none.
        """
        running = self._running(step)
        opacities = opacities.flatten()
        if running is None or not self._may_prune(step, len(opacities)):
            return None
        each, state = running
        survives, num_left = torch.ones_like(opacities, dtype=torch.bool), len(opacities)
        if each.prunes(step):
            survives = opacities >= each.min_opacity
            num_left = int(survives.sum())
            if num_left < self.budget:  # the threshold would leave less than the budget
                survives, num_left = highest(opacities, self.budget), min(self.budget, len(opacities))
        if step >= each.window.end or num_left < each.enough * self.budget:
            state.ended_at = step
            if num_left > self.budget:
                survives, num_left = self._exactly_budget(opacities, survives), self.budget
        return None if num_left == len(opacities) else ~survives

    def _exactly_budget(self, opacities: Tensor, survives: Tensor) -> Tensor:
        indices = survives.nonzero().squeeze(1)
        indices = indices[draw_without_replacement(opacities[indices], self.budget, self.generator)]
        kept = torch.zeros_like(survives)
        kept[indices] = True
        return kept

    def figures(self, training: Training) -> dict[str, float]:
        """While a round runs: ``goal`` and ``budget_opacity`` (opacities), and ``regularisation_weight``."""
        return self.figures_of(training.step, training.model.opacities)

    @torch.no_grad()
    def figures_of(self, step: int, opacities: Tensor) -> dict[str, float]:
        """As :meth:`figures`, after the :meth:`tune` of ``step``; opacities (N,1) in (0,1)."""
        running = self._running(step)
        if running is None or running[1].first_goal is None:
            return {}
        return {
            "goal": _goal(step, *running),
            "budget_opacity": _nth_largest(opacities, self.budget),
            "regularisation_weight": running[1].weight,
        }

    def state_dict(self) -> dict[str, Any]:
        """Weight, goal and end of every round, and the generator."""
        return {"rounds": [asdict(state) for state in self.states], "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.states = [_RoundState(**values) for values in state["rounds"]]
        self.generator.set_state(state["generator"])


class OpacityCutoff(Strategy):
    """Keeps the Gaussians of highest opacity at the start of a selection round, in its place, for comparison.

    Args:
        replaced: the round; its learning rate of the opacities stays.
        budget: number of Gaussians to keep.
    """

    def __init__(self, replaced: SelectionRound, budget: int) -> None:
        self.replaced = replaced
        self.budget = budget

    def change_schedule(self, schedule: Schedule) -> None:
        """Replace the last round, now at another pace."""
        self.replaced = schedule.selection_rounds[-1]

    def learning_rates(self, step: int, rates: dict[str, float]) -> dict[str, float]:
        """Those of the replaced round."""
        past_start = step - self.replaced.window.start
        factor = self.replaced.opacity_lr_factor if 0 <= past_start < self.replaced.lr_reset_after else 1.0
        return {**rates, "opacity_logits": rates["opacity_logits"] * factor}

    def after_step(self, training: Training) -> None:
        """Prune at the start of the round."""
        if training.step == self.replaced.window.start and training.model.num_gaussians > self.budget:
            training.model.keep(highest(training.model.opacities.detach().flatten(), self.budget))


def highest(opacities: Tensor, count: int) -> Tensor:
    """(N,) bool: the ``count`` highest of the (N,) opacities; of equals the first."""
    mask = torch.zeros_like(opacities, dtype=torch.bool)
    mask[opacities.argsort(descending=True, stable=True)[:count]] = True
    return mask


def finite_prior(opacity_logits: Tensor) -> Tensor:
    """Regularisation that grows with opacity: ``mean((v + 20) / max(0.05, 1 - o))^2`` [GNS].

    Args:
        opacity_logits: (N,1), v; o is its sigmoid. The denominator has a gradient, too.

    Returns:
        ().
    """
    transparency = (1 - opacity_logits.sigmoid()).clamp_min(MIN_TRANSPARENCY)
    return ((opacity_logits - TARGET_LOGIT) / transparency).mean() ** 2


def _goal(step: int, each: SelectionRound, state: _RoundState) -> float:
    assert state.first_goal is not None, "no goal before the first tuning"
    return state.first_goal * max(0.0, 1 - (step - each.window.start) / each.goal_span)


def _nth_largest(opacities: Tensor, n: int) -> float:
    opacities = opacities.flatten()
    return float(opacities.kthvalue(max(1, len(opacities) - n + 1)).values)
