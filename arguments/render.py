"""What render.py can be told: which views or which path to render, and what to make of them."""

from __future__ import annotations

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
from compact_splats.utils.errors import InputError
from compact_splats.utils.video import check_name, check_size, is_gif

PATHS = ("orbit", "spline", "cameras")
MOST_FRAMES = 100_000
_ONLY_VIDEO = ("path", "fps", "frames", "seconds", "size")
_ONLY_VIEWS = ("skip_train", "skip_test", "time", "depth", "counts")


@dataclass(frozen=True, kw_only=True)
class RenderConfig(MachineConfig, SceneConfig):
    """All of a rendering: of a scene's views, or of a video.

    Raises:
        InputError: a value is of the wrong type or out of its range, or two don't go together.
    """

    source_path: Path | None = option(
        None, type=Path, short="-s", help="folder of the scene (default: that of the run)"
    )
    model_path: Path = option(type=Path, short="-m", help="folder that train.py wrote; renders go there (required)")
    model: Path | None = option(
        None, type=Path, help="render this file instead of the folder's PLY: .gsz, .ply or another format"
    )
    iteration: int = option(-1, type=int, help="the saved step to render; -1: the last")
    skip_train: bool = option(False, type=bool, help="leave the training views out")
    skip_test: bool = option(False, type=bool, help="leave the test views out")
    depth: bool = option(False, type=bool, help="write a depth map of each view, too: 16-bit PNG and in colours")
    counts: bool = option(
        False, type=bool, help="write for each view how many Gaussians each pixel takes, too: 16-bit PNG and in colours"
    )
    time: bool = option(False, type=bool, help="measure frames per second, for timing.json, and write no pictures")
    video: Path | None = option(None, type=Path, help="make a video instead: FILE.mp4, or FILE.gif, which loops")
    path: str | None = option(
        None, choices=PATHS, help="way of the camera: orbit: a circle around what the photos show (default); spline: "
        "smoothly through the places of the photos; cameras: from photo to photo, with a rest at each"
    )  # fmt: skip
    fps: int | None = option(None, type=int, help="frames a second (default: 30, of a GIF 20)")
    frames: int | None = option(None, type=int, help="length of the video in frames")
    seconds: float | None = option(
        None, type=float, help="length of the video (default: 8, of a GIF 3; cameras: half a second a photo)"
    )
    size: tuple[int, ...] | None = option(
        None, type=int, many=True, help="width and height of the video in px (default: as the first photo; of a GIF at "
        "most 320 px wide)"
    )  # fmt: skip
    quiet: bool = option(False, type=bool, help="print nothing but errors")

    def __post_init__(self) -> None:
        check(self)
        at_least(0, "--threads", self.threads)
        at_least(-1, "--iteration", self.iteration)
        check_resolution(self.resolution)
        if self.video is None:
            self._refuse(_ONLY_VIDEO, "--video FILE with it", "none", "add --video, or leave the flag out")
            if self.source_path is None:
                raise InputError("command line", "--source-path", "nothing", "give it: the folder of the scene")
        else:
            self._refuse(_ONLY_VIEWS, "no such flag beside --video", "both", "leave one of the two out")
            self._check_video(self.video)

    def _refuse(self, names: Sequence[str], expected: str, found: str, fix: str) -> None:
        for name in names:
            if getattr(self, name) not in (None, False):
                raise InputError("--" + name.replace("_", "-"), expected, found, fix)

    def _check_video(self, video: Path) -> None:
        check_name(video)
        if self.fps is not None:
            in_range(1, 120, "--fps", self.fps)
        if self.frames is not None and self.seconds is not None:
            raise InputError("--frames, --seconds", "one of the two", "both", "leave one of them out")
        if self.frames is not None:
            in_range(1, MOST_FRAMES, "--frames", self.frames)
        if self.seconds is not None:
            in_range(0, MOST_FRAMES, "--seconds", self.seconds)
        if self.size is not None:
            if len(self.size) != 2:
                raise InputError("--size", "two numbers, width and height", f"{len(self.size)}", "give both in px")
            check_size(video, *self.size)

    def frame_rate(self) -> int:
        """Frames a second of the video."""
        return self.fps or (20 if is_gif(self.video) else 30)

    def num_frames(self, num_cameras: int) -> int:
        """Length of a video of a scene with so many cameras."""
        seconds = num_cameras / 2 if self.path == "cameras" else 3 if is_gif(self.video) else 8
        seconds = seconds if self.seconds is None else self.seconds
        return self.frames or max(1, round(seconds * self.frame_rate()))

    @classmethod
    def from_command_line(cls, argv: Sequence[str]) -> RenderConfig:
        """Read the flags of render.py; what they leave open about the scene comes from the run's ``config.json``.

        Raises:
            InputError: a flag is unknown, missing or has a value it can't have.
        """
        flags = given(cls, argv, "Render the views of a trained model beside their photos, or a video of it.")
        return build(cls, {**scene_of_run(flags.get("model_path")), **flags})
