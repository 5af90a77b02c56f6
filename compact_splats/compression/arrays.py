"""The arrays that all of this package takes and gives: the rows of a model, checked once where they come in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compact_splats.compression.container import FormatError
from compact_splats.scene.gaussian_model import PARAMETER_NAMES
from compact_splats.utils.floats import to_float32

SHAPES = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (1,), "sh_dc": (1, 3)}
REST_COUNTS = (0, 3, 8, 15)  # coefficients of SH degrees 1 to 3, by degree
Arrays = dict[str, np.ndarray]


def checked(rows: Mapping[str, np.ndarray]) -> Arrays:
    """The rows as float32 arrays in C order.

    Args:
        rows: by ``PARAMETER_NAMES``, real numbers in the shapes of ``GaussianModel.parameters``.

    Raises:
        FormatError: a row is missing or too much, has another shape, or holds a value that float32 cannot.
    """
    if set(rows) != set(PARAMETER_NAMES):
        raise FormatError(f"the rows {', '.join(PARAMETER_NAMES)}", ", ".join(map(str, rows)) or "none")
    arrays = {name: np.asarray(rows[name]) for name in PARAMETER_NAMES}
    num = len(arrays["means"]) if arrays["means"].ndim else 0
    for name, array in arrays.items():
        shapes = [(num, count, 3) for count in REST_COUNTS] if name == "sh_rest" else [(num, *SHAPES[name])]
        if array.shape not in shapes:
            raise FormatError(f"{name} of shape {' or '.join(map(str, shapes))}", str(array.shape))
        if array.dtype.kind not in "fiu":
            raise FormatError(f"{name} of real numbers", f"the type {array.dtype}")
        arrays[name] = to_float32(array)
        refuse_not_finite(name, arrays[name])
    return arrays


def refuse_not_finite(name: str, row: np.ndarray) -> None:
    """Raise where a value is NaN or infinite.

    Args:
        name: of the row.
        row: (N,...) floats.

    Raises:
        FormatError: names the first such value and its Gaussian.
    """
    if np.isfinite(row).all():
        return
    index = tuple(map(int, np.argwhere(~np.isfinite(row))[0]))
    column = "".join(f"[{i}]" for i in index[1:])
    raise FormatError("finite values", f"{name}{column} = {row[index]} in Gaussian {index[0]}")
