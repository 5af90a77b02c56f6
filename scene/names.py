"""The one rule by which the names in a data set are matched with files of the scene folder.

1. A name that is the path of a file in the photo folder or the scene folder is taken as it is.
2. Else the spelling may differ: slashes, upper and lower case, Unicode form, percent coding, encoding, .jpeg for .jpg.
   The longest end of the name that is the path of a file decides: ``D:/site/cam1/0001.JPG`` is ``cam1/0001.jpg``, else
   ``cam1_0001.jpg``, else ``0001.jpg``; and ``0001.jpg`` is ``cam1/0001.jpg``, if only one folder has it.
3. Else the suffix may differ, too, if no photo with this suffix is found.

Two files for one name, or two names for one file, are an error. Only files in the scene folder are looked at.
"""

import difflib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import isdir, isfile  # Path's functions raise if a name is too long
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from compact_splats.utils.errors import InputError, brief, note
from compact_splats.utils.pictures import PICTURE_SUFFIXES

Parts = tuple[str, ...]  # of a path

_ENCODINGS = ("gb18030", "cp932", "big5", "cp949", "cp1252", "cp1251")  # of names that are not UTF-8
_SAME_SUFFIX = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tif": ".tiff", ".heif": ".heic", ".hif": ".heic"}
_MASKS = re.compile(r"(images?_)?masks?(_\d+)?|segmentations?", re.IGNORECASE)  # folders of masks
_NO_PHOTOS = re.compile(r"images(_\d+)?|sparse|colmap|distorted", re.IGNORECASE)  # folders beside images/
_MAX_DEPTH = 64  # folders of a path, from its end, that are compared
_MAX_SIMILAR = 2000  # names that are searched for the most similar one


@dataclass(frozen=True)
class Found:
    """A photo of a data set.

    Attributes:
        name: its path in the photo folder, else in the scene folder.
        path: the file; where it was looked for first, if it is missing.
        registered: the name in the data set, with slashes, by which photos are sorted and counted.
    """

    name: str
    path: Path
    registered: str


