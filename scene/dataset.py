"""From a folder on disk to a ``Scene``: which format it is, which photos are there, which are for testing."""

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os.path import isfile  # not Path.is_file, which raises where a name is too long
from pathlib import Path

import torch

from compact_splats.scene.cameras import Camera
from compact_splats.scene.colmap import has_colmap_model, read_colmap
from compact_splats.scene.frames import Frame
from compact_splats.scene.photos import Photo
from compact_splats.scene.points import Points, random_points_in_box, random_points_in_view, read_points_ply
from compact_splats.scene.transforms import read_transforms
from compact_splats.utils.errors import InputError
from compact_splats.utils.pictures import find_mask, picture_size

TEST_EVERY = 8
_WIDEST = 1600  # px; wider photos are resized to it unless told otherwise [3DGS]
_NUM_RANDOM_POINTS = 100_000
_BLENDER_HALF_SIDE = 1.3  # the NeRF synthetic objects fit into this cube [3DGS]


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known of a scene before training.

    Attributes:
        train: cameras to fit.
        test: cameras held out; empty without ``eval``.
        points: what to start from.
        extent: 1.1 x the largest distance of a training camera centre from their mean, world units.
        missing: names of registered photos that are not on disk.
    """

    train: tuple[Camera, ...]
    test: tuple[Camera, ...]
    points: Points
    extent: float
    missing: tuple[str, ...] = ()

    def prefetch(self, threads: int) -> None:
        """Decode the training photos in the background; what goes wrong shows when that photo is asked for."""
        executor = ThreadPoolExecutor(threads, thread_name_prefix="photos")

        def stop_at_failure(future: Future) -> None:
            if not future.cancelled() and future.exception():
                executor.shutdown(wait=False, cancel_futures=True)

        for camera in self.train:
            try:
                executor.submit(camera.photo.pixels).add_done_callback(stop_at_failure)
            except RuntimeError:  # a photo has failed already
                return
        executor.shutdown(wait=False)


def load_scene(
    source: str | Path,
    images: str = "images",
    resolution: int = -1,
    eval: bool = True,
    white_background: bool = False,
    seed: int = 0,
) -> Scene:
    """Read a COLMAP, Blender, nerfstudio or instant-ngp data set; photos are decoded later.

    Args:
        source: its folder.
        images: folder of the photos in it; photos smaller than their camera by one factor rescale the intrinsics.
        resolution: 1, 2, 4 or 8 divides the photos' size, -1 limits their width to 1600 px, another number is the width
            in px.
        eval: hold every 8th photo by name out for testing (Blender: those of the test file); otherwise all are trained.
        white_background: what transparent Blender photos are composited on, instead of black.
        seed: for the random points of data sets without any.

    Raises:
        InputError: the folder is missing, is no data set, is broken, or leaves no photo to train on.
    """
    source = Path(source)
    if not source.is_dir():
        raise InputError(source, "the folder of a scene", "a file" if source.exists() else "nothing", "check -s")
    if resolution == 0 or resolution < -1:
        raise InputError("-r", "1, 2, 4, 8, a width in px, or -1", str(resolution), "choose one of these")
    data = _read(source, images)
    missing = tuple(frame.name for frame in (*data.frames, *data.test) if not isfile(frame.path))
    train, test = _split(data, eval)
    if not train:
        found = f"none ({len(test)} kept for testing, {len(missing)} registered but not on disk)"
        raise InputError(source, "at least one photo to train on", found, "add photos, or train without --eval")
    background = (255 if white_background else 0) if data.is_blender else None
    train, test = (
        tuple(_camera(frame, _mask_path(source, frame), resolution, background) for frame in frames)
        for frames in (train, test)
    )
    _report(missing, resized=resolution == -1 and any(c.photo.lens.width > _WIDEST for c in train + test))
    points = _points(data, train, torch.Generator().manual_seed(seed))
    return Scene(train, test, points, _extent(train), missing)


@dataclass(frozen=True, eq=False)
class _DataSet:
    """What a reader found; ``test`` holds the photos that the data set itself keeps for testing."""

    frames: list[Frame]
    test: list[Frame]
    points: Points | None
    is_blender: bool = False


def _read(source: Path, images: str) -> _DataSet:
    folder = source / images
    for model in (source / "sparse" / "0", source / "sparse"):
        if has_colmap_model(model):
            _require_images(source, images)
            frames, points = read_colmap(model, folder)
            return _DataSet(frames, [], points)
    if (source / "transforms_train.json").is_file():
        frames, points = read_transforms(source / "transforms_train.json", images)
        test_file = source / "transforms_test.json"
        test = read_transforms(test_file, images)[0] if test_file.is_file() else []
        return _DataSet(frames, test, _points_file(source, points), is_blender=True)
    if (source / "transforms.json").is_file():
        if images != "images":
            _require_images(source, images)
        frames, points = read_transforms(source / "transforms.json", images)
        return _DataSet(frames, [], _points_file(source, points))
    expected = "sparse/0/cameras.bin (COLMAP), transforms_train.json (Blender) or transforms.json (nerfstudio)"
    raise InputError(source, expected, "none of them", "check -s, or make a scene of photos with convert.py")


def _require_images(source: Path, images: str) -> None:
    if not (source / images).is_dir():
        there = sorted(path.name for path in source.iterdir() if path.is_dir())
        raise InputError(source / images, "the folder of the photos", f"only {there}", "name it with -i")


def _points_file(source: Path, named: Path | None) -> Points | None:
    """Points from the file that the cameras' file names, or from points3d.ply if it is there."""
    path = named or source / "points3d.ply"
    return read_points_ply(path) if named or path.is_file() else None


