"""The points a scene starts from: read from a PLY file, or drawn at random where no structure from motion is at hand."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Points:
    """A coloured point cloud.

    Attributes:
        xyz: (P,3) float32, world units.
        rgb: (P,3) uint8.
    """

    xyz: Tensor
    rgb: Tensor
