"""Masks of photos: found by their names, and counted.

For ``cam1/0001.jpg`` the mask is ``0001`` or ``0001.jpg`` with the suffix of any picture, in upper or lower case, also
with ``_mask``, ``.mask`` or ``-mask`` behind the name or ``mask_`` before it; in ``masks/cam1/``, as
``masks/cam1_0001.png``, or as ``masks/0001.png`` if no other photo has this name. The folder may also be ``mask``,
``masks_2``, ``image_masks``, ``images_masks`` or ``segmentation``.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from compact_splats.scene.names import is_mask_folder, is_picture, spelling, walk
from compact_splats.utils.errors import InputError, note
from compact_splats.utils.pictures import (
    PICTURE_SUFFIXES,
    has_alpha,
    is_no_mask,
    mask_values,
    open_picture,
    rgb_and_alpha,
)

_MARK = re.compile(r"(masks?[._-])?(.+?)([._-]masks?)?")
_DYNAMIC = "dynamic_mask_"
_MAX_MEASURED = 16  # masks that are decoded to know their share


def find_masks(names: Sequence[str], files: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Match photos with the masks in a folder.

    Args:
        names: of the photos, with slashes.
        files: the masks.
        folder: the paths of masks below it correspond to the names.

    Returns:
        The masks by the photos' names.

    Raises:
        InputError: two masks fit one photo, or one fits two photos.
    """
    # Masks by the name of their photo: the whole name, without the mark, and without the suffix of the photo.
    whole: dict[str, set[Path]] = defaultdict(set)
    marked: dict[str, set[Path]] = defaultdict(set)
    bare: dict[str, set[Path]] = defaultdict(set)
    for path in files:
        *folders, file = spelling(path.relative_to(folder).parts, 1)
        folders = folders[folders[:1] == ["images"] :]  # COLMAP's names may begin with it
        name = _MARK.fullmatch(file)[2]  # type: ignore[index]
        for table, stem in ((whole, file), (marked, name), (bare, spelling((name,), 1)[0])):
            for joint in "/_":
                table[joint.join([*folders, stem])].add(path)
    found: dict[str, Path] = {}
    for table in (whole, marked, bare):
        taken, users = set(found.values()), dict[Path, str]()
        for name in (name for name in names if name not in found):
            candidates, is_whole = _candidates(table, name, taken)
            if len(candidates) > 1:
                first, second, *_ = sorted(candidates)
                raise InputError(f"photo {name} has two masks, {first} and {second}; remove one of them")
            for path in candidates:
                other = users.setdefault(path, name)
                if other != name and not is_whole:
                    raise InputError(f"mask {path} fits the photos {other} and {name}; name masks like their photos")
                found[name] = path
    return found


def _candidates(table: dict[str, set[Path]], name: str, taken: set[Path]) -> tuple[set[Path], bool]:
    """The masks of a photo, and whether they have its whole path."""
    parts = spelling(tuple(name.split("/")))
    stem = os.path.splitext(parts[-1])[0]
    for k in range(len(parts), 0, -1):
        for joint in "/_":
            for file in (parts[-1], stem):
                if masks := table.get(joint.join([*parts[-k:-1], file]), set()) - taken:
                    return masks, k == len(parts)
    return set(), False


def masks_of_scene(source: Path, photos: dict[str, Path]) -> dict[str, Path]:
    """The masks in folders such as masks/ in the scene folder or beside the photos, else beside the photos.

    Notes say which folders have none that fits, or are not looked at though their names say that they hold masks.

    Raises:
        InputError: as for :func:`find_masks`.
    """
    found = _in_folders(source, list(photos))
    parents = {path.parent for path in photos.values()}
    for parent in sorted(parents):
        beside = {name: path.name for name, path in photos.items() if path.parent == parent and name not in found}
        masks = _in_folders(parent, list(beside.values())) if parent != source else {}
        files = _masks_beside(parent, set(photos.values()))
        masks |= find_masks([file for file in beside.values() if file not in masks], files, parent)
        found |= {name: masks[file] for name, file in beside.items() if file in masks}
    return found


