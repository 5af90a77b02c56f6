"""The text of a suite's report: tables beside published figures, what failed, pictures. Reads no files."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import quote

from compact_splats.arguments.config import SCHEDULES
from compact_splats.suite.published import COMPRESSED, DATA_SETS, TRAINED, PublishedRow, title
from compact_splats.suite.results import SuiteResults
from compact_splats.suite.tables import Row, budget_label, is_published_set
from compact_splats.utils.table import markdown_table

# Head of the column, figure, and its format.
COLUMNS = (
    ("Gaussians", "gaussians", ",.0f"),
    ("PSNR, dB", "psnr", ".2f"),
    ("SSIM", "ssim", ".4f"),
    ("LPIPS", "lpips", ".4f"),
    ("PLY, MB", "mb", ",.2f"),
    ("minutes", "minutes", ",.1f"),
    ("frames/s", "fps", ",.1f"),
    ("compressed, MB", "compressed_mb", ",.2f"),
    ("compressed PSNR, dB", "compressed_psnr", ".2f"),
)
NOTES = """## How to read the tables

- Test views are every 8th photo by name. PSNR, SSIM and LPIPS (VGG) are measured from the saved 8-bit images and
  averaged over views, then over repeats, then over scenes. "-": not measured for every run of the row.
- *Minutes* are those of training, without loading, evaluating and saving. *Frames/s* are measured with synchronisation
  after each frame. MB are 10^6 bytes.
- *Runs* counts the repeats with different seeds. The figure after ± is their sample standard deviation (divisor n - 1).
  In the row of a mean it is that of the mean of one run of each scene: the root of the sum of the scenes' variances,
  divided by the number of scenes. It measures the scatter of training, not that over a choice of scenes. It is left out
  where a scene has one run only, or where all runs agree.
- A table never mixes protocols."""


@dataclass(frozen=True)
class Pictures:
    """Files to embed, with paths relative to the report.

    Attributes:
        plots: label and path of each plot.
        sheets: label and path of each picture of test views; None where the file is missing.
        remark: why there are no plots, or "".
    """

    plots: list[tuple[str, str]] = field(default_factory=list)
    sheets: list[tuple[str, str | None]] = field(default_factory=list)
    remark: str = ""


def report_text(results: SuiteResults, rows: Sequence[Row], date: str, pictures: Pictures) -> str:
    """The whole report in Markdown."""
    parts = [_head(results, rows, date)]
    for dataset in dict.fromkeys(row.dataset for row in rows):
        parts.append(_section(results, [row for row in rows if row.dataset == dataset]))
    parts += [_left_out(results), NOTES, _embedded("Plots", pictures.plots), pictures.remark]
    parts.append(_embedded("Test views: photo, image and error of the worst, median and best view", pictures.sheets))
    return "\n\n".join(filter(None, parts)) + "\n"


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The head of the table of a data set and its rows, without empty columns."""
    columns = [column for column in COLUMNS if column[1] in ("psnr", "ssim", "lpips") or _any(rows, column[1])]
    lines = [["scene", "budget", "runs", *(head for head, _, _ in columns)]]
    for row in rows:
        figures = (_cell(row, name, how) for _, name, how in columns)
        lines.append([_name(row), budget_label(row.budget_name, row.budget), str(row.runs), *figures])
    return lines


def _scaled_steps(results: SuiteResults) -> str:
    """The number of steps, if it is not that of the schedule; else ""."""
    full = SCHEDULES[results.schedule].iterations
    return "" if results.iterations in (None, full) else f"{results.iterations:,} instead of {full:,}"


def _head(results: SuiteResults, rows: Sequence[Row], date: str) -> str:
    steps = _scaled_steps(results)
    facts = {
        "protocol": results.protocol,
        "schedule": results.schedule + (f", scaled to {steps} steps" if steps else ""),
        "commit": results.commit or "unknown",
        "machine": "; and ".join(map(_machine, results.machines)),
        "date": date,
        "runs": f"{len(results.done())} done, {len(results.failed())} failed; scenes missing: {len(results.missing)}",
    }
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    if len(results.machines) > 1:
        lines.append("- Minutes and frames/s are of different machines and can't be compared.")
    if results.jobs > 1:
        lines.append(f"- Up to {results.jobs} runs ran at the same time and slowed each other down.")
    empty = "" if rows else "\n\nNo run is finished, so there are no tables."
    return f"# Results of the suite\n\n    {results.command}\n\n" + "\n".join(lines) + empty


def _machine(machine: dict) -> str:
    known = [f"{name} {value}" for name, value in machine.items() if value is not None]
    return ", ".join(known) or "unknown"


def _section(results: SuiteResults, rows: Sequence[Row]) -> str:
    dataset = rows[0].dataset
    head, *lines = cells(rows)
    bold = [line if row.scene else [f"**{cell}**" for cell in line] for row, line in zip(rows, lines, strict=True)]
    paragraphs = [f"## {title(dataset)}, protocol {results.protocol}", markdown_table([head, *bold], left=2)]
    if sizes := _frame_sizes(results, dataset):
        paragraphs.append(f"Frames/s are of images of this size, in px: {sizes}.")
    return "\n\n".join([*paragraphs, *_beside_published(results, rows)])


