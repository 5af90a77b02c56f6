"""The flags of view.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_splats.arguments.config import (
    MachineConfig,
    SceneConfig,
    check_resolution,
    run_folder,
    scene_of_run,
)
from compact_splats.arguments.edits import KeepConfig, numbers_of
from compact_splats.arguments.options import Command, check, option
from compact_splats.utils.errors import InputError

DEFAULT_PORT = 8080
UPS = {
    "x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0),
    "-x": (-1.0, 0.0, 0.0), "-y": (0.0, -1.0, 0.0), "-z": (0.0, 0.0, -1.0),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ViewConfig(Command, MachineConfig, SceneConfig, KeepConfig):
    """The flags of the viewer."""

    about = "Show a model in the browser: as a live page (default), or with --html as a single file."
    examples = ("output/my_scene", "model.ply --up z --html model.html")

    model: Path = option(
        type=Path, short="-m", positional="MODEL", group="basic", help="folder that train.py wrote, or a model of any "
        "format (required)"
    )  # fmt: skip
    source_path: Path | None = option(  # type: ignore[assignment]  # optional here: nothing takes a SceneConfig
        None, type=Path, short="-s", group="basic", help="folder of the scene, for cameras and photos (default: that "
        "of the run)"
    )  # fmt: skip
    iteration: int = option(-1, type=int, low=-1, help="saved step to show; -1: the last")
    html: Path | None = option(
        None, type=Path, group="output", help="write a single HTML file, which opens without a server and offline, "
        "instead of serving"
    )  # fmt: skip
    format: str | None = option(
        None, choices=("gsz", "spz"), group="output", help="how the HTML file holds the model: gsz is smaller and "
        "loses more (default: gsz for a model that is a .gsz, which loses nothing, else spz)"
    )  # fmt: skip
    port: int = option(
        DEFAULT_PORT, type=int, low=0, high=65535, group="output", help="port of the live page; 0: any free one"
    )
    host: str = option(
        "127.0.0.1", group="output", help="address of the live page; 127.0.0.1: only from this machine and through "
        "ssh; 0.0.0.0: from the network"
    )  # fmt: skip
    max_gaussians: int = option(
        1_000_000, type=int, low=1, saves_memory=True, help="number of Gaussians sent to the browser: those with the "
        "largest opacity times size; of a nested model, the first ones"
    )  # fmt: skip
    up: str | None = option(
        None, group="basic", help="up direction in the coordinates of the file: x, y, z, -x, -y, -z, or three numbers, "
        "0,-1,0.2 for example (default: that of the cameras; without cameras -y)"
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        _ = self.crop_numbers
        check_resolution(self.resolution)
        if self.format is not None and self.html is None:
            raise InputError("--format is for a single HTML file: give --html FILE, too")
        _ = self.up_direction

    @property
    def up_direction(self) -> tuple[float, ...] | None:
        """The three numbers of ``--up``."""
        if self.up is None:
            return None
        expected = "x, y, z, -x, -y, -z or three numbers, not all 0"
        numbers = UPS.get(self.up.lower()) or numbers_of("--up", self.up, (3,), expected)
        if not any(numbers):
            raise InputError(f"--up must be {expected}, not {self.up}")
        return numbers

    @classmethod
    def completed(cls, flags: dict[str, Any]) -> dict[str, Any]:
        """Flags about the scene that are not given come from the run's ``config.json``."""
        trained = scene_of_run(run_folder(flags["model"]) if "model" in flags else None)
        if not trained.get("source_path", Path()).is_dir():  # the scene is not on this machine: use cameras.json
            trained.pop("source_path", None)
        return {**trained, **flags}
