"""Entropy coding of integers: asymmetric numeral systems with counted frequencies  [J. Duda, arXiv 2013].

A context is a number that the decoder knows before a symbol, from earlier symbols; each context has a frequency table.
Similar contexts have neighbouring numbers, so that they can share a table where symbols are few. The coder is
constriction's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import constriction
import numpy as np

from compact_splats.compression.container import FormatError, lzma_pack, lzma_unpack

AnsCoder, Categorical = constriction.stream.stack.AnsCoder, constriction.stream.model.Categorical

MAX_LEVELS = 1 << 16  # symbols in all tables of a field
MAX_TABLES = 1 << 22  # bytes of all tables: a small file cannot allocate much memory
MAX_SHIFT = 8  # bits of a context
MAX_WIDTH = 57  # bits of a number in `pack_bits`: it starts anywhere in the first of the eight bytes that are read
_TABLE_BITS, _SYMBOL_BITS = 10, 4  # estimated cost of a table, and of each symbol in it, after LZMA
_MAX_COUNTS = 1 << 22  # symbols times contexts; with more, a field has one table
# Frequencies are rounded to quarter octaves, as integers: all machines compute the same tables from them.
_MANTISSAS = (16, 19, 23, 27)
_FREQUENCIES = np.array([0.0] + [m << octave for octave in range(32) for m in _MANTISSAS])
_BOUNDS = (_FREQUENCIES[1:-1] * _FREQUENCIES[2:]) ** 0.5


class Contexts:
    """The contexts of symbols; several fields can share them.

    Args:
        numbers: (N,) from 0 to 255; symbols of one context share a table.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers.astype(np.uint8, copy=False)  # numpy sorts these by counting
        self.order = np.argsort(self.numbers, kind="stable")
        self.counts = np.bincount(self.numbers, minlength=1 << MAX_SHIFT)

    def runs(self, shift: int) -> tuple[np.ndarray, np.ndarray]:
        """The contexts in use, shortened by ``shift`` bits, and the number of symbols of each."""
        sizes = self.counts.reshape(-1, 1 << shift).sum(1)
        used = np.flatnonzero(sizes)
        return used, sizes[used]


class SharedTables(NamedTuple):
    """Tables of several fields: bits by which contexts are shortened, contexts that have a table, and the tables."""

    shift: int
    used: np.ndarray
    lows: np.ndarray
    models: list[Any]


