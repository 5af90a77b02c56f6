"""What convert.py can be told: where the photos are, where the scene goes, and what to spend on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compact_splats.arguments.config import at_least
from compact_splats.arguments.options import check, option, parse
from compact_splats.utils.errors import InputError

MATCHINGS = ("auto", "exhaustive", "sequential")
CAMERAS = ("shared", "each")
MODELS = (
    "auto", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE",
)  # fmt: skip
_SMALLEST = 64  # px; features in smaller photos tell nothing


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """All of a conversion. A config that exists is valid as far as that can be said without the photos.

    Raises:
        InputError: a value is of the wrong type or out of its range.
    """

    photos: Path | None = option(
        None, type=Path, positional=True, help="folder of photos, or a video file; they are only read"
    )
    output: Path | None = option(None, type=Path, short="-o", help="folder of the scene (required with PHOTOS)")
    source_path: Path | None = option(
        None, type=Path, short="-s", help="instead of both, as for 3DGS: a folder with the photos in its folder "
        "input; the scene goes beside that"
    )  # fmt: skip
    frames: int = option(
        0, type=int, help="take at most so many frames of a video; 0: as many as its movement asks for, 30 to 200"
    )
    matching: str = option(
        "auto", choices=MATCHINGS, help="compare each photo with all others, or with its neighbours by name and some "
        "of the rest; auto: sequential for videos and for more than 100 photos"
    )  # fmt: skip
    camera: str = option(
        "shared", help="shared: photos of the same size, camera and zoom share one lens; each: each photo has its own"
    )
    model: str = option(
        "auto", choices=MODELS, help="COLMAP's name of the lens model; auto: OPENCV where 20 photos or more share a "
        "lens, else SIMPLE_RADIAL"
    )  # fmt: skip
    masks: Path | None = option(
        None, type=Path, help="folder of masks, NAME.jpg.png or NAME.png for NAME.jpg; what is black there is not used"
    )
    max_size: int = option(1600, type=int, saves_memory=True, help="look for features in photos of at most so many px")
    resize: bool = option(False, type=bool, help="also write images_2, images_4 and images_8, half the size each")
    keep: bool = option(False, type=bool, help="keep COLMAP's database and the model before undistortion, in distorted")
    overwrite: bool = option(False, type=bool, help="replace a scene that convert.py made before")
    seed: int = option(0, type=int, help="start of all random draws")
    threads: int = option(0, type=int, saves_memory=True, help="CPU threads; 0: all cores")
    quiet: bool = option(False, type=bool, help="print nothing but errors")

    def __post_init__(self) -> None:
        check(self)
        self._check_paths()
        if self.camera not in CAMERAS:
            fix = f"name a lens model with --model {self.camera}" if self.camera in MODELS else "choose one of these"
            raise InputError("--camera", " or ".join(CAMERAS), f"'{self.camera}'", fix)
        if self.frames:
            at_least(2, "--frames", self.frames)
        at_least(_SMALLEST, "--max-size", self.max_size)
        at_least(0, "--seed", self.seed)
        at_least(0, "--threads", self.threads)

    def _check_paths(self) -> None:
        if self.source_path is not None:
            if self.photos is not None or self.output is not None:
                found = "--output" if self.photos is None else f"'{self.photos}'"
                raise InputError("command line", "-s alone, or PHOTOS -o SCENE", f"-s and {found}", "leave one out")
        elif self.photos is None:
            fix = "python convert.py PHOTOS_OR_VIDEO -o SCENE"
            raise InputError("command line", "a folder of photos or a video", "nothing", fix)
        elif self.output is None:
            raise InputError("command line", "the folder of the scene to make", "nothing", "name it with -o")

    @property
    def input(self) -> Path:
        """The folder of the photos, or the video."""
        return self.photos if self.source_path is None else self.source_path / "input"

    @property
    def scene(self) -> Path:
        """Where the scene goes."""
        return self.output if self.source_path is None else self.source_path

    @classmethod
    def from_command_line(cls, argv: Sequence[str]) -> "ConvertConfig":
        """Read the flags of convert.py.

        Raises:
            InputError: a flag is unknown, missing or has a value it can't have.
        """
        return parse(cls, argv, "Make a scene for train.py of photos or a video: find out where each was taken.")
