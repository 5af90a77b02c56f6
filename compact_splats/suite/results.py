"""The figures of a suite's runs, read from ``suite.json``. Knows no statistics and no layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_splats.suite.suite_file import FIX, read_suite
from compact_splats.utils.errors import InputError

QUALITY = ("SSIM", "PSNR", "LPIPS")
SIZES = ("gaussians", "mb", "minutes", "fps", "steps_per_second", "peak_mb", "peak_device_mb")

Figures = dict[str, float | None]


@dataclass(frozen=True)
class RunResult:
    """One training run and what was measured of it.

    Attributes:
        dataset: data set of the scene, or "".
        error: why the run failed, or None.
        figures: those of the float model by the names of ``QUALITY`` in lower case and of ``SIZES``; ``mb`` and
            quality after compression with the prefix ``compressed_``; None where not measured; empty if it failed.
        fps_size: width and height in px of the frames behind ``fps``, or None.
        curves: lists of equal length by :data:`entries.CURVES`; empty where the run has none.
        sheet: picture of three test views, relative to the suite's folder, or None.
    """

    dataset: str
    scene: str
    schedule: str
    budget_name: str
    budget: int
    seed: int
    error: str | None
    figures: Figures
    fps_size: tuple[int, int] | None
    curves: dict[str, list[float | None]]
    sheet: str | None


@dataclass(frozen=True)
class SuiteResults:
    """A suite's runs, and how they were made.

    Attributes:
        iterations: steps of each run where the schedule was scaled, or None.
        machines: those on which finished runs were trained, or the one that wrote the file.
        jobs: how many runs ran at the same time.
        missing: scenes that were not found: scene, data set, and where to get it.
    """

    command: str
    protocol: str
    schedule: str
    iterations: int | None
    commit: str | None
    machines: list[dict[str, Any]]
    jobs: int
    missing: list[dict[str, str]]
    runs: list[RunResult]

    def done(self) -> list[RunResult]:
        """The runs that are finished."""
        return [run for run in self.runs if run.error is None]

    def failed(self) -> list[RunResult]:
        """The runs that failed."""
        return [run for run in self.runs if run.error is not None]


def read_results(path: Path) -> SuiteResults:
    """Read the JSON file of a suite.

    Raises:
        InputError: the file is missing or damaged, or is not of a suite.
    """
    content = read_suite(path)
    try:
        machines = [run["machine"] for run in content["runs"] if run.get("machine")] or [content["machine"]]
        return SuiteResults(
            **{name: content[name] for name in ("command", "protocol", "schedule", "commit", "missing")},
            iterations=content.get("iterations"),
            machines=[machine for i, machine in enumerate(machines) if machine not in machines[:i]],
            jobs=content.get("jobs", 1),
            runs=[_run(entry) for entry in content["runs"]],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}): {FIX}") from error


def _run(entry: dict[str, Any]) -> RunResult:
    failed = entry["state"] == "failed"
    return RunResult(
        **{name: entry[name] for name in ("scene", "schedule", "budget_name", "budget", "seed")},
        dataset=entry["dataset"] or "",
        error=(entry["error"] or "no reason given") if failed else None,
        figures={} if failed else _figures(entry),
        fps_size=tuple(entry.get("fps_size") or ()) or None,
        curves=entry.get("curves") or {},
        sheet=(entry.get("views") or {}).get("sheet"),
    )


def _figures(entry: dict[str, Any]) -> Figures:
    quality, compressed = entry["quality"], entry["compressed"] or {}
    figures = {name: entry.get(name) for name in SIZES} | {name.lower(): quality[name] for name in QUALITY}
    figures |= {f"compressed_{name.lower()}": compressed.get(name) for name in QUALITY}
    return figures | {"compressed_mb": compressed.get("mb")}
