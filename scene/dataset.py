"""``load_scene``: finds the format of a data set, splits training and test views, checks photos and masks."""

from dataclasses import dataclass
from os.path import isfile  # Path.is_file raises if a name is too long
from pathlib import Path

import torch

from compact_splats.scene.cameras import Camera
from compact_splats.scene.colmap import has_colmap_model, read_colmap
from compact_splats.scene.photos import Photo
from compact_splats.scene.points import Points, random_points_in_box, random_points_in_view, read_points_ply
from compact_splats.scene.posed_photo import PosedPhoto
from compact_splats.scene.transforms import read_transforms
from compact_splats.utils.errors import InputError
from compact_splats.utils.notes import note
from compact_splats.utils.pictures import find_mask, picture_size

TEST_EVERY = 8
_MAX_WIDTH = 1600  # px; wider photos are resized by default [3DGS]
_BLENDER_HALF_SIDE = 1.3  # of the cube that contains the NeRF synthetic objects [3DGS]


@dataclass(frozen=True, eq=False)
class Scene:
    """The data that a training starts from.

    Attributes:
        train: training views.
        test: test views; empty without ``eval``.
        points: the initial point cloud.
        extent: 1.1 x the largest distance of a training camera centre from their mean, world units.
        missing: names of registered photos that are not on disk.
    """

    train: tuple[Camera, ...]
    test: tuple[Camera, ...]
    points: Points
    extent: float
    missing: tuple[str, ...] = ()


def load_scene(
    source: str | Path,
    images: str = "images",
    resolution: int = -1,
    eval: bool = True,
    white_background: bool = False,
    seed: int = 0,
    num_random_points: int = 100_000,
) -> Scene:
    """Load a COLMAP, Blender, nerfstudio or instant-ngp data set. Photos are decoded on first use.

    Args:
        source: the folder.
        images: subfolder of the photos. They may be smaller than their cameras by one factor, as in ``images_4``.
        resolution: 1, 2, 4 or 8 divides the size of the photos; -1 limits their width to 1600 px; any other number is
            the width in px.
        eval: every 8th photo by name becomes a test view (Blender: the photos of the test file); otherwise all are
            training views.
        white_background: composite transparent Blender photos on white instead of black.
        seed: of the random points of data sets without points.
        num_random_points: of these data sets.

    Raises:
        InputError: the folder does not exist, is not a data set, is broken, or has no photo to train on.
    """
    source = Path(source)
    if not source.is_dir():
        problem = "is a file" if source.exists() else "does not exist"
        raise InputError(f"scene folder {source} {problem} (see -s)")
    if resolution == 0 or resolution < -1:
        raise InputError(f"--resolution must be 1, 2, 4, 8, a width in px, or -1, not {resolution}")
    data = _read(source, images)
    missing = tuple(photo.name for photo in (*data.photos, *data.test) if not isfile(photo.path))
    train_photos, test_photos = _split(data, eval)
    if not train_photos:
        raise InputError(
            f"{source} has no photo to train on: {len(test_photos)} are test views, {len(missing)} registered but not "
            "on disk; add photos, or train without --eval"
        )
    background = (255 if white_background else 0) if data.is_blender else None
    train, test = (
        tuple(_camera(photo, _mask_path(source, photo), resolution, background) for photo in photos)
        for photos in (train_photos, test_photos)
    )
    _report(missing, resized=resolution == -1 and any(c.required_photo.lens.width > _MAX_WIDTH for c in train + test))
    points = _points(data, train, num_random_points, torch.Generator().manual_seed(seed))
    return Scene(train, test, points, _extent(train), missing)


@dataclass(frozen=True, eq=False)
class _DataSet:
    """The result of a reader; ``test``: photos that the data set itself declares as test views."""

    photos: list[PosedPhoto]
    test: list[PosedPhoto]
    points: Points | None
    is_blender: bool = False


def _read(source: Path, images: str) -> _DataSet:
    folder = source / images
    for model in (source / "sparse" / "0", source / "sparse"):
        if has_colmap_model(model):
            _require_images(source, images)
            photos, points = read_colmap(model, folder)
            return _DataSet(photos, [], points)
    if (source / "transforms_train.json").is_file():
        photos, points_path = read_transforms(source / "transforms_train.json", images)
        test_file = source / "transforms_test.json"
        test = read_transforms(test_file, images)[0] if test_file.is_file() else []
        return _DataSet(photos, test, _points_file(source, points_path), is_blender=True)
    if (source / "transforms.json").is_file():
        if images != "images":
            _require_images(source, images)
        photos, points_path = read_transforms(source / "transforms.json", images)
        return _DataSet(photos, [], _points_file(source, points_path))
    raise InputError(
        f"{source} is not a scene: it contains no sparse/0/cameras.bin (COLMAP), transforms_train.json (Blender) or "
        "transforms.json (nerfstudio); see -s, or make a scene from photos with convert.py"
    )


