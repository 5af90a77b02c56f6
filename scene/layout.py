"""Where the poses and photos of a data set lie in its folder.

Looked for in this order: COLMAP in ``sparse/N`` or ``sparse``; ``transforms_train.json`` (Blender);
``transforms.json`` (nerfstudio, instant-ngp); COLMAP in ``colmap/sparse/N``, ``colmap/sparse`` or the folder itself.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from compact_splats.scene.colmap import has_colmap_model, num_registered, read_colmap
from compact_splats.scene.names import SceneFiles
from compact_splats.scene.points import points_beside
from compact_splats.scene.posed_photo import DataSet
from compact_splats.scene.transforms import read_transforms
from compact_splats.utils.errors import InputError, note

_TRANSFORMS = ("transforms_train.json", "transforms.json")
_MAX_DEPTH = 3  # of folders in which a scene is looked for


def read_data_set(source: Path, images: str, sparse: int | None, *, tracks: bool = False) -> DataSet:
    """Read photos, poses and points.

    Args:
        source: the folder.
        images: subfolder of the photos.
        sparse: which of several COLMAP models ``sparse/N``; None: that with the most photos.
        tracks: also which points each photo of a COLMAP model observes.

    Raises:
        InputError: the folder is no data set, or is broken; there is no such folder of photos or model.
    """
    if images != "images" and not (source / images).is_dir():
        folders = sorted(path.name for path in source.iterdir() if path.is_dir())
        raise InputError(f"photo folder {source / images} does not exist; name one of {folders} with -i")
    files = SceneFiles(source, images)
    model = _colmap_model(source / "sparse", sparse)
    blender, others = source / "transforms_train.json", source / "transforms.json"
    if model is None and blender.is_file():
        train = read_transforms(blender, files)
        test_file, val = source / "transforms_test.json", source / "transforms_val.json"
        if val.is_file() and not test_file.is_file():
            note(f"{source} contains no transforms_test.json: the test views are those of {val.name}")
            test_file = val
        return replace(train, test=read_transforms(test_file, files).photos if test_file.is_file() else [])
    if model is None and others.is_file():
        return read_transforms(others, files)
    model = model or _colmap_model(source / "colmap" / "sparse", sparse)
    if model is None and has_colmap_model(source):
        model = source
    if model is None:
        near = _scene_near(source)
        raise InputError(
            f"{source} is not a scene: it contains no sparse/0/cameras.bin (COLMAP), transforms_train.json (Blender) "
            "or transforms.json (nerfstudio), as which other programs export theirs; "
            + (f"but {near} seems to be one: give -s {near}" if near else "see -s")
            + ", or make a scene from photos with convert.py"
        )
    data = read_colmap(model, files, tracks=tracks)
    return data if data.points is not None else replace(data, points=points_beside(source))


def _scene_near(source: Path) -> Path | None:
    """A folder that is a scene: one of the two around ``source``, or up to three levels below it."""
    for folder in chain(source.absolute().parents[:2], _folders_below(source)):
        models = (folder / "sparse" / "0", folder / "sparse", folder)
        if any(map(has_colmap_model, models)) or any((folder / name).is_file() for name in _TRANSFORMS):
            return folder
    return None


def _folders_below(source: Path) -> Iterator[Path]:
    """Up to ``_MAX_DEPTH`` levels, without hidden ones."""
    for parent, folders, _ in os.walk(source):
        depth = len(Path(parent).relative_to(source).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _MAX_DEPTH else []
        if depth:
            yield Path(parent)


def _colmap_model(folder: Path, chosen: int | None) -> Path | None:
    """The model in ``folder/N``, else in ``folder``; of several that which is chosen, else the largest."""
    models = dict(sorted(_numbered(folder)))
    if models and chosen is not None and chosen not in models:
        raise InputError(f"{folder / str(chosen)} is no COLMAP model; --sparse can be {', '.join(map(str, models))}")
    if not models:
        return folder if has_colmap_model(folder) else None
    if len(models) == 1 or chosen is not None:
        return models[next(iter(models)) if chosen is None else chosen]
    counts = {number: num_registered(path) for number, path in models.items()}
    largest = max(counts, key=lambda number: counts[number])
    others = ", ".join(f"{number} has {count}" for number, count in counts.items() if number != largest)
    note(f"{models[largest]} is used, which has {counts[largest]} photos (model {others}); --sparse N chooses another")
    return models[largest]


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.isascii() and path.name.isdigit() and len(path.name) < 9 and has_colmap_model(path):
            yield int(path.name), path