class SceneFiles:
    """The files of a scene folder.

    Args:
        source: the scene folder.
        images: subfolder of the photos; without it the photos are looked for in the scene folder itself.
    """

    def __init__(self, source: Path, images: str = "images") -> None:
        self.source = source
        self.images = images
        self.photos = source / images if (source / images).is_dir() else source

    def match(
        self, origin: Path, names: Sequence[str], *, from_scene: bool = False, is_quiet: bool = False
    ) -> list[Found]:
        """Match the photos of a data set; says in one note which are found under other names.

        Args:
            origin: the file that contains the names.
            names: all of them.
            from_scene: the names begin at the scene folder, as in transforms.json, where ``images/`` stands for the
                photo folder, and Blender leaves out ``.png``. Else they begin at the photo folder.
            is_quiet: without the note.

        Raises:
            InputError: a name is empty, has control characters, or fits two files; or two names fit one file.
        """
        wanted = [_Name(origin, name) for name in names]
        found: dict[int, Path] = {}
        for i, name in enumerate(wanted):
            path = next((path for path in self._paths(name, from_scene) if isfile(path)), None)
            if path is not None:
                found[i] = path
        plain = {i for i in found if from_scene or self.photos / names[i] == found[i]}
        if len(found) < len(wanted):
            self._match_spelling(origin, wanted, found)
        others = {i: path for i, path in found.items() if i not in plain}
        if others and not is_quiet:
            self._say(origin, wanted, others, from_scene)
        return [self._result(name, found.get(i), from_scene) for i, name in enumerate(wanted)]

    def file(self, origin: Path, name: str) -> Path:
        """The file that a data set names beside its photos: a mask or a point cloud. It may be missing.

        Raises:
            InputError: as for :meth:`match`.
        """
        wanted = _Name(origin, name)
        path = self.source.joinpath(*wanted.parts)
        if isfile(path) and wanted.is_inside:
            return path
        candidates = self._all_files.find(wanted, 0)
        return _only(origin, wanted, candidates) if candidates else path

    def _paths(self, name: "_Name", from_scene: bool) -> Iterator[Path]:
        """Where a name is looked for, in this order."""
        if not name.is_inside:
            return
        in_images = name.parts[0] == "images" and len(name.parts) > 1
        places = [(self.photos, name.parts)]
        if in_images:
            first = from_scene and self.photos != self.source
            places.insert(0 if first else 1, (self.photos, name.parts[1:]))
        if not (in_images and self.images != "images"):
            places.insert(0 if from_scene and not in_images else len(places), (self.source, name.parts))
        for folder, parts in places:
            yield folder.joinpath(*parts)
            if Path(parts[-1]).suffix.lower() not in PICTURE_SUFFIXES:
                yield folder.joinpath(*parts[:-1], f"{parts[-1]}.png")

    def _match_spelling(self, origin: Path, wanted: list["_Name"], found: dict[int, Path]) -> None:
        """Steps 2 and 3 of the rule."""
        for level in (0, 1):
            taken = set(found.values())
            suffixes = {wanted[i].suffix for i in found}
            users: dict[Path, int] = {}
            for i, name in enumerate(wanted):
                if i in found or (level == 1 and name.suffix in suffixes & PICTURE_SUFFIXES):
                    continue
                candidates = next((c for index in self._pictures if (c := index.find(name, level) - taken)), None)
                if not candidates:
                    continue
                path = _only(origin, name, candidates)
                other = wanted[users.setdefault(path, i)]
                if other.parts != name.parts:
                    raise InputError(
                        f"{origin}: '{other.shown}' and '{name.shown}' both fit the file {path} and no other; add the "
                        "photo that is missing, in the folders of these names"
                    )
                found[i] = path

    @cached_property
    def _pictures(self) -> list["_Index"]:
        """Those of the photo folder, then those of other folders, without masks and reduced photos."""
        pictures = walk(self.source, is_picture, with_masks=False)
        others = [path for path in pictures if not _NO_PHOTOS.fullmatch(path.relative_to(self.source).parts[0])]
        if self.photos == self.source:
            return [_Index(self.source, others, is_deep=True)]
        photos = _Index(self.photos, walk(self.photos, is_picture, with_masks=False), is_deep=True)
        return [photos, _Index(self.source, others, is_deep=False)]

    @cached_property
    def _all_files(self) -> "_Index":
        return _Index(self.source, walk(self.source), is_deep=False)

    def _result(self, name: "_Name", path: Path | None, from_scene: bool) -> Found:
        registered = self._registered(name, from_scene)
        if path is None:
            looked = next(self._paths(name, from_scene), self.photos.joinpath(*registered))
            if self.photos == self.source and not from_scene:
                looked = self.source.joinpath(self.images, *registered)
            return Found(shown("/".join(registered)), looked.with_name(registered[-1]), "/".join(registered))
        return Found(shown("/".join(self._inside(path))), path, "/".join(registered))

    def _registered(self, name: "_Name", from_scene: bool) -> Parts:
        parts = name.parts[1:] if from_scene and name.parts[0] == "images" and len(name.parts) > 1 else name.parts
        has_suffix = not from_scene or Path(parts[-1]).suffix.lower() in PICTURE_SUFFIXES
        return parts if has_suffix else (*parts[:-1], f"{parts[-1]}.png")

    def _inside(self, path: Path) -> Parts:
        """The path in the photo folder, else in the scene folder."""
        return path.relative_to(self.photos if path.is_relative_to(self.photos) else self.source).parts

    def _say(self, origin: Path, wanted: list["_Name"], others: dict[int, Path], from_scene: bool) -> None:
        i, path = next(iter(others.items()))
        place = path.relative_to(self.source).as_posix()
        kinds: set[str] = set()
        for j, file in others.items():
            named = self._registered(wanted[j], from_scene) if wanted[j].is_inside else wanted[j].parts
            kinds.update(wanted[j].differences(named, self._inside(file)))
        note(
            f"{len(others)} of {len(wanted)} photos are found under other names than in {origin.name} "
            f"({', '.join(sorted(kinds))}), such as '{wanted[i].shown}': {shown(place)}"
        )


