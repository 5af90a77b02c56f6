"""The flags of render.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_splats.arguments.config import (
    MachineConfig,
    SceneConfig,
    check_resolution,
    of_run,
    run_folder,
    scene_of_run,
)
from compact_splats.arguments.options import Command, check, option
from compact_splats.utils.errors import InputError

PATHS = ("orbit", "spline", "cameras")
MAX_FRAMES = 100_000
_MAX_SIDE = 8192  # px
_GIF_WIDTH = 320  # px, without --size
_ONLY_VIDEO = ("path", "fps", "frames", "seconds", "size")
_ONLY_VIEWS = ("skip_train", "skip_test", "time", "depth", "counts", "rgba", "cameras")


@dataclass(frozen=True, kw_only=True)
class RenderConfig(Command, MachineConfig, SceneConfig):
    """What to render: the views of a scene, or a video."""

    about = (
        "Render the views of a trained model, each beside its photo, for metrics.py. With --video, render a "
        "video along a camera path instead; with --time, measure frames per second."
    )
    examples = ("output/my_scene", "output/my_scene --video orbit.mp4 --path orbit")

    source_path: Path | None = option(  # type: ignore[assignment]  # optional here: nothing takes a SceneConfig
        None, type=Path, short="-s", group="basic", help="folder of the scene (default: that of the run)"
    )
    model_path: Path = option(
        type=Path, short="-m", positional="RUN", group="basic", help="folder that train.py wrote, or a model in it; "
        "renders go there (required)"
    )  # fmt: skip
    model: Path | None = option(
        None, type=Path, group="basic", help="render this file instead of the PLY of the run: .gsz, .ply or another "
        "format"
    )  # fmt: skip
    iteration: int = option(-1, type=int, low=-1, help="saved step to render; -1: the last")
    skip_train: bool = option(False, type=bool, group="basic", help="do not render the training views")
    skip_test: bool = option(False, type=bool, group="basic", help="do not render the test views")
    depth: bool = option(
        False, type=bool, group="output", help="also write a depth map of each view: 16-bit PNG, and in colours"
    )
    counts: bool = option(
        False, type=bool, group="output", help="also write the number of Gaussians per pixel of each view: 16-bit "
        "PNG, and in colours"
    )  # fmt: skip
    rgba: bool = option(
        False, type=bool, group="output", help="also write a picture of each view with an alpha channel: RGBA PNG, "
        "colours not multiplied by alpha"
    )  # fmt: skip
    cameras: Path | None = option(
        None, type=Path, help="render these views instead of the scene's, into the folder cameras: a cameras.json, "
        "also of 3DGS, a transforms.json, or the folder of a COLMAP model"
    )  # fmt: skip
    time: bool = option(
        False, type=bool, group="output", help="measure frames per second into timing.json, and write no images"
    )
    video: Path | None = option(
        None, type=Path, group="output", help="write a video instead: FILE.mp4, or FILE.gif, which loops"
    )
    path: str | None = option(
        None, choices=PATHS, help="camera path of the video: orbit: a circle around the point that the cameras look "
        "at (default); spline: smooth, through the cameras; cameras: straight from camera to camera, with a rest at "
        "each"
    )  # fmt: skip
    fps: int | None = option(None, type=int, low=1, high=120, help="frames per second (default: 30; GIF: 20)")
    frames: int | None = option(None, type=int, low=1, high=MAX_FRAMES, help="length of the video in frames")
    seconds: float | None = option(
        None, type=float, low=0, high=MAX_FRAMES, help="length of the video in seconds (default: 8; GIF: 3; --path "
        "cameras: 0.5 per camera)"
    )  # fmt: skip
    size: tuple[int, int] | None = option(
        None, type=int, many=True, help="width and height of the video in px (default: those of the first camera; "
        "GIF: at most 320 px wide)"
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        check_resolution(self.resolution)
        if self.video is None:
            self._refuse(_ONLY_VIDEO, "needs --video FILE")
            if self.cameras is not None:
                self._refuse(("skip_train", "skip_test"), "can't be combined with --cameras")
            elif self.source_path is None:
                raise InputError("no scene is given: name its folder with --source-path")
        else:
            self._refuse(_ONLY_VIEWS, "can't be combined with --video")
            self._check_video(self.video)

    def _refuse(self, names: Sequence[str], reason: str) -> None:
        for name in names:
            if getattr(self, name) not in (None, False):
                raise InputError(f"--{name.replace('_', '-')} {reason}")

    def _check_video(self, video: Path) -> None:
        if video.suffix.lower() not in (".mp4", ".gif"):
            raise InputError(f"--video must name a file that ends in .mp4 or .gif, not {video}")
        if self.frames is not None and self.seconds is not None:
            raise InputError("--frames and --seconds both set the length of the video: give only one of them")
        if self.size is not None:
            self._check_size(self.size)

    def _check_size(self, size: tuple[int, ...]) -> None:
        """H.264 halves the resolution of the colours, so sizes of an MP4 are even."""
        step = 1 if self._is_gif else 2
        if len(size) != 2 or any(side % step or not 2 <= side <= _MAX_SIDE for side in size):
            kind = "two numbers" if self._is_gif else "two even numbers"
            raise InputError("--size", f"{kind} from 2 to {_MAX_SIDE}", str(list(size)), "give width and height")

    @property
    def _is_gif(self) -> bool:
        return self.video is not None and self.video.suffix.lower() == ".gif"

    def frame_rate(self) -> int:
        """Frames per second of the video."""
        return self.fps or (20 if self._is_gif else 30)

    def num_frames(self, num_cameras: int) -> int:
        """Length of the video of a scene with this number of cameras."""
        seconds = num_cameras / 2 if self.path == "cameras" else 3 if self._is_gif else 8
        seconds = seconds if self.seconds is None else self.seconds
        return self.frames or max(1, round(seconds * self.frame_rate()))

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) px of the video, by default near that of a camera."""
        if self.size is not None:
            return self.size
        if self._is_gif:
            gif_width = min(width, _GIF_WIDTH)
            return max(2, gif_width), max(2, round(height * gif_width / width))
        shrink = min(1.0, _MAX_SIDE / max(width, height))
        width, height = (max(2, int(side * shrink) // 2 * 2) for side in (width, height))
        return width, height

    @classmethod
    def completed(cls, flags: dict[str, Any]) -> dict[str, Any]:
        """Flags about the scene that are not given come from the run's ``config.json``."""
        file = flags.get("model_path")
        if file is not None and file.is_file() and "model" not in flags:
            if (run := run_folder(file)) is None:
                raise InputError(f"{file} is in no run folder: name a folder for renders with -m, and it with --model")
            flags |= of_run(file) or {"model_path": run, "model": file}
        return {**scene_of_run(flags.get("model_path")), **flags}
