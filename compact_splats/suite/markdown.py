"""The text of a suite's report: tables beside published figures, what failed, pictures. Pure text from rows."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import quote

from compact_splats.arguments.config import SCHEDULES
from compact_splats.suite.published import COMPRESSED, DATA_SETS, TRAINED, PublishedRow, title
from compact_splats.suite.results import SuiteResults
from compact_splats.suite.tables import Row, budget_label, is_published_set

# Head of the column, figure, and how it is written.
COLUMNS = (
    ("Gaussians", "gaussians", ",.0f"),
    ("PSNR, dB", "psnr", ".2f"),
    ("SSIM", "ssim", ".4f"),
    ("LPIPS", "lpips", ".4f"),
    ("PLY, MB", "mb", ",.2f"),
    ("minutes", "minutes", ",.1f"),
    ("frames/s", "fps", ",.1f"),
    ("compressed, MB", "compressed_mb", ",.2f"),
    ("its PSNR, dB", "compressed_psnr", ".2f"),
)
NOTES = """## How to read the tables

- Test views are every 8th photo by name; PSNR, SSIM and LPIPS (VGG) are measured from the saved 8-bit pictures and
  averaged over views, then over repeats, then over scenes. "-": not measured, or not for every run behind the row.
- *Minutes* are those of training alone: without loading, evaluating and saving. *Frames/s* wait for each frame to be
  finished. MB are 10^6 bytes.
- *Runs* counts the repeats with different seeds. After ± stands their sample standard deviation (divisor n - 1), in the
  row of a mean that of the mean of one run of each scene: the root of the sum of the scenes' variances, divided by the
  number of scenes. It is the scatter of training, not that over a choice of scenes. There is none where a scene has one
  run only, or all runs agree.
- Protocols are never mixed in a table."""


@dataclass(frozen=True)
class Pictures:
    """Files to embed: data set or scene and path relative to the report.

    Attributes:
        plots: what a plot shows, and its path.
        sheets: what a sheet shows, and its path; None where the file is gone.
        remark: why plots are left out, or "".
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
    parts.append(
        _embedded("Test views: photo, render and error of the best, the median and the worst", pictures.sheets)
    )
    return "\n\n".join(filter(None, parts)) + "\n"


def steps_if_scaled(results: SuiteResults) -> str:
    """How many steps the runs had, where that is not what their schedule has; else ""."""
    scaled = {(run.steps, _full_length(run.schedule)) for run in results.done() if run.steps}
    return ", ".join(f"{steps:,} instead of {full:,}" for steps, full in sorted(scaled) if steps != full)


def _full_length(schedule: str) -> int:
    return SCHEDULES[schedule].iterations


def _head(results: SuiteResults, rows: Sequence[Row], date: str) -> str:
    steps = steps_if_scaled(results)
    facts = {
        "protocol": results.protocol,
        "schedule": results.schedule + (f", scaled to {steps} steps" if steps else ""),
        "commit": results.commit or "unknown",
        "machine": "; and ".join(map(_machine, results.machines)),
        "date": date,
        "runs": f"{len(results.done())} done, {len(results.failed())} failed; scenes missing: {len(results.missing)}",
    }
    lines = [f"- {name}: {plain(value)}" for name, value in facts.items()]
    if len(results.machines) > 1:
        lines.append("- Minutes and frames/s are of different machines and can't be compared.")
    if results.jobs > 1:
        lines.append(f"- Up to {results.jobs} runs went on at the same time and disturbed each other's times.")
    empty = "" if rows else "\n\nNo run is done yet, so there are no tables."
    command = " ".join(results.command.split())
    return f"# Results of the suite\n\n    {command}\n\n" + "\n".join(lines) + empty


def _machine(machine: dict) -> str:
    known = [f"{name} {value}" for name, value in machine.items() if value is not None]
    return ", ".join(known) or "unknown"


