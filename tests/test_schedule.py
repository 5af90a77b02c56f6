"""The schedules say exactly what the papers say, and short runs tell the same story."""

import math
import random

import pytest

from compact_splats.arguments.schedule import FAST, FULL, QUICK, Pace, Schedule, num_random_points

ROWS = ("means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest")


def events(schedule: Schedule) -> list[tuple[int, str]]:
    """All edits and pressures of a run, in order, if selection lasts as long as it may."""
    return [(step, kind) for step in range(1, schedule.iterations + 1) for kind in events_of(schedule, step)]


def events_of(schedule: Schedule, step: int) -> list[str]:
    found = []
    if schedule.raises_sh_degree(step):
        found.append("sh")
    for selection in schedule.selection_rounds:
        if selection.tunes_weight(step):
            found.append("adapt")
        if selection.is_due(step):
            found.append("prior" if selection.follows_prior(step) else "press")
    for growth in schedule.densification_rounds:
        if step == growth.early_prune_at:
            found.append("faint")
        if step in growth.prune_lowest_at:
            found.append("thin")
        if growth.is_due(step):
            kind = "late" if growth.is_late(step) else "all" if step in growth.all_views_at else "grow"
            found.append(kind)
        if step in growth.opacity_cap_at:
            found.append("cap")
    for selection in schedule.selection_rounds:
        if selection.prunes(step):
            found.append("prune")
        if step == selection.window.end:
            found.append("keep budget")
    return found


