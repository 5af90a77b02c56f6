"""What test.py and test-fast.py can be told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compact_splats.arguments.config import MachineConfig, at_least
from compact_splats.arguments.options import check, option, parse
from compact_splats.utils.errors import InputError

PROTOCOLS = ("canonical", "resized")


@dataclass(frozen=True, kw_only=True)
class SuiteConfig(MachineConfig):
    """All of a sweep but its schedule, which goes with the script.

    Raises:
        InputError: a value is of the wrong type or out of its range.
    """

    data: Path = option(type=Path, help="folder with the scenes, directly or up to two folders down (required)")
    output: Path | None = option(
        None, type=Path, help="folder of runs and tables (default: output/suite-full, output/suite-fast)"
    )
    scenes: tuple[str, ...] = option((), many=True, help="only these of the table (default: all)")
    budget_file: Path | None = option(
        None, type=Path, help="table of scenes and budgets (default: budget.txt of the project)"
    )
    small: bool = option(False, type=bool, help="the small budgets, 40 %% of the normal ones")
    budgets: str | None = option(None, help="train each scene with these shares of its budget, such as 0.1,0.4,1")
    repeats: int = option(1, type=int, help="runs of each, with the seeds 0, 1, ...")
    protocol: str = option(
        "canonical", choices=PROTOCOLS, help="canonical: the folder of photos in the table; resized: the folder "
        "images, scaled to 1600 px when read"
    )  # fmt: skip
    iterations: int | None = option(None, type=int, help="stretch or shrink every run to this number of steps")
    compress: bool = option(False, type=bool, help="also compress each model by compress.py --no-prune, and measure it")
    jobs: int = option(
        1, type=int, help="runs at the same time; they share cores and GPUs, and disturb each other's times"
    )  # fmt: skip
    ray: str | None = option(
        None, help="run on the Ray cluster at this HOST:PORT; auto: the one that runs on this machine; local: a new "
        "one here; --jobs runs share the cores that this machine has, and a GPU"
    )  # fmt: skip
    retries: int = option(2, type=int, help="with --ray: how often a run is tried again when its node is lost")
    dry_run: bool = option(False, type=bool, help="say what would be run, and do nothing")
    quiet: bool = option(False, type=bool, help="print nothing but errors")

    def __post_init__(self) -> None:
        check(self)
        at_least(0, "--threads", self.threads)
        at_least(1, "--repeats", self.repeats)
        at_least(1, "--jobs", self.jobs)
        at_least(0, "--retries", self.retries)
        if self.iterations is not None:
            at_least(1, "--iterations", self.iterations)
        if self.small and self.budgets is not None:
            raise InputError("--small", "nothing beside --budgets", "both", "leave one of the two out")
        if len(self.shares) != len(set(self.shares)):
            raise InputError("--budgets", "each share once", self.budgets, "leave the repeated ones out")

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares that ``--budgets`` names; 1 alone where it is not given."""
        return (1.0,) if self.budgets is None else tuple(_share(word) for word in self.budgets.split(","))

    @classmethod
    def from_command_line(cls, argv: Sequence[str], description: str) -> "SuiteConfig":
        """Read the flags of test.py or test-fast.py.

        Raises:
            InputError: a flag is unknown, missing or has a value it can't have.
        """
        return parse(cls, argv, description)


def _share(word: str) -> float:
    try:
        share = float(word)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise InputError("--budgets", "shares above 0 with commas between them", f"'{word}'", "see --help")
    return share
