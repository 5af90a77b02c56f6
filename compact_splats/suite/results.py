"""What a suite found, read from ``suite.json`` and checked entry by entry. Knows no statistics and no layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_splats.arguments.config import SCHEDULES
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import read_json

FORMAT = 1
FILE = "suite.json"
STATES, PROTOCOLS = ("done", "failed"), ("canonical", "resized")
QUALITY = ("SSIM", "PSNR", "LPIPS")
SIZES = ("gaussians", "mb", "minutes", "fps", "steps_per_second", "peak_mb", "peak_device_mb")
CURVES = ("iteration", "loss", "psnr", "gaussians", "goal", "regularisation_weight", "budget_opacity")
LARGEST = 1e15  # beyond it nothing that a suite measures lies; infinities and NaN fail the comparison, too

Figures = dict[str, float | None]


@dataclass(frozen=True)
class RunResult:
    """One training run and what was measured of it.

    Attributes:
        dataset: what the scene counts to, or "".
        figures: those of the float model by the names of ``QUALITY`` in small letters and of ``SIZES``, and ``mb`` and
            quality after compression with ``compressed_`` in front; None where not measured.
        fps_size: width and height in px of the frames behind ``fps``, or None.
        curves: lists of equal length by the names of ``CURVES``; empty where the run left none.
        sheet: picture of three test views, relative to the suite's folder, or None.
        error: why the run failed, or None.
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

    @property
    def steps(self) -> int | None:
        """How many steps the training had, or None where the curves are not there."""
        return max(self.curves["iteration"]) if self.curves.get("iteration") else None


@dataclass(frozen=True)
class SuiteResults:
    """A suite's runs, and how they came about.

    Attributes:
        machines: those that finished runs were made on, or the one that wrote the file.
        jobs: how many runs went on at the same time.
        missing: scenes that were not there: scene, data set, and where to get it.
    """

    command: str
    protocol: str
    schedule: str
    commit: str | None
    machines: list[dict[str, Any]]
    jobs: int
    missing: list[dict[str, str]]
    runs: list[RunResult]

    def done(self) -> list[RunResult]:
        """The runs that can be reported."""
        return [run for run in self.runs if run.error is None]

    def failed(self) -> list[RunResult]:
        """The runs that cannot."""
        return [run for run in self.runs if run.error is not None]


def read_results(path: Path) -> SuiteResults:
    """Read and check the JSON file of a suite.

    Raises:
        InputError: the file is missing, not JSON, not of a suite, or an entry of it is not what it has to be.
    """
    root = _Entry(path, "the file", read_json(path, "the results of a suite as JSON", "name a folder of test.py"))
    found = root.values.get("format")
    if found != FORMAT or isinstance(found, bool):
        root.fail(f"results of a suite in format {FORMAT}", f"format {found!r}")
    results = SuiteResults(
        command=root.text("command"),
        protocol=root.text("protocol", PROTOCOLS),
        schedule=root.text("schedule", tuple(SCHEDULES)),
        commit=root.text("commit", optional=True),
        machines=_machines(root),
        jobs=root.whole("jobs") if "jobs" in root.values else 1,
        missing=[_missing(entry) for entry in root.children("missing")],
        runs=[_run(entry) for entry in root.children("runs")],
    )
    _check_repeats(root, results.runs)
    return results


def _check_repeats(root: "_Entry", runs: list[RunResult]) -> None:
    """Runs of one scene at one budget are repeats, each with its own seed."""
    seen = set()
    for run in runs:
        key = (run.dataset, run.scene, run.schedule, run.budget_name, run.budget, run.seed)
        if key in seen:
            root.fail("each run once", f"two of {run.scene} at budget {run.budget_name} with seed {run.seed}")
        seen.add(key)


def _machines(root: "_Entry") -> list[dict[str, Any]]:
    entries = [run.child("machine", optional=True) for run in root.children("runs")]
    found = [entry.values for entry in entries if entry] or [root.child("machine").values]
    return [machine for i, machine in enumerate(found) if machine not in found[:i]]


def _missing(entry: "_Entry") -> dict[str, str]:
    dataset = entry.text("dataset", optional=True) or ""
    return {"dataset": dataset, "scene": entry.text("scene"), "where": entry.text("where")}