class Listing:
    """Finds photos by the names in a list, such as test.txt, by the same rule.

    Args:
        names: of the photos: several names each.
    """

    def __init__(self, names: Sequence[Iterable[str]]) -> None:
        paths = [(i, Path(name)) for i, several in enumerate(names) for name in set(several)]
        self._of: dict[Path, set[int]] = defaultdict(set)
        for i, path in paths:
            self._of[path].add(i)
        self._index = _Index(Path(), list(self._of), is_deep=True)

    def find(self, origin: Path, name: str) -> set[int]:
        """The numbers of the photos with a name: none, or one, or one that is registered several times.

        Raises:
            InputError: the name fits several photos.
        """
        wanted = _Name(origin, name)
        exact = self._of.get(Path(*wanted.parts))
        if exact:
            return exact
        for level in (0, 1):
            if candidates := self._index.find(wanted, level):
                numbers = [self._of[path] for path in candidates]
                if any(each != numbers[0] for each in numbers):
                    _only(origin, wanted, candidates)
                return numbers[0]
        return set()


class _Name:
    """A name in a data set.

    Raises:
        InputError: it is empty, or has control characters.
    """

    def __init__(self, origin: Path, name: str) -> None:
        visible = re.sub("[\udc80-\udcff]", "", name)  # bytes that are not UTF-8
        self.is_inside, self.parts = _split(name)
        if not self.parts or not (visible.isprintable() or not visible):
            raise InputError(origin, "names of files", brief(name)[:80], "correct the entry")
        self.raw = name
        self.shown = shown(name)
        self.suffix = Path(self.parts[-1]).suffix.lower()

    def readings(self) -> Iterator[Parts]:
        """The name in all encodings that it may have."""
        for text in _readings(self.raw):
            yield _split(text)[1]

    def differences(self, parts: Parts, found: Parts) -> Iterator[str]:
        """How the path of its file differs from the one in the name, in words."""
        named, file = parts[-1], found[-1]
        if "\\" in self.raw:
            yield "backslashes"
        if re.search("[\udc80-\udcff]", self.raw + file):
            yield "encoding"
        elif unquote(named) != named != file:
            yield "percent coding"
        elif named != file and unicodedata.normalize("NFC", named) == unicodedata.normalize("NFC", file):
            yield "Unicode form"
        elif named != file and named.casefold() == file.casefold():
            yield "upper and lower case"
        elif Path(named).suffix.lower() != Path(file).suffix.lower():
            yield "suffix"
        elif named != file and len(parts) == len(found):
            yield "encoding"
        if not self.is_inside or len(parts) != len(found) or ("\\" not in self.raw and parts[:-1] != found[:-1]):
            yield "folders"


class _Index:
    """Files by the spellings of their paths.

    Args:
        root: the paths are relative to it.
        files: paths below it.
        is_deep: whether a name also fits a file in a subfolder that the name does not contain.
    """

    def __init__(self, root: Path, files: Iterable[Path], is_deep: bool) -> None:
        self._paths: tuple[dict[str, set[Path]], ...] = (defaultdict(set), defaultdict(set))  # of each level
        self._deep: tuple[dict[str, set[Path]], ...] = (defaultdict(set), defaultdict(set))
        for path in files:
            for text in _readings(path.relative_to(root).as_posix()):
                parts = tuple(text.split("/"))
                for level in (0, 1):
                    key = spelling(parts, level)
                    self._paths[level]["/".join(key)].add(path)
                    self._paths[level]["_".join(key)].add(path)
                    for k in range(1, len(key) if is_deep else 0):
                        self._deep[level]["/".join(key[-k:])].add(path)

    def find(self, name: _Name, level: int) -> set[Path]:
        """The files that a name fits best at a level: 0: other spellings, 1: other suffixes."""
        keys = [spelling(parts, level) for parts in name.readings()]
        for k in range(min(len(name.parts), _MAX_DEPTH), 0, -1):
            for joint in "/_":
                if found := {path for key in keys for path in self._paths[level].get(joint.join(key[-k:]), ())}:
                    return found
            if k == len(name.parts):
                if found := {path for key in keys for path in self._deep[level].get("/".join(key), ())}:
                    return found
        return set()


