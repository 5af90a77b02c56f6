"""Conversion of numbers from files to float32."""

import numpy as np
from numpy.typing import ArrayLike


def to_float32(values: ArrayLike) -> np.ndarray:
    """Real numbers as float32, in C order, without numpy's warnings.

    Numbers beyond the range of float32 become infinite, and NaN stays NaN: the caller checks for both.
    """
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(values, np.float32)
