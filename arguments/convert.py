"""The flags of convert.py."""

from dataclasses import dataclass
from pathlib import Path

from compact_splats.arguments.options import Command, check, option
from compact_splats.utils.errors import InputError

MATCHINGS = ("auto", "exhaustive", "sequential")
CAMERAS = ("shared", "each")
MODELS = (
    "auto", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE",
)  # fmt: skip
_MIN_SIZE = 64  # px; smaller photos have no useful features


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(Command):
    """The flags of a conversion."""

    about = (
        "Make a scene for train.py from photos or a video: estimate camera poses with COLMAP (pycolmap) and "
        "undistort the photos."
    )
    examples = ("my_photos -o my_scene", "video.mp4 --frames 100 -o my_scene")

    photos: tuple[Path, ...] = option(
        (), type=Path, many=True, positional="PHOTOS", group="basic", help="folder of photos, a video file, or the "
        "photos themselves; never modified. Several inputs make one scene; each has a lens of its own"
    )  # fmt: skip
    output: Path | None = option(
        None, type=Path, short="-o", group="output", help="folder of the scene (required with PHOTOS)"
    )
    source_path: Path | None = option(
        None, type=Path, short="-s", group="basic", help="instead of PHOTOS and -o, as in 3DGS: folder of the scene, "
        "with the photos in its subfolder input"
    )  # fmt: skip
    frames: int = option(
        0, type=int, low=0, group="basic", help="maximum number of frames of a video; 0: 30 to 200, depending on the "
        "camera movement"
    )  # fmt: skip
    matching: str = option(
        "auto", choices=MATCHINGS, help="exhaustive: match all pairs; sequential: match neighbours by name and some "
        "distant pairs; auto: sequential for a video and for more than 100 photos"
    )  # fmt: skip
    camera: str = option(
        "shared", help="shared: photos of the same size, camera and zoom share one lens; each: each photo has its own"
    )
    model: str = option(
        "auto", choices=MODELS, help="COLMAP's camera model; auto: OPENCV if there are at least 20 photos per lens, "
        "else SIMPLE_RADIAL"
    )  # fmt: skip
    masks: Path | None = option(
        None, type=Path, group="basic", help="folder of masks, NAME.jpg.png or NAME.png for NAME.jpg; black pixels "
        "are ignored"
    )  # fmt: skip
    max_size: int = option(
        1600, type=int, low=_MIN_SIZE, saves_memory=True, help="size in px of the longer side of photos at feature "
        "extraction"
    )  # fmt: skip
    resize: bool = option(
        False, type=bool, group="output", help="also write images_2, images_4 and images_8, at 1/2, 1/4 and 1/8 size"
    )
    keep: bool = option(
        False, type=bool, group="output", help="keep COLMAP's database and the model before undistortion, in the "
        "folder distorted"
    )  # fmt: skip
    overwrite: bool = option(False, type=bool, group="output", help="replace a scene that convert.py made before")
    seed: int = option(0, type=int, low=0, help="random seed")
    threads: int = option(0, type=int, low=0, saves_memory=True, help="CPU threads; 0: all that this process may use")
    quiet: bool = option(False, type=bool, group="output", help="print nothing but errors")

    def __post_init__(self) -> None:
        check(self)
        self._check_paths()
        if self.camera not in CAMERAS:
            hint = f"; for a camera model use --model {self.camera}" if self.camera in MODELS else ""
            raise InputError(f"--camera must be {' or '.join(CAMERAS)}, not '{self.camera}'{hint}")
        if self.frames == 1:
            raise InputError("--frames must be 2 or more, or 0, not 1")

    def _check_paths(self) -> None:
        if self.source_path is not None:
            if self.photos or self.output is not None:
                other = f"'{self.photos[0]}'" if self.photos else "-o"
                raise InputError(f"-s can't be combined with {other}: give -s SCENE alone, or PHOTOS -o SCENE")
        elif not self.photos:
            raise InputError("no photos are given: python convert.py PHOTOS_OR_VIDEO -o SCENE")
        elif self.output is None:
            raise InputError("no folder is given for the scene: name it with -o, -o my_scene for example")

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Folders of photos, photos, and videos."""
        return self.photos if self.source_path is None else (self.source_path / "input",)

    @property
    def scene(self) -> Path:
        """The folder of the scene."""
        path = self.output if self.source_path is None else self.source_path
        assert path is not None  # see _check_paths
        return path