class SymbolWriter:
    """Encodes fields of integers, one after the other."""

    def __init__(self) -> None:
        self._tables = [np.zeros(0, np.uint8)]
        self._pieces: list[tuple[np.ndarray, Any]] = []  # symbols and their ``Categorical``

    def write(self, symbols: np.ndarray, contexts: Contexts | None = None) -> None:
        """Append a field.

        Args:
            symbols: (N,) integers of at most 32 bits, in a range of at most 2^16.
            contexts: of these symbols.
        """
        if not len(symbols):
            return
        symbols = symbols.astype(np.int32)
        parts = [symbols]
        if contexts is not None:
            in_order = symbols[contexts.order]
            shift = _best_shift(in_order, contexts)
            self._tables.append(np.array([shift], np.uint8))
            parts = np.split(in_order, np.cumsum(contexts.runs(shift)[1])[:-1])
        lows, models = self._write_tables(parts)
        for part, low, model in zip(parts, lows, models, strict=True):
            self._write_piece(part - low, model)

    def write_together(self, fields: Sequence[tuple[np.ndarray, Contexts]]) -> None:
        """Append fields that share the tables of their contexts; fields without a symbol between them take no bytes.

        Args:
            fields: symbols and contexts of each, see :meth:`write`.
        """
        contexts = Contexts(np.concatenate([np.zeros(0, np.uint8)] + [each.numbers for _, each in fields]))
        if not len(contexts.numbers):
            return
        in_order = np.concatenate([symbols for symbols, _ in fields]).astype(np.int32)[contexts.order]
        shift = _best_shift(in_order, contexts)
        used, sizes = contexts.runs(shift)
        self._tables.append(np.array([shift, len(used)], np.uint8))
        self._tables.append(used.astype(np.uint8))
        lows, models = self._write_tables(np.split(in_order, np.cumsum(sizes)[:-1]))
        for symbols, own in fields:
            own_used, own_sizes = own.runs(shift)
            pieces = np.split(symbols[own.order].astype(np.int32), np.cumsum(own_sizes)[:-1])
            for table, piece in zip(np.searchsorted(used, own_used).tolist(), pieces, strict=False):
                self._write_piece(piece - lows[table], models[table])

    def write_bytes(self, data: bytes) -> None:
        """Append bytes to the tables."""
        self._tables.append(np.frombuffer(data, np.uint8))

    def _write_tables(self, parts: list[np.ndarray]) -> tuple[list[int], list[Any]]:
        """Append the table of each part; returns their lowest symbols, and each ``Categorical`` or None."""
        lows = [int(part.min()) for part in parts]
        counts = [np.bincount(part - low) for part, low in zip(parts, lows, strict=True)]
        sizes = [len(each) for each in counts]
        assert max(sizes) <= MAX_LEVELS, f"symbols from {min(lows)} on, {max(sizes)} of them"
        levels = np.concatenate([_levels(each) for each in counts])
        self._tables += [np.array([lows, sizes], "<i4").reshape(-1).view(np.uint8), levels]
        return lows, [_model(shares) for shares in _shares(levels, np.array(sizes))]

    def _write_piece(self, places: np.ndarray, model: Any) -> None:
        """Append symbols less the lowest of their table; a single symbol takes no bits."""
        if model is not None:
            self._pieces.append((places, model))

    def streams(self) -> dict[str, bytes]:
        """The streams for :class:`SymbolReader`, by name."""
        coder = AnsCoder()
        for piece, model in reversed(self._pieces):  # a stack: coded last, read first
            coder.encode_reverse(piece, model)
        tables = np.concatenate(self._tables).tobytes()
        return {
            "tables": len(tables).to_bytes(4, "little") + lzma_pack(tables),
            "symbols": coder.get_compressed().astype("<u4").tobytes(),
        }


