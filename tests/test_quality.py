"""benchmarks.quality: changes of schedules, runs that are not made twice, and the table of differences."""

import pytest

from benchmarks import quality
from compact_splats.arguments.schedule import QUICK
from compact_splats.utils.errors import InputError


def test_a_change_reaches_its_field_and_no_other():
    schedule, options = quality.schedule_of(
        "quick", "learning_rates.factor=3+densification_rounds.0.window.every=70+photo_divisors=[[9,2]]+selection=none"
    )
    assert options == {"selection": "none", "exposure": "off", "depth": "off", "robust": "off"}
    assert schedule.learning_rates.factor == 3 and schedule.photo_divisors == ((9, 2),)
    assert schedule.densification_rounds[0].window.every == 70
    back = "learning_rates.factor=2.15+densification_rounds.0.window.every=50+photo_divisors=[[450,4],[1200,2]]"
    for change in back.split("+"):
        path, _, value = change.partition("=")
        schedule = quality.changed(schedule, path, quality._tuples(quality.json.loads(value)))
    assert schedule == QUICK


def test_a_change_is_of_the_full_length():
    assert quality.schedule_of("quick:300", "mean_from=2000")[0].mean_from == 200


@pytest.mark.parametrize(
    ("run", "changes", "message"),
    [
        ("quick", "learning_rates.fctor=1", "'fctor' is no field of LearningRates"),
        ("quick", "densification_rounds.1.num_views=1", "'1' is no field of tuple"),
        ("quick", "mean_from=late", "--with mean_from=late: write FIELD=VALUE"),
        ("quik", "", "--runs quik: write the name of a schedule"),
        ("quick:fast", "", "--runs quick:fast"),
    ],
)
def test_a_wrong_run_or_change_is_an_error(run, changes, message):
    with pytest.raises(InputError, match=message):
        quality.schedule_of(run, changes)


def result(scene, changes, seed, psnr, seconds=10):
    scores = {"psnr": psnr, "ssim": psnr / 40, "cc_psnr": psnr + 1}
    case = {"scene": scene, **quality.Setting()._asdict(), "run": "quick", "changes": changes, "seed": seed}
    return {**case, "gaussians": 20_000, "cpu_seconds": seconds, "test": scores, "train": scores, "course": []}


def test_the_table_compares_equal_scenes_and_seeds():
    results = [
        result("oak", "", 0, 30),
        result("oak", "", 1, 31),
        result("elm", "", 0, 20),
        result("oak", "a=1", 0, 30.5, 20),
        result("oak", "a=1", 1, 31.7, 20),
        result("elm", "a=1", 0, 19),
        result("elm", "a=1", 1, 90),  # without a partner
    ]
    plain, changes = quality.table(results).split("\n\n")
    assert "| oak, 20,000 | quick | 2 | 30.50 ± 0.71 |" in plain and "a=1" not in plain
    (row,) = [line for line in changes.splitlines() if "a=1" in line]
    assert row.startswith("| quick a=1 | -1.00 | +0.60 ± 0.14 | -0.20 ± 1.13 |") and row.endswith("| x 1.50 |")