def merged(*kinds: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The order within a step: rate and loss, then growth, then selection."""
    order = ["sh", "adapt", "prior", "press", "faint", "thin", "grow", "all", "late", "cap", "prune", "keep budget"]
    return sorted((event for kind in kinds for event in kind), key=lambda event: (event[0], order.index(event[1])))


def at(name: str, *steps: int) -> list[tuple[int, str]]:
    return [(step, name) for step in steps]


FULL_EVENTS = merged(
    at("sh", 1000, 2000, 3000),
    at("faint", 300),
    at("grow", *(step for step in range(600, 14501, 100) if step not in (3400, 6400))),
    at("all", 3400, 6400),
    at("late", 14600, 14700, 14800, 14900),
    at("cap", 3000, 6000, 9000, 12000),
    at("thin", 3300, 6300),
    at("prior", *range(15000, 16000, 50)),
    at("press", *range(16000, 23000, 50)),
    at("adapt", *range(15100, 23000, 100)),
    at("prune", *range(16000, 23001, 50)),
    at("keep budget", 23000),
)
FAST_EVENTS = merged(
    at("sh", 500, 1000, 1500),
    at("faint", 300),
    at("grow", *(step for step in range(600, 3000, 100) if step not in (1400, 2400))),
    at("all", 1400, 2400),
    at("cap", 1000, 2000),
    at("thin", 1300, 2300),
    at("prior", *range(3000, 3500, 50), *range(7000, 7500, 50)),
    at("press", *range(3500, 6000, 50), *range(7500, 10000, 50)),
    at("adapt", *range(3100, 6000, 100), *range(7100, 10000, 100)),
    at("prune", *range(3500, 6001, 50), *range(7500, 10001, 50)),
    at("keep budget", 6000, 10000),
    at("grow", *range(6100, 7000, 100)),
)


@pytest.mark.parametrize("schedule, expected", [(FULL, FULL_EVENTS), (FAST, FAST_EVENTS)], ids=["full", "fast"])
def test_events_are_those_of_the_papers(schedule, expected):
    assert events(schedule) == expected


@pytest.mark.parametrize("schedule, expected", [(FULL, FULL_EVENTS), (FAST, FAST_EVENTS)], ids=["full", "fast"])
def test_a_tenth_of_the_run_has_every_event_at_a_tenth_of_its_step(schedule, expected):
    assert events(schedule.scaled(0.1)) == [(step // 10, kind) for step, kind in expected]


@pytest.mark.parametrize("factor", [2.0, 0.5, 0.1731, 0.0731, 0.05, 0.033, 0.01])
@pytest.mark.parametrize("schedule", [FULL, FAST], ids=["full", "fast"])
def test_scaling_keeps_the_order_of_events(schedule, factor):
    """Kinds begin and end in the order of the whole run (or together); short runs lose caps and thinning, no more."""
    whole, short = events(schedule), events(schedule.scaled(factor))
    lost = {"cap", "thin"} if factor < 0.1 else set()
    if factor == 0.01:  # the last rules of growth hold for less than the interval between two growths
        lost.add("late")
    assert {kind for _, kind in short} == {kind for _, kind in whole} - lost
    for pick in (min, max):
        milestones = {kind: pick(step for step, k in whole if k == kind) for _, kind in short}
        scaled = {kind: pick(step for step, k in short if k == kind) for _, kind in short}
        order = sorted(milestones, key=lambda kind: milestones[kind])
        # The first and the last of a periodic kind move by an interval at most, which is where neighbours may swap.
        slack = max(growth.window.every for growth in schedule.scaled(factor).densification_rounds)
        for earlier, later in zip(order, order[1:], strict=False):
            assert scaled[earlier] <= scaled[later] + slack, (earlier, later)
    single = [kind for _, kind in whole if kind in {"cap", "thin", "all", "faint", "keep budget"} - lost]
    assert [kind for _, kind in short if kind in single] == single


@pytest.mark.parametrize("factor", [1 / 100, 1 / 30, 1 / 7])
def test_scaling_keeps_the_portions_of_the_pressure(factor):
    """The number of pressures stays, as far as whole steps allow."""
    count = {f: sum(kind in ("prior", "press") for _, kind in events(FULL.scaled(f))) for f in (1, factor)}
    assert 0.45 < count[factor] / count[1] < 1.8  # extremes: 80 of 160 at 1/100, where every step already presses


@pytest.mark.parametrize("iterations", [10, 150, 300, 7000, 12345, 30000, 45000])
def test_a_run_has_the_iterations_asked_for_and_they_all_are_optimizer_steps_of_some_phase(iterations):
    schedule = FULL.scaled(iterations / FULL.iterations)
    assert schedule.iterations == iterations
    assert all(schedule.updated_parameters(step) in ((), ROWS) for step in range(1, iterations + 1))
    for growth, selection in zip(schedule.densification_rounds, schedule.selection_rounds, strict=True):
        assert growth.window.end <= selection.window.start <= selection.window.end < iterations
        assert growth.window.every >= 1 and selection.window.every >= 1


@pytest.mark.parametrize("schedule", [FULL, FAST], ids=["full", "fast"])
def test_short_runs_judge_gradients_of_several_views_and_still_grow_in_every_round(schedule):
    for iterations, least in ((3_000, 10), (300, 2)):
        for growth in schedule.scaled(iterations / schedule.iterations).densification_rounds:
            assert growth.window.every >= least
            assert sum(growth.is_due(step) for step in range(iterations)) >= 4


def test_optimizer_steps_of_the_full_schedule():
    steps = [step for step in range(1, 30001) if FULL.updated_parameters(step)]
    assert steps == [*range(1, 20001), *range(20005, 24001, 5), *range(24020, 30001, 20)]
    assert {FULL.updated_parameters(step) for step in steps} == {ROWS}


def test_optimizer_steps_of_the_fast_schedule():
    rest = [step for step in range(1, 15001) if "sh_rest" in FAST.updated_parameters(step)]
    others = [step for step in range(1, 15001) if "means" in FAST.updated_parameters(step)]
    assert others == [*range(1, 6001), *range(6010, 10001, 10), *range(10020, 15001, 20)]
    assert rest == [*range(1, 3001), *range(3005, 6001, 5), *range(6010, 10001, 10), *range(10020, 15001, 20)]
    assert all(FAST.updated_parameters(step) in ((), ROWS[:-1], ROWS) for step in range(1, 15001))


def test_a_short_run_takes_about_as_many_optimizer_steps_after_selection():
    """A tenth of the full run: 400 steps follow the last draw, where the full run has 500."""
    steps = [step for step in range(1, 3001) if FULL.scaled(0.1).updated_parameters(step)]
    assert steps == [*range(1, 2401), *range(2402, 3001, 2)]


def test_gradients_add_up_strictly_inside_the_windows_of_densification():
    def steps(schedule):
        rounds = schedule.densification_rounds
        return [s for s in range(1, schedule.iterations + 1) if any(each.accumulates(s) for each in rounds)]

    assert steps(FULL) == list(range(501, 15000))
    assert steps(FAST) == [*range(501, 3000), *range(6001, 7000)]


def test_allowance_is_the_published_formula():
    (growth,) = FULL.densification_rounds
    first, second = FAST.densification_rounds
    for step in range(600, 15000, 100):
        assert growth.allowance(step, 600_000) == math.floor(math.sqrt(min(1, (step - 500) / 14_000)) * 1_800_000)
    assert growth.allowance(500, 600_000) == 0
    assert growth.allowance(14_500, 600_000) == growth.allowance(14_900, 600_000) == 1_800_000
    assert first.allowance(2_800, 300_000) == first.allowance(2_900, 300_000) == 600_000
    assert first.allowance(925, 300_000) == 300_000  # a quarter of the span: half of the allowance
    assert second.allowance(6_100, 300_000) == math.floor(math.sqrt(0.4) * 600_000)
    assert second.allowance(6_900, 300_000) == 600_000


@pytest.mark.parametrize("schedule", [FULL, FAST], ids=["full", "fast"])
def test_rate_of_the_means_is_log_linear_over_30000_iterations(schedule):
    rates = [schedule.learning_rates_at(step, extent=2.0)["means"] for step in (0, 7_500, 15_000, 30_000, 40_000)]
    expected = [8e-5, 2 * 4e-5 * 20**-0.25, 2 * (4e-5 * 2e-6) ** 0.5, 4e-6, 4e-6]
    # Worst measured: 5e-16 relative.
    assert rates == pytest.approx(expected, rel=1e-12)
    short = schedule.scaled(0.1)
    assert short.learning_rates_at(1_500, 2.0)["means"] == pytest.approx(expected[2], rel=1e-12)


def test_the_other_rates():
    rates = FULL.learning_rates_at(17, extent=3.0)
    assert set(rates) == set(ROWS)
    assert {name: rates[name] for name in ROWS[1:]} == pytest.approx(
        {"log_scales": 5e-3, "quats": 1e-3, "opacity_logits": 0.025, "sh_dc": 2.5e-3, "sh_rest": 2.5e-4}
    )
    assert FAST.with_sh_rest_lr(0.02).learning_rates_at(17, 3.0)["sh_rest"] == pytest.approx(1e-3)
    assert FAST.learning_rates_at(17, 3.0)["sh_rest"] == pytest.approx(2.5e-4)  # and the schedule itself is unchanged


# ---- quick ----


def test_quick_rates_follow_the_third_root_of_the_steps():
    """Half the steps, 2^(1/3) times the learning rates; the other schedules keep theirs."""
    whole, half = QUICK.learning_rates_at(20, 2.0), QUICK.scaled(0.5).learning_rates_at(10, 2.0)
    for name in ROWS:
        assert half[name] == pytest.approx(whole[name] * 2 ** (1 / 3), rel=1e-9)
    assert QUICK.scaled(0.5).scaled(2).learning_rates_at(20, 2.0) == pytest.approx(whole)
    assert FULL.scaled(0.5).learning_rates_at(10, 2.0) == pytest.approx(FULL.learning_rates_at(20, 2.0))


def test_quick_rates_fall_at_the_end_but_for_the_means():
    early, late = (QUICK.learning_rates_at(step, 1.0) for step in (1_800, 3_000))
    for name in set(ROWS) - {"means"}:
        assert late[name] == pytest.approx(0.3 * early[name])
    assert QUICK.learning_rates_at(2_400, 1.0)["quats"] == pytest.approx(0.3**0.5 * early["quats"])


@pytest.mark.parametrize("iterations", [30, 300, 1000, 3000, 10_000])
def test_quick_keeps_its_order_at_any_length(iterations):
    """Photos reach their size before selection ends, every view updates, and the set is final before the mean."""
    schedule = QUICK.scaled(iterations / QUICK.iterations)
    (densification,), (selection,) = schedule.densification_rounds, schedule.selection_rounds
    divisors = [schedule.photo_divisor(step) for step in range(1, iterations + 1)]
    assert divisors == sorted(divisors, reverse=True) and set(divisors) == {4, 2, 1}
    assert divisors.index(1) <= selection.window.start
    assert densification.window.end <= selection.window.start < selection.window.end < schedule.mean_from <= iterations
    assert all(schedule.updated_parameters(step) == tuple(ROWS) for step in range(1, iterations + 1))
    assert densification.window.every >= min(10, max(1, (densification.window.end - densification.window.start) // 5))


# ---- another pace in the middle of a run ----


@pytest.mark.parametrize("schedule", [FULL, FAST, QUICK], ids=["full", "fast", "quick"])
@pytest.mark.parametrize("seed", range(5))
def test_at_any_pace_every_event_happens_once_and_in_its_order(schedule, seed):
    """Single events, and the first and last of the periodic ones; the pace changes every few steps."""
    draw = random.Random(seed)
    pace, now, step, happened = Pace(0.2), schedule.at_pace(Pace(0.2)), 0, []
    progress = [0.0]
    while step < now.iterations:
        step += 1
        happened += events_of(now, step)
        position = pace.position_of(step)
        assert position > progress[-1]
        progress.append(position)
        if step % 7 == 0 and step < now.iterations:
            pace = Pace(draw.uniform(0.1, 0.5), step, position)
            now = schedule.at_pace(pace)
            assert now.iterations > step
    assert position == pytest.approx(schedule.iterations, abs=10)
    single = ("sh", "faint", "thin", "cap", "keep budget")
    assert [k for k in happened if k in single] == [k for _, k in events(schedule) if k in single]
    assert set(happened) >= {kind for _, kind in events(schedule)} - {"all", "late"}


def test_another_pace_moves_neither_allowance_nor_learning_rates():
    before = QUICK.scaled(0.5)
    step = 400
    after = QUICK.at_pace(Pace(0.2, step, Pace(0.5).position_of(step)))
    (one,), (other,) = before.densification_rounds, after.densification_rounds
    assert other.allowance(step, 100_000) == pytest.approx(one.allowance(step, 100_000), rel=0.01)
    rates = before.learning_rates_at(step, 1.0), after.learning_rates_at(step, 1.0)
    shorter = (0.5 / 0.2) ** QUICK.learning_rates.exponent
    assert {n: r * shorter for n, r in rates[0].items()} == pytest.approx(rates[1], rel=0.01)
    assert after.iterations == step + 0.2 * (3_000 - 800)


@pytest.mark.parametrize(("budget", "num"), [(10, 1_000), (3_000, 6_000), (50_000, 100_000), (600_000, 100_000)])
def test_random_points_are_as_many_as_the_budget_can_use(budget, num):
    """Two per Gaussian, within limits."""
    assert num_random_points(budget) == num
