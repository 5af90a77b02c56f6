"""Where a scene is built: a temporary folder inside its own, from which all is moved into place when it is complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compact_splats.utils.errors import InputError, readable

REPORT = "convert.json"  # also the sign that a scene was made here, and not by somebody's hands
# All that a conversion may write into the folder of a scene; nothing else in there is ever touched.
OUTPUTS = (REPORT, "images", "images_2", "images_4", "images_8", "masks", "sparse", "distorted")

FEATURES_BYTES = 2_000_000  # of a photo, in COLMAP's database: 8,192 of 152 bytes each, and its matches


@contextmanager
def new_scene(scene: Path, source: Path, overwrite: bool) -> Iterator[Path]:
    """Give a folder to build a scene in; move what is in it into place when the block ends well, delete it otherwise.

    Args:
        scene: the folder of the scene, which may exist and hold other things.
        source: the photos or the video, which must not be among what is replaced.
        overwrite: an older scene of convert.py may be replaced.

    Yields:
        A temporary folder; of what is made in it, :data:`OUTPUTS` are moved.

    Raises:
        InputError: the folder can't be written, or has a scene that is not to be replaced.
    """
    _check_free(scene, source, overwrite)
    absent = [folder for folder in (scene, *scene.parents) if not folder.exists()]
    work = None
    try:
        scene.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".convert-", dir=scene))
        yield work
        _move_into_place(work, scene)
    except OSError as error:
        fix = "choose another folder or free this one"
        raise InputError(scene, "a folder that can be written", f"'{error}'", fix) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        for folder in absent:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def check_room(work: Path, photos: Path, num_photos: int) -> None:
    """Make sure that the disk has room for the rest of the work: COLMAP ends the whole process where it has not.

    Args:
        work: folder that is being filled.
        photos: folder of the photos that were made ready; undistorted and smaller ones take less than twice as much.
        num_photos: number of them.

    Raises:
        InputError: it has not.
    """
    num_bytes = sum(path.stat().st_size for path in photos.rglob("*"))
    needed, free = 2 * num_bytes + num_photos * FEATURES_BYTES, shutil.disk_usage(work).free
    if free < needed:
        found = f"{readable(free)} of free space"
        raise InputError(work.parent, f"{readable(needed)} for {num_photos} photos", found, "choose another disk")


def _check_free(scene: Path, source: Path, overwrite: bool) -> None:
    if os.path.lexists(scene) and not scene.is_dir():
        raise InputError(scene, "the folder of a scene", "a file", "name a folder with -o")
    for name in OUTPUTS:
        if source.resolve().is_relative_to((scene / name).resolve()):
            fix = "move them elsewhere, or name another folder with -o"
            raise InputError(source, f"photos outside of {scene / name}, which convert.py writes", "them in it", fix)
    there = [name for name in OUTPUTS if os.path.lexists(scene / name)]
    if there and not overwrite:
        fix = "name another folder with -o, or replace it with --overwrite"
        raise InputError(scene, "a folder without a scene", f"{', '.join(there)} in it", fix)
    if there and REPORT not in there:
        found = f"{', '.join(there)} in it, but no {REPORT}"
        raise InputError(scene, "a scene that convert.py made", found, "remove them yourself, or name another folder")


def _move_into_place(work: Path, scene: Path) -> None:
    before = work / "before"
    before.mkdir()
    _move(scene, before)
    try:
        _move(work, scene)
    except OSError:
        _move(scene, work)
        _move(before, scene)
        raise


def _move(source: Path, target: Path) -> None:
    for name in OUTPUTS:
        if os.path.lexists(source / name):
            os.replace(source / name, target / name)