def _in_folders(parent: Path, names: Sequence[str]) -> dict[str, Path]:
    """The masks of photos in the folders for masks."""
    found: dict[str, Path] = {}
    for folder in sorted(path for path in parent.iterdir() if "mask" in path.name.lower() or is_mask_folder(path.name)):
        files = sorted(walk(folder)) if names and folder.is_dir() else []
        if not files:
            continue
        if not is_mask_folder(folder.name):
            note(f"{folder} is not used: masks are in masks/ or beside the photos, white where the photo counts")
            continue
        masks = find_masks(names, [path for path in files if is_picture(path.name)], folder)
        if not masks:
            note(
                f"{folder} contains {len(files)} files, such as {files[0].name}, but no picture with the name of a "
                f"photo, such as {names[0]}: no mask is used"
            )
        found = masks | found
    return found


def _masks_beside(folder: Path, photos: set[Path]) -> list[Path]:
    """Pictures among the photos that are marked as masks: 0001_mask.png or 0001.jpg.png, but not 0001.png."""
    files = [Path(entry.path) for entry in os.scandir(folder) if is_picture(entry.name) and entry.is_file()]
    if dynamic := [path for path in files if path.stem.lower().startswith(_DYNAMIC) and path not in photos]:
        note(
            f"{len(dynamic)} masks as of instant-ngp, such as {dynamic[0]}, are not used, because they are white where "
            "the photo does not count: invert them and put them into masks/"
        )
    return [path for path in files if path not in {*photos, *dynamic} and _is_marked(path.stem.lower())]


def _is_marked(stem: str) -> bool:
    mark = _MARK.fullmatch(stem)
    return os.path.splitext(stem)[1] in PICTURE_SUFFIXES or bool(mark and (mark[1] or mark[3]))


def say_masks(masks: Sequence[Path], photos: Sequence[Path], *, is_alpha_mask: bool) -> None:
    """Say how many photos have masks, and which share of their pixels is masked, measured on up to 16 of them.

    Args:
        masks: the masks in use.
        photos: all photos.
        is_alpha_mask: whether alpha channels of photos are masks, too.

    Raises:
        InputError: most photos have masks, which are all black; or one that is measured can't be decoded.
    """
    _say(masks, len(photos), "masks", _black_share)
    with open_picture(masks[0]) if masks else nullcontext() as first:
        if first is not None and is_no_mask(first):
            note(
                f"{masks[0]} is not black and white, as a mask is: what is at least half as bright as white counts; if "
                "it is a photo, make a mask of it"
            )
    if is_alpha_mask:
        _say([path for path in photos if has_alpha(path)], len(photos), "an alpha channel as mask", _transparent_share)


def _say(paths: Sequence[Path], num_photos: int, what: str, share_of: Callable[[Path], float]) -> None:
    if not paths:
        return
    measured = paths[:: -(-len(paths) // _MAX_MEASURED)]
    shares = [share_of(path) for path in measured]
    if min(shares) == 1 and 2 * len(paths) > num_photos and all(share_of(path) == 1 for path in paths):
        raise InputError(
            f"{paths[0]} masks all pixels, as all {len(paths)} masks do: nothing is left to train on; masks are white "
            "or opaque where the photo counts"
        )
    share = f"{'' if len(measured) == len(paths) else 'about '}{100 * np.mean(shares):.3g} %"
    black = [path for path, each in zip(measured, shares, strict=True) if each == 1]
    note(
        f"{len(paths)} of {num_photos} photos have {what}: {share} of their pixels are left out"
        + (f"; {len(black)} of {len(measured)} mask all pixels, such as {black[0]}" if black else "")
    )


def _black_share(path: Path) -> float:
    with open_picture(path) as picture:
        return float(np.mean(mask_values(picture) == 0))


def _transparent_share(path: Path) -> float:
    with open_picture(path) as picture:
        alpha = rgb_and_alpha(picture)[1]
    return 0.0 if alpha is None else float(np.mean(alpha <= 127))
