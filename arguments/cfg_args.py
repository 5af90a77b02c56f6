"""``cfg_args`` of a 3DGS run: ``Namespace(eval=True, ...)``, read as literals; nothing of it is evaluated."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from compact_splats.utils.errors import InputError
from compact_splats.utils.files import open_file

_MAX_BYTES = 1 << 16
_FIX = "give the flags, such as -s, or remove the file"


def read_cfg_args(path: Path) -> dict[str, Any]:
    """The values of a ``cfg_args`` that are literals, by name.

    Raises:
        InputError: no such file, or not a ``Namespace(name=literal, ...)``.
    """
    with open_file(path, "the cfg_args of a 3DGS run", _FIX) as file:
        content = file.read(_MAX_BYTES + 1)
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        call = ast.parse(content.decode("utf-8").strip(), mode="eval").body
        match call:
            case ast.Call(func=ast.Name("Namespace"), args=[], keywords=keywords):
                pairs = [(keyword.arg, _literal(keyword.value)) for keyword in keywords if keyword.arg]
            case _:
                raise ValueError("something else")
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:  # ValueError: no literal
        raise InputError(path, "Namespace(name=value, ...) with plain values", f"'{error}'", _FIX) from error
    return dict(pairs)


def _literal(node: ast.expr) -> Any:
    """A literal; of a path, as ``PosixPath('/data')``, the text."""
    match node:
        case ast.Call(func=ast.Name("PosixPath" | "WindowsPath" | "Path"), args=[ast.Constant(str(text))], keywords=[]):
            return text
    return ast.literal_eval(node)