def _require_images(source: Path, images: str) -> None:
    if not (source / images).is_dir():
        folders = sorted(path.name for path in source.iterdir() if path.is_dir())
        raise InputError(f"photo folder {source / images} does not exist; name one of {folders} with -i")


def _points_file(source: Path, named: Path | None) -> Points | None:
    """Points from the file named in transforms.json, or from points3d.ply if it exists."""
    path = named or source / "points3d.ply"
    return read_points_ply(path) if named or path.is_file() else None


def _split(data: _DataSet, eval: bool) -> tuple[list[PosedPhoto], list[PosedPhoto]]:
    """Training and test photos that are on disk, sorted by name."""
    train, test = (
        sorted((photo for photo in photos if isfile(photo.path)), key=lambda photo: photo.name)
        for photos in (data.photos, data.test)
    )
    if not eval:
        return train + test, []
    if data.is_blender:
        return train, test
    return [photo for i, photo in enumerate(train) if i % TEST_EVERY], train[::TEST_EVERY]


def _mask_path(source: Path, posed: PosedPhoto) -> Path | None:
    """The mask named by the data set, else the one in masks/ with the photo's name."""
    return posed.mask_path or find_mask(source / "masks", posed.name)


def _camera(posed: PosedPhoto, mask_path: Path | None, resolution: int, background: int | None) -> Camera:
    on_disk = picture_size(posed.path)
    if not _is_reduced(on_disk, (posed.lens.width, posed.lens.height)):
        raise InputError(
            f"photo {posed.path} is {on_disk[0]}x{on_disk[1]} px, its camera {posed.lens.width}x{posed.lens.height} "
            "px: use the photos that the cameras were found with"
        )
    if mask_path is not None:
        _check_mask(mask_path, on_disk)
    lens = posed.lens.scaled(*on_disk)
    size = _target_size(on_disk, resolution)
    pinhole = lens.pinhole().scaled(*size)
    photo = Photo(posed.path, lens, size, mask_path, background)
    motion = torch.from_numpy(posed.world_to_camera).float()
    return Camera(posed.name, *size, pinhole.fx, pinhole.fy, pinhole.cx, pinhole.cy, motion, photo)


def _is_reduced(size: tuple[int, int], full: tuple[int, int]) -> bool:
    """Whether ``size`` is ``full`` divided by one factor of at least 1, with either side rounded up or down."""
    (w, h), (full_w, full_h) = size, full
    lowest = max((w - 1) / full_w, (h - 1) / full_h)
    highest = min((w + 1) / full_w, (h + 1) / full_h)
    return w <= full_w and h <= full_h and lowest < highest


def _check_mask(path: Path, photo_size_px: tuple[int, int]) -> None:
    if not isfile(path):
        raise InputError(f"mask {path} does not exist; add it or remove its entry")
    size = picture_size(path)
    if not (_is_reduced(size, photo_size_px) or _is_reduced(photo_size_px, size)):
        raise InputError(
            f"mask {path} is {size[0]}x{size[1]} px, its photo {photo_size_px[0]}x{photo_size_px[1]} px: make the mask "
            "again in the proportions of the photo"
        )


def _target_size(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """(width, height) px after ``-r``, rounded as in 3DGS."""
    width, height = size
    if resolution in (1, 2, 4, 8):
        return max(1, round(width / resolution)), max(1, round(height / resolution))
    target = min(width, _MAX_WIDTH) if resolution == -1 else resolution
    return target, max(1, height * target // width)


def _extent(cameras: tuple[Camera, ...]) -> float:
    centres = torch.stack([camera.centre for camera in cameras]).double()
    return 1.1 * float((centres - centres.mean(dim=0)).norm(dim=1).max())


def _points(data: _DataSet, train: tuple[Camera, ...], num_random: int, generator: torch.Generator) -> Points:
    if data.points is not None and len(data.points.xyz):
        return data.points
    note(f"the scene has no points: starting from {num_random:,} random ones")
    if data.is_blender:
        return random_points_in_box(num_random, _BLENDER_HALF_SIDE, generator)
    return random_points_in_view(train, num_random, generator)


def _report(missing: tuple[str, ...], resized: bool) -> None:
    if missing:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        note(f"{len(missing)} registered photos are not on disk and left out: {names}")
    if resized:
        note(f"photos wider than {_MAX_WIDTH} px are resized to {_MAX_WIDTH}; -r 1 keeps their size")
