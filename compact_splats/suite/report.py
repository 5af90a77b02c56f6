"""The report of a suite, from its ``suite.json``: tables as Markdown and CSV, and plots.

``python -m compact_splats.suite.report OUTPUT`` writes it again into ``OUTPUT/report``, without training or measuring.
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
from compact_splats.suite.results import RunResult, SuiteResults, read_results
from compact_splats.suite.suite_file import FILE
from compact_splats.suite.tables import RECORD, Row, make_rows
from compact_splats.utils.errors import run_script
from compact_splats.utils.files import atomic_write
from compact_splats.utils.table import text_table


def write_report(output: Path, *, plots: bool = True) -> str:
    """Write ``report.md``, ``report.csv`` and plots into ``output/report``.

    Args:
        output: folder of a suite.
        plots: also draw plots. Without matplotlib they are left out, and the report says so.

    Returns:
        The tables for a terminal, and the path of the report.

    Raises:
        InputError: ``suite.json`` can't be read, or the report can't be written.
    """
    source, folder = output / FILE, output / "report"
    results = read_results(source)
    rows = make_rows(results)
    drawn, remark = _draw(results, rows, folder) if plots else ([], "")
    date = datetime.datetime.fromtimestamp(source.stat().st_mtime, datetime.timezone.utc)
    pictures = Pictures(drawn, _sheets(results.done(), output), remark)
    _write_text(folder / "report.md", report_text(results, rows, f"{date:%Y-%m-%d %H:%M} UTC", pictures))
    _write_text(folder / "report.csv", _csv(rows))
    tables = [
        f"{title(dataset)}, protocol {results.protocol}\n{text_table(cells(list(group)), left=2)}"
        for dataset, group in groupby(rows, lambda row: row.dataset)
    ]
    written = " ".join(filter(None, [f"{folder / 'report.md'}: {len(rows)} rows, {len(drawn)} plots.", remark]))
    return "\n\n".join([*tables, written])


def _draw(results: SuiteResults, rows: Sequence[Row], folder: Path) -> tuple[list[tuple[str, str]], str]:
    """Label and file name of each plot; and why there are none, or ""."""
    try:
        from compact_splats.suite.plots import write_plots
    except ImportError as error:
        return [], f"Plots are left out: {error}."
    return write_plots(results, rows, folder), ""


def _sheets(runs: Sequence[RunResult], output: Path) -> list[tuple[str, str | None]]:
    """For each scene the picture of its test views: of the largest budget, and of the lowest seed that has one."""
    chosen: dict[tuple[str, str], RunResult] = {}
    for run in sorted(runs, key=lambda run: (run.dataset, run.scene, -run.budget, run.schedule, run.seed)):
        if run.sheet:
            chosen.setdefault((run.dataset, run.scene), run)
    return [
        (
            f"{run.scene} ({title(run.dataset)}), budget {run.budget_name}, seed {run.seed}",
            f"../{run.sheet}" if run.sheet and (output / run.sheet).is_file() else None,
        )
        for run in chosen.values()
    ]


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, RECORD, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.record() for row in rows)
    return text.getvalue()


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
