"""When everything happens in a training: the only place of the project that holds step numbers.

A schedule is data, so that one loop serves them all. What is done at these steps: ``compact_splats/training``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

# Below this spacing densification would judge by gradients of too few views, and its importance renders would cost
# more than the steps between.
MIN_DENSIFICATION_INTERVAL = 10
# Below this share of the steps opacities have no time to recover from a cap, nor from pruning by them.
MIN_FACTOR_WITH_CAPS = 0.1
ROUNDING = 1e-3  # steps: what counts as no difference between two positions in a schedule
# Where the scene has no points, training starts from so many random ones per Gaussian of the budget. More take
# time, and the room in which densification adds others.
RANDOM_POINTS = 2
RANDOM_POINTS_LIMITS = 1_000, 100_000
# With fewer training photos, or more steps for each, natural selection is as good as that by removal error, or better.
FEWEST_PHOTOS, MOST_STEPS_PER_PHOTO = 25, 100
BETAS = (0.9, 0.999)  # Adam's own


def num_random_points(budget: int) -> int:
    """Number of random points from which a training to ``budget`` Gaussians starts, where the scene has none."""
    fewest, most = RANDOM_POINTS_LIMITS
    return min(max(RANDOM_POINTS * budget, fewest), most)


@dataclass(frozen=True)
class Pace:
    """How the steps of a schedule become those of a longer or shorter one: ``factor`` steps for each.

    An event is due at the first new step that is not before it. A training may change its pace after a step: what has
    happened by then does not happen again, and nothing is left out.

    Attributes:
        factor: number of new steps per step.
        step: step of the new schedule that has been done; 0: the training has not begun.
        position: how far that is in the old one.
    """

    factor: float
    step: int = 0
    position: float = 0.0

    def at(self, position: float) -> int:
        """The new number of a step."""
        ahead = position - ROUNDING - self.position
        moved = math.ceil(self.step + self.factor * ahead)
        return max(moved, self.step + 1) if ahead > 0 else min(moved, self.step)

    def span(self, steps: float) -> int:
        """The new length of a number of steps."""
        return max(1, round(steps * self.factor))

    def position_of(self, step: int) -> float:
        """How far ``step`` of the new schedule is in the old one."""
        return self.position + (step - self.step) / self.factor


@dataclass(frozen=True)
class LearningRates:
    """Adam's learning rates, one per parameter of the model [IGS, arXiv:2508.12313].

    Attributes:
        means_first: at step 0; times the scene's extent.
        means_last: at the horizon and after; log-linear in between.
        start: step from which the learning rate of the means falls.
        horizon: steps over which it falls.
        factor: multiplies all.
        means_factor: multiplies that of the means, too.
        sh_rest_factor: multiplies that of the SH rest, too.
        exponent: in a schedule of f times the steps, ``factor`` is multiplied by f to the power of minus this.
        fall_from: step from which all but that of the means fall, log-linear; None: they stay.
        fall_to: what they are multiplied by at the last step.
    """

    means_first: float = 4e-5
    means_last: float = 2e-6
    start: int = 0
    horizon: int = 30_000
    sh_dc: float = 2.5e-3
    sh_rest: float = 5e-3 / 20
    opacity_logits: float = 2.5e-2
    log_scales: float = 5e-3
    quats: float = 1e-3
    factor: float = 1.0
    means_factor: float = 1.0
    sh_rest_factor: float = 1.0
    exponent: float = 0.0
    fall_from: int | None = None
    fall_to: float = 1.0

    def means(self, step: int) -> float:
        """Learning rate of the means at ``step``, before it is multiplied by the extent."""
        progress = min(max((step - self.start) / self.horizon, 0.0), 1.0)
        rate = math.exp((1 - progress) * math.log(self.means_first) + progress * math.log(self.means_last))
        return rate * self.factor * self.means_factor

    def others(self, step: int, iterations: int) -> float:
        """What the learning rates of all but the means are multiplied by at ``step`` of ``iterations``."""
        if self.fall_from is None or step <= self.fall_from:
            return self.factor
        return self.factor * self.fall_to ** ((step - self.fall_from) / max(1, iterations - self.fall_from))

    def at_pace(self, pace: Pace) -> LearningRates:
        """Those of a schedule at another pace."""
        return replace(
            self,
            start=pace.at(self.start),
            horizon=pace.span(self.horizon),
            factor=self.factor * pace.factor**-self.exponent,
            fall_from=None if self.fall_from is None else pace.at(self.fall_from),
        )


@dataclass(frozen=True)
class Window:
    """Steps from ``start`` to ``end``; what is periodic in it counts from ``start``."""

    start: int
    end: int
    every: int

    def is_due(self, step: int) -> bool:
        """Whether ``step`` is a whole number of intervals after ``start`` (the caller checks the ends)."""
        return (step - self.start) % self.every == 0


@dataclass(frozen=True)
class DensificationRound:
    """One round of densification [IGS]: gradients add up strictly inside the window, Gaussians split when due.

    Attributes:
        window: neither end belongs to it.
        allowance_origin: step at which the allowance starts from zero.
        allowance_span: steps until it is full.
        allowance_factor: the full allowance, in budgets.
        all_views_at: steps whose importance is averaged over all training views.
        late_after: after this step the draw follows the gradient and the threshold is lower; None: never.
        early_prune_at: step that prunes below ``early_prune_opacity``; None: no such step.
        opacity_cap_at: steps that cap opacities at ``opacity_cap``.
        prune_lowest_at: steps that prune the share ``prune_lowest_share`` of lowest opacity.
        num_views: over which importance is averaged at the other steps.
        min_opacity: what is below is pruned after each split.
        gradient_threshold: mean absolute screen-space gradient of a candidate, NDC units.
    """

    window: Window
    allowance_origin: int
    allowance_span: int
    allowance_factor: float
    all_views_at: tuple[int, ...] = ()
    late_after: int | None = None
    early_prune_at: int | None = None
    opacity_cap_at: tuple[int, ...] = ()
    prune_lowest_at: tuple[int, ...] = ()
    num_views: int = 10
    gradient_threshold: float = 3e-4
    late_threshold: float = 3e-4 / 1.5
    min_opacity: float = 0.005
    early_prune_opacity: float = 0.02
    opacity_cap: float = 0.05
    prune_lowest_share: float = 0.2

    def accumulates(self, step: int) -> bool:
        """Whether the backward pass of ``step`` adds to the gradient statistics."""
        return self.window.start < step < self.window.end

    def is_due(self, step: int) -> bool:
        """Whether Gaussians may split at ``step``."""
        return self.accumulates(step) and self.window.is_due(step)

    def is_late(self, step: int) -> bool:
        """Whether the last rules of the round hold."""
        return self.late_after is not None and step > self.late_after

    def allowance(self, step: float, budget: int) -> int:
        """Number of Gaussians that there may be at ``step``, rounded down."""
        progress = min(1.0, max(0.0, (step - self.allowance_origin) / self.allowance_span))
        return int(math.sqrt(progress) * self.allowance_factor * budget)


@dataclass(frozen=True)
class SelectionRound:
    """One round of natural selection [GNS, arXiv:2511.16980].

    Attributes:
        window: regularises and prunes when due, from ``start`` on; at ``end`` at the latest exactly the budget is kept.
        tune_every: steps between two tunings of the regularisation weight.
        first_formula_steps: steps from the start for which the regularisation is the finite prior.
        goal_span: steps from the start until the goal is zero.
        prune_from: first step that prunes.
        min_opacity: what is below is pruned.
        lr_reset_after: steps from the end of the round until the learning rate of the opacities is reset.
        initial_weight: of the regularisation.
        opacity_lr_factor: by which the learning rate of the opacities is multiplied.
        enough: the round ends below this many budgets.
        num_cuts: how often selection by removal error prunes, from the start of the window to its end.
    """

    window: Window
    tune_every: int
    first_formula_steps: int
    goal_span: int
    prune_from: int
    min_opacity: float
    lr_reset_after: int
    initial_weight: float = 2e-4
    opacity_lr_factor: float = 4.0
    enough: float = 1.05
    num_cuts: int = 4

    def is_due(self, step: int) -> bool:
        """Whether ``step`` regularises and prunes."""
        return self.window.start <= step < self.window.end and self.window.is_due(step)

    def follows_prior(self, step: int) -> bool:
        """Whether the regularisation of ``step`` is the finite prior."""
        return step < self.window.start + self.first_formula_steps

    def prunes(self, step: int) -> bool:
        """Whether ``step`` prunes below ``min_opacity``."""
        return step >= self.prune_from and (self.is_due(step) or step == self.window.end)

    def cuts_by(self, step: int) -> int:
        """Number of cuts, evenly spaced from the start of the window to its end, that are due by ``step``."""
        if step < self.window.start:
            return 0
        share = (step - self.window.start) / max(1, self.window.end - self.window.start)
        return min(self.num_cuts, 1 + int(share * (self.num_cuts - 1)))

    def tunes_weight(self, step: int) -> bool:
        """Whether the weight is tuned at ``step``: never before its first application, at the start."""
        past_start = step - self.window.start
        return 0 < past_start and step < self.window.end and past_start % self.tune_every == 0


@dataclass(frozen=True)
class OptimizerPhase:
    """Up to and including step ``until``, Adam runs every so many steps [TAMING, arXiv:2406.15643; GNS].

    Attributes:
        batch: how many times the views of the published schedule an update takes: not 1 where processes share a run.
        sh_rest_batch: the same for the SH rest.
        scales: in a schedule of more or fewer steps, the number of steps between updates changes with it.
    """

    until: int
    every: int
    sh_rest_every: int
    batch: float = 1.0
    sh_rest_batch: float = 1.0
    scales: bool = True


@dataclass(frozen=True)
class Schedule:
    """One training run. Steps count from 1 to ``iterations``.

    Attributes:
        sh_degree_at: steps at whose beginning one more SH degree joins.
        photo_divisors: pairs of a step and a divisor: up to and including the step, photos are smaller by the divisor.
        mean_from: the result is the mean of the parameters after each step from this one on; None: those of the last.
        selection: how the rounds of selection reach the budget, see ``training.strategies.standard_strategies``.
    """

    iterations: int
    sh_degree_at: tuple[int, ...]
    densification_rounds: tuple[DensificationRound, ...]
    selection_rounds: tuple[SelectionRound, ...]
    optimizer_phases: tuple[OptimizerPhase, ...]
    learning_rates: LearningRates = field(default_factory=LearningRates)
    photo_divisors: tuple[tuple[int, int], ...] = ()
    mean_from: int | None = None
    selection: str = "natural"

    def raises_sh_degree(self, step: int) -> bool:
        """Whether one more SH degree joins at the beginning of ``step``."""
        return step in self.sh_degree_at

    def updated_parameters(self, step: int) -> tuple[str, ...]:
        """Names of the parameters that are updated at the end of ``step``; the gradients of the others add up."""
        phase = self._phase(step)
        due = ("means", "log_scales", "quats", "opacity_logits", "sh_dc") if step % phase.every == 0 else ()
        return due + (("sh_rest",) if step % phase.sh_rest_every == 0 else ())

    def learning_rates_at(self, step: int, extent: float) -> dict[str, float]:
        """Learning rate of every parameter, before strategies change it.

        Args:
            step: 0 to ``iterations``.
            extent: of the scene, world units.
        """
        rates, phase = self.learning_rates, self._phase(step)
        batch, others = math.sqrt(phase.batch), self.learning_rates.others(step, self.iterations)
        return {
            "means": rates.means(step) * extent * batch,
            "log_scales": rates.log_scales * batch * others,
            "quats": rates.quats * batch * others,
            "opacity_logits": rates.opacity_logits * batch * others,
            "sh_dc": rates.sh_dc * batch * others,
            "sh_rest": rates.sh_rest * math.sqrt(phase.sh_rest_batch) * others * rates.sh_rest_factor,
        }

    def photo_divisor(self, step: int) -> int:
        """By what the size of the photos is divided at ``step``."""
        return next((divisor for until, divisor in self.photo_divisors if step <= until), 1)

    def betas(self, step: int) -> dict[str, tuple[float, float]]:
        """Adam's betas of every parameter at ``step``: fewer, larger updates decay as much per view."""
        phase = self._phase(step)
        beta1, beta2 = BETAS
        most = (beta1**phase.batch, beta2**phase.batch)
        names = ("means", "log_scales", "quats", "opacity_logits", "sh_dc")
        return {**dict.fromkeys(names, most), "sh_rest": (beta1**phase.sh_rest_batch, beta2**phase.sh_rest_batch)}

    def may_edit(self, step: int) -> bool:
        """Whether the set of Gaussians can change after ``step``."""
        densifies = (
            step == each.early_prune_at or step in each.prune_lowest_at or each.is_due(step)
            for each in self.densification_rounds
        )
        selects = (step == each.window.end or each.is_due(step) for each in self.selection_rounds)
        return any(densifies) or any(selects)

    def _phase(self, step: int) -> OptimizerPhase:
        return next((phase for phase in self.optimizer_phases if step <= phase.until), self.optimizer_phases[-1])

    def with_sh_rest_lr(self, rate: float) -> Schedule:
        """The same with the per-scene learning rate of the SH rest, given as published: before its division by 20."""
        return replace(self, learning_rates=replace(self.learning_rates, sh_rest=rate / 20))

    def scaled(self, factor: float) -> Schedule:
        """The same run in ``factor`` times the steps."""
        return self if factor == 1 else self.at_pace(Pace(factor))

    def at_pace(self, pace: Pace) -> Schedule:
        """The same run at another pace.

        Step numbers and intervals scale, so that the number of events stays the same as far as whole steps allow.
        Splits stay ``MIN_DENSIFICATION_INTERVAL`` steps apart where the round is long enough. Below a tenth of the
        steps there are no opacity caps and no pruning of the lowest.
        """
        with_caps = pace.factor >= MIN_FACTOR_WITH_CAPS
        return replace(
            self,
            iterations=pace.at(self.iterations),
            sh_degree_at=tuple(pace.at(step) for step in self.sh_degree_at),
            densification_rounds=tuple(
                paced_densification(each, pace, with_caps=with_caps) for each in self.densification_rounds
            ),
            selection_rounds=tuple(paced_selection(each, pace) for each in self.selection_rounds),
            optimizer_phases=tuple(_paced_phase(phase, pace) for phase in self.optimizer_phases),
            learning_rates=self.learning_rates.at_pace(pace),
            photo_divisors=tuple((pace.at(until), divisor) for until, divisor in self.photo_divisors),
            mean_from=None if self.mean_from is None else pace.at(self.mean_from),
        )


