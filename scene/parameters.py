"""The parameters of a model as arrays: their names and shapes, and what a file says beside them. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from compact_splats.utils.errors import InputError
from compact_splats.utils.floats import to_float32

SH_C0 = 0.28209479177387814  # the constant basis function
PARAMETER_NAMES = ("means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest")
SHAPES = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (1,), "sh_dc": (1, 3)}
REST_COUNTS = (0, 3, 8, 15)  # coefficients of `sh_rest`, by SH degree
MAX_LOGIT = 20.0  # replaces an infinite opacity; the float32 opacity is the same
MIN_LOG_SCALE = -20.0  # replaces the logarithm of a scale of 0

Vector = tuple[float, float, float]


class SavedArrays(dict[str, np.ndarray]):
    """Arrays by ``PARAMETER_NAMES``, in the shapes of ``GaussianModel.parameters``, and the marks of their file.

    Attributes:
        antialiased: the file is marked as trained with the anti-aliased rasterizer.
        notes: sentences for the user: what was changed on reading.
        offset: what was subtracted from the coordinates; None: nothing, or it is not known.
        nested: the file is marked as nested: the first Gaussians alone, any number of them, are a good model.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        antialiased: bool = False,
        notes: Sequence[str] = (),
        offset: Vector | None = None,
        nested: bool = False,
    ) -> None:
        super().__init__(arrays)
        self.antialiased = antialiased
        self.notes = tuple(notes)
        self.offset = offset
        self.nested = nested

    def replaced(self, arrays: Mapping[str, np.ndarray], *notes: str) -> SavedArrays:
        """Other arrays with the same marks, and more notes."""
        return SavedArrays(arrays, self.antialiased, (*self.notes, *notes), self.offset, self.nested)


def is_antialiased(arrays: Mapping[str, np.ndarray]) -> bool:
    """The mark of :class:`SavedArrays`; False for arrays without marks."""
    return getattr(arrays, "antialiased", False)


def is_nested(arrays: Mapping[str, np.ndarray]) -> bool:
    """The mark of :class:`SavedArrays`; False for arrays without marks."""
    return getattr(arrays, "nested", False)


def offset_of(arrays: Mapping[str, np.ndarray]) -> Vector | None:
    """The offset of :class:`SavedArrays`; None for arrays without marks."""
    return getattr(arrays, "offset", None)


def sh_degree(arrays: Mapping[str, np.ndarray]) -> int:
    """Of ``sh_rest``."""
    return math.isqrt(arrays["sh_rest"].shape[1] + 1) - 1


def cleaned(path: str | Path, arrays: Mapping[str, np.ndarray], keep_nan: bool = False) -> SavedArrays:
    """Arrays of a file with only finite values, of SH degree 3 at most.

    Infinite opacities become +-``MAX_LOGIT`` and scales of 0 ``MIN_LOG_SCALE``, as in other tools. Gaussians with other
    values that are not finite are left out. ``notes`` say what was done.

    Args:
        path: the file, for the message.
        arrays: in the shapes of ``GaussianModel.parameters``, ``sh_rest`` also of degrees above 3.
        keep_nan: refuse values that are not finite instead of leaving out their Gaussians.

    Raises:
        InputError: no Gaussian is left, or there are values that are not finite, with ``keep_nan``.
    """
    saved = arrays if isinstance(arrays, SavedArrays) else SavedArrays(arrays)
    found = {name: to_float32(saved[name]) for name in PARAMETER_NAMES}
    notes, num = [], len(found["means"])
    if found["sh_rest"].shape[1] > REST_COUNTS[-1]:
        notes.append(f"SH degree {sh_degree(saved)} is cut to 3, the highest that is drawn")
        found["sh_rest"] = np.ascontiguousarray(found["sh_rest"][:, : REST_COUNTS[-1]])
    for name, bad, value in (
        ("opacity_logits", np.isinf(found["opacity_logits"]), np.copysign(MAX_LOGIT, found["opacity_logits"])),
        ("log_scales", np.isneginf(found["log_scales"]), MIN_LOG_SCALE),
    ):
        if bad.any():
            rows = int(bad.any(axis=1).sum())
            found[name] = np.where(bad, value, found[name]).astype(np.float32)
            limit = f"+-{MAX_LOGIT:g}" if name == "opacity_logits" else f"{MIN_LOG_SCALE:g}"
            notes.append(f"{rows:,} of {num:,} Gaussians have infinite {name}, which become {limit}")
    good = np.ones(num, bool)
    for values in found.values():
        good &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if good.all():
        return saved.replaced(found, *notes)
    if keep_nan or not good.any():
        fix = "leave out --keep-nan to leave out these Gaussians" if good.any() else "give another model"
        raise InputError(path, "finite values", str(first_not_finite(found)), fix)
    notes.append(f"{num - int(good.sum()):,} of {num:,} Gaussians have values that are not finite and are left out")
    return saved.replaced({name: values[good] for name, values in found.items()}, *notes)


def first_not_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """The first value that is NaN or infinite, with its place, for messages; None: all are finite."""
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            place = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
            return f"{name}{''.join(f'[{i}]' for i in place[1:])} = {values[place]} in Gaussian {place[0]}"
    return None
