"""What view.py can be told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compact_splats.arguments.config import (
    MachineConfig,
    SceneConfig,
    at_least,
    check_resolution,
    in_range,
    scene_of_run,
)
from compact_splats.arguments.options import build, check, given, option

DEFAULT_PORT = 8080


@dataclass(frozen=True, kw_only=True)
class ViewConfig(MachineConfig, SceneConfig):
    """How a model is shown in a browser.

    Raises:
        InputError: a value is of the wrong type or out of its range.
    """

    model: Path = option(type=Path, short="-m", help="folder that train.py wrote, or a model of any format (required)")
    source_path: Path | None = option(
        None, type=Path, short="-s", help="folder of the scene, for cameras and photos (default: that of the run)"
    )
    iteration: int = option(-1, type=int, help="the saved step to show; -1: the last")
    html: Path | None = option(
        None, type=Path, help="write a page that is one file, to be opened without a server or a network, and end"
    )
    port: int = option(DEFAULT_PORT, type=int, help="to serve the live page on; 0: any free one")
    host: str = option(
        "127.0.0.1", help="address to serve on: this machine and ssh only; 0.0.0.0: whoever reaches the machine"
    )
    max_gaussians: int = option(
        1_000_000, type=int, saves_memory=True, help="the browser gets so many, those of largest opacity times size"
    )
    quiet: bool = option(False, type=bool, help="print nothing but errors")

    def __post_init__(self) -> None:
        check(self)
        at_least(0, "--threads", self.threads)
        at_least(-1, "--iteration", self.iteration)
        at_least(1, "--max-gaussians", self.max_gaussians)
        in_range(0, 65535, "--port", self.port)
        check_resolution(self.resolution)

    @classmethod
    def from_command_line(cls, argv: Sequence[str]) -> "ViewConfig":
        """Read the flags of view.py; what they leave open about the scene comes from the run's ``config.json``.

        Raises:
            InputError: a flag is unknown, missing or has a value it can't have.
        """
        flags = given(cls, argv, "Show a model in the browser, live or as a page that is one file.")
        trained = scene_of_run(run_folder(flags["model"]) if "model" in flags else None)
        if not trained.get("source_path", Path()).is_dir():  # the run has moved: the cameras that it has noted will do
            trained.pop("source_path", None)
        return build(cls, {**trained, **flags})


def run_folder(model: Path) -> Path | None:
    """The folder of the run that a model belongs to, or None: itself, or one that it lies in, at most three deep."""
    near = [model] if model.is_dir() else model.absolute().parents[:3]
    return next((folder for folder in near if any((folder / name).is_file() for name in _SIGNS)), None)


_SIGNS = ("config.json", "cameras.json")  # 3DGS writes only the second
