"""``distCUDA2``, under the name by which 3DGS code imports it.

There ``_C`` is a compiled module that needs a GPU, hence both names; here it is `mean_squared_distance`.
"""

from torch import Tensor

from . import mean_squared_distance


def distCUDA2(points: Tensor) -> Tensor:
    """Mean squared distance of each point to its 3 nearest other points: (N,3) -> (N,) float32, on the same device.

    Raises:
        ValueError: ``points`` is not (N,3) or not finite.
    """
    return mean_squared_distance(points)
