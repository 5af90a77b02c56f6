"""A small suite for tests: two of the three scenes of a table, and stages that run in this process."""

import json
import sys
import time
from pathlib import Path

import pytest

from compact_splats.commands import compress, metrics, render, train
from compact_splats.demo.scene import write_demo_scene
from compact_splats.suite import comparison
from compact_splats.utils.errors import InputError

STEPS = 12
PLY = f"point_cloud/iteration_{STEPS}/point_cloud.ply"
TABLE = """
scene     dataset            images    budget  small  fast  fast_sh_rate
bicycle   mip-nerf-360       images_4     200     80   150         0.005
train     tanks-and-temples  images       100      -    60         0.02
playroom  deep-blending      -            100     40     -         -
"""
STAGES = ["train", "render", "metrics", "render time", "compact_splats.suite.comparison"]


class Killed(BaseException):
    """Simulates the end of the process: no handler of InputError or OSError catches it."""


class InProcess:
    """Runs the programs of stages as functions, and records their names; calls ``hook`` with the words after each.

    Raises :class:`Killed` after ``kill_after`` programs.
    """

    def __init__(self):
        self.ran: list[str] = []
        self.hook = lambda words: None
        self.kill_after: int | None = None

    def __call__(self, words, log: Path, environment) -> str | None:
        self._live_or_die()
        log.parent.mkdir(parents=True, exist_ok=True)
        name = Path(words[0]).stem if words[0] != "-m" else words[1]
        self.ran.append(f"{name} time" if "--time" in words else name)
        try:
            self._call(name, list(words[1:]))
        except InputError as error:
            return str(error)
        self._live_or_die()
        return self.hook(words)

    def _live_or_die(self) -> None:
        if len(self.ran) == self.kill_after:
            raise Killed

    @staticmethod
    def _call(name: str, argv: list[str]) -> None:
        if name == "compact_splats.suite.comparison":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", argv)
                comparison.main()
            return
        {"train": train, "render": render, "metrics": metrics, "compress": compress}[name].main(argv)

    def taken(self) -> list[str]:
        """The programs that have run since the last call."""
        ran, self.ran = self.ran, []
        return ran


def write_scenes(data: Path) -> Path:
    """A data folder with two of the table's scenes, at different depths."""
    bicycle = data / "360_v2" / "bicycle"
    write_demo_scene(bicycle, 48, 32, 10, 300)
    (bicycle / "images").rename(bicycle / "images_4")
    write_demo_scene(data / "tandt_db" / "tandt" / "train", 48, 32, 9, 300, seed=1)
    return data


def write_table(folder: Path) -> Path:
    """The table of three scenes as a file."""
    (folder / "budget.txt").write_text(TABLE)
    return folder / "budget.txt"


def entries(out: Path) -> dict[str, dict]:
    return {run["folder"]: run for run in json.loads((out / "suite.json").read_text())["runs"]}


def figures(out: Path) -> dict[str, tuple]:
    """The figures that do not depend on the speed of the machine, and the bytes of the models."""
    return {
        name: (run["state"], run["quality"], run["gaussians"], run["mb"], (out / name / PLY).read_bytes())
        for name, run in entries(out).items()
    }


def quality_of(run: Path, method: str) -> dict[str, float]:
    return json.loads((run / "results.json").read_text())[method]


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_alive(pid: int) -> bool:
    """Whether a process runs and is no zombie (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 120):
    """The value of the condition, once it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not true within {seconds} s"
        time.sleep(0.05)
    return value
