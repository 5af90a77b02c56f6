"""Real spherical harmonics in the order and with the signs of 3DGS, for code other than the rasterizer."""

import math
from typing import Any

import numpy as np


def sh_basis(directions: Any, degree: int) -> Any:
    """Evaluate the basis functions  [docs/math.md eq. 11].

    Args:
        directions: (M,3) floats of length one, a tensor or an array.
        degree: 0 to 3.

    Returns:
        (M, (degree + 1)^2) of the same type, the constant first. Only IEEE additions, subtractions and
        multiplications in a fixed order, so the bits are the same on all machines.
    """
    x, y, z = directions.T

    def root(fraction: float) -> float:
        return math.sqrt(fraction / math.pi)

    by_degree = [
        [0 * x + root(1 / 4)],
        [-root(3 / 4) * y, root(3 / 4) * z, -root(3 / 4) * x],
        [
            root(15 / 4) * x * y, -root(15 / 4) * y * z, root(5 / 16) * (3 * z * z - 1),
            -root(15 / 4) * x * z, root(15 / 16) * (x * x - y * y),
        ],
        [
            -root(35 / 32) * y * (3 * x * x - y * y), root(105 / 4) * x * y * z, -root(21 / 32) * y * (5 * z * z - 1),
            root(7 / 16) * z * (5 * z * z - 3), -root(21 / 32) * x * (5 * z * z - 1),
            root(105 / 16) * z * (x * x - y * y), -root(35 / 32) * x * (x * x - 3 * y * y),
        ],
    ]  # fmt: skip
    functions = [each for functions in by_degree[: degree + 1] for each in functions]
    if isinstance(directions, np.ndarray):
        return np.stack(functions, axis=1)
    import torch  # late: readers of files work without it

    return torch.stack(functions, dim=1)
