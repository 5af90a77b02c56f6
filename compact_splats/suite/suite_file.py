"""The file suite.json: all runs of an output folder, and how they came about. The only thing that reports read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compact_splats.suite.entries import machine_of
from compact_splats.suite.plan import Missing
from compact_splats.suite.results import FILE, FORMAT
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info

_NEVER_MIXED = ("protocol", "schedule", "iterations")  # in one table


class SuiteFile:
    """Entries of runs by folder, written anew whenever one is noted. Runs that were there before are kept.

    Args:
        output: folder of the file; the caller holds its lock.
        order: folders of the runs of this sweep in the order in which the file lists them.
        heading: ``command``, ``protocol``, ``schedule``, ``iterations`` and whatever else stands above the runs.
        missing: scenes that were not found.

    Raises:
        InputError: the file that is there is of another protocol, schedule or number of steps, or can't be read.
    """

    def __init__(self, output: Path, order: Sequence[str], heading: dict[str, Any], missing: Sequence[Missing]) -> None:
        self._path = output / FILE
        self._order = {folder: place for place, folder in enumerate(order)}
        self._heading = {"format": FORMAT, **heading}
        self._missing = [vars(each) for each in missing]
        self._runs = {run["folder"]: run for run in self._read()}

    def note(self, entry: dict[str, Any]) -> None:
        """Take up the entry of a run, instead of an older one of the same run.

        Raises:
            InputError: the file can't be written.
        """
        self._runs[entry["folder"]] = entry
        self.write()

    def write(self) -> None:
        """Write the file as things are.

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

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            runs = content["runs"]
            if content["format"] != FORMAT or not all(isinstance(run["folder"], str) for run in runs):
                raise ValueError("another format")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            fix = "move it away: finished runs are recognised without it"
            raise InputError(self._path, "the runs of a suite", f"'{error}'", fix) from error
        for name in _NEVER_MIXED:
            if runs and content.get(name) != self._heading[name]:
                fix = "name another folder with --output"
                raise InputError(
                    self._path.parent, f"runs of {name} {self._heading[name]}", f"those of {content.get(name)}", fix
                )
        return runs
