"""The PLY of a trained model, in the layout of 3DGS. For point clouds see ``scene.points``."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from compact_splats.scene.normalization import Vector
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
_REST_COUNTS = tuple(3 * ((degree + 1) ** 2 - 1) for degree in range(4))  # 0, 9, 24, 45


def write(path: str | Path, arrays: dict[str, np.ndarray], offset: Vector = (0.0, 0.0, 0.0)) -> None:
    """Write a model, values before activation.

    Args:
        path: the file; replaced in one move.
        arrays: float32, by name and in the shapes of ``GaussianModel.parameters``.
        offset: was subtracted from the coordinates; a comment says so unless it is zero.

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
    write_elements(
        path, {"vertex": table.view([(name, "<f4") for name in names]).reshape(num)}, offset_comments(offset)
    )


def offset_comments(offset: Vector) -> list[str]:
    """The comments of a PLY from whose coordinates ``offset`` was subtracted; none for zero."""
    return [f"{_OFFSET} {' '.join(map(repr, offset))}", "add the offset to x y z"] if any(offset) else []


def read_offset(path: str | Path) -> Vector | None:
    """The offset that a comment of the file names; None: there is no such comment.

    Raises:
        InputError: no such file, or no PLY.
    """
    for comment in read_comments(path, "save or download the model again"):
        name, *numbers = comment.split() or [""]
        if name == _OFFSET and len(numbers) == 3:
            try:
                x, y, z = map(float, numbers)
            except ValueError:
                continue
            if math.isfinite(x) and math.isfinite(y) and math.isfinite(z):
                return x, y, z
    return None


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Read a model of SH degree 0 to 3, its properties in any order; extra ones are ignored.

    Args:
        path: a PLY file with a ``vertex`` element in the 3DGS layout.

    Returns:
        Float32 arrays, by name and in the shapes of ``GaussianModel.parameters``, of the file's SH degree.

    Raises:
        InputError: no such file, not a PLY, missing properties, SH properties of no whole degree, or values that are
            not finite.
    """
    path = Path(path)
    vertices = read_element(path, "vertex", "save or download the model again")
    names = set(vertices)
    missing = [name for group in _COLUMNS_OF.values() for name in group if name not in names]
    if missing:
        raise InputError(f"{path} is no 3DGS model: its vertices have no {', '.join(missing)}; give a trained model")
    num_rest = sum(name.startswith("f_rest_") for name in names)
    rest_names = [f"f_rest_{i}" for i in range(num_rest)]
    if num_rest not in _REST_COUNTS or not names.issuperset(rest_names):
        counts = ", ".join(map(str, _REST_COUNTS))
        raise InputError(
            path, f"{counts} properties f_rest_0, f_rest_1, ...", f"{num_rest}", "give a model of SH degree 0 to 3"
        )
    num = len(vertices["x"])
    arrays = {name: _table(path, vertices, columns) for name, columns in _COLUMNS_OF.items()}
    arrays["sh_dc"] = arrays["sh_dc"].reshape(num, 1, 3)
    rest = _table(path, vertices, rest_names).reshape(num, 3, num_rest // 3)
    arrays["sh_rest"] = np.ascontiguousarray(rest.transpose(0, 2, 1))
    return arrays


def _table(path: Path, vertices: Columns, names: list[str] | tuple[str, ...]) -> np.ndarray:
    table = np.empty((len(vertices["x"]), len(names)), np.float32)
    for column, name in enumerate(names):
        table[:, column] = to_float32(vertices[name])
    bad = np.argwhere(~np.isfinite(table))
    if len(bad):
        row, column = map(int, bad[0])
        value = f"{names[column]} = {table[row, column]} in vertex {row}"
        raise InputError(path, "finite values", value, "repair the model or train it again")
    return table
