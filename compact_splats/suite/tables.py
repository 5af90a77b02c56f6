"""A suite's runs as rows of a table: means over the repeats of a scene and over the scenes of a data set. No layout.

If one value of a mean was not measured, there is no mean.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TypeGuard

from compact_splats.suite.published import DATA_SETS
from compact_splats.suite.results import QUALITY, SIZES, Figures, RunResult, SuiteResults

FIGURES = (
    *(name.lower() for name in QUALITY),
    *SIZES,
    "compressed_mb",
    *(f"compressed_{name.lower()}" for name in QUALITY),
)
_ROW = ("dataset", "scene", "schedule", "budget_name", "budget", "runs", "scenes", "of_scenes")
RECORD = ("row", *_ROW, *FIGURES, *(f"{name}_std" for name in FIGURES))  # columns of report.csv


@dataclass(frozen=True)
class Row:
    """A scene at one budget, or the mean of a data set's scenes at one.

    Attributes:
        dataset: "" for scenes that belong to none.
        scene: None in the row of a data set.
        budget: number of Gaussians; of a data set, the mean over the scenes.
        runs: number of runs of the row: all repeats of all its scenes.
        scenes: number of scenes of the row.
        of_scenes: number of scenes of the data set.
        mean: of a scene, over its repeats; of a data set, over the means of its scenes, whatever their repeats.
        std: of a scene, the sample standard deviation over its repeats (divisor n - 1). Of a data set, that of the mean
            of one run of each scene: the root of the sum of the scenes' variances, divided by the number of scenes,
            because runs of different scenes are independent. Scenes may have different numbers of repeats. It does not
            measure the choice of scenes. None if a scene has only one run.
    """

    dataset: str
    scene: str | None
    schedule: str
    budget_name: str
    budget: float
    runs: int
    scenes: int
    of_scenes: int
    mean: Figures
    std: Figures

    @property
    def is_complete(self) -> bool:
        """Whether no scene of the data set is missing."""
        return self.scenes == self.of_scenes

    def record(self) -> dict[str, str | float | None]:
        """The row as values by the names of ``RECORD``."""
        head = {"row": "scene" if self.scene else "mean", **{name: getattr(self, name) for name in _ROW}}
        return head | self.mean | {f"{name}_std": self.std[name] for name in FIGURES}


def make_rows(results: SuiteResults) -> list[Row]:
    """All rows, in an order that does not depend on that of the runs.

    By data set, published ones first; then by budget, the largest first; then the scenes and their mean. There is no
    mean of a single scene, or of scenes without a data set.
    """
    of_scenes = scenes_of(results)
    scenes = [_scene_row(runs, len(of_scenes[runs[0].dataset])) for runs in _repeats(results.done())]
    groups: dict[tuple, list[Row]] = {}
    for row in sorted(scenes, key=_place):
        groups.setdefault((row.dataset, row.schedule, row.budget_name), []).append(row)
    ordered = sorted(groups.values(), key=lambda rows: (*_place(rows[0])[:3], -_mean_budget(rows), rows[0].budget_name))
    return [row for rows in ordered for row in (*rows, *_data_set_rows(rows))]


def scenes_of(results: SuiteResults) -> dict[str, set[str]]:
    """All scenes of each data set: those of the published tables and those of the suite."""
    named = [(run.dataset, run.scene) for run in results.runs]
    named += [(entry["dataset"], entry["scene"]) for entry in results.missing]
    known = {name: set(DATA_SETS[name].scenes) if name in DATA_SETS else set() for name, _ in named}
    for dataset, scene in named:
        known[dataset].add(scene)
    return known


def is_published_set(row: Row) -> bool:
    """Whether a row is the mean over exactly the scenes of the published figures of its data set."""
    published = DATA_SETS.get(row.dataset)
    return published is not None and row.scene is None and row.is_complete and row.scenes == len(published.scenes)


def budget_label(name: str, budget: float) -> str:
    """Name and number of a budget, or the number alone if that is its name."""
    number = f"{budget:,.0f}"
    return number if name == number.replace(",", "") else f"{name} ({number})"


def _repeats(runs: Iterable[RunResult]) -> list[list[RunResult]]:
    """Runs of the same scene at the same budget, by seed."""

    def setting(run: RunResult) -> tuple:
        return run.dataset, run.scene, run.schedule, run.budget_name, run.budget

    ordered = sorted(runs, key=lambda run: (*setting(run), run.seed))
    return [list(group) for _, group in groupby(ordered, setting)]


def _scene_row(repeats: list[RunResult], of_scenes: int) -> Row:
    first = repeats[0]
    measured = {name: [run.figures[name] for run in repeats] for name in FIGURES}
    return Row(
        first.dataset,
        first.scene,
        first.schedule,
        first.budget_name,
        first.budget,
        runs=len(repeats),
        scenes=1,
        of_scenes=of_scenes,
        mean={name: _mean(values) for name, values in measured.items()},
        std={name: _std(values) for name, values in measured.items()},
    )


def _data_set_rows(rows: list[Row]) -> list[Row]:
    """The mean of a data set at one budget, if it has several scenes, each with one number of Gaussians."""
    first = rows[0]
    if len(rows) < 2 or not first.dataset or len({row.scene for row in rows}) < len(rows):
        return []
    mean = Row(
        first.dataset,
        None,
        first.schedule,
        first.budget_name,
        _mean_budget(rows),
        runs=sum(row.runs for row in rows),
        scenes=len(rows),
        of_scenes=first.of_scenes,
        mean={name: _mean([row.mean[name] for row in rows]) for name in FIGURES},
        std={name: _std_of_mean([row.std[name] for row in rows]) for name in FIGURES},
    )
    return [mean]


def _all_known(values: list[float | None]) -> TypeGuard[list[float]]:
    return None not in values


def _mean(values: list[float | None]) -> float | None:
    return statistics.fmean(values) if _all_known(values) else None


def _std(values: list[float | None]) -> float | None:
    return statistics.stdev(values) if _all_known(values) and len(values) > 1 else None


def _std_of_mean(stds: list[float | None]) -> float | None:
    return math.hypot(*stds) / len(stds) if _all_known(stds) else None


def _mean_budget(rows: list[Row]) -> float:
    return statistics.fmean(row.budget for row in rows)


def _place(row: Row) -> tuple:
    """Sort key: data sets and scenes as papers list them, then others by name."""
    known = list(DATA_SETS)
    listed = DATA_SETS[row.dataset].scenes if row.dataset in DATA_SETS else ()
    dataset = known.index(row.dataset) if row.dataset in known else len(known)
    scene = listed.index(row.scene) if row.scene in listed else len(listed)
    return dataset, row.dataset, row.schedule, scene, row.scene, -row.budget