def _split(data: _DataSet, eval: bool) -> tuple[list[Frame], list[Frame]]:
    """Photos that are on disk, for training and for testing, sorted by name."""
    train, test = (
        sorted((frame for frame in frames if isfile(frame.path)), key=lambda frame: frame.name)
        for frames in (data.frames, data.test)
    )
    if not eval:
        return train + test, []
    if data.is_blender:
        return train, test
    return [f for i, f in enumerate(train) if i % TEST_EVERY], train[::TEST_EVERY]


def _mask_path(source: Path, frame: Frame) -> Path | None:
    """The mask that the data set names, or the one in masks/ under the photo's name."""
    if frame.mask_path is not None:
        return frame.mask_path
    return find_mask(source / "masks", frame.name)


def _camera(frame: Frame, mask_path: Path | None, resolution: int, background: int | None) -> Camera:
    on_disk = picture_size(frame.path)
    if not _is_reduced(on_disk, (frame.lens.width, frame.lens.height)):
        expected = f"{frame.lens.width}x{frame.lens.height} px as its camera has, or evenly reduced"
        fix = "use the photos that the cameras were found with"
        raise InputError(frame.path, expected, f"{on_disk[0]}x{on_disk[1]} px", fix)
    if mask_path is not None:
        _check_mask(mask_path, on_disk)
    lens = frame.lens.scaled(*on_disk)
    size = _target_size(on_disk, resolution)
    pinhole = lens.pinhole().scaled(*size)
    photo = Photo(frame.path, lens, size, mask_path, background)
    motion = torch.from_numpy(frame.world_to_camera).float()
    return Camera(frame.name, *size, pinhole.fx, pinhole.fy, pinhole.cx, pinhole.cy, motion, photo)


def _is_reduced(size: tuple[int, int], full: tuple[int, int]) -> bool:
    """Whether ``size`` is ``full`` or an even reduction of it, with either side rounded up or down."""
    (w, h), (full_w, full_h) = size, full
    lowest = max((w - 1) / full_w, (h - 1) / full_h)
    highest = min((w + 1) / full_w, (h + 1) / full_h)
    return w <= full_w and h <= full_h and lowest < highest


def _check_mask(path: Path, photo_size_px: tuple[int, int]) -> None:
    if not isfile(path):
        raise InputError(path, "a mask", "nothing", "add it or remove its entry")
    size = picture_size(path)
    if not (_is_reduced(size, photo_size_px) or _is_reduced(photo_size_px, size)):
        expected = f"the proportions of its photo, {photo_size_px[0]}x{photo_size_px[1]} px"
        raise InputError(path, expected, f"{size[0]}x{size[1]} px", "make the mask again for this photo")


def _target_size(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """(width, height) px after ``-r``; roundings as in 3DGS."""
    width, height = size
    if resolution in (1, 2, 4, 8):
        return max(1, round(width / resolution)), max(1, round(height / resolution))
    target = min(width, _WIDEST) if resolution == -1 else resolution
    return target, max(1, height * target // width)


def _extent(cameras: tuple[Camera, ...]) -> float:
    centres = torch.stack([camera.centre for camera in cameras]).double()
    return 1.1 * float((centres - centres.mean(dim=0)).norm(dim=1).max())


def _points(data: _DataSet, train: tuple[Camera, ...], generator: torch.Generator) -> Points:
    if data.points is not None and len(data.points.xyz):
        return data.points
    _tell(f"the scene has no points: starting from {_NUM_RANDOM_POINTS:,} random ones")
    if data.is_blender:
        return random_points_in_box(_NUM_RANDOM_POINTS, _BLENDER_HALF_SIDE, generator)
    return random_points_in_view(train, _NUM_RANDOM_POINTS, generator)


def _report(missing: tuple[str, ...], resized: bool) -> None:
    if missing:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        _tell(f"{len(missing)} registered photos are not on disk and left out: {names}")
    if resized:
        _tell(f"photos wider than {_WIDEST} px are resized to {_WIDEST}; -r 1 keeps their size")


def _tell(notice: str) -> None:
    print(f"note: {notice}", file=sys.stderr)