class SymbolReader:
    """Decodes the fields of a :class:`SymbolWriter`, in the same order.

    Raises:
        FormatError: damaged streams, here or when a field is read.
    """

    def __init__(self, streams: dict[str, bytes]) -> None:
        packed, words = streams["tables"], streams["symbols"]
        size = int.from_bytes(packed[:4], "little")
        if len(packed) < 4 or size > MAX_TABLES:
            raise FormatError(f"tables of up to {MAX_TABLES:,} bytes", f"{size:,} in {len(packed):,}")
        if len(words) % 4 or words[-4:] == bytes(4):
            raise FormatError("words of which the last is not 0", f"{len(words):,} bytes that end in {words[-4:]!r}")
        self._tables = np.frombuffer(lzma_unpack(packed[4:], size), np.uint8)
        self._position = 0
        self._coder = AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))

    def read(self, out: np.ndarray, limits: tuple[int, int], contexts: Contexts | None = None) -> None:
        """Decode a field into ``out``.

        Args:
            out: (N,) of an integer type that holds the limits; N as it was written.
            limits: the lowest and the highest valid symbol.
            contexts: the same as for the writer.
        """
        if not len(out):
            return
        sizes = np.array([len(out)]) if contexts is None else contexts.runs(self._next_shift())[1]
        lows, models = self._next_tables(len(sizes), limits)
        self._fill(out, lows, models, sizes, slice(None) if contexts is None else contexts.order)

    def tables_of_fields(self, limits: tuple[int, int]) -> SharedTables:
        """Read the tables of fields that were written together; :meth:`read_one` reads each field."""
        shift, count = self._next_shift(), int(self._take(1, "the number of tables")[0])
        used = self._take(count, "contexts of tables")
        if not count or (np.diff(used.astype(int)) <= 0).any():
            raise FormatError("contexts of tables in rising order", f"{used}"[:99])
        return SharedTables(shift, used, *self._next_tables(count, limits))

    def read_bytes(self, num_bytes: int) -> bytes:
        """Read what ``SymbolWriter.write_bytes`` appended."""
        return self._take(num_bytes, "the tables").tobytes()

    def read_one(self, out: np.ndarray, tables: SharedTables, contexts: Contexts) -> None:
        """Decode one of the fields that were written together into ``out``, see :meth:`read`."""
        if not len(out):
            return
        used, sizes = contexts.runs(tables.shift)
        places = np.searchsorted(tables.used, used)
        if places[-1] >= len(tables.used) or (tables.used[places] != used).any():
            raise FormatError("a table for each context", f"contexts {used} and tables {tables.used}"[:99])
        self._fill(out, tables.lows[places], [tables.models[place] for place in places], sizes, contexts.order)

    def _fill(self, out: np.ndarray, lows: np.ndarray, models: list[Any], sizes: np.ndarray, order: Any) -> None:
        # The coder holds the GIL, and numpy releases it: one concatenation at the end switches threads less often.
        parts = [self._decoded(model, size) for model, size in zip(models, sizes.tolist(), strict=True)]
        symbols = np.concatenate(parts, dtype=out.dtype, casting="unsafe")  # may overflow, undone by adding the lowest
        symbols += np.repeat(lows.astype(out.dtype), sizes)
        out[order] = symbols

    def finish(self) -> None:
        """Check that everything has been read.

        Raises:
            FormatError: symbols or tables are left.
        """
        if self._position != len(self._tables) or not self._coder.is_empty():
            raise FormatError("the end of the symbols", "more of them")

    def _decoded(self, model: Any, size: int) -> np.ndarray:
        return np.zeros(size, np.int32) if model is None else self._coder.decode(model, size)

    def _take(self, num_bytes: int, what: str) -> np.ndarray:
        taken = self._tables[self._position : self._position + num_bytes]
        self._position += num_bytes
        if len(taken) < num_bytes:
            raise FormatError(f"{num_bytes:,} bytes of {what}", f"{len(taken):,} before the end of the tables")
        return taken

    def _next_shift(self) -> int:
        shift = int(self._take(1, "a field of tables")[0])
        if shift > MAX_SHIFT:
            raise FormatError(f"contexts shortened by up to {MAX_SHIFT} bits", f"by {shift}")
        return shift

    def _next_tables(self, num_tables: int, limits: tuple[int, int]) -> tuple[np.ndarray, list[Any]]:
        """The lowest symbol of each table, and each ``Categorical``, or None of a single symbol."""
        lows, sizes = self._take(8 * num_tables, "heads of tables").copy().view("<i4").reshape(2, -1)
        highs = lows.astype(np.int64) + sizes - 1
        if not ((limits[0] <= lows) & (lows <= highs) & (highs <= limits[1])).all():
            raise FormatError(f"tables of symbols from {limits[0]} to {limits[1]}", f"some from {lows} to {highs}"[:99])
        levels = self._take(int(sizes.sum()), "tables")
        if levels.max() >= len(_FREQUENCIES) or not np.maximum.reduceat(levels, np.cumsum(sizes) - sizes).all():
            raise FormatError("tables of frequencies", f"levels up to {levels.max()}, or a table of none")
        return lows, [_model(shares) for shares in _shares(levels, sizes)]


def _model(shares: np.ndarray) -> Any:
    """The coder's table; None for a single symbol, which takes no bits."""
    return None if len(shares) == 1 else Categorical(shares, perfect=False)


