"""The PLY of a trained model: the layout of 3DGS, and variants of other tools. For point clouds see ``scene.points``.

Read, too: 2DGS (two scales), colours as red, green, blue in place of f_dc, CloudCompare's names with scalar_ in front,
SH of degree 4, and comments that mark an anti-aliased model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compact_splats.scene.normalization import offset_of_points
from compact_splats.scene.parameters import SH_C0, SavedArrays, Vector, cleaned, is_antialiased, is_nested, offset_of
from compact_splats.scene.ply_file import Columns, read_comments, read_element, write_elements
from compact_splats.utils.errors import InputError
from compact_splats.utils.floats import to_float32

_COLUMNS_OF = {
    "means": ("x", "y", "z"),
    "sh_dc": ("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacity_logits": ("opacity",),
    "log_scales": ("scale_0", "scale_1", "scale_2"),
    "quats": ("rot_0", "rot_1", "rot_2", "rot_3"),
}
_OFFSET = "offset"  # the comment
_RGB = ("red", "green", "blue")
_PREFIX = "scalar_"  # of CloudCompare
_FLAT = math.log(1e-6)  # the third log-scale of a 2DGS model, as in splat-transform
_MAX_DEGREE = 4
_REST_COUNTS = tuple(3 * ((degree + 1) ** 2 - 1) for degree in range(_MAX_DEGREE + 1))
_FIX = "save or download the model again"
MIP = "SplatRenderMode: mip"  # comment of an anti-aliased model, from Brush
NESTED = "nested"  # comment of a nested model


def write(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a model, values before activation, with comments for the marks that it has.

    Args:
        path: the file; replaced in one move.
        arrays: float32, by name and in the shapes of ``GaussianModel.parameters``; ``SavedArrays`` for the marks.

    Raises:
        InputError: the file cannot be written.
    """
    num = len(arrays["means"])
    rest = arrays["sh_rest"].transpose(0, 2, 1)  # channel-major: all of red, then green, then blue
    rest = rest.reshape(num, 3 * arrays["sh_rest"].shape[1])
    columns = {
        _COLUMNS_OF["means"]: arrays["means"],
        ("nx", "ny", "nz"): np.zeros((num, 3), np.float32),
        _COLUMNS_OF["sh_dc"]: arrays["sh_dc"].reshape(num, 3),
        tuple(f"f_rest_{i}" for i in range(rest.shape[1])): rest,
        _COLUMNS_OF["opacity_logits"]: arrays["opacity_logits"],
        _COLUMNS_OF["log_scales"]: arrays["log_scales"],
        _COLUMNS_OF["quats"]: arrays["quats"],
    }
    names = [name for group in columns for name in group]
    table = np.ascontiguousarray(np.concatenate(list(columns.values()), axis=1), "<f4")
    table = table.view([(name, "<f4") for name in names]).reshape(num)
    order = [NESTED] if is_nested(arrays) else []
    write_elements(path, {"vertex": table}, [*comments_of(arrays), *order])


def offset_comments(offset: Vector | None) -> list[str]:
    """The comments of a PLY from whose coordinates ``offset`` was subtracted; none for zero."""
    return [f"{_OFFSET} {' '.join(map(repr, offset))}", "add the offset to x y z"] if offset and any(offset) else []


def read_offset(path: str | Path) -> Vector | None:
    """The offset that a comment of the file names; None: there is no such comment.

    Raises:
        InputError: no such file, or no PLY.
    """
    for comment in read_comments(path):
        name, *numbers = comment.split() or [""]
        if name == _OFFSET and len(numbers) == 3:
            try:
                x, y, z = map(float, numbers)
            except ValueError:
                continue
            if math.isfinite(x) and math.isfinite(y) and math.isfinite(z):
                return x, y, z
    return None


