"""The file suite.json: all runs of an output folder, and how they were made. Reports read nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compact_splats.suite.entries import machine_of
from compact_splats.suite.plan import Missing
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import read_json, write_json
from compact_splats.utils.machine import machine_info

FILE = "suite.json"
FORMAT = 1
FIX = "move it away and run the suite again; finished runs are not repeated"
_NEVER_MIXED = ("protocol", "schedule", "iterations")  # in one table


class SuiteFile:
    """Entries of runs by folder. Runs that the file had before are kept.

    Args:
        output: folder of the file; the caller holds its lock.
        order: folders of the runs of this sweep in the order in which the file lists them.
        heading: ``command``, ``protocol``, ``schedule``, ``iterations`` and ``jobs``.
        missing: scenes that were not found.

    Raises:
        InputError: the existing file has another protocol, schedule or number of steps, or is not a suite.json.
    """

    def __init__(self, output: Path, order: Sequence[str], heading: dict[str, Any], missing: Sequence[Missing]) -> None:
        self._path = output / FILE
        self._order = {folder: place for place, folder in enumerate(order)}
        self._heading = {"format": FORMAT, **heading}
        self._missing = [vars(each) for each in missing]
        self._runs = self._read()

    def note(self, entry: dict[str, Any]) -> None:
        """Add the entry of a run, or replace an older one of the same run, and write the file.

        Raises:
            InputError: the file can't be written.
        """
        self._runs[entry["folder"]] = entry
        self.write()

    def write(self) -> None:
        """Write the file.

        Raises:
            InputError: the file can't be written.
        """
        runs = sorted(self._runs.values(), key=lambda run: self._order.get(run["folder"], len(self._order)))
        info = machine_info()
        commits = dict.fromkeys(run["commit"] for run in runs if run.get("commit"))
        content = {
            **self._heading,
            "commit": ", ".join(commits) or info["commit"] or None,
            "machine": machine_of(info),
            "missing": self._missing,
            "runs": runs,
        }
        write_json(self._path, content)

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        content = read_suite(self._path)
        for name in _NEVER_MIXED:
            there, here = content.get(name), self._heading[name]
            if content["runs"] and there != here:
                raise InputError(
                    f"{self._path.parent} holds runs of {name} {there}, these are of {name} {here}: choose another "
                    f"folder with --output"
                )
        return {run["folder"]: run for run in content["runs"]}


def read_suite(path: Path) -> dict[str, Any]:
    """The content of a suite.json.

    Raises:
        InputError: the file is missing, is damaged, or is not a suite.json of this format.
    """
    content = read_json(path, "the results of a suite as JSON", FIX)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} does not hold the results of a suite in format {FORMAT}: {FIX}")
    runs = content.get("runs")
    if not isinstance(runs, list) or not all(isinstance(run, dict) and "folder" in run for run in runs):
        raise InputError(f"{path} is damaged: {FIX}")
    return content
