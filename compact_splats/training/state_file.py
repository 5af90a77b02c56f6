"""One file for nested Python values with tensors among them: a JSON header, raw arrays, a digest of all that.

Reading makes numbers, text and tensors, and nothing else, of a file's bytes; there is no code in it that could run.
What the values mean is for the caller, see ``utils/checkpoint.py``.

    8 bytes     magic
    4, 8 bytes  version, length of the JSON (little-endian)
    JSON        {"about": ..., "state": ..., "tensors": [[dtype, shape], ...]}
    arrays      one after the other, in the order of "tensors", in the machine's order of bytes (little-endian)
    32 bytes    SHA-256 of all before
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAGIC = b"\x89CSS\r\n\x1a\n"  # as in PNG: shows a file sent as text
VERSION = 1
_PRELUDE = struct.Struct("<8sIQ")
_DIGEST = hashlib.sha256().digest_size
_BLOCK = 1 << 20  # bytes
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool)
}


class DamagedFile(Exception):
    """Not the file that was written; the message says in a few words why."""


def write_state(path: Path, about: dict[str, Any], state: Any) -> None:
    """Write a file.

    Args:
        path: it is written from its beginning; making that atomic is for the caller.
        about: what JSON can hold, to be read without the rest.
        state: dicts, lists and tuples of None, bool, int, float, str and tensors. Those on a GPU go through main
            memory one at a time.

    Raises:
        OSError: the file can't be written.
    """
    tensors: list[Tensor] = []
    header: dict[str, Any] = {"about": about, "state": _encode(state, tensors)}
    header["tensors"] = [[str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for tensor in tensors]
    text = json.dumps(header, separators=(",", ":")).encode()
    total = hashlib.sha256()
    with path.open("wb") as file:
        for piece in itertools.chain((_PRELUDE.pack(MAGIC, VERSION, len(text)), text), map(_bytes_of, tensors)):
            total.update(piece)
            file.write(piece)
        file.write(total.digest())


def num_bytes(state: Any) -> int:
    """Bytes of the arrays of a state, which is what its file has at least."""
    tensors: list[Tensor] = []
    _encode(state, tensors)
    return sum(tensor.nbytes for tensor in tensors)


def in_main_memory(state: Any) -> Any:
    """The same state with no tensor left on a GPU."""
    if isinstance(state, dict):
        return {name: in_main_memory(each) for name, each in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(map(in_main_memory, state))
    return state.detach().cpu() if isinstance(state, Tensor) else state


def read_about(path: Path) -> dict[str, Any]:
    """Check the whole file and read what it is about.

    Raises:
        DamagedFile: a byte is missing, changed or too many, or the version is another.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        return _read_header(file)["about"]


def read_state(path: Path) -> Any:
    """Check the whole file and read its state.

    Returns:
        The state as it was written; tensors are in main memory, and take no more of it than the file is long.

    Raises:
        DamagedFile: a byte is missing, changed or too many, or the version is another.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        header = _read_header(file)
        try:
            shapes = [(_DTYPES[name], _sizes(shape)) for name, shape in header["tensors"]]
            num_bytes = [math.prod(shape) * dtype.itemsize for dtype, shape in shapes]
            if sum(num_bytes) != os.fstat(file.fileno()).st_size - _DIGEST - file.tell():
                raise DamagedFile("arrays of other sizes than it says")
            tensors = [_read_tensor(file, *each) for each in shapes]
            return _decode(header["state"], tensors)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise DamagedFile(f"a header that makes no sense ({type(error).__name__})") from error


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _read_header(file: BinaryIO) -> dict[str, Any]:
    """The JSON of a file whose digest is right; the file is at the first array then."""
    size = os.fstat(file.fileno()).st_size
    magic, version, length = _PRELUDE.unpack(_exactly(file, _PRELUDE.size))
    if magic != MAGIC:
        raise DamagedFile("another kind of file")
    if version != VERSION:
        raise DamagedFile(f"version {version}, which this program does not know")
    if _PRELUDE.size + length + _DIGEST > size:
        raise DamagedFile("a file that is cut off")
    _check_digest(file, size)
    file.seek(_PRELUDE.size)
    try:
        header = json.loads(_exactly(file, length))
    except (ValueError, RecursionError) as error:
        raise DamagedFile("a header that is no JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("about"), dict):
        raise DamagedFile("a header that makes no sense")
    return header


def _check_digest(file: BinaryIO, size: int) -> None:
    total, left = hashlib.sha256(), size - _DIGEST
    file.seek(0)
    while left:
        block = _exactly(file, min(left, _BLOCK))
        total.update(block)
        left -= len(block)
    if total.digest() != _exactly(file, _DIGEST):
        raise DamagedFile("bytes that are not those that were written")


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise DamagedFile("a file that is cut off")
    return data


def _sizes(shape: list[int]) -> tuple[int, ...]:
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(shape)
    return tuple(shape)


def _read_tensor(file: BinaryIO, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    data = bytearray(math.prod(shape) * dtype.itemsize)
    if not data:
        return torch.empty(shape, dtype=dtype)
    if file.readinto(data) != len(data):
        raise DamagedFile("a file that is cut off")
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


def _encode(value: Any, tensors: list[Tensor]) -> Any:
    """As JSON can hold it: all but plain values and lists become an object with one entry, the name of its kind."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, dict):
        return {"dict": [[_encode(key, tensors), _encode(each, tensors)] for key, each in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_encode(each, tensors) for each in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    assert value is None or isinstance(value, (bool, int, float, str)), f"{type(value).__name__} in a state"
    return value


def _decode(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_decode(each, tensors) for each in content)
    if kind == "dict":
        return {_decode(key, tensors): _decode(each, tensors) for key, each in content}
    raise ValueError(kind)
