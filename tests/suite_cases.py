"""A small suite for the tests of sweeps: two of a table's three scenes, and the stages as functions of this process."""

import json
import sys
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
    """Stands for the end of the process: nothing that comes after it runs."""


class InProcess:
    """Runs the stages' programs as functions, and notes which; ``hook`` gets the words of each after it has run.

    With ``kill_after`` all is over once so many have run.
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
        """What has run since the last call."""
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
    """What of a table does not depend on the machine's speed, with the models' bytes."""
    return {
        name: (run["state"], run["quality"], run["gaussians"], run["mb"], (out / name / PLY).read_bytes())
        for name, run in entries(out).items()
    }


def quality_of(run: Path, method: str) -> dict[str, float]:
    return json.loads((run / "results.json").read_text())[method]


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
