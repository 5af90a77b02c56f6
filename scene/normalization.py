"""World units: the similarity between what is computed and the coordinates of a scene's files, in float64.

Training, rendering and viewers work in world units, where the cameras lie around the origin and are a fixed distance
apart. So the near plane, learning rates and other constants suit a scene of any unit and place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from compact_splats.scene.parameters import Vector

if TYPE_CHECKING:  # torch takes a second to load
    from torch import Tensor

    from compact_splats.scene.lens import Lens

EXTENT = 5.0  # of every scene, world units: 1.1 x the largest distance of a training camera from their mean
_ONE_PLACE = 1e-3  # cameras whose extent is below this share of the distance of the points are at one place
# Beyond so many extents from the origin, positions in float32 are off by more than 6e-6 of the extent.
FAR = 100


@dataclass(frozen=True)
class Units:
    """The similarity from world units to a scene's coordinates: ``scene = origin + scale * world``.

    Attributes:
        origin: (3,) scene coordinates of the origin of world units.
        scale: scene units per world unit, positive.
        offset: (3,) what is subtracted from scene coordinates in files; not zero only where the scene lies so far from
            its origin that float32, the type of these files, is too coarse.
    """

    origin: Vector = (0.0, 0.0, 0.0)
    scale: float = 1.0
    offset: Vector = (0.0, 0.0, 0.0)

    @classmethod
    def of_views(cls, lenses: Sequence[Lens], motions: np.ndarray, xyz: np.ndarray | None = None) -> Units:
        """World units of a scene: its cameras around the origin, with an extent of ``EXTENT``.

        One camera, or several at one place, have no extent: then the median distance of the points in view becomes
        ``EXTENT``, and without points the units stay.

        Args:
            lenses: of the training views, at least one.
            motions: (V,4,4) float64, world to camera in scene coordinates, rigid.
            xyz: (P,3) float64, points in scene coordinates.
        """
        centres = camera_centres(motions)
        origin = centres.mean(axis=0)
        extent = 1.1 * float(np.linalg.norm(centres - origin, axis=1).max())
        if xyz is not None and len(xyz) and extent < _ONE_PLACE * float(np.linalg.norm(xyz - origin, axis=1).max()):
            distance = _median_distance(lenses, motions, xyz)
            extent = distance if extent < _ONE_PLACE * distance else extent
        is_known = extent > 1e-12 * max(1e-12, float(np.abs(origin).max()))  # above rounding
        return cls._around(origin, extent if is_known else EXTENT)

    @classmethod
    def of_points(cls, xyz: np.ndarray) -> Units:
        """World units of (N,3) points without cameras: the median at the origin, nine tenths within 0.4 extents."""
        middle = np.median(xyz, axis=0).astype(np.float64)
        radius = float(np.quantile(np.linalg.norm(xyz - middle, axis=1), 0.9))
        return cls._around(middle, 2.5 * radius or EXTENT).without_offset()

    @classmethod
    def _around(cls, origin: np.ndarray, extent: float) -> Units:
        digits = -math.ceil(math.log10(extent))
        x, y, z = (round(float(each), digits) if abs(each) > FAR * extent else 0.0 for each in origin)
        return cls((float(origin[0]), float(origin[1]), float(origin[2])), extent / EXTENT, (x, y, z))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Units:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: not the units of a scene.
        """
        try:
            (ox, oy, oz), (x, y, z) = values["origin"], values["offset"]
            units = cls((float(ox), float(oy), float(oz)), float(values["scale"]), (float(x), float(y), float(z)))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no origin, scale and offset: {values}") from error
        if not (units.scale > 0 and all(map(math.isfinite, (units.scale, *units.origin, *units.offset)))):
            raise ValueError(f"a scale that is not positive, or numbers that are not finite: {values}")
        return units

    def to_json(self) -> dict[str, Any]:
        """For ``config.json``; float64 as they are."""
        return asdict(self)

    @property
    def is_offset(self) -> bool:
        """Whether coordinates in files are not those of the scene."""
        return any(self.offset)

    def with_offset(self, offset: Vector | None) -> Units:
        """The same units, for files from which ``offset`` was subtracted; None: as they are."""
        return self if offset is None else replace(self, offset=offset)

    def without_offset(self) -> Units:
        """The same units, for files of other tools, which hold the scene's own coordinates."""
        return self.with_offset((0.0, 0.0, 0.0))

    # ---- scene coordinates to world units ----

    def world_points(self, xyz: np.ndarray) -> np.ndarray:
        """(P,3) float64 world units of (P,3) float64 scene coordinates."""
        return (xyz - np.array(self.origin)) / self.scale

    def world_motion(self, motion: np.ndarray) -> np.ndarray:
        """(4,4) float64, the pose in world units of a camera with the rigid motion (4,4) in scene coordinates."""
        result = motion.copy()
        result[:3, 3] = (motion[:3, :3] @ self.origin + motion[:3, 3]) / self.scale
        return result

    # ---- coordinates of files, which are scene coordinates minus the offset ----

    def of_files(self) -> Units:
        """The similarity from world units to the coordinates of files."""
        x, y, z = (origin - offset for origin, offset in zip(self.origin, self.offset, strict=True))
        return Units((x, y, z), self.scale)

    @property
    def _shift(self) -> np.ndarray:
        """(3,) coordinates in files of the origin of world units."""
        return np.array(self.of_files().origin)

    def file_points(self, xyz: np.ndarray) -> np.ndarray:
        """(P,3) float64 coordinates in files of (P,3) in world units."""
        return self._shift + self.scale * xyz.astype(np.float64)

    def file_motion(self, motion: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`world_motion`, for the coordinates of files."""
        result = motion.astype(np.float64)
        result[:3, 3] = result[:3, 3] * self.scale - result[:3, :3] @ self._shift
        return result

    def world_model(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of a model, by the names of ``GaussianModel``, from the coordinates of files to world units.

        Computed in float64, returned as float32; the inverse of :meth:`file_model` up to the rounding to float32.
        """
        if self == Units():
            return dict(parameters)
        means, logs = parameters["means"].double(), parameters["log_scales"].double()
        return {
            **parameters,
            "means": ((means - means.new_tensor(self._shift)) / self.scale).float(),
            "log_scales": (logs - math.log(self.scale)).float(),
        }

    def file_model(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of a model in the coordinates of files."""
        if self == Units():
            return dict(parameters)
        means, logs = parameters["means"].double(), parameters["log_scales"].double()
        return {
            **parameters,
            "means": (means.new_tensor(self._shift) + means * self.scale).float(),
            "log_scales": (logs + math.log(self.scale)).float(),
        }


def far_from_origin(xyz: np.ndarray) -> float:
    """How many extents the middle of (N,3) points is from the origin, see :meth:`Units.of_points`; only finite ones."""
    units = _units_of_finite(xyz)
    return max(map(abs, units.origin)) / (EXTENT * units.scale)


def offset_of_points(xyz: np.ndarray) -> Vector | None:
    """What to subtract from (N,3) float64 points that float32 is too coarse for; None: nothing."""
    units = _units_of_finite(xyz)
    units = Units._around(np.array(units.origin), EXTENT * units.scale)
    return units.offset if units.is_offset else None


def _units_of_finite(xyz: np.ndarray) -> Units:
    finite = xyz[np.isfinite(xyz).all(axis=1)]
    return Units.of_points(finite) if len(finite) else Units()


def camera_centres(motions: np.ndarray) -> np.ndarray:
    """(V,3) centres of cameras with rigid motions (V,4,4)."""
    return -np.einsum("vji,vj->vi", motions[:, :3, :3], motions[:, :3, 3])


def _median_distance(lenses: Sequence[Lens], motions: np.ndarray, xyz: np.ndarray) -> float:
    """Of the points from the cameras in whose view they are; of all points, if none is in view."""
    found = []
    for lens, motion in zip(lenses, motions, strict=True):
        local = xyz @ motion[:3, :3].T + motion[:3, 3]
        with np.errstate(all="ignore"):
            x, y = lens.fx * local[:, 0] / local[:, 2] + lens.cx, lens.fy * local[:, 1] / local[:, 2] + lens.cy
        seen = (local[:, 2] > 0) & (x >= 0) & (x <= lens.width) & (y >= 0) & (y <= lens.height)
        found.append(np.linalg.norm(local[seen], axis=1))
    distances = np.concatenate(found)
    if not len(distances):
        distances = np.linalg.norm(xyz - camera_centres(motions)[0], axis=1)
    return float(np.median(distances))
