"""The flags that change a model before it is exported, shown or compressed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compact_splats.arguments.options import check, option
from compact_splats.utils.errors import InputError

# Directions along the axes x, y, z: right or left, up or down, front or back.
MODEL_AXES = "RDF"  # those of COLMAP
_NAMED_AXES = {"Y-UP": "RUB", "Z-UP": "RFU"}
_OPPOSITES = ("RL", "UD", "FB")


@dataclass(frozen=True, kw_only=True)
class KeepConfig:
    """What is kept of a model."""

    sh_degree: int | None = option(
        None, type=int, low=0, high=3, help="remove the spherical harmonics above this degree, 0 to 3"
    )
    min_opacity: float = option(0.0, type=float, low=0, high=1, help="remove the Gaussians below this opacity, 0 to 1")
    crop: str | None = option(
        None, help="keep the Gaussians whose centre is in a box x0,y0,z0,x1,y1,z1 or a sphere x,y,z,radius, in the "
        "coordinates of the file"
    )  # fmt: skip

    @property
    def crop_numbers(self) -> tuple[float, ...] | None:
        """The two corners of a box, or centre and radius of a sphere.

        Raises:
            InputError: they are neither.
        """
        if self.crop is None:
            return None
        numbers = numbers_of("--crop", self.crop, (6, 4), "a box x0,y0,z0,x1,y1,z1 or a sphere x,y,z,radius")
        if len(numbers) == 6 and any(low > high for low, high in zip(numbers[:3], numbers[3:], strict=True)):
            raise InputError(f"--crop {self.crop} is an empty box: give the lower corner first")
        if len(numbers) == 4 and numbers[3] <= 0:
            raise InputError(f"--crop {self.crop} is an empty sphere: give a radius above 0")
        return numbers


@dataclass(frozen=True, kw_only=True)
class EditConfig(KeepConfig):
    """What is kept of a model, in the coordinates of the file; then its axes, scale, rotation and position."""

    max_gaussians: int | None = option(
        None, type=int, low=1, help="keep at most so many Gaussians: those with the largest opacity times size; of a "
        "nested model, the first ones"
    )  # fmt: skip
    drop_floaters: int | None = option(
        None, type=int, low=1, help="remove the Gaussians that fewer than this number of the run's cameras see"
    )
    axes: str | None = option(
        None, help="turn the model, whose x, y, z point right, down, front (RDF), so that they point in these "
        "directions: y-up (RUB), z-up (RFU), or three of the letters R L U D F B"
    )  # fmt: skip
    scale: float = option(1.0, type=float, help="multiply all sizes and positions, after --axes")
    rotate: str | None = option(None, help="then rotate by x,y,z degrees about the axes x, y and z, in this order")
    translate: str | None = option(None, help="then move by x,y,z")

    def check_edits(self) -> None:
        """Check the values; for ``__post_init__``.

        Raises:
            InputError: a value has the wrong type or is out of range.
        """
        check(self)
        if not 0 < self.scale < math.inf:
            raise InputError(f"--scale must be more than 0, not {self.scale:g}")
        _ = self.crop_numbers, self.target_axes, self.rotation_degrees, self.translation

    @property
    def target_axes(self) -> str:
        """The three letters of ``--axes``."""
        letters = MODEL_AXES if self.axes is None else _NAMED_AXES.get(self.axes.upper(), self.axes.upper())
        if len(letters) != 3 or not all(sum(each in pair for each in letters) == 1 for pair in _OPPOSITES):
            raise InputError(
                f"--axes must be y-up, z-up, or three letters, one each of R or L, U or D, F or B, not {self.axes}"
            )
        return letters

    @property
    def rotation_degrees(self) -> tuple[float, ...]:
        """Three angles."""
        return numbers_of("--rotate", self.rotate or "0,0,0", (3,), "three angles x,y,z in degrees")

    @property
    def translation(self) -> tuple[float, ...]:
        """Three numbers in world units."""
        return numbers_of("--translate", self.translate or "0,0,0", (3,), "three numbers x,y,z")


def numbers_of(flag: str, text: str, counts: tuple[int, ...], expected: str) -> tuple[float, ...]:
    """The finite numbers of ``text``, separated by commas; ``counts`` are the allowed numbers of numbers."""
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts or not all(map(math.isfinite, numbers)):
        raise InputError(f"{flag} must be {expected}, not {text}")
    return numbers