def pack_bits(values: np.ndarray, widths: np.ndarray) -> bytes:
    """The lowest bits of numbers without gaps, sorted by width, the narrowest first.

    Args:
        values: (N,) uint64.
        widths: (N,) bits of each number, 0 to ``MAX_WIDTH``.
    """
    assert widths.max(initial=0) <= MAX_WIDTH
    parts = [np.zeros(0, np.uint8)]
    for width in np.unique(widths[widths > 0]):
        octets = values[widths == width].astype("<u8").view(np.uint8).reshape(-1, 8)
        parts.append(np.unpackbits(octets, axis=1, count=width, bitorder="little").ravel())
    return np.packbits(np.concatenate(parts), bitorder="little").tobytes()


def unpack_bits(data: bytes, widths: np.ndarray) -> np.ndarray:
    """Undo :func:`pack_bits`.

    Returns:
        (N,) uint64.

    Raises:
        FormatError: the data has another length than the widths need.
    """
    widths = widths.astype(np.uint8)  # numpy sorts these by counting
    counts = np.bincount(widths)
    total = int(counts @ np.arange(len(counts)))
    if len(data) != (total + 7) // 8:
        raise FormatError(f"{total:,} bits", f"{len(data):,} bytes")
    words = np.ndarray(len(data) + 1, "<u8", data + bytes(8), strides=1)  # eight bytes from each byte on
    values, start = np.zeros(len(widths), np.uint64), 0
    _, *by_width = np.split(np.argsort(widths, kind="stable"), np.cumsum(counts)[:-1])  # those of no bits are 0
    for width, selected in enumerate(by_width, start=1):
        bits = np.arange(start, start + len(selected) * width, width)
        start += len(selected) * width
        values[selected] = words[bits >> 3] >> (bits & 7).astype(np.uint64) & np.uint64((1 << width) - 1)
    return values


def _best_shift(in_order: np.ndarray, contexts: Contexts) -> int:
    """Number of bits to shorten contexts by, for the smallest estimated size of symbols and tables."""
    low = int(in_order.min())
    span = int(in_order.max()) - low + 1
    if span << MAX_SHIFT > _MAX_COUNTS:
        return MAX_SHIFT
    places = np.repeat(np.arange(1 << MAX_SHIFT) * span - low, contexts.counts)
    choices = [np.bincount(places + in_order, minlength=span << MAX_SHIFT).reshape(-1, span)]
    while len(choices[-1]) > 1:
        choices.append(choices[-1][0::2] + choices[-1][1::2])
    return int(np.argmin([_bits_of(counts) for counts in choices]))


def _bits_of(counts: np.ndarray) -> float:
    """Estimated bits of symbols and tables, for (C,S) ``counts`` of each symbol in each context."""
    occurs = counts > 0
    used = occurs.any(1)
    sizes = counts.shape[1] - occurs.argmax(1) - occurs[:, ::-1].argmax(1)
    if sizes[used].sum() > MAX_LEVELS:
        return math.inf
    totals, each = counts.sum(1)[used], counts[occurs]
    entropy = (totals * np.log2(totals)).sum() - (each * np.log2(each)).sum()
    return float(entropy + _TABLE_BITS * used.sum() + _SYMBOL_BITS * sizes[used].sum())


def _levels(counts: np.ndarray) -> np.ndarray:
    """(K,) uint8: index of the nearest frequency; 0 only for a count of 0."""
    return np.where(counts > 0, np.searchsorted(_BOUNDS, 16.0 * counts) + 1, 0).astype(np.uint8)


def _shares(levels: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Probabilities of the symbols of each table; ``levels`` holds tables of these sizes one after the other."""
    starts = np.cumsum(sizes) - sizes
    frequencies = _FREQUENCIES[levels]  # integers: their sums are exact in any order
    shares = frequencies / np.repeat(np.add.reduceat(frequencies, starts), sizes)
    return [shares[start : start + size] for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
