"""What the user names on the command line: folders of photos, photos, and videos. All together make one scene."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compact_splats.photogrammetry.frames import extract_frames
from compact_splats.photogrammetry.photos import (
    InputPhotos,
    find_photos,
    natural,
    prepare_photos,
    safe_names,
    unused_name,
)
from compact_splats.photogrammetry.stages import Stages
from compact_splats.scene.masks import find_masks
from compact_splats.scene.names import is_picture, walk
from compact_splats.utils.errors import InputError


@dataclass(frozen=True)
class Source:
    """A video or photos in one folder.

    Attributes:
        path: the video or the folder.
        names: of the photos in the folder; empty for a video.
        prefix: of the names in the scene, "NAME/"; empty if there is no other source.
    """

    path: Path
    names: tuple[str, ...]
    prefix: str = ""

    @property
    def is_video(self) -> bool:
        """Whether it is a video."""
        return not self.names


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """The sources in the order in which they are named; photos that are named one by one are one source per folder.

    Raises:
        InputError: a path does not exist or is named twice, a folder has no photos, or there are fewer than two photos.
    """
    photos: dict[Path, list[str]] = {}
    found: dict[Path, tuple[str, ...]] = {}
    for path in paths:
        if path.resolve() in (each.resolve() for each in found) or path.name in photos.get(path.parent, ()):
            raise InputError(f"{path} is named twice; name it once")
        if path.is_file() and is_picture(path.name):
            photos.setdefault(path.parent, []).append(path.name)
            found[path.parent] = tuple(sorted(photos[path.parent], key=natural))
        else:
            found[path] = () if path.is_file() else tuple(find_photos(path, at_least=2 if len(paths) == 1 else 1))
    if len(found) == 1 and (names := next(iter(found.values()))) and len(names) < 2:
        raise InputError(f"{paths[0]} is 1 photo, but at least 2 photos are needed; name the folder of the photos")
    if len(found) == 1:
        return [Source(*next(iter(found.items())))]
    labels = [(path.resolve().name if names else path.stem) or "photos" for path, names in found.items()]
    sources, taken = [], set[str]()
    for (path, names), label in zip(found.items(), labels, strict=True):
        (safe,) = safe_names([f"{label}.x"]).values()
        sources.append(Source(path, names, f"{unused_name(safe, taken)}/"))
    return sources


def prepare(
    sources: list[Source], num_frames: int, masks: Path | None, work: Path, stages: Stages, threads: int
) -> InputPhotos:
    """Select frames of the videos, and prepare all photos.

    Args:
        sources: from :func:`find_sources`.
        num_frames: maximum per video; 0: depending on the camera movement.
        masks: folder of masks of the photos, with a subfolder for each source if there are several; or None.
        work: folder for the results.
        stages: shows the progress.
        threads: number of decoding threads.

    Raises:
        InputError: a video or a mask can't be read, or fewer than two photos can.
    """
    mask_of = {} if masks is None else _masks(sources, masks)
    parts = []
    for source in sources:
        if source.is_video:
            parts.append(extract_frames(source.path, num_frames, work, stages, source.prefix))
        else:
            parts.append(prepare_photos(source.path, source.names, mask_of, work, stages, threads, source.prefix))
    photos = tuple(photo for part in parts for photo in part.photos)
    unreadable = {name: error for part in parts for name, error in part.unreadable.items()}
    if len(photos) < 2:
        such = f", such as {next(iter(unreadable))}" if unreadable else ""
        raise InputError(
            f"only {len(photos)} of {len(photos) + len(unreadable)} photos can be read, but at least 2 are needed; "
            f"replace the others{such}"
        )
    return InputPhotos(parts[0].folder, parts[0].masks, photos, unreadable)


def _masks(sources: list[Source], masks: Path) -> dict[str, Path]:
    names = [source.prefix + name for source in sources for name in source.names]
    found = find_masks(names, walk(masks, is_picture), masks)
    if not found:
        raise InputError(
            f"{masks} contains no mask of these photos; name masks like the photos, IMG_1.jpg.png, IMG_1.png or "
            "IMG_1_mask.png for IMG_1.jpg"
        )
    return found