def _section(results: SuiteResults, rows: Sequence[Row]) -> str:
    dataset = rows[0].dataset
    head, *lines = cells(rows)
    bold = [
        [f"**{cell}**" for cell in line] if row.scene is None else line for row, line in zip(rows, lines, strict=True)
    ]
    paragraphs = [f"## {plain(title(dataset))}, protocol {results.protocol}", table([head, *bold], left=2)]
    if sizes := _frame_sizes(results, dataset):
        paragraphs.append(f"Frames/s are of pictures of this size, in px: {sizes}.")
    return "\n\n".join([*paragraphs, *_beside_published(results, rows)])


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The head of the table of a data set and its rows, without columns of which nothing is known."""
    columns = [column for column in COLUMNS if column[1] in ("psnr", "ssim", "lpips") or _any(rows, column[1])]
    several = len({row.schedule for row in rows}) > 1
    lines = [["scene", "budget", "runs", *(head for head, _, _ in columns)]]
    for row in rows:
        lines.append(
            [_name(row), _budget(row, several), str(row.runs), *(_cell(row, *column[1:]) for column in columns)]
        )
    return lines


def _frame_sizes(results: SuiteResults, dataset: str) -> str:
    scenes: dict[tuple[int, int], set[str]] = {}
    for run in results.done():
        if run.dataset == dataset and run.fps_size:
            scenes.setdefault(run.fps_size, set()).add(plain(run.scene))
    return "; ".join(f"{w}x{h} {', '.join(sorted(names))}" for (w, h), names in sorted(scenes.items()))


def _any(rows: Sequence[Row], name: str) -> bool:
    return any(row.mean[name] is not None for row in rows)


def _name(row: Row) -> str:
    if row.scene:
        return plain(row.scene)
    return f"mean of all {row.scenes} scenes" if row.is_complete else f"mean of {row.scenes} of {row.of_scenes} scenes"


def _budget(row: Row, with_schedule: bool) -> str:
    return plain(f"{row.schedule}, " * with_schedule + budget_label(row.budget_name, row.budget))


def _cell(row: Row, name: str, how: str) -> str:
    if row.mean[name] is None:
        return "-"
    std = row.std[name]
    return f"{row.mean[name]:{how}}" + (f" ± {std:{how}}" if std else "")


def _beside_published(results: SuiteResults, rows: Sequence[Row]) -> list[str]:
    """Our means with those of papers, where both are of the same scenes, steps and protocol; else why not."""
    dataset = rows[0].dataset
    if dataset not in DATA_SETS:
        return []
    protocol = DATA_SETS[dataset].protocol
    means = [row for row in rows if is_published_set(row)]
    if not means:
        return ["Published figures are means over all scenes of the data set and are put beside such a mean only."]
    if steps_if_scaled(results):
        return ["The steps are scaled, so published figures are not put beside these."]
    if protocol not in (None, results.protocol):
        return [
            f"Published figures are not put beside these: GNS and Improved-GS measured this data set by the protocol "
            f"{protocol}, these are {results.protocol}, and the two are never mixed. `--protocol {protocol}` gives "
            f"figures that can be compared."
        ]
    return [_published_table(means), _published_note(protocol)]


def _published_table(means: Sequence[Row]) -> str:
    dataset = means[0].dataset
    lines = [["method", "published in", "SSIM", "PSNR, dB", "LPIPS", "Gaussians", "minutes", "MB"]]
    for row in means:
        ours = (row.mean[name] for name in ("ssim", "psnr", "lpips", "gaussians", "minutes", "mb"))
        lines.append([f"**this suite, {_budget(row, True)}**", "", *_published_cells(*ours)])
    lines += [_published_line(row) for row in TRAINED[dataset]]
    with_compressed = [row for row in means if row.mean["compressed_mb"] is not None]
    for row in with_compressed:
        quality = (row.mean[f"compressed_{name}"] for name in ("ssim", "psnr", "lpips"))
        label = f"**this suite, {_budget(row, True)}, compressed**"
        lines.append([label, "", *_published_cells(*quality, None, None, row.mean["compressed_mb"])])
    if with_compressed:
        lines.append(_published_line(COMPRESSED[dataset]))
    return table(lines, left=2)


def _published_line(row: PublishedRow) -> list[str]:
    cells = _published_cells(row.ssim, row.psnr, row.lpips, row.gaussians, row.minutes, row.mb)
    return [row.method, row.source, *cells]


def _published_cells(*figures: float | None) -> list[str]:
    formats = (".3f", ".2f", ".3f", ",.0f", ",.1f", ",.2f")
    return ["-" if value is None else f"{value:{how}}" for value, how in zip(figures, formats, strict=True)]


def _published_note(protocol: str | None) -> str:
    which = (
        f" Those of GNS and Improved-GS are of the protocol {protocol}, that of the others is not known."
        if protocol
        else ""
    )
    return f"Published figures are as printed: minutes on the papers' machines, MB as the papers count them.{which}"


def _left_out(results: SuiteResults) -> str:
    lines = [
        f"- {plain(run.scene)} ({plain(title(run.dataset))}), budget {plain(run.budget_name)}, seed {run.seed}: "
        f"failed: {plain(run.error)}"
        for run in sorted(results.failed(), key=lambda run: (run.dataset, run.scene, run.budget_name, run.seed))
    ]
    lines += [
        f"- {plain(entry['scene'])} ({plain(title(entry['dataset']))}): not there: {plain(entry['where'])}"
        for entry in sorted(results.missing, key=lambda entry: (entry["dataset"], entry["scene"]))
    ]
    return "\n".join(["## Not in the tables\n", *lines]) if lines else ""


def _embedded(heading: str, pictures: Sequence[tuple[str, str | None]]) -> str:
    blocks = [
        f"![{plain(label)}]({quote(str(PurePosixPath(path)))})" if path else f"- {plain(label)}: the picture is gone"
        for label, path in pictures
    ]
    labelled = [f"{plain(label)}\n\n{block}" for (label, _), block in zip(pictures, blocks, strict=True)]
    return "\n\n".join([f"## {heading}", *labelled]) if pictures else ""


def table(lines: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table of a head and rows; the first ``left`` columns are aligned to the left, the others right."""
    rule = [*[":--"] * left, *["--:"] * (len(lines[0]) - left)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def plain(text: str) -> str:
    """A single line that Markdown shows as it is: no table, tag, link or emphasis begins in it."""
    line = html.escape(" ".join(text.split()), quote=False)
    for mark in "\\|`*[]":
        line = line.replace(mark, f"\\{mark}")
    return line