def paced_densification(
    each: DensificationRound,
    pace: Pace,
    *,
    with_caps: bool = True,
    min_interval: int = MIN_DENSIFICATION_INTERVAL,
) -> DensificationRound:
    """A round at another pace; splits stay ``min_interval`` apart where they were."""
    window = each.window
    start, end = pace.at(window.start), pace.at(window.end)
    few = max(1, (end - start) // 5)  # even the shortest round splits a few times
    every = max(pace.span(window.every), min(window.every, min_interval, few))
    window = Window(start, end, every)

    def at_event(step: int) -> int:  # the nearest step at which a split is due
        return window.start + max(1, round((pace.at(step) - window.start) / every)) * every

    return replace(
        each,
        window=window,
        allowance_origin=pace.at(each.allowance_origin),
        allowance_span=pace.span(each.allowance_span),
        all_views_at=tuple(at_event(step) for step in each.all_views_at),
        late_after=None if each.late_after is None else pace.at(each.late_after),
        early_prune_at=None if each.early_prune_at is None else pace.at(each.early_prune_at),
        opacity_cap_at=tuple(pace.at(step) for step in each.opacity_cap_at if with_caps),
        prune_lowest_at=tuple(pace.at(step) for step in each.prune_lowest_at if with_caps),
    )


def _paced_phase(phase: OptimizerPhase, pace: Pace) -> OptimizerPhase:
    moved = replace(phase, until=pace.at(phase.until))
    every, sh_rest_every = pace.span(phase.every), pace.span(phase.sh_rest_every)
    return replace(moved, every=every, sh_rest_every=sh_rest_every) if phase.scales else moved


def paced_selection(selection: SelectionRound, pace: Pace) -> SelectionRound:
    """A round at another pace."""
    window = selection.window
    every = pace.span(window.every)
    return replace(
        selection,
        window=Window(pace.at(window.start), pace.at(window.end), every),
        # A multiple, so that every tuning is followed by regularisation, as in the full run.
        tune_every=every * (selection.tune_every // window.every),
        first_formula_steps=pace.span(selection.first_formula_steps),
        goal_span=pace.span(selection.goal_span),
        prune_from=pace.at(selection.prune_from),
        lr_reset_after=pace.span(selection.lr_reset_after),
    )


# The full schedule of Improved-GS and GNS.
FULL = Schedule(
    iterations=30_000,
    sh_degree_at=(1_000, 2_000, 3_000),
    densification_rounds=(
        DensificationRound(
            window=Window(500, 15_000, every=100),
            allowance_origin=500,
            allowance_span=14_000,
            allowance_factor=3.0,
            all_views_at=(3_400, 6_400),
            late_after=14_500,
            early_prune_at=300,
            opacity_cap_at=(3_000, 6_000, 9_000, 12_000),
            prune_lowest_at=(3_300, 6_300),
        ),
    ),
    selection_rounds=(
        SelectionRound(
            window=Window(15_000, 23_000, every=50),
            tune_every=100,
            first_formula_steps=1_000,
            goal_span=7_000,
            prune_from=16_000,
            min_opacity=0.001,
            lr_reset_after=1_000,
        ),
    ),
    optimizer_phases=(
        OptimizerPhase(until=20_000, every=1, sh_rest_every=1),
        OptimizerPhase(until=24_000, every=5, sh_rest_every=5),
        OptimizerPhase(until=30_000, every=20, sh_rest_every=20),
    ),
)


def _fast_selection(start: int) -> SelectionRound:
    return SelectionRound(
        window=Window(start, start + 3_000, every=50),
        tune_every=100,
        first_formula_steps=500,
        goal_span=3_000,
        prune_from=start + 500,
        min_opacity=0.01,
        lr_reset_after=500,
    )


# Two rounds of densification to twice the budget and selection back to it. The learning rate of the means keeps its
# horizon of 30,000.
FAST = Schedule(
    iterations=15_000,
    sh_degree_at=(500, 1_000, 1_500),
    densification_rounds=(
        DensificationRound(
            window=Window(500, 3_000, every=100),
            allowance_origin=300,
            allowance_span=2_500,
            allowance_factor=2.0,
            all_views_at=(1_400, 2_400),
            early_prune_at=300,
            opacity_cap_at=(1_000, 2_000),
            prune_lowest_at=(1_300, 2_300),
        ),
        DensificationRound(
            window=Window(6_000, 7_000, every=100),
            allowance_origin=5_700,
            allowance_span=1_000,
            allowance_factor=2.0,
        ),
    ),
    selection_rounds=(_fast_selection(3_000), _fast_selection(7_000)),
    optimizer_phases=(
        OptimizerPhase(until=3_000, every=1, sh_rest_every=1),
        OptimizerPhase(until=6_000, every=1, sh_rest_every=5),
        OptimizerPhase(until=10_000, every=10, sh_rest_every=10),
        OptimizerPhase(until=15_000, every=20, sh_rest_every=20),
    ),
)

# For a CPU, where an update costs little beside a view: every view updates, learning rates are higher and fall, and
# photos are small at first.
QUICK = Schedule(
    iterations=3_000,
    sh_degree_at=(360, 720, 1_080),
    densification_rounds=(
        DensificationRound(
            window=Window(60, 1_050, every=50),
            allowance_origin=60,
            allowance_span=990,
            allowance_factor=3.0,
        ),
    ),
    selection_rounds=(
        SelectionRound(
            window=Window(1_200, 2_100, every=20),
            tune_every=40,
            first_formula_steps=150,
            goal_span=900,
            prune_from=1_350,
            min_opacity=0.01,
            lr_reset_after=90,
        ),
    ),
    optimizer_phases=(OptimizerPhase(until=3_000, every=1, sh_rest_every=1, scales=False),),
    learning_rates=LearningRates(
        horizon=3_000, factor=2.15, means_factor=8.0, sh_rest_factor=2.5, exponent=1 / 3, fall_from=1_800, fall_to=0.3
    ),
    photo_divisors=((450, 4), (1_200, 2)),
    mean_from=2_700,
    selection="error",
)
