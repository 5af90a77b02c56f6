"""The flags of ``compress.py export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_splats.arguments.edits import EditConfig
from compact_splats.arguments.options import Command, option
from compact_splats.utils.errors import InputError

SOG_FOLDER = "sog-folder"  # a .sog as loose files
FORMATS = ("ply", "compressed.ply", "splat", "sog", "spz", "glb", SOG_FOLDER)
SPZ_VERSIONS = ("3", "4")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Command, EditConfig):
    """What to convert, how to edit it, and where it goes."""

    about = (
        "Convert a model to the format of another tool; --format ply decodes a .gsz. The model may be edited: "
        "first Gaussians are left out, then it is turned, scaled and moved."
    )
    examples = ("compact.gsz --format ply", "output/my_scene --format spz --axes y-up -o my_scene.spz")
    subcommand = "export"

    models: tuple[Path, ...] = option(
        (), type=Path, many=True, positional="MODEL", group="basic", help="a model of any known format, or a folder "
        "of train.py; several become one model"
    )  # fmt: skip
    format: str = option(
        choices=FORMATS, group="basic", help="format of the new file; by default the suffix of --out (required)"
    )
    out: Path | None = option(
        None, type=Path, short="-o", group="output", help="the new file, replaced if it exists (default: beside the "
        "first model, with its name)"
    )  # fmt: skip
    overwrite: bool = option(False, type=bool, group="output", help="without --out: replace a file of that name")
    antialiasing: bool | None = option(
        None, type=bool, help="how to mark the new file (default: as the model is marked)"
    )
    keep_nan: bool = option(
        False, type=bool, help="refuse a model with values that are not finite, instead of leaving out these Gaussians"
    )
    spz_version: str = option("3", choices=SPZ_VERSIONS, help="of a .spz: 3 for all viewers, 4 is smaller")
    quiet: bool = option(False, type=bool, group="output", help="print nothing but errors")

    def __post_init__(self) -> None:
        self.check_edits()
        if not self.models:
            raise InputError("no model to convert: give a file or a folder of train.py")
        named = None if self.out is None else _format_of(self.out)
        if named not in (None, self.format):
            raise InputError(f"{self.out} is the name of a .{named}, but --format is {self.format}: change one of them")

    @classmethod
    def completed(cls, flags: dict[str, Any]) -> dict[str, Any]:
        """Without --format, that of the name of the new file."""
        named = _format_of(flags["out"]) if "out" in flags else None
        return flags if named is None else {"format": named, **flags}


def _format_of(path: Path) -> str | None:
    """The format that a name says; None: none of ``FORMATS``."""
    if path.name.lower().endswith(".compressed.ply"):
        return "compressed.ply"
    return next((name for name in FORMATS if path.suffix.lower() == f".{name}"), None)
