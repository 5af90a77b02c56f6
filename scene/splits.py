"""Which photos are test views: those that the data set lists, else every 8th by name."""

from collections.abc import Sequence
from pathlib import Path

from compact_splats.scene.names import Listing
from compact_splats.scene.posed_photo import DataSet, PosedPhoto
from compact_splats.utils.errors import InputError, note
from compact_splats.utils.files import open_file

TEST_EVERY = 8
_MAX_LIST = 1 << 24  # bytes of test.txt


def split(data: DataSet, source: Path, eval: bool) -> tuple[list[PosedPhoto], list[PosedPhoto]]:
    """Divide photos into training and test views, each sorted by name; a note says by which list.

    Without ``eval`` all are training views. Else test views are, by the first of these that there is:

    - the photos of transforms_test.json;
    - those in the lists of transforms.json: ``test_filenames``, else ``val_filenames``, else what is not in
      ``train_filenames``; photos in none of the lists are in neither split;
    - those in ``test.txt``, one name a line, or those that are not in ``train.txt``, beside the COLMAP model or in the
      scene folder;
    - every 8th, counted over all registered names, of missing photos, too; each name counts once.

    Args:
        data: what a reader found.
        source: the scene folder.
        eval: whether to hold out test views.

    Raises:
        InputError: a list is broken, or names none of the photos.
    """
    photos, test_photos = (sorted(each, key=_registered) for each in (data.photos, data.test or []))
    if not eval:
        return photos + test_photos, []
    if data.test is not None:
        return photos, test_photos
    every = set(range(len(photos)))
    files = (folder / name for name in ("test.txt", "train.txt") for folder in (data.origin.parent, source))
    list_file = next((path for path in files if path.is_file()), None)
    if data.splits:
        lists = {name: _listed(data.origin, names, photos, f"{name}_filenames") for name, names in data.splits.items()}
        test = lists.get("test") or lists.get("val") or every - lists["train"]
        train = lists.get("train", every - lists.get("val", set())) - test
        where = f"the lists in {data.origin}"
    elif list_file is not None:
        listed = _listed(list_file, _lines(list_file), photos, "lines")
        test = listed if list_file.name == "test.txt" else every - listed
        train = every - test
        where = f"the list {list_file}"
    else:
        names = sorted({*map(_registered, photos), *data.left_out})
        held_out = set(names[::TEST_EVERY])
        test = {i for i, photo in enumerate(photos) if _registered(photo) in held_out}
        train, where = every - test, ""
    if where:
        others = f", {len(every - train - test)} in neither" if every - train - test else ""
        note(f"test views are by {where}: {len(train)} training and {len(test)} test views{others}")
    return [photos[i] for i in sorted(train)], [photos[i] for i in sorted(test)]


def _registered(photo: PosedPhoto) -> str:
    return photo.found.registered


def _listed(origin: Path, names: Sequence[str], photos: Sequence[PosedPhoto], what: str) -> set[int]:
    listing = Listing([(photo.found.registered, photo.name) for photo in photos])
    found = [listing.find(origin, name) for name in names]
    unknown = [name for name, numbers in zip(names, found, strict=True) if not numbers]
    if len(unknown) == len(names):
        example = f"'{names[0]}'" if names else "nothing"
        raise InputError(
            f"{origin}: none of its {what} is the name of a photo, such as {photos[0].name if photos else '-'}, but "
            f"{example}; correct them or remove them"
        )
    if unknown:
        note(f"{origin}: {len(unknown)} of its {len(names)} {what} are names of no photo, such as '{unknown[0]}'")
    return set[int]().union(*found)


def _lines(path: Path) -> list[str]:
    with open_file(path, "a list of photos", "correct or remove it") as file:
        content = file.read(_MAX_LIST)
    text = content.decode("utf-8-sig", "surrogateescape")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
