"""``distCUDA2``, the name that 3DGS code imports, for `mean_squared_distance`. It needs no GPU."""

from torch import Tensor

from . import mean_squared_distance


def distCUDA2(points: Tensor) -> Tensor:
    """Mean squared distance of each point to its 3 nearest neighbours: (N,3) -> (N,) float32, on the same device.

    Raises:
        ValueError: ``points`` is not (N,3) or not finite.
    """
    return mean_squared_distance(points)
