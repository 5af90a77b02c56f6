"""The table of scenes, budget.txt: read and checked. Knows no folders and no runs."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_splats.utils.errors import InputError, brief

COLUMNS = ("scene", "dataset", "images", "budget", "small", "fast", "fast_sh_rate")
NONE = "-"
_NAME = re.compile(r"\w[\w.+-]*")  # names become names of folders


@dataclass(frozen=True)
class SceneBudget:
    """A line of the table.

    Attributes:
        scene: name of its folder.
        dataset: data set in whose mean the scene counts.
        images: subfolder of the photos in the canonical protocol.
        budget: Gaussians with the full schedule.
        small: the same for ``--small``, or None.
        fast: Gaussians with the fast schedule, or None.
        fast_sh_rate: ``--sh-rest-lr`` of the fast schedule, or None for the default of train.py.
    """

    scene: str
    dataset: str
    images: str
    budget: int
    small: int | None
    fast: int | None
    fast_sh_rate: float | None


def read_budgets(path: Path) -> dict[str, SceneBudget]:
    """The lines of a table by scene, in their order.

    Raises:
        InputError: the file can't be read, or its header or a line is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the table {path} can't be read: {error} (see --budget-file)") from error
    stripped = ((number, line.split("#")[0].split()) for number, line in enumerate(text.splitlines(), 1))
    lines = [(f"{path}, line {number}", cells) for number, cells in stripped if cells]
    if len(lines) < 2:
        raise InputError(f"the table {path} holds no scenes: it needs a header and a line for each scene")
    (where, header), *rows = lines
    if sorted(header) != sorted(COLUMNS):
        raise InputError(where, f"a header with the columns {' '.join(COLUMNS)}", " ".join(header), "correct it")
    table: dict[str, SceneBudget] = {}
    for where, cells in rows:
        budget = _read_line(where, header, cells)
        if budget.scene in table:
            raise InputError(f"{where}: {budget.scene} has a line already: remove one of the two")
        table[budget.scene] = budget
    return table


def _read_line(where: str, header: list[str], cells: list[str]) -> SceneBudget:
    if len(cells) != len(header):
        raise InputError(f"{where} has {len(cells)} entries, the header {len(header)}: write '-' for none")
    values: dict[str, Any] = {}
    for column, cell in zip(header, cells, strict=True):
        values[column] = None if cell == NONE else _READERS[column](f"{where}, {column}", cell)
    for column in ("scene", "budget"):
        if values[column] is None:
            raise InputError(f"{where}: {column} is missing")
    defaults = {"dataset": "other", "images": "images"}
    return SceneBudget(**{**values, **{name: values[name] or default for name, default in defaults.items()}})


def _name(where: str, cell: str) -> str:
    if not _NAME.fullmatch(cell):
        raise InputError(f"{where}: {brief(cell)} is not a name of letters, digits and . _ + -")
    return cell


def _count(where: str, cell: str) -> int:
    if not (cell.isascii() and cell.isdecimal() and len(cell) < 19 and int(cell) > 0):
        raise InputError(f"{where}: {brief(cell)} is not a number of Gaussians, 1 or more")
    return int(cell)


def _rate(where: str, cell: str) -> float:
    try:
        rate = float(cell)
    except ValueError:
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise InputError(f"{where}: {brief(cell)} is not a learning rate, 0 or more")
    return rate


_READERS = {
    "scene": _name, "dataset": _name, "images": _name,
    "budget": _count, "small": _count, "fast": _count, "fast_sh_rate": _rate,
}  # fmt: skip