def walk(
    folder: Path, is_wanted: Callable[[str], bool] = lambda file: True, *, with_masks: bool = True
) -> Iterator[Path]:
    """The files below a folder, without hidden ones and broken links; links to folders are not followed."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (with_masks or not is_mask_folder(name))
        )
        for file in files:
            if not file.startswith(".") and is_wanted(file) and isfile(path := os.path.join(parent, file)):
                yield Path(path)


def is_mask_folder(name: str) -> bool:
    """Whether a folder with this name holds masks of photos."""
    return _MASKS.fullmatch(name) is not None


def is_picture(file: str) -> bool:
    """Whether a file has the suffix of a picture."""
    return os.path.splitext(file)[1].lower() in PICTURE_SUFFIXES


def _split(name: str) -> tuple[bool, Parts]:
    """Whether a name is a path inside its folder, and its parts; of other paths those after the root and ``..``."""
    text = unquote(name[5:]) if name[:5].lower() == "file:" else name
    path = PureWindowsPath(text)  # splits at both kinds of slash and knows drives
    parts = (*filter(None, path.drive.split("\\")[1:]), *path.parts[1:]) if path.anchor else path.parts
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    return text == name and not path.anchor and ".." not in path.parts, parts


def _readings(text: str) -> list[str]:
    """Text, and what its bytes are in other encodings: "母" in GBK is valid UTF-8, too."""
    if text.isascii():
        return [text]
    content, found = text.encode("utf-8", "surrogateescape"), [text]
    for encoding in _ENCODINGS:
        try:
            found.append(content.decode(encoding))
        except ValueError:
            pass
    return found


def spelling(parts: Parts, level: int = -1) -> Parts:
    """A path in one spelling; at level 0 also with one suffix of several equal ones, at level 1 without its suffix."""
    plain = unicodedata.normalize("NFC", unquote("/".join(parts))).casefold()
    *folders, file = unicodedata.normalize("NFC", plain).split("/")
    stem, suffix = os.path.splitext(file)
    if level >= 0 and suffix in PICTURE_SUFFIXES:
        file = stem if level else stem + _SAME_SUFFIX.get(suffix, suffix)
    return (*folders, file)


def shown(name: str) -> str:
    """A name for people, with escapes for bytes that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _only(origin: Path, name: _Name, candidates: set[Path]) -> Path:
    if len(candidates) > 1:
        first, second, *_ = sorted(candidates)
        raise InputError(f"{origin}: '{name.shown}' fits both {first} and {second}; rename or remove one of them")
    return next(iter(candidates))


def what_lies_in(missing: Path) -> str:
    """What lies in the folder of a missing photo instead, as a clause of a message."""
    folder = missing.parent
    if missing.is_symlink():
        return f"it is a symbolic link to {shown(os.readlink(missing))}, which is not there"
    if not isdir(folder):
        parent = next(parent for parent in folder.parents if isdir(parent))
        folders = sorted(path.name for path in parent.iterdir() if path.is_dir())
        found = ", ".join(folders[:9]) or "no other"
        return f"there is no folder {folder.relative_to(parent)} in {parent}, but {found}"
    files = sorted(path.name for path in folder.iterdir() if is_picture(path.name))
    if not files:
        return f"{folder} contains no photos"
    close = difflib.get_close_matches(missing.name, files[:_MAX_SIMILAR], 1, cutoff=0.0)
    return f"{folder} contains {len(files)} photos, of which {shown(close[0])} has the most similar name"
