"""PLY files: the one reader and the one writer of their elements.

Reads ascii and binary of either byte order, and checks every count against the file's size. An element with list
properties is skipped, or refused where it is the one to read. Writes binary_little_endian.
"""

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write, open_file

Columns = dict[str, np.ndarray]  # the properties of an element, by name: (N,) each
_MAX_HEADER = 1 << 16  # bytes
_MAX_COUNT = 1 << 48  # so that sizes stay far within 64 bits
_BYTE_ORDER = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_KINDS = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"},
}


_NAMES = {"u1": "uchar", "u4": "uint", "f4": "float"}  # of the types that are written


class _Broken(ValueError):
    """What is wrong with a file: expected and found."""


@dataclass(frozen=True)
class _Element:
    """An element of the header; the type of a list is a pair: of its length and of its items."""

    name: str
    count: int
    kinds: dict[str, str | tuple[str, str]] = field(default_factory=dict)

    @property
    def has_lists(self) -> bool:
        return any(isinstance(kind, tuple) for kind in self.kinds.values())

    def dtype(self, order: str) -> np.dtype:
        """Of a row without lists."""
        return np.dtype([(name, f"{order}{kind}") for name, kind in self.kinds.items()])


# ---- writing ----


def write_elements(path: str | Path, elements: Mapping[str, np.ndarray], comments: Sequence[str] = ()) -> None:
    """Write a file of elements.

    Args:
        path: the file; replaced in one move.
        elements: structured arrays (N,) of little-endian columns, by the element's name.
        comments: lines of the header, in ASCII.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_write(path, num_bytes=sum(table.nbytes for table in elements.values())) as temporary:
        with open(temporary, "wb") as file:
            for part in _parts(elements, comments):
                file.write(part)


def _parts(elements: Mapping[str, np.ndarray], comments: Sequence[str]) -> Iterator[bytes | memoryview]:
    """The bytes of the file, piece by piece: the arrays are not copied."""
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {each}" for each in comments)]
    for name, table in elements.items():
        lines.append(f"element {name} {len(table)}")
        lines += [f"property {_NAMES[kind.lstrip('<|')]} {column}" for column, kind, *_ in table.dtype.descr]
    yield "\n".join([*lines, "end_header", ""]).encode("ascii")
    for table in elements.values():
        yield np.ascontiguousarray(table).view(np.uint8).data


# ---- reading ----


def read_elements(path: str | Path, names: Sequence[str], fix: str) -> dict[str, Columns]:
    """Read elements of a file.

    Args:
        path: a PLY file.
        names: of the elements; what follows the last of them is not read.
        fix: what the user can do about a broken file, for the message.

    Returns:
        For each of ``names`` that the file has, arrays (N,) by property, in the file's order; from ascii
        float64, or the whole numbers that the header declares.

    Raises:
        InputError: no such file, no PLY, one that is shorter than its header says, or lists in one of these elements.
    """
    with open_file(path, "a PLY file", "check the path") as file:
        try:
            return _read(file, os.path.getsize(path), names)
        except _Broken as error:
            expected, found = error.args
            raise InputError(path, expected, found, fix) from error


def read_element(path: str | Path, name: str, fix: str) -> Columns:
    """Read one element, see :func:`read_elements`.

    Raises:
        InputError: as there, or the file has no such element.
    """
    elements = read_elements(path, [name], fix)
    if name not in elements:
        raise InputError(path, f"the element '{name}'", "none", fix)
    return elements[name]


def read_comments(path: str | Path) -> list[str]:
    """The comments of the header, without the word ``comment``.

    Raises:
        InputError: no such file, or no PLY.
    """
    with open_file(path, "a PLY file", "check the path") as file:
        start = file.read(_MAX_HEADER)
    try:
        end = _header(start)[2]
    except _Broken as error:
        expected, found = error.args
        raise InputError(path, expected, found, "check the path") from error
    lines = (line.split(None, 1) for line in start[:end].decode("latin-1").splitlines())
    return [words[1] for words in lines if len(words) == 2 and words[0] == "comment"]


def _read(file: BinaryIO, num_bytes: int, names: Sequence[str]) -> dict[str, Columns]:
    order, elements, start = _header(file.read(_MAX_HEADER))
    file.seek(start)
    last = max((i for i, element in enumerate(elements) if element.name in names), default=-1)
    found = {}
    for element in elements[: last + 1]:
        _check_count(element, num_bytes - file.tell(), is_text=not order)
        if element.name in names:
            found[element.name] = _columns(file, element, order)
        elif not order:
            _skip_lines(file, element.count)
        elif element.has_lists:
            _skip_lists(file, element, order)
        else:
            file.seek(element.count * element.dtype(order).itemsize, os.SEEK_CUR)
    return found


# ---- header ----


def _header(start: bytes) -> tuple[str, list[_Element], int]:
    """Byte order ("" for text), elements, and where their data starts."""
    opening = re.match(rb"(?:\xef\xbb\xbf)?ply(\r\n|\n|\r)", start)  # some editors write a byte order mark
    if not opening:
        raise _Broken("a PLY file", f"one that starts with {start[:8]!r}")
    newline = rb"\r" if opening[1] == b"\r" else rb"\r?\n"  # some writers mix \n and \r\n
    last = re.search(rb"[\r\n]end_header[ \t]*" + newline, start)
    if not last:
        raise _Broken(f"the end of a PLY header within {_MAX_HEADER:,} bytes", "none")
    order, elements = None, {}
    for line in re.split(newline.decode(), start[opening.end() : last.start()].decode("latin-1")):
        match line.split():
            case ["format", kind, "1.0"] if order is None and kind in _BYTE_ORDER:
                order = _BYTE_ORDER[kind]
            case ["element", name, count] if order is not None and name not in elements:
                element = elements[name] = _Element(name, _count(count))
            case ["property", *words] if elements:
                _add_property(element, words)
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise _Broken("the lines of a PLY header", f"'{line[:80]}'")
    if order is None:
        raise _Broken("the format of a PLY file, ascii or binary", "none")
    return order, list(elements.values()), last.end()


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 16 and int(word) <= _MAX_COUNT):
        raise _Broken("a number of rows in a PLY header", f"'{word[:80]}'")
    return int(word)


def _add_property(element: _Element, words: list[str]) -> None:
    kind: str | tuple[str, str]
    match words:
        case ["list", length, item, name] if length in _KINDS and item in _KINDS:
            kind = (_KINDS[length], _KINDS[item])
        case [item, name] if item in _KINDS:
            kind = _KINDS[item]
        case _:
            raise _Broken("a property of a PLY header", f"'{' '.join(words)[:80]}'")
    if name in element.kinds:
        raise _Broken("properties with names of their own", f"'{name}' twice in '{element.name}'")
    element.kinds[name] = kind


# ---- data ----


def _check_count(element: _Element, num_bytes: int, is_text: bool) -> None:
    """Refuse a count that the bytes left cannot hold, before any memory is allocated for it."""
    if is_text:
        row_size = 2 * len(element.kinds) or 1  # a digit and a separator
        missing = 1  # no separator after the last digit
    else:
        kinds = [kind[0] if isinstance(kind, tuple) else kind for kind in element.kinds.values()]
        row_size, missing = sum(int(kind[1]) for kind in kinds), 0
    if element.count and (not element.kinds or element.count * row_size > num_bytes + missing):
        expected = f"{element.count:,} rows of '{element.name}' as the header says"
        raise _Broken(expected, f"{max(num_bytes, 0):,} bytes")


def _columns(file: BinaryIO, element: _Element, order: str) -> Columns:
    if element.has_lists:
        raise _Broken(f"numbers as '{element.name}' of a PLY file", "lists")
    if not order:
        table = _numbers(file, element.count * len(element.kinds)).reshape(element.count, len(element.kinds))
        return {name: _declared(table[:, i], str(kind)) for i, (name, kind) in enumerate(element.kinds.items())}
    table = np.fromfile(file, element.dtype(order), element.count)
    if len(table) != element.count:  # the file has become shorter
        raise _Broken(f"{element.count:,} rows of '{element.name}'", f"{len(table):,}")
    return {name: table[name] for name in element.kinds}


def _declared(values: np.ndarray, kind: str) -> np.ndarray:
    """Numbers of a text as the type of the header where it is one of whole numbers that holds them."""
    if kind[0] in "iu" and len(values):
        with np.errstate(invalid="ignore"):
            whole = values.astype(kind)
        if np.array_equal(whole, values):
            return whole
    return values


def _numbers(file: BinaryIO, count: int) -> np.ndarray:
    """(count,) float64 from text."""
    if not count:
        return np.empty(0)
    try:
        with warnings.catch_warnings():  # numpy before 2.4 warns where it meets something else than a number
            warnings.simplefilter("ignore", DeprecationWarning)
            numbers = np.fromfile(file, np.float64, count, sep=" ")
    except ValueError:
        raise _Broken(f"{count:,} numbers", "something else") from None
    if len(numbers) != count:
        raise _Broken(f"{count:,} numbers", f"{len(numbers):,}")
    return numbers


def _skip_lines(file: BinaryIO, count: int) -> None:
    for i in range(count):
        if not file.readline():
            raise _Broken(f"{count:,} lines of an element", f"{i:,}")


def _skip_lists(file: BinaryIO, element: _Element, order: str) -> None:
    """Skip the rows of an element with lists, one by one; the next length fails where the file is too short."""
    for _ in range(element.count):
        for kind in element.kinds.values():
            num_bytes = int(kind[-1][1]) if isinstance(kind, tuple) else int(kind[1])
            if isinstance(kind, tuple):
                length = file.read(int(kind[0][1]))
                if len(length) < int(kind[0][1]):
                    raise _Broken(f"{element.count:,} rows of '{element.name}'", "the end of the file")
                num_bytes *= _list_length(length, order + kind[0])
            file.seek(num_bytes, os.SEEK_CUR)


def _list_length(content: bytes, kind: str) -> int:
    length = np.frombuffer(content, kind)[0]
    if kind[1] == "f" or length < 0:
        raise _Broken("lists with a whole number as their length", f"{length} of type {kind[1:]}")
    return int(length)
