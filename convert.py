"""Make a scene for train.py of a folder of photos, or of a video: find out where each was taken.

``convert.py PHOTOS_OR_VIDEO -o SCENE``, or as for 3DGS ``convert.py -s SCENE`` with the photos in ``SCENE/input``.

photos --> upright, readable copies --+
                                      +--> features --> matches --> cameras and points --> undistorted scene
video --> sharp frames ---------------+            COLMAP, through pycolmap
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compact_splats.arguments.convert import ConvertConfig
from compact_splats.arguments.options import flags_that_save_memory
from compact_splats.photogrammetry.frames import ready_frames
from compact_splats.photogrammetry.photos import Ready, find_photos, ready_photos
from compact_splats.photogrammetry.reconstruction import reconstruct
from compact_splats.photogrammetry.report import describe, summarize
from compact_splats.photogrammetry.stages import Stages
from compact_splats.photogrammetry.undistortion import turn_upright, write_scene, write_smaller
from compact_splats.photogrammetry.workplace import REPORT, check_room, new_scene
from compact_splats.utils.errors import run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import num_cores
from compact_splats.utils.signals import StopRequest


def main(argv: Sequence[str] | None = None) -> None:
    """Convert as the command line says."""
    convert(ConvertConfig.from_command_line(sys.argv[1:] if argv is None else argv))


def convert(config: ConvertConfig) -> dict[str, Any]:
    """Make a scene; it appears when it is complete, and nothing is left of it otherwise.

    Returns:
        The content of ``convert.json``: what was registered, how well, and what that took.

    Raises:
        InputError: the photos, the video or the folder of the scene can't be used, or no cameras were found.
        Stopped: the user has asked for it.
    """
    is_video = config.input.is_file()
    names = [] if is_video else find_photos(config.input)
    with new_scene(config.scene, config.input, config.overwrite) as scene, StopRequest() as stop:
        stages = Stages(stop, config.quiet)
        work = scene / "work"
        work.mkdir()
        ready = get_ready(config, names, work, stages)
        check_room(scene, ready.folder, len(ready.photos))
        found = reconstruct(ready, is_video, work, config, stages, threads(config))
        turn_upright(found.model)
        write_scene(found.model, ready, work, scene, stages, threads(config))
        if config.resize:
            write_smaller(scene, stages, threads(config))
        if config.keep:
            keep(work, scene / "distorted")
        summary = summarize(config, ready, found, stages.seconds)
        write_json(scene / REPORT, summary)
    if not config.quiet:
        print(describe(summary, config.scene))
    return summary


def get_ready(config: ConvertConfig, names: list[str], work: Path, stages: Stages) -> Ready:
    """The photos as COLMAP reads them.

    Raises:
        InputError: less than two can be read.
    """
    if config.input.is_file():
        return ready_frames(config.input, config.frames, work, stages)
    return ready_photos(config.input, names, config.masks, work, stages, threads(config))


def keep(work: Path, distorted: Path) -> None:
    """Keep what COLMAP was given and what it made of that, before undistortion."""
    distorted.mkdir()
    for source, name in (("photos", "input"), ("masks", "masks"), ("database.db", "database.db"), ("sparse", "sparse")):
        if (work / source).exists():
            shutil.move(work / source, distorted / name)


def threads(config: ConvertConfig) -> int:
    """CPU threads to use."""
    return config.threads or num_cores()


if __name__ == "__main__":
    run_script(main, less_memory=flags_that_save_memory(ConvertConfig))
