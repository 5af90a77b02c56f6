"""Make a scene for train.py from photos or a video, by structure from motion with COLMAP.

``convert.py PHOTOS_OR_VIDEO ... -o SCENE``, ``convert.py *.jpg -o SCENE``, or as in 3DGS ``convert.py -s SCENE`` with
the photos in ``SCENE/input``.

photos --> upright, readable copies --+
                                      +--> features --> matches --> cameras and points --> undistorted scene
video --> sharp frames ---------------+            COLMAP, through pycolmap
"""

from compact_splats.arguments.convert import ConvertConfig
from compact_splats.arguments.options import run_command

if __name__ == "__main__":  # above the imports for which --help does not wait
    run_command(ConvertConfig, "convert", "convert")

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from usable_processors import default_threads

from compact_splats.photogrammetry.reconstruction import reconstruct
from compact_splats.photogrammetry.report import describe, summarize, warn_of_few
from compact_splats.photogrammetry.scene_folder import REPORT, check_free_space, new_scene
from compact_splats.photogrammetry.sources import find_sources, prepare
from compact_splats.photogrammetry.stages import Stages
from compact_splats.photogrammetry.undistortion import turn_upright, write_scene, write_smaller
from compact_splats.utils.files import write_json
from compact_splats.utils.signals import StopRequest


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    convert(ConvertConfig.from_command_line(sys.argv[1:] if argv is None else argv))


def convert(config: ConvertConfig) -> dict[str, Any]:
    """Make a scene. It is written when it is complete; on failure nothing is left.

    Returns:
        The content of ``convert.json``: registered photos, errors, times.

    Raises:
        InputError: the photos, the video or the folder of the scene can't be used, or no poses were found.
        Stopped: the user stopped it.
    """
    sources = find_sources(config.inputs)
    with new_scene(config.scene, config.inputs, config.overwrite) as scene, StopRequest() as stop:
        stages = Stages(stop, config.quiet)
        work = scene / "work"
        work.mkdir()
        threads = config.threads or default_threads()
        inputs = prepare(sources, config.frames, config.masks, work, stages, threads)
        check_free_space(scene, inputs.folder, len(inputs.photos))
        is_video = len(sources) == 1 and sources[0].is_video
        result = reconstruct(inputs, is_video, work, config, stages, threads)
        warn_of_few(inputs, result, stages)
        turn_upright(result.model)
        write_scene(result.model, inputs, work, scene, stages, threads)
        if config.resize:
            write_smaller(scene, stages, threads)
        if config.keep:
            keep(work, scene / "distorted")
        summary = summarize(config, inputs, result, stages)
        write_json(scene / REPORT, summary)
    if not config.quiet:
        print(describe(summary, config.scene))
    return summary


def keep(work: Path, distorted: Path) -> None:
    """Keep COLMAP's input, database and model before undistortion."""
    distorted.mkdir()
    for source, name in (("photos", "input"), ("masks", "masks"), ("database.db", "database.db"), ("sparse", "sparse")):
        if (work / source).exists():
            shutil.move(work / source, distorted / name)
