"""The folder of a scene: built in a temporary subfolder, and moved into place when it is complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from compact_splats.utils.errors import InputError, readable

REPORT = "convert.json"  # marks a scene made by convert.py, which --overwrite may replace
# All that convert.py writes into the folder of a scene. Other files there are never touched. The report is moved into
# place last: a folder that has one is complete.
OUTPUTS = ("images", "images_2", "images_4", "images_8", "masks", "sparse", "distorted", REPORT)

FEATURES_BYTES = 2_000_000  # per photo in COLMAP's database: 8,192 features of 152 bytes, and matches


@contextmanager
def new_scene(scene: Path, sources: Sequence[Path], overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder; move :data:`OUTPUTS` in it into place if the block succeeds, and delete the rest.

    Args:
        scene: the folder of the scene; it may exist and contain other files.
        sources: the photos and videos, which must not be inside of :data:`OUTPUTS`.
        overwrite: replace an older scene of convert.py.

    Yields:
        The temporary folder.

    Raises:
        InputError: the folder can't be written, or contains a scene that may not be replaced.
    """
    _check_free(scene, sources, overwrite)
    absent = [folder for folder in (scene, *scene.parents) if not folder.exists()]
    work = None
    try:
        scene.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".convert-", dir=scene))
        yield work
        _move_into_place(work, scene)
    except OSError as error:
        raise InputError(f"scene folder {scene} can't be written: '{error}'; choose another folder") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        for folder in absent:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def check_free_space(work: Path, photos: Path, num_photos: int) -> None:
    """Check that the disk has enough free space: COLMAP aborts the process when the disk is full.

    Args:
        work: the temporary folder of the scene.
        photos: folder of the prepared photos; undistorted and smaller copies take less than twice their size.
        num_photos: number of photos.

    Raises:
        InputError: there is not enough.
    """
    num_bytes = sum(path.stat().st_size for path in photos.rglob("*"))
    needed, free = 2 * num_bytes + num_photos * FEATURES_BYTES, shutil.disk_usage(work).free
    if free < needed:
        raise InputError(
            f"not enough free space in {work.parent}: {readable(needed)} needed for {num_photos} photos, "
            f"{readable(free)} free; choose another disk"
        )


def _check_free(scene: Path, sources: Sequence[Path], overwrite: bool) -> None:
    if os.path.lexists(scene) and not scene.is_dir():
        raise InputError(f"{scene} is a file; name a folder for the scene with -o")
    for source, name in product(sources, OUTPUTS):
        if source.resolve().is_relative_to((scene / name).resolve()):
            raise InputError(
                f"{source} is inside of {scene / name}, which convert.py writes; move the photos, or name another "
                "folder with -o"
            )
    existing = [name for name in OUTPUTS if os.path.lexists(scene / name)]
    if existing and not overwrite:
        raise InputError(
            f"{scene} already contains {', '.join(existing)}; name another folder with -o, or replace them with "
            "--overwrite"
        )
    if existing and REPORT not in existing:
        raise InputError(
            f"{scene} contains {', '.join(existing)} but no {REPORT}, so convert.py did not make it; remove them "
            "yourself, or name another folder"
        )


def _move_into_place(work: Path, scene: Path) -> None:
    before = work / "before"
    before.mkdir()
    moves = [(scene / name, before / name) for name in OUTPUTS[::-1]]
    moves += [(work / name, scene / name) for name in OUTPUTS]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            if os.path.lexists(source):
                done.append((source, target))
                os.replace(source, target)
    except BaseException:  # Ctrl-C, too
        for source, target in reversed(done):
            if not os.path.lexists(source):
                os.replace(target, source)
        raise
