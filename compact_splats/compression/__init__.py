"""Compression of trained models: the .gsz codec, the post-hoc stage, and formats of other tools.

    from compact_splats import encode, decode
    data = encode(arrays)  # float32, by name and in the shapes of GaussianModel.parameters
    arrays = decode(data)

``docs/gsz.md`` specifies the format.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ColorBasis": "color_basis",
    "FormatError": "container",
    "decode": "codec",
    "encode": "codec",
    "load_model": "load",
    "read_model": "files",
    "write_gsz": "files",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
