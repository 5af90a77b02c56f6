"""The table of scenes, budget.txt: read and checked. Knows nothing of folders and runs."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_splats.utils.errors import InputError

COLUMNS = ("scene", "dataset", "images", "budget", "small", "fast", "fast_sh_rate")
NONE = "-"
_NAME = re.compile(r"\w[\w.+-]*")  # names become names of folders


@dataclass(frozen=True)
class SceneBudget:
    """A line of the table.

    Attributes:
        scene: name of its folder.
        dataset: what it is averaged with.
        images: folder of the photos in the canonical protocol.
        budget: Gaussians with the full schedule.
        small: the same for ``--small``, or None.
        fast: Gaussians with the fast schedule, or None.
        fast_sh_rate: ``--sh-rest-lr`` of the fast schedule, or None for train.py's default.
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
        InputError: the file can't be read, its header has not the columns that are known, or a line is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "a table of scenes and budgets", f"'{error}'", "see --budget-file") from error
    stripped = ((number, line.split("#")[0].split()) for number, line in enumerate(text.splitlines(), 1))
    lines = [(f"{path}, line {number}", cells) for number, cells in stripped if cells]
    if len(lines) < 2:
        found = "only the header" if lines else "nothing"
        raise InputError(path, "a header and a line for each scene", found, "add the scenes")
    (where, header), *rows = lines
    _check_header(where, header)
    table: dict[str, SceneBudget] = {}
    for where, cells in rows:
        budget = _read_line(where, header, cells)
        if budget.scene in table:
            raise InputError(where, "each scene once", f"{budget.scene} again", "remove one of the two")
        table[budget.scene] = budget
    return table


def _check_header(where: str, header: list[str]) -> None:
    expected = f"a header of the columns {' '.join(COLUMNS)}"
    for column in header:
        if column not in COLUMNS:
            raise InputError(where, expected, f"'{column}'", "remove it or correct its name")
        if header.count(column) > 1:
            raise InputError(where, expected, f"'{column}' twice", "remove one of the two")
    if missing := [column for column in COLUMNS if column not in header]:
        raise InputError(where, expected, f"no column '{missing[0]}'", "add it; '-' in a line stands for none")


def _read_line(where: str, header: list[str], cells: list[str]) -> SceneBudget:
    if len(cells) != len(header):
        raise InputError(where, f"{len(header)} entries", str(len(cells)), "write '-' for none")
    values: dict[str, Any] = {}
    for column, cell in zip(header, cells, strict=True):
        read = _READERS[column]
        values[column] = None if cell == NONE else read(f"{where}, {column}", cell)
    for column in ("scene", "budget"):
        if values[column] is None:
            raise InputError(f"{where}, {column}", "a value", "none", "give it")
    defaults = {"dataset": "other", "images": "images"}
    return SceneBudget(**{**values, **{name: values[name] or default for name, default in defaults.items()}})


def _name(where: str, cell: str) -> str:
    if not _NAME.fullmatch(cell):
        raise InputError(where, "a name of letters, digits and . _ + -", f"'{cell}'", "give another")
    return cell


def _count(where: str, cell: str) -> int:
    if not (cell.isascii() and cell.isdecimal() and len(cell) < 19 and int(cell) > 0):
        raise InputError(where, "a whole number of Gaussians, 1 or more", f"'{cell}'", "correct it")
    return int(cell)


def _rate(where: str, cell: str) -> float:
    try:
        rate = float(cell)
    except ValueError:
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise InputError(where, "a learning rate, 0 or more", f"'{cell}'", "correct it")
    return rate


_READERS = {
    "scene": _name, "dataset": _name, "images": _name,
    "budget": _count, "small": _count, "fast": _count, "fast_sh_rate": _rate,
}  # fmt: skip
