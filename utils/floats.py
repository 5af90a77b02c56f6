"""Numbers from files, as the floats that this program computes with."""

import numpy as np
from numpy.typing import ArrayLike


def to_float32(values: ArrayLike) -> np.ndarray:
    """Real numbers as float32, in C order.

    What float32 cannot hold becomes infinite, and NaN of any kind stays NaN, both without a warning of numpy's: whoever
    calls this looks for what is not finite, and says where it stands.
    """
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(values, np.float32)