def read(path: str | Path, *, keep_nan: bool = False) -> SavedArrays:
    """Read a model of SH degree 0 to 4, its properties in any order; extra ones are ignored.

    Args:
        path: a PLY file with a ``vertex`` element in the 3DGS layout or a variant of it.
        keep_nan: refuse values that are not finite instead of leaving out their Gaussians.

    Returns:
        Finite float32 arrays, by name and in the shapes of ``GaussianModel.parameters``, of the file's SH degree or 3.
        Coordinates in double that float32 is too coarse for are minus an offset.

    Raises:
        InputError: no such file, not a PLY, missing properties, or SH properties of no whole degree.
    """
    path = Path(path)
    vertices = read_element(path, "vertex", _FIX)
    renamed = {name: name.removeprefix(_PREFIX) for name in vertices if name.startswith(_PREFIX)}
    vertices = {name if renamed.get(name, name) in vertices else renamed[name]: vertices[name] for name in vertices}
    notes = _add_missing(vertices)
    missing = [name for group in _COLUMNS_OF.values() for name in group if name not in vertices]
    if missing:
        raise InputError(f"{path} is no 3DGS model: its vertices have no {', '.join(missing)}; give a trained model")
    num_rest = sum(name.startswith("f_rest_") for name in vertices)
    rest_names = [f"f_rest_{i}" for i in range(num_rest)]
    if num_rest not in _REST_COUNTS or not set(rest_names) <= set(vertices):
        counts = ", ".join(map(str, _REST_COUNTS))
        fix = f"give a model of SH degree 0 to {_MAX_DEGREE}"
        raise InputError(path, f"{counts} properties f_rest_0, f_rest_1, ...", f"{num_rest}", fix)
    num = len(vertices["x"])
    offset = read_offset(path)
    if offset is None and any(vertices[axis].dtype == np.float64 for axis in "xyz"):
        offset = offset_of_points(np.stack([vertices[axis].astype(np.float64) for axis in "xyz"], axis=1))
        for axis, shift in zip("xyz", offset or (0.0, 0.0, 0.0), strict=True):
            vertices[axis] = vertices[axis] - shift
    arrays = {name: _table(vertices, columns) for name, columns in _COLUMNS_OF.items()}
    arrays["sh_dc"] = arrays["sh_dc"].reshape(num, 1, 3)
    rest = _table(vertices, rest_names).reshape(num, 3, num_rest // 3)
    arrays["sh_rest"] = np.ascontiguousarray(rest.transpose(0, 2, 1))
    nested = NESTED in read_comments(path)
    return cleaned(path, SavedArrays(arrays, marked_antialiased(path), notes, offset, nested), keep_nan)


def marked_antialiased(path: str | Path) -> bool:
    """Whether a comment of a PLY says so, in the words of Brush or of Postshot; the last one counts."""
    mark = False
    for comment in read_comments(path):
        match comment.lower().replace(":", " ").split():
            case ["splatrendermode", mode]:
                mark = mode == "mip"
            case ["antialiased", value]:
                mark = value in ("1", "true")
    return mark


def comments_of(arrays: dict[str, np.ndarray]) -> list[str]:
    """The comments that mark a model; none for most, because some readers refuse comments."""
    return [*([MIP] if is_antialiased(arrays) else []), *offset_comments(offset_of(arrays))]


def _add_missing(vertices: Columns) -> list[str]:
    """Add columns that follow from others, in place; sentences about them."""
    notes = []
    if "f_dc_0" not in vertices and all(name in vertices for name in _RGB):
        for name, color in zip(_COLUMNS_OF["sh_dc"], _RGB, strict=True):
            vertices[name] = (_fractions([vertices[each] for each in _RGB], vertices[color]) - 0.5) / SH_C0
        notes.append("colours are read from red, green and blue")
    given = [name for name in _COLUMNS_OF["log_scales"] if name in vertices]
    if given == ["scale_0", "scale_1"]:
        vertices["scale_2"] = np.full(len(vertices["scale_0"]), _FLAT, np.float32)
        notes.append("a 2DGS model: each disc is read as a Gaussian of thickness 1e-6, so its picture differs a little")
    elif given == ["scale_0"]:
        vertices["scale_1"] = vertices["scale_2"] = vertices["scale_0"]
        notes.append("one scale per Gaussian is read as three equal ones")
    return notes


def _fractions(colors: Sequence[np.ndarray], values: np.ndarray) -> np.ndarray:
    """Colours from 0 to 1 as float64: whole numbers by the range of their type, floats by the largest of all."""
    if values.dtype.kind in "iu":
        return values / float(np.iinfo(values.dtype).max)
    with np.errstate(invalid="ignore"):
        largest = max((float(np.nanmax(each, initial=0)) for each in colors), default=0)
    return values / (1.0 if largest <= 1 else 255.0 if largest <= 255 else 65535.0)


def _table(vertices: Columns, names: Sequence[str]) -> np.ndarray:
    table = np.empty((len(vertices["x"]), len(names)), np.float32)
    for column, name in enumerate(names):
        table[:, column] = to_float32(vertices[name])
    return table
