"""What all readers return: photos of a data set with pose and lens; and checks of what files say about them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compact_splats.scene.lens import Lens
from compact_splats.scene.names import Found
from compact_splats.scene.points import MAX_BAD, Points
from compact_splats.utils.errors import InputError, note
from compact_splats.utils.floats import to_float32

_MAX_SIDE_PER_FOCAL = 20  # a field of view of 169 degrees in a pinhole, and more than a whole turn in a fisheye


@dataclass(frozen=True, eq=False)
class PosedPhoto:
    """A photo with a pose. The file may be missing.

    Attributes:
        found: its name and its file.
        lens: intrinsics, at the size for which they were estimated.
        world_to_camera: (4,4) float64, OpenCV axes, a rigid motion.
        mask_path: the mask, if the data set names one.
        observed: (K,) int64, ids of the points that it observes; none, if that is not known.
    """

    found: Found
    lens: Lens
    world_to_camera: np.ndarray
    mask_path: Path | None = None
    observed: np.ndarray = field(default_factory=partial(np.empty, 0, np.int64))

    @property
    def name(self) -> str:
        """Relative to the images folder."""
        return self.found.name

    @property
    def path(self) -> Path:
        """The file."""
        return self.found.path


@dataclass(frozen=True, eq=False)
class DataSet:
    """The result of a reader.

    Attributes:
        origin: the file that names the photos.
        photos: in the order of the file.
        test: test views of a data set with files for training and test views (Blender); None: not divided.
        points: the point cloud; None if there is none.
        left_out: registered names of the photos whose pose or camera can't be used.
        splits: names of photos by "train", "val" and "test", where the data set lists them.
    """

    origin: Path
    photos: list[PosedPhoto]
    points: Points | None = None
    test: list[PosedPhoto] | None = None
    left_out: list[str] = field(default_factory=list)
    splits: dict[str, list[str]] = field(default_factory=dict)


class BadPhoto(InputError):
    """The pose or the camera of one photo can't be used."""


def usable_photos(
    found: Iterable[Found], make: Callable[[Found, Any], PosedPhoto], entries: Iterable[Any]
) -> tuple[list[PosedPhoto], list[str]]:
    """Make the photos of a data set.

    Args:
        found: their files.
        make: of a file and an entry; raises ``BadPhoto`` if its pose or camera can't be used.
        entries: what the data set says about each.

    Returns:
        The photos, and the registered names of those that can't be used; a note says which.

    Raises:
        BadPhoto: more than one photo and more than 10 % can't be used, or none can.
    """
    photos, left_out, first = [], [], None
    for file, entry in zip(found, entries, strict=True):
        try:
            photos.append(make(file, entry))
        except BadPhoto as error:
            first = first or error
            left_out.append(file.registered)
    if first is not None:
        if not photos or len(left_out) > max(1, MAX_BAD * (len(photos) + len(left_out))):
            raise first
        note(f"{len(left_out)} photos are left out: {first}")
    return photos, left_out


def checked_lens(source: Path, lens: Lens) -> Lens:
    """Return ``lens`` if its values are possible.

    Raises:
        BadPhoto: a size or a focal length is not positive, a size is 2^15 px or more, a number is not finite, the lens
            shows no picture, or the focal length is below 1/20 of a side, as where it is in mm or in widths.
    """
    numbers = (lens.fx, lens.fy, lens.cx, lens.cy, *lens.distortion)
    # 2^15 px a side is the limit of OpenCV's fixed-point maps.
    is_valid = 0 < lens.width < 2**15 and 0 < lens.height < 2**15 and lens.fx > 1e-3 and lens.fy > 1e-3
    if not (is_valid and _is_finite(np.array(numbers))):
        found = f"{lens.width}x{lens.height} px with fx fy cx cy ... = {[float(f'{x:.6g}') for x in numbers]}"
        raise BadPhoto(source, "a size below 32768 px and finite, positive intrinsics", found, "calibrate again")
    if max(lens.width / lens.fx, lens.height / lens.fy) > _MAX_SIDE_PER_FOCAL:
        found = f"{lens.fx:.6g} and {lens.fy:.6g} for a picture of {lens.width}x{lens.height} px"
        raise BadPhoto(source, "focal lengths in px", found, "multiply them by the px per unit, or calibrate again")
    if lens.is_blind:
        found = f"{[float(f'{x:.6g}') for x in numbers]}, with which it shows no picture"
        raise BadPhoto(source, f"possible parameters of {lens.model}", found, "calibrate again")
    return lens


def rigid_motion(source: Path, name: str, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """(4,4) float64 from a (3,3) rotation, up to rounding or a uniform scale, and a (3,) translation.

    Raises:
        BadPhoto: a number is not finite, or the matrix is not a rotation (it mirrors, shears or is singular).
    """
    fix = "register the photo again or take it out of the scene"
    if not (_is_finite(rotation) and _is_finite(translation)):
        raise BadPhoto(source, f"a finite pose of '{name}'", "NaN or infinity", fix)
    u, stretch, vt = np.linalg.svd(rotation)
    nearest = u @ vt
    if not (stretch[2] > 0.99 * stretch[0] and np.linalg.det(nearest) > 0):  # 0.99: poses with three digits pass
        raise BadPhoto(source, f"a rotation in the pose of '{name}'", f"the matrix {rotation.tolist()}", fix)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = nearest, translation
    return motion


def _is_finite(numbers: np.ndarray) -> bool:
    """Whether all numbers are finite as float32."""
    return bool(np.isfinite(to_float32(numbers)).all())
