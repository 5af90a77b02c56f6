"""The flags of test.py and test-fast.py."""

import math
from dataclasses import dataclass
from pathlib import Path

from compact_splats.arguments.config import MachineConfig
from compact_splats.arguments.options import Command, check, option
from compact_splats.utils.errors import InputError, brief

PROTOCOLS = ("canonical", "resized")


@dataclass(frozen=True, kw_only=True)
class SuiteConfig(Command, MachineConfig):
    """The parameters of a sweep, except its schedule.

    Raises:
        InputError: a value is of the wrong type or out of its range.
    """

    about = "Train and measure the scenes of a table: test.py by the full schedule, test-fast.py by the fast one."
    examples = ("data", "data --scenes garden bicycle --small --dry-run")

    data: Path = option(
        type=Path, positional="DATA", group="basic", help="folder of the scenes, which are in it or up to two folders "
        "down (required)"
    )  # fmt: skip
    output: Path | None = option(
        None, type=Path, group="output", help="folder of the runs and the report (default: output/suite-full, "
        "output/suite-fast)"
    )  # fmt: skip
    scenes: tuple[str, ...] = option((), many=True, group="basic", help="scenes of the table to train (default: all)")
    budget_file: Path | None = option(
        None, type=Path, help="table of scenes and budgets (default: budget.txt of the project)"
    )
    small: bool = option(
        False, type=bool, group="basic", help="use the budgets of the column small, 40 %% of the normal ones"
    )
    budgets: str | None = option(None, help="train with each of these shares of a scene's budget, such as 0.1,0.4,1")
    repeats: int = option(1, type=int, low=1, help="runs of each scene and budget, with the seeds 0, 1, ...")
    protocol: str = option(
        "canonical", choices=PROTOCOLS, help="photos: canonical: the folder that the table names; resized: the "
        "folder images, scaled to a width of 1600 px"
    )  # fmt: skip
    iterations: int | None = option(None, type=int, low=1, help="scale the schedule to this number of steps")
    compress: bool = option(False, type=bool, help="also run compress.py --no-prune, and measure the result")
    jobs: int = option(
        1, type=int, low=1, help="runs at the same time; they share cores and GPUs, and slow each other down"
    )  # fmt: skip
    ray: str | None = option(
        None, help="run on the Ray cluster at this HOST:PORT; auto: the one that runs on this machine; local: a new "
        "one on this machine; each run takes 1/JOBS of the cores of this machine, and of a GPU"
    )  # fmt: skip
    retries: int = option(2, type=int, low=0, help="with --ray: how often a run starts again when its node is lost")
    dry_run: bool = option(False, type=bool, group="basic", help="print the runs and commands, and run nothing")

    def __post_init__(self) -> None:
        check(self)
        if self.small and self.budgets is not None:
            raise InputError("--small and --budgets exclude each other: leave one out")
        if len(self.shares) != len(set(self.shares)):
            raise InputError(f"--budgets {self.budgets} has a share twice")

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares of ``--budgets``; by default only 1."""
        return (1.0,) if self.budgets is None else tuple(_share(word) for word in self.budgets.split(","))


def _share(word: str) -> float:
    try:
        share = float(word)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise InputError(f"--budgets: {brief(word)} is not a share above 0 (example: --budgets 0.1,0.4,1)")
    return share
