"""A model as arrays or tensors, by name of the parameter, and the check of arrays that come from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from compact_splats.compression.container import FormatError
from compact_splats.scene.parameters import (
    PARAMETER_NAMES,
    REST_COUNTS,
    SHAPES,
    SavedArrays,
    Vector,
    first_not_finite,
    is_antialiased,
    offset_of,
)
from compact_splats.utils.floats import to_float32

if TYPE_CHECKING:
    from torch import Tensor

Arrays = dict[str, np.ndarray]  # by `PARAMETER_NAMES`, before activation
Parameters: TypeAlias = "dict[str, Tensor]"  # the same as tensors


def joined(models: Sequence[Mapping[str, np.ndarray]]) -> SavedArrays:
    """The Gaussians of several models, in order; missing SH coefficients are zero.

    Args:
        models: at least one, in the shapes of ``GaussianModel.parameters``.

    Returns:
        Their coordinates are minus the first offset that a model has; anti-aliased if all are.
    """
    most = max(each["sh_rest"].shape[1] for each in models)
    rest = [np.pad(each["sh_rest"], ((0, 0), (0, most - each["sh_rest"].shape[1]), (0, 0))) for each in models]
    offset = next((offset_of(each) for each in models if offset_of(each) is not None), None)
    arrays = {name: np.concatenate([each[name] for each in models]) for name in models[0] if name != "sh_rest"} | {
        "means": np.concatenate([_means_minus(each, offset) for each in models]),
        "sh_rest": np.concatenate(rest),
    }
    return SavedArrays(arrays, all(map(is_antialiased, models)), offset=offset)


def _means_minus(model: Mapping[str, np.ndarray], offset: Vector | None) -> np.ndarray:
    own = offset_of(model)
    if own == offset or offset is None:
        return model["means"]
    shift = np.subtract(own or (0.0, 0.0, 0.0), offset)
    return (model["means"].astype(np.float64) + shift).astype(np.float32)


def checked(arrays: Arrays) -> Arrays:
    """The arrays as float32 in C order.

    Args:
        arrays: by ``PARAMETER_NAMES``, real numbers in the shapes of ``GaussianModel.parameters``.

    Raises:
        FormatError: an array is missing, unknown or of another shape, or a value is not finite in float32.
    """
    if set(arrays) != set(PARAMETER_NAMES):
        raise FormatError(f"the arrays {', '.join(PARAMETER_NAMES)}", ", ".join(map(str, arrays)) or "none")
    arrays = {name: np.asarray(arrays[name]) for name in PARAMETER_NAMES}
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


def refuse_not_finite(name: str, values: np.ndarray) -> None:
    """Refuse NaN and infinity in a parameter (N,...).

    Raises:
        FormatError: names the first such value and its Gaussian.
    """
    if found := first_not_finite({name: values}):
        raise FormatError("finite values", found)
