"""``load_scene``: reads a data set, splits training and test views, checks photos and masks."""

from dataclasses import dataclass, field, replace
from os.path import isfile  # Path.is_file raises if a name is too long
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from compact_splats.arguments.config import ALPHAS, check_resolution
from compact_splats.scene.cameras import Camera
from compact_splats.scene.layout import read_data_set
from compact_splats.scene.lens import FACES
from compact_splats.scene.masks import masks_of_scene, say_masks
from compact_splats.scene.names import walk, what_lies_in
from compact_splats.scene.normalization import EXTENT, Units
from compact_splats.scene.photo_cache import PhotoCache
from compact_splats.scene.photos import Photo
from compact_splats.scene.points import Points, random_points_around_object, random_points_in_view, without_far
from compact_splats.scene.posed_photo import PosedPhoto, checked_lens
from compact_splats.scene.splits import split
from compact_splats.scene.tracks import observed_points
from compact_splats.utils.errors import InputError, note
from compact_splats.utils.memory import free_memory
from compact_splats.utils.pictures import UPRIGHT, lacks_end, picture_orientation, picture_size

_MAX_WIDTH = 1600  # px; wider photos are resized by default [3DGS]
_CLOUDS = (".ply", ".las", ".laz", ".e57", ".pcd", "points3d.bin", "points3d.txt")
_INFINITY = 1e18  # world units, whose square float32 still holds
_USUAL_EXTENTS = 0.1, 1000.0  # scene units; of others, a note says that the scene is scaled


@dataclass(frozen=True, eq=False)
class Scene:
    """The data that a training starts from, in world units, see ``scene.normalization``.

    Attributes:
        train: training views.
        test: test views; empty without ``eval``.
        points: the initial point cloud.
        extent: that the learning rate of the means is in proportion to, world units.
        missing: names of registered photos that are not on disk.
        units: from world units to the coordinates of the data set and of the files that are written.
        photos: keeps the decoded photos of all views.
        observed: of each training view (K,) int64, indices of the points that it observes; empty if they were not asked
            for, or the data set does not say.
    """

    train: tuple[Camera, ...]
    test: tuple[Camera, ...]
    points: Points
    extent: float
    missing: tuple[str, ...] = ()
    units: Units = Units()
    photos: PhotoCache = field(default_factory=PhotoCache)
    observed: tuple[Tensor, ...] = ()

    def limit_photos(self, most: int | None) -> None:
        """Set how many bytes of memory decoded photos may take, before the first is decoded; None: any number."""
        self.photos.limit([camera.required_photo for camera in self.train + self.test], most)


