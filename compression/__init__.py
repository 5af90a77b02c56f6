"""Trained models made small: arrays in, bytes out, and the files of other tools.

    from compression import encode, decode
    data = encode(rows)  # float32 arrays by the names and in the shapes of GaussianModel.rows
    rows = decode(data)

``docs/gsz.md`` is the format of these bytes.
"""

from compression.codec import decode, encode
from compression.container import FormatError
from compression.files import read_model, write_gsz
from compression.viewpoints import Viewpoints

__all__ = ["FormatError", "Viewpoints", "decode", "encode", "read_model", "write_gsz"]
