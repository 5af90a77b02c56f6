"""A photo of a data set with its pose and lens, as all readers return it, and checks of what files say about it."""

from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np

from compact_splats.scene.lens import Lens
from compact_splats.utils.errors import InputError
from compact_splats.utils.floats import to_float32


@dataclass(frozen=True, eq=False)
class PosedPhoto:
    """A photo with a pose. The file may be missing.

    Attributes:
        name: relative to the images folder.
        path: the photo.
        lens: intrinsics, at the size for which they were estimated.
        world_to_camera: (4,4) float64, OpenCV axes, a rigid motion.
        mask_path: the mask, if the data set names one.
    """

    name: str
    path: Path
    lens: Lens
    world_to_camera: np.ndarray
    mask_path: Path | None = None


def safe_name(source: Path, name: str) -> str:
    """Return ``name`` if it is a relative path that stays inside its folder.

    Args:
        source: the file that contains the name, for the message.
        name: with slashes or backslashes.

    Raises:
        InputError: it is empty or absolute, or contains ``..`` or control characters.
    """
    path = PureWindowsPath(name)  # splits at both kinds of slash and knows drives
    if not path.parts or path.anchor or ".." in path.parts or not name.isprintable():
        fix = "move the file into the scene folder, or link it there, and correct its entry"
        raise InputError(source, "names inside the scene folder", repr(name)[:80], fix)
    return name


def checked_lens(source: Path, lens: Lens) -> Lens:
    """Return ``lens`` if its values are possible.

    Raises:
        InputError: a size or a focal length is not positive, a size is 2^15 px or more, or a number is not finite.
    """
    numbers = (lens.fx, lens.fy, lens.cx, lens.cy, *lens.distortion)
    # 2^15 px a side is the limit of OpenCV's fixed-point maps.
    is_valid = 0 < lens.width < 2**15 and 0 < lens.height < 2**15 and lens.fx > 1e-3 and lens.fy > 1e-3
    if not (is_valid and _is_finite(np.array(numbers))):
        found = f"{lens.width}x{lens.height} px with fx fy cx cy ... = {[float(f'{x:.6g}') for x in numbers]}"
        raise InputError(source, "a size below 32768 px and finite, positive intrinsics", found, "calibrate again")
    return lens


def rigid_motion(source: Path, name: str, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """(4,4) float64 from a (3,3) rotation, up to rounding or a uniform scale, and a (3,) translation.

    Raises:
        InputError: a number is not finite, or the matrix is not a rotation (it mirrors, shears or is singular).
    """
    fix = "register the photo again or take it out of the scene"
    if not (_is_finite(rotation) and _is_finite(translation)):
        raise InputError(source, f"a finite pose of '{name}'", "NaN or infinity", fix)
    u, stretch, vt = np.linalg.svd(rotation)
    nearest = u @ vt
    if not (stretch[2] > 0.99 * stretch[0] and np.linalg.det(nearest) > 0):  # 0.99: poses with three digits pass
        raise InputError(source, f"a rotation in the pose of '{name}'", f"the matrix {rotation.tolist()}", fix)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = nearest, translation
    return motion


def _is_finite(numbers: np.ndarray) -> bool:
    """Whether all numbers are finite as float32."""
    return bool(np.isfinite(to_float32(numbers)).all())
