"""Trained models made small: arrays in, bytes out, and the files of other tools.

    from compression import encode, decode
    data = encode(rows)  # float32 arrays by the names and in the shapes of GaussianModel.rows
    rows = decode(data)

``docs/gsz.md`` is the format of these bytes.

From Python 3.14 on the standard library has a package of this name, which ``lzma``, ``gzip`` and others import from.
Its modules stay within reach of them, and nothing of ours is loaded before it is asked for.
"""

from importlib import import_module
from pkgutil import extend_path
from typing import Any

__path__ = extend_path(__path__, __name__)
_HOMES = {
    "FormatError": "container",
    "Viewpoints": "viewpoints",
    "decode": "codec",
    "encode": "codec",
    "read_model": "files",
    "write_gsz": "files",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
