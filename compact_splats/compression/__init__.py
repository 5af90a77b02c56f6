"""Trained models made small: arrays in, bytes out, and the files of other tools.

    from compact_splats.compression import encode, decode
    data = encode(rows)  # float32 arrays by the names and in the shapes of GaussianModel.parameters
    rows = decode(data)

``docs/gsz.md`` is the format of these bytes.
"""

from importlib import import_module
from typing import Any

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
