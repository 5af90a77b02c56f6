"""The plots of a suite's report: quality against budget and size, and training curves. Needs matplotlib.

Figures are drawn without pyplot: nothing global changes, and no display is needed.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from compact_splats.suite.published import title
from compact_splats.suite.results import RunResult, SuiteResults
from compact_splats.suite.tables import Row, budget_label
from compact_splats.utils.files import atomic_write

DPI = 130
COLOURS = ("#4269d0", "#e0831a", "#3a9a4b", "#c8385a", "#6d4fb8", "#8a6a3b", "#1f9fb0", "#d46ac0", "#7a8291", "#a3a81e")
INK, GRID = "#30343b", "#dfe2e6"
GOAL: dict[str, Any] = {"linestyle": (0, (4, 2)), "zorder": 3}
LOG_FROM = 4.0  # ratio of largest to smallest from which an axis is logarithmic
QUALITY = (("psnr", "PSNR, dB"), ("ssim", "SSIM"))
CURVES = (
    ("loss", "training loss", True),
    ("psnr", "training PSNR, dB", False),
    ("gaussians", "Gaussians", True),
    ("budget_opacity", "budget-th opacity", False),
    ("regularisation_weight", "regularisation weight λ", True),
)


def write_plots(results: SuiteResults, rows: Sequence[Row], folder: Path) -> list[tuple[str, str]]:
    """Draw all plots that have figures.

    Args:
        results: their finished runs have the training curves.
        rows: the quality against budget and size.
        folder: of the PNG files.

    Returns:
        For each plot its label and the name of its file.

    Raises:
        InputError: a file can't be written.
    """
    plots = []

    def add(label: str, name: str, figure: Figure | None) -> None:
        if figure is not None:
            _write(figure, folder / f"{name}.png")
            plots.append((label, f"{name}.png"))

    for (dataset, schedule), group in _grouped(rows, lambda row: (row.dataset, row.schedule)):
        label = f"{title(dataset)}, protocol {results.protocol}, schedule {schedule}"
        name = f"{dataset or 'other'}-{schedule}"
        add(f"{label}: quality against budget", f"budget-{name}", quality_against_budget(group, label))
        add(f"{label}: quality against size", f"size-{name}", quality_against_size(group, label))
    for (dataset, scene), group in _grouped(results.done(), lambda run: (run.dataset, run.scene)):
        label = f"{scene} ({title(dataset)}, protocol {results.protocol})"
        add(f"{label}: training", f"curves-{dataset or 'other'}-{scene}", training_curves(group, label))
    return plots


def quality_against_budget(rows: Sequence[Row], label: str) -> Figure | None:
    """A line for each scene and, if no scene is missing, for their mean; bars are standard deviations over repeats.

    None if there is only one budget.
    """
    if len({row.budget_name for row in rows}) < 2:
        return None

    def draw(axes: Axes, name: str, look: dict, of: list[Row]) -> list[float]:
        points = sorted((row.budget, row.mean[name], row.std[name] or 0) for row in of if row.mean[name] is not None)
        if points:
            budgets, values, stds = zip(*points, strict=True)
            axes.errorbar(budgets, values, yerr=stds if any(stds) else None, capsize=3, marker="o", **look)
        return [budget for budget, *_ in points]

    return _quality(rows, label, "budget, Gaussians", draw, [])


def quality_against_size(rows: Sequence[Row], label: str) -> Figure | None:
    """Lines over the size of the PLY and, hollow and dashed, over that of the compressed file."""

    def draw(axes: Axes, name: str, look: dict, of: list[Row]) -> list[float]:
        sizes = []
        hollow = {"linestyle": "--", "marker": "s", "markerfacecolor": "white"}
        for prefix, style in (("", {"marker": "o"}), ("compressed_", hollow)):
            pairs = ((row.mean[f"{prefix}mb"], row.mean[f"{prefix}{name}"]) for row in of)
            points = sorted((mb, value) for mb, value in pairs if mb is not None and value is not None)
            if points:
                axes.plot(*zip(*points, strict=True), **{**look, **style})
            sizes += [size for size, _ in points]
        return sizes

    thin: dict[str, Any] = {"color": INK, "linewidth": 1, "markersize": 4.5}
    kinds = [
        Line2D([], [], marker="o", label="PLY", **thin),
        Line2D([], [], marker="s", markerfacecolor="white", linestyle="--", label="compressed", **thin),
    ]
    has_compressed = any(row.mean["compressed_mb"] is not None for row in rows)
    return _quality(rows, label, "size, MB", draw, kinds if has_compressed else [])


def _quality(
    rows: Sequence[Row],
    label: str,
    x_label: str,
    draw: Callable[[Axes, str, dict, list[Row]], list[float]],
    kinds: list[Line2D],
) -> Figure | None:
    """PSNR and SSIM side by side with one legend; None without figures."""
    rows = [row for row in rows if row.scene or row.is_complete]
    figure = Figure(figsize=(11, 4.3), layout="constrained")
    lines: dict[str, Line2D] = {}
    drawn = 0
    for axes, (name, y_label) in zip(figure.subplots(1, 2), QUALITY, strict=True):
        places = []
        for i, (scene, of) in enumerate(_grouped(rows, lambda row: row.scene)):
            look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.4, "markersize": 4.5}
            if scene is None:
                look = {"color": INK, "linewidth": 2.6, "markersize": 6.5, "zorder": 5}
            lines[scene or "mean"] = Line2D([], [], marker="o", label=scene or "mean of all scenes", **look)
            places += draw(axes, name, look, of)
        _style(axes, x_label, y_label)
        _scale(axes, places, "x")
        drawn += len(places)
    if not drawn:
        return None
    figure.suptitle(label, color=INK, fontsize=11)
    figure.legend(handles=[*lines.values(), *kinds], loc="outside right upper", frameon=False, fontsize=9)
    return figure


def training_curves(runs: Sequence[RunResult], label: str) -> Figure | None:
    """Loss, PSNR, Gaussians and natural selection over the steps: a colour for each budget, a line for each run."""
    runs = sorted((run for run in runs if run.curves.get("iteration")), key=lambda run: (-run.budget, run.seed))
    if not runs:
        return None
    budgets = list(dict.fromkeys((run.budget_name, run.budget) for run in runs))
    colours = {budget: COLOURS[i % len(COLOURS)] for i, budget in enumerate(budgets)}
    shown = [curve for curve in CURVES if any(_known(run, curve[0]) for run in runs)]
    figure = Figure(figsize=(12, 6.2 if len(shown) > 3 else 3.4), layout="constrained")
    panels = figure.subplots(2 if len(shown) > 3 else 1, 3, squeeze=False).flatten()
    for axes, (name, y_label, can_be_log) in zip(panels, shown, strict=False):
        values = []
        for run in runs:
            look = {"color": colours[run.budget_name, run.budget], "linewidth": 1.2, "alpha": 0.85}
            _line(axes, run, name, look)
            values += _known(run, name)
            if name == "budget_opacity":
                _line(axes, run, "goal", {**look, **GOAL})
        _style(axes, "step", y_label)
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        _scale(axes, values if can_be_log else [], "y")
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    handles = [Line2D([], [], color=colour, label=budget_label(*budget)) for budget, colour in colours.items()]
    if any(name == "budget_opacity" for name, *_ in shown):
        handles.append(Line2D([], [], color=INK, label="budget-th largest opacity"))
        handles.append(Line2D([], [], color=INK, label="goal", **GOAL))
    figure.suptitle(label, color=INK, fontsize=11)
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _line(axes: Axes, run: RunResult, name: str, look: dict) -> None:
    known = _known(run, name)
    if known:
        curves = (run.curves["iteration"], run.curves[name])
        steps, values = ([math.nan if value is None else value for value in curve] for curve in curves)  # nan: a gap
        axes.plot(steps, values, marker="." if len(known) < 12 else None, **look)


def _known(run: RunResult, name: str) -> list[float]:
    return [value for value in run.curves.get(name, ()) if value is not None]


def _style(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, color=INK, fontsize=9.5)
    axes.set_ylabel(y_label, color=INK, fontsize=9.5)
    axes.tick_params(colors=INK, labelsize=8.5, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _scale(axes: Axes, values: Sequence[float], which: str) -> None:
    """A logarithmic axis with few ticks where the values span a wide range, else a linear one; labels as 20k, 1.5M."""
    axis = getattr(axes, f"{which}axis")
    if values and min(values) > 0 and max(values) >= LOG_FROM * min(values):
        getattr(axes, f"set_{which}scale")("log")
        wide = max(values) >= 1000 * min(values)
        axis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
    if values:
        axis.set_major_formatter(FuncFormatter(_short))


def _short(value: float, _: int = 0) -> str:
    """A number for an axis: 0.05, 250, 20k, 1.5M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}"


def _grouped(items: Iterable, key: Callable) -> list[tuple]:
    """Items by key, in the order of the first items."""
    groups: dict = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())


def _write(figure: Figure, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor="white")