def _run(entry: "_Entry") -> RunResult:
    failed = entry.text("state", STATES) == "failed"
    error = entry.text("error", optional=True)
    return RunResult(
        dataset=entry.text("dataset", optional=True) or "",
        scene=entry.text("scene"),
        schedule=entry.text("schedule", tuple(SCHEDULES)),
        budget_name=entry.text("budget_name"),
        budget=entry.whole("budget"),
        seed=entry.whole("seed"),
        error=(error or "no reason given") if failed else None,
        figures={} if failed else _figures(entry),
        fps_size=None if failed else _size(entry),
        curves={} if failed else _curves(entry.child("curves", optional=True)),
        sheet=None if failed else _sheet(entry.child("views", optional=True)),
    )


def _figures(entry: "_Entry") -> Figures:
    quality, compressed = entry.child("quality"), entry.child("compressed", optional=True)
    figures = {name.lower(): quality.number(name) for name in QUALITY}
    figures |= {name: entry.number(name, least=0) for name in SIZES}
    names = {"compressed_mb": "mb", **{f"compressed_{name.lower()}": name for name in QUALITY}}
    return figures | {new: compressed.number(name) if compressed else None for new, name in names.items()}


def _size(entry: "_Entry") -> tuple[int, int] | None:
    size = entry.numbers("fps_size")
    if size and (len(size) != 2 or not all(isinstance(each, int) for each in size)):
        entry.fail("'fps_size' to be width and height", repr(size))
    return tuple(size) or None


def _curves(entry: "_Entry | None") -> dict[str, list[float | None]]:
    if entry is None:
        return {}
    curves = {name: entry.numbers(name) for name in CURVES}
    length = len(curves["iteration"])
    for name, values in curves.items():
        if values and len(values) != length:
            entry.fail(f"{length} values of '{name}', one for each iteration", f"{len(values)}")
    if None in curves["iteration"]:
        entry.fail("a number for each iteration", "null")
    return {name: values or [None] * length for name, values in curves.items()}


def _sheet(entry: "_Entry | None") -> str | None:
    if entry is None:
        return None
    sheet = entry.text("sheet")
    if Path(sheet).is_absolute() or ".." in Path(sheet).parts:
        entry.fail("'sheet' within the suite's folder", repr(sheet))
    return sheet


class _Entry:
    """A JSON object with typed access to its values."""

    def __init__(self, path: Path, name: str, values: Any) -> None:
        self.path, self.name, self.values = path, name, values
        if not isinstance(values, dict):
            self.fail("a JSON object", type(values).__name__)

    def fail(self, expected: str, found: str) -> None:
        text = found if len(found) <= 60 else found[:60] + "..."
        raise InputError(f"{self.path}: {self.name}", expected, text, "let test.py write it anew")

    def text(self, name: str, choices: Sequence[str] = (), *, optional: bool = False) -> str | None:
        value = self.values.get(name)
        if value is None and optional:
            return None
        if not isinstance(value, str) or not value or (choices and value not in choices):
            self.fail(f"'{name}' to be {' or '.join(choices) or 'a text'}", repr(value))
        return value.encode("utf-8", "replace").decode()  # half of a surrogate pair could not be written

    def number(self, name: str, *, least: float = -LARGEST) -> float | None:
        return self._number(name, self.values.get(name), least)

    def whole(self, name: str) -> int:
        value = self.number(name, least=0)
        if not isinstance(value, int):
            self.fail(f"'{name}' to be a whole number", repr(value))
        return value

    def numbers(self, name: str) -> list[float | None]:
        values = self.values.get(name) or []
        if not isinstance(values, list):
            self.fail(f"'{name}' to be a list", type(values).__name__)
        return [self._number(name, value, -LARGEST) for value in values]

    def child(self, name: str, *, optional: bool = False) -> "_Entry | None":
        value = self.values.get(name)
        return None if value is None and optional else _Entry(self.path, f"{self.name}, '{name}'", value)

    def children(self, name: str) -> "list[_Entry]":
        values = self.values.get(name)
        if not isinstance(values, list):
            self.fail(f"'{name}' to be a list", type(values).__name__)
        return [_Entry(self.path, f"{name}, entry {i}", value) for i, value in enumerate(values, 1)]

    def _number(self, name: str, value: Any, least: float) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < LARGEST:
            self.fail(f"'{name}' to be a finite number{' of 0 or more' if least == 0 else ''} or null", repr(value))
        return value
