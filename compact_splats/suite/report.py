"""The report of a suite, from its ``suite.json`` alone: tables as Markdown, CSV and JSON, and plots.

``python -m compact_splats.suite.report OUTPUT`` makes it anew in ``OUTPUT/report``. It trains and measures nothing.
"""

import argparse
import csv
import datetime
import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from compact_splats.suite.markdown import Pictures, cells, report_text
from compact_splats.suite.published import title
from compact_splats.suite.results import FILE, FORMAT, RunResult, SuiteResults, read_results
from compact_splats.suite.tables import RECORD, Row, make_rows
from compact_splats.utils.errors import run_script
from compact_splats.utils.files import atomic_write, write_json


def write_report(output: Path, *, plots: bool = True) -> str:
    """Write ``report.md``, ``report.csv``, ``report.json`` and plots into ``output/report``.

    Args:
        output: folder of a suite.
        plots: draw plots, too; where matplotlib is missing, they are left out and the report says so.

    Returns:
        The tables for a terminal, and where the report is.

    Raises:
        InputError: ``suite.json`` can't be used, or the report can't be written.
    """
    source, folder = output / FILE, output / "report"
    results = read_results(source)
    rows = make_rows(results)
    drawn, remark = _draw(results, rows, folder) if plots else ([], "")
    date = datetime.datetime.fromtimestamp(source.stat().st_mtime, datetime.timezone.utc)
    pictures = Pictures(drawn, _sheets(results.done(), output), remark)
    _write_text(folder / "report.md", report_text(results, rows, f"{date:%Y-%m-%d %H:%M} UTC", pictures))
    _write_text(folder / "report.csv", _csv(rows))
    write_json(folder / "report.json", _as_json(results, rows))
    written = " ".join(filter(None, [f"{folder / 'report.md'}: {len(rows)} rows, {len(drawn)} plots.", remark]))
    return "\n\n".join([*_for_terminal(results, rows), written])


def _for_terminal(results: SuiteResults, rows: Sequence[Row]) -> list[str]:
    """The tables with columns of even width, one for each data set under its name."""
    texts = []
    for dataset, group in groupby(rows, lambda row: row.dataset):
        lines = cells(list(group))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (
            "  ".join(
                f"{cell:{'<' if i < 2 else '>'}{width}}"
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )
        texts.append("\n".join([f"{title(dataset)}, protocol {results.protocol}", *(line.rstrip() for line in padded)]))
    return texts


def _draw(results: SuiteResults, rows: Sequence[Row], folder: Path) -> tuple[list[tuple[str, str]], str]:
    """What each plot shows and its file's name; and a remark where there can be none."""
    try:
        from compact_splats.suite.plots import write_plots
    except ImportError as error:
        return [], f"Plots are left out: {error}."
    return write_plots(results, rows, folder), ""


def _sheets(runs: Sequence[RunResult], output: Path) -> list[tuple[str, str | None]]:
    """For each scene the picture of its test views: at the largest budget, and of the lowest seed that has one."""
    chosen: dict[tuple[str, str], RunResult] = {}
    for run in sorted(runs, key=lambda run: (run.dataset, run.scene, -run.budget, run.schedule, run.seed)):
        if run.sheet:
            chosen.setdefault((run.dataset, run.scene), run)
    return [
        (
            f"{run.scene} ({title(run.dataset)}), budget {run.budget_name}, seed {run.seed}",
            f"../{run.sheet}" if (output / run.sheet).is_file() else None,
        )
        for run in chosen.values()
    ]


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, RECORD, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.record() for row in rows)
    return text.getvalue()


def _as_json(results: SuiteResults, rows: Sequence[Row]) -> dict:
    failed = [
        {
            name: getattr(run, name)
            for name in ("dataset", "scene", "schedule", "budget_name", "budget", "seed", "error")
        }
        for run in results.failed()
    ]
    head = {name: getattr(results, name) for name in ("command", "protocol", "schedule", "commit", "machines")}
    return {
        "format": FORMAT,
        **head,
        "rows": [row.record() for row in rows],
        "failed": failed,
        "missing": results.missing,
    }


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    """Read the command line and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of a suite, with its suite.json")
    parser.add_argument("--no-plots", action="store_true", help="tables only")
    args = parser.parse_args()
    print(write_report(args.output, plots=not args.no_plots))


if __name__ == "__main__":
    run_script(main)