def _frame_sizes(results: SuiteResults, dataset: str) -> str:
    scenes: dict[tuple[int, int], set[str]] = {}
    for run in results.done():
        if run.dataset == dataset and run.fps_size:
            scenes.setdefault(run.fps_size, set()).add(run.scene)
    return "; ".join(f"{w}x{h} {', '.join(sorted(names))}" for (w, h), names in sorted(scenes.items()))


def _any(rows: Sequence[Row], name: str) -> bool:
    return any(row.mean[name] is not None for row in rows)


def _name(row: Row) -> str:
    if row.scene:
        return row.scene
    return f"mean of all {row.scenes} scenes" if row.is_complete else f"mean of {row.scenes} of {row.of_scenes} scenes"


def _cell(row: Row, name: str, how: str) -> str:
    if row.mean[name] is None:
        return "-"
    std = row.std[name]
    return f"{row.mean[name]:{how}}" + (f" ± {std:{how}}" if std else "")


def _beside_published(results: SuiteResults, rows: Sequence[Row]) -> list[str]:
    """Our means with those of papers, where both have the same scenes, steps and protocol; else the reason."""
    dataset = rows[0].dataset
    if dataset not in DATA_SETS:
        return []
    protocol = DATA_SETS[dataset].protocol
    means = [row for row in rows if is_published_set(row)]
    if not means:
        return ["No published figures: they are means over all scenes of the data set, and some are missing here."]
    if _scaled_steps(results):
        return ["No published figures: the steps of these runs are scaled."]
    if protocol not in (None, results.protocol):
        return [
            f"No published figures: GNS and Improved-GS measured this data set with the protocol {protocol}, these "
            f"runs use {results.protocol}. `--protocol {protocol}` gives figures that can be compared."
        ]
    return [_published_table(means), _published_note(protocol)]


def _published_table(means: Sequence[Row]) -> str:
    dataset = means[0].dataset
    lines = [["method", "published in", "SSIM", "PSNR, dB", "LPIPS", "Gaussians", "minutes", "MB"]]
    for row in means:
        ours = (row.mean[name] for name in ("ssim", "psnr", "lpips", "gaussians", "minutes", "mb"))
        lines.append([f"**{_ours(row)}**", "", *_published_cells(*ours)])
    lines += [_published_line(row) for row in TRAINED[dataset]]
    with_compressed = [row for row in means if row.mean["compressed_mb"] is not None]
    for row in with_compressed:
        quality = (row.mean[f"compressed_{name}"] for name in ("ssim", "psnr", "lpips"))
        figures = _published_cells(*quality, None, None, row.mean["compressed_mb"])
        lines.append([f"**{_ours(row)}, compressed**", "", *figures])
    if with_compressed:
        lines.append(_published_line(COMPRESSED[dataset]))
    return markdown_table(lines, left=2)


def _ours(row: Row) -> str:
    return f"this suite, {row.schedule}, {budget_label(row.budget_name, row.budget)}"


def _published_line(row: PublishedRow) -> list[str]:
    figures = _published_cells(row.ssim, row.psnr, row.lpips, row.gaussians, row.minutes, row.mb)
    return [row.method, row.source, *figures]


def _published_cells(*figures: float | None) -> list[str]:
    formats = (".3f", ".2f", ".3f", ",.0f", ",.1f", ",.2f")
    return ["-" if value is None else f"{value:{how}}" for value, how in zip(figures, formats, strict=True)]


def _published_note(protocol: str | None) -> str:
    which = (
        f" Those of GNS and Improved-GS use the protocol {protocol}; the protocol of the other methods is not known."
        if protocol
        else ""
    )
    return f"Published figures are as printed: minutes on the papers' machines, MB as the papers count them.{which}"


def _left_out(results: SuiteResults) -> str:
    failed = sorted(results.failed(), key=lambda run: (run.dataset, run.scene, run.budget_name, run.seed))
    lines = [
        f"- {run.scene} ({title(run.dataset)}), budget {run.budget_name}, seed {run.seed}: "
        f"failed: {_escaped(run.error or '')}"
        for run in failed
    ]
    lines += [
        f"- {entry['scene']} ({title(entry['dataset'])}): not found: {_escaped(entry['where'])}"
        for entry in sorted(results.missing, key=lambda entry: (entry["dataset"], entry["scene"]))
    ]
    return "\n".join(["## Not in the tables\n", *lines]) if lines else ""


def _embedded(heading: str, pictures: Sequence[tuple[str, str | None]]) -> str:
    blocks = [
        f"{label}\n\n" + (f"![{label}]({quote(str(PurePosixPath(path)))})" if path else "- the picture is missing")
        for label, path in pictures
    ]
    return "\n\n".join([f"## {heading}", *blocks]) if blocks else ""


def _escaped(text: str) -> str:
    """One line, in which Markdown finds no table, tag, link or emphasis: messages quote files."""
    line = html.escape(" ".join(text.split()), quote=False)
    for mark in "\\|`*[]":
        line = line.replace(mark, f"\\{mark}")
    return line