def load_scene(
    source: str | Path,
    images: str = "images",
    resolution: int = -1,
    eval: bool = True,
    alpha: str = "auto",
    seed: int = 0,
    num_random_points: int = 100_000,
    units: Units | None = None,
    *,
    sparse: int | None = None,
    photo_memory: int | None = None,
    max_tracked: int = 0,
) -> Scene:
    """Load a COLMAP, Blender, nerfstudio or instant-ngp data set. Photos are decoded when they are used.

    Args:
        source: the folder.
        images: subfolder of the photos. They may be smaller than their cameras by one factor, as in ``images_4``, or
            larger.
        resolution: 1, 2, 4 or 8 divides the size of the photos; -1 limits their width to 1600 px; any other number is
            the width in px.
        eval: hold out test views, see ``scene.splits.split``; otherwise all are training views.
        alpha: what an alpha channel is. "mask": transparent pixels do not count; "composite": the photo is composited
            over the background, so that they stay empty; "auto": composite in Blender data sets, else mask.
        seed: of the random points of data sets without points.
        num_random_points: of these data sets.
        units: those of an earlier run on the scene; None: from the training cameras.
        sparse: which COLMAP model ``sparse/N``; None: that with the most photos.
        photo_memory: bytes that decoded photos may take, at least a few photos; None: half of the free memory.
        max_tracked: fill in ``observed`` with at most so many training views, where the data set is a COLMAP model with
            tracks.

    Raises:
        InputError: the folder does not exist, is not a data set, is broken, or has no photo to train on.
    """
    source = Path(source)
    if not source.is_dir():
        if source.exists():
            raise InputError(f"scene folder {source} is a file (see -s); a model to start from is given by --init-ply")
        raise InputError(f"scene folder {source} does not exist (see -s)")
    check_resolution(resolution)
    if alpha not in ALPHAS:
        raise InputError(f"--alpha must be {', '.join(ALPHAS[:-1])} or {ALPHAS[-1]}, not {alpha!r}")
    data = read_data_set(source, images, sparse, tracks=max_tracked > 0)
    registered = [*data.photos, *(data.test or [])]
    missing = tuple(photo for photo in registered if not isfile(photo.path))
    if len(missing) == len(registered):
        raise _no_photos(source, data.origin, missing)
    train_photos, test_photos = (
        [photo for photo in photos if isfile(photo.path)] for photos in split(data, source, eval)
    )
    if not train_photos:
        raise InputError(
            f"{source} has no photo to train on: {len(test_photos)} are test views, {len(missing)} registered but not "
            "on disk; add photos, or train without --eval"
        )
    _say_missing(missing)
    composite = alpha == "composite" or alpha == "auto" and data.test is not None
    masks = _masks(source, train_photos + test_photos, is_alpha_mask=not composite)
    _say_panoramas(train_photos + test_photos)
    _say_repeated(train_photos + test_photos)
    _say_centres(train_photos + test_photos)
    names = {photo.name for photo in train_photos + test_photos}
    train_views, test_views = (
        [view for photo in photos for view in _views(photo, names)] for photos in (train_photos, test_photos)
    )
    file_points = _near_points(data.points, train_views)
    if units is None:
        units = _units(train_views, file_points)
    fits: _Fits = {}
    cache = PhotoCache()
    train, test = (
        tuple(_camera(photo, units, masks.get(photo.path), resolution, composite, fits, cache) for photo in views)
        for views in (train_views, test_views)
    )
    _say_fits(list(fits.values()), resolution)
    generator = torch.Generator().manual_seed(seed)
    unused = "" if file_points else _unused_cloud(source, data.origin.parent)
    points = _points(
        file_points, units, train, num_random_points, generator, in_box=data.test is not None, unused=unused
    )
    observed = observed_points(points, train, train_views) if len(train) <= max_tracked else ()
    scene = Scene(train, test, points, EXTENT, tuple(photo.name for photo in missing), units, cache, observed)
    free = free_memory()
    scene.limit_photos(free // 2 if photo_memory is None and free is not None else photo_memory)
    return scene


def _no_photos(source: Path, origin: Path, missing: tuple[PosedPhoto, ...]) -> InputError:
    """None of the registered photos is on disk: says where the first was looked for, and what lies there."""
    if not missing:
        return InputError(f"{source} has no photo to train on: {origin} registers none; register photos")
    first = missing[0]
    return InputError(
        f"none of the {len(missing)} photos of {origin} is found: {first.path} does not exist: "
        f"{what_lies_in(first.path)}; copy the photos there, or name their folder inside the scene folder with -i"
    )


def _say_missing(missing: tuple[PosedPhoto, ...]) -> None:
    if missing:
        names = ", ".join(photo.name for photo in missing[:5]) + (", ..." if len(missing) > 5 else "")
        note(f"{len(missing)} registered photos are not on disk and left out: {names}")


def _masks(source: Path, photos: list[PosedPhoto], *, is_alpha_mask: bool) -> dict[Path, Path]:
    """Masks by the paths of photos: those that the data set names, else those found by their names."""
    named = {photo.path: photo.mask_path for photo in photos if photo.mask_path is not None}
    others = {photo.name: photo.path for photo in photos if photo.mask_path is None}
    found = masks_of_scene(source, others)
    masks = named | {others[name]: mask for name, mask in found.items()}
    for mask in named.values():
        if not isfile(mask):
            raise InputError(f"mask {mask} does not exist; add it or remove its entry")
    say_masks(list(masks.values()), [photo.path for photo in photos], is_alpha_mask=is_alpha_mask)
    return masks


def _near_points(points: Points | None, photos: list[PosedPhoto]) -> Points | None:
    """The points without those that are very far; None if there are none."""
    if points is None or not len(points.xyz):
        return None
    near, num_far = without_far(points, np.stack([photo.world_to_camera for photo in photos]))
    if num_far:
        note(f"{num_far:,} of {len(points.xyz):,} points are over 1,000 times as far as the others, and left out")
    return near


def _say_panoramas(photos: list[PosedPhoto]) -> None:
    if num := sum(photo.lens.is_panorama for photo in photos):
        note(f"each of {num} equirectangular photos is {len(FACES)} views: the faces of a cube")


def _unused_cloud(source: Path, model: Path) -> str:
    """What a note adds where a point cloud lies in the scene folder that is none of those that are read."""
    for path in walk(source, lambda file: file.lower().endswith(_CLOUDS)):
        is_read = path.parent in (source, model) and path.name.lower().startswith(("points3d.", "sparse_pc."))
        if not is_read and "point_cloud" not in path.parts:  # the models of runs
            return f" ({path} is not used: save it as {source / 'points3D.ply'} if it is of this scene)"
    return ""


def _say_repeated(photos: list[PosedPhoto]) -> None:
    """Photos that are registered more than once, as after joining two files."""
    first = {photo.path: photo for photo in reversed(photos)}
    again = [photo for photo in photos if first[photo.path] is not photo]
    if again:
        moved = sum((photo.world_to_camera != first[photo.path].world_to_camera).any() for photo in again)
        note(
            f"{len(again)} photos are registered again ({moved} of them with another pose), such as {again[0].name}: "
            "each time counts"
        )


def _say_centres(photos: list[PosedPhoto]) -> None:
    """Principal points far from the middle: in other units, or of another size than the camera says."""
    off = [p for p in photos if max(abs(p.lens.cx / p.lens.width - 0.5), abs(p.lens.cy / p.lens.height - 0.5)) > 0.2]
    if off:
        lens = off[0].lens
        note(
            f"the principal points of {len(off)} photos are far from the middle, such as cx cy = {lens.cx:.6g} "
            f"{lens.cy:.6g} px of {lens.width}x{lens.height} px in {off[0].name}: are they, w and h in px of one size?"
        )


def _views(posed: PosedPhoto, taken: set[str]) -> list[PosedPhoto]:
    """The photo itself; of a panorama the faces of a cube, named NAME_front and so on, with the photo's suffix.

    A face whose name is in ``taken`` gets more underscores; names of faces are added to it.
    """
    if not posed.lens.is_panorama:
        return [posed]
    views = []
    for lens, (face, rotation) in zip(posed.lens.faces(), FACES, strict=True):
        motion = posed.world_to_camera.copy()
        motion[:3] = rotation.T @ motion[:3]
        path, joint = PurePosixPath(posed.name), "_"
        while (name := str(path.with_name(f"{path.stem}{joint}{face}{path.suffix}"))) in taken:
            joint += "_"
        taken.add(name)
        views.append(replace(posed, found=replace(posed.found, name=name), lens=lens, world_to_camera=motion))
    return views


def _units(photos: list[PosedPhoto], points: Points | None) -> Units:
    """Of a scene with these training photos; a note where that matters."""
    motions = np.stack([photo.world_to_camera for photo in photos])
    units = Units.of_views(
        [photo.lens.pinhole() for photo in photos], motions, None if points is None else points.xyz.numpy()
    )
    low, high = _USUAL_EXTENTS
    if units.is_offset:
        offset = " ".join(f"{each:.15g}" for each in units.offset)
        note(f"the scene lies far from its origin: files hold its coordinates minus {offset}, as config.json says")
    elif not low <= units.scale * EXTENT <= high:
        note(f"the cameras' extent is {units.scale * EXTENT:.3g} units: it is scaled inside, files keep its units")
    return units


class _Fit(NamedTuple):
    """How a photo fits its camera."""

    size: tuple[int, int]  # px, upright
    orientation: int  # the tag by which it is turned
    is_ambiguous: bool  # it has a tag that is not applied, and would fit as well if it were
    is_enlarged: bool
    is_cut: bool  # a JPEG without its end marker
    view_width: int  # px, before --resolution; of a panorama, a face's


_Fits = dict[tuple[Path, int, int], _Fit]  # by the file and the size of its camera


def _camera(
    posed: PosedPhoto,
    units: Units,
    mask: Path | None,
    resolution: int,
    composite: bool,
    fits: _Fits,
    cache: PhotoCache,
) -> Camera:
    """Adds how the photo fits to ``fits``."""
    key = posed.path, posed.lens.width, posed.lens.height
    fit = fits[key] if key in fits else fits.setdefault(key, _fit(posed))
    if mask is not None:
        _check_mask(mask, fit)
    lens = checked_lens(posed.path, posed.lens.scaled(*fit.size))
    pinhole = lens.pinhole()
    size = _target_size((pinhole.width, pinhole.height), resolution)
    pinhole = pinhole.scaled(*size)
    photo = Photo(posed.path, lens, size, mask, composite, fit.orientation, fit.is_cut, cache)
    motion = torch.from_numpy(units.world_motion(posed.world_to_camera)).float()
    return Camera(posed.name, *size, pinhole.fx, pinhole.fy, pinhole.cx, pinhole.cy, motion, photo)


def _fit(posed: PosedPhoto) -> _Fit:
    """Turned by its orientation tag only where nothing else fits: poses refer to the pixels as they are stored.

    Raises:
        InputError: the photo has other proportions than its camera.
    """
    full, size = (posed.lens.width, posed.lens.height), picture_size(posed.path)
    orientation, cause = UPRIGHT, "use the photos that the cameras were found with"
    fits, fits_turned = _is_scaled(size, full), _is_scaled(size[::-1], full)
    if fits_turned and not fits:
        orientation = picture_orientation(posed.path)
        if orientation >= 5:  # turned by a quarter
            size = size[::-1]
        cause = "the photo is turned by 90 degrees, and has no orientation tag that says which way; turn it back"
    if not _is_scaled(size, full):
        raise InputError(f"photo {posed.path} is {size[0]}x{size[1]} px, its camera {full[0]}x{full[1]} px: {cause}")
    tag = picture_orientation(posed.path, from_header=True) if fits else UPRIGHT
    is_ambiguous = tag != UPRIGHT and (tag < 5 or fits_turned)
    is_enlarged = size[0] > full[0] or size[1] > full[1]
    view_width = size[0] // 4 if posed.lens.is_panorama else size[0]
    return _Fit(size, orientation, is_ambiguous, is_enlarged, lacks_end(posed.path), view_width)


def _is_scaled(size: tuple[int, int], full: tuple[int, int]) -> bool:
    """Whether one size is the other divided by one factor, with either side rounded up or down."""
    (w, h), (full_w, full_h) = sorted((size, full))
    lowest = max((w - 1) / full_w, (h - 1) / full_h)
    highest = min((w + 1) / full_w, (h + 1) / full_h)
    return w <= full_w and h <= full_h and lowest < highest


def _check_mask(path: Path, fit: _Fit) -> None:
    size = picture_size(path)
    if not (_is_scaled(size, fit.size) or (fit.orientation != UPRIGHT and _is_scaled(size[::-1], fit.size))):
        raise InputError(
            f"mask {path} is {size[0]}x{size[1]} px, its photo {fit.size[0]}x{fit.size[1]} px: make the mask again in "
            "the proportions of the photo"
        )


def _say_fits(fits: list[_Fit], resolution: int) -> None:
    if num := sum(fit.orientation != UPRIGHT for fit in fits):
        note(f"{num} photos are turned as their orientation tags say, because only so they fit their cameras")
    if num := sum(fit.is_ambiguous for fit in fits):
        note(f"{num} photos have orientation tags, which are not applied: poses are of the pixels as they are stored")
    if num := sum(fit.is_enlarged for fit in fits):
        note(f"{num} photos are larger than their cameras, which are scaled up")
    if num := sum(fit.is_cut for fit in fits):
        note(
            f"{num} photos are JPEG files without an end marker; one that lacks more than 1 % of its pixels is refused"
        )
    if resolution == -1 and any(fit.view_width > _MAX_WIDTH for fit in fits):
        note(f"photos wider than {_MAX_WIDTH} px are resized to {_MAX_WIDTH}; -r 1 keeps their size")


def _target_size(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """(width, height) px after ``-r``, rounded as in 3DGS."""
    width, height = size
    if resolution in (1, 2, 4, 8):
        return max(1, round(width / resolution)), max(1, round(height / resolution))
    target = min(width, _MAX_WIDTH) if resolution == -1 else resolution
    return target, max(1, height * target // width)


def _points(
    found: Points | None,
    units: Units,
    train: tuple[Camera, ...],
    num_random: int,
    generator: torch.Generator,
    *,
    in_box: bool,
    unused: str,
) -> Points:
    if found is not None:
        xyz = units.world_points(found.xyz.numpy()).clip(-_INFINITY, _INFINITY)
        return replace(found, xyz=torch.from_numpy(xyz).float())
    note(f"the scene has no points: starting from {num_random:,} random ones{unused}")
    random_points = random_points_around_object if in_box else random_points_in_view
    return random_points(train, num_random, generator)
