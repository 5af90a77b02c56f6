"""Integers to bytes at close to their entropy, and back: a range coder over counted frequencies, one table a context.

Contexts are what both sides know when a field is written: symbols that came before. They are numbers of which those
that are alike stand side by side, so that a table may serve several where there are too few symbols for one each. The
coder is constriction's.
"""

from __future__ import annotations

import constriction
import numpy as np

from compression.container import FormatError, lzma_pack, lzma_unpack

Categorical = constriction.stream.model.Categorical
RangeEncoder, RangeDecoder = constriction.stream.queue.RangeEncoder, constriction.stream.queue.RangeDecoder

MAX_SYMBOLS = 1 << 16  # of a table
MAX_TABLES = 1 << 24  # bytes of all tables together, so that a small file cannot ask for much memory
MAX_SHIFT = 8  # bits of a context
_TABLE_BITS, _SYMBOL_BITS = 10, 4  # about what a table costs, and each symbol in it, when all are packed
_MAX_COUNTS = 1 << 22  # of symbols times contexts: beyond, contexts are taken as they are
# Frequencies are kept as steps of a quarter octave: integers, so that all machines make the same tables of them.
_MANTISSAS = (16, 19, 23, 27)
_FREQUENCIES = np.array([0] + [m << octave for octave in range(32) for m in _MANTISSAS], np.int64)
_BOUNDS = (_FREQUENCIES[1:-1] * _FREQUENCIES[2:].astype(np.float64)) ** 0.5


class SymbolWriter:
    """Takes fields of integers one after the other."""

    def __init__(self) -> None:
        self._coder = RangeEncoder()
        self._tables: list[np.ndarray] = []

    def write(self, symbols: np.ndarray, contexts: np.ndarray | None = None) -> None:
        """Append a field.

        Args:
            symbols: (N,) integers, in 2^16 different places at most.
            contexts: (N,) integers from 0 to 255; symbols of one context share a table.
        """
        if contexts is not None and len(symbols):
            shift = _best_shift(symbols, contexts)
            self._tables.append(np.array([shift], np.uint8))
            contexts = contexts >> shift
        order, sizes = _by_context(contexts, len(symbols))
        in_order = symbols if order is None else symbols[order]
        for part in np.split(in_order, np.cumsum(sizes)[:-1]) if sizes else []:
            low = int(part.min())
            counts = np.bincount(part - low)
            assert len(counts) <= MAX_SYMBOLS, f"symbols from {low} to {low + len(counts) - 1}"
            levels = _levels(counts)
            self._tables += [np.array([low, len(levels)], "<i4").view(np.uint8), levels]
            model = _model(levels)
            if model is not None:
                self._coder.encode((part - low).astype(np.int32), model)

    def streams(self) -> dict[str, bytes]:
        """What :class:`SymbolReader` reads, by name of the stream."""
        tables = np.concatenate([np.zeros(0, np.uint8), *self._tables]).tobytes()
        return {
            "tables": len(tables).to_bytes(4, "little") + lzma_pack(tables),
            "symbols": self._coder.get_compressed().astype("<u4").tobytes(),
        }


class SymbolReader:
    """Gives the fields of a :class:`SymbolWriter` back, in their order.

    Raises:
        FormatError: the streams are damaged, here or when a field is read.
    """

    def __init__(self, streams: dict[str, bytes]) -> None:
        packed, words = streams["tables"], streams["symbols"]
        size = int.from_bytes(packed[:4], "little")
        if len(packed) < 4 or size > MAX_TABLES or len(words) % 4:
            raise FormatError("tables and symbols", f"{len(packed):,} and {len(words):,} bytes")
        self._tables = np.frombuffer(lzma_unpack(packed[4:], size), np.uint8)
        self._position = 0
        self._coder = RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))

    def read(self, count: int, contexts: np.ndarray | None = None) -> np.ndarray:
        """(count,) int32; the contexts must be those of the writer."""
        if contexts is not None and count:
            contexts = contexts >> self._next_shift()
        order, sizes = _by_context(contexts, count)
        symbols, start = np.empty(count, np.int32), 0
        for size in sizes:
            low, levels = self._next_table()
            model = _model(levels)
            try:
                found = np.argmax(levels > 0) if model is None else self._coder.decode(model, size)
            except AssertionError as error:  # what the coder says to data that no writer has made
                raise FormatError("symbols of the tables", "others: the file is damaged") from error
            np.add(found, low, out=symbols[start : start + size], casting="unsafe")
            start += size
        if order is None:
            return symbols
        in_order = np.empty_like(symbols)
        in_order[order] = symbols
        return in_order

    def finish(self) -> None:
        """Raise where something is left."""
        if self._position != len(self._tables) or not self._coder.maybe_exhausted():
            raise FormatError("the end of the symbols", "more of them")

    def _next_shift(self) -> int:
        shift = self._tables[self._position : self._position + 1]
        self._position += 1
        if not len(shift) or shift[0] > MAX_SHIFT:
            raise FormatError(f"contexts shortened by up to {MAX_SHIFT} bits", f"by {shift}")
        return int(shift[0])

    def _next_table(self) -> tuple[int, np.ndarray]:
        head = self._tables[self._position : self._position + 8]
        low, size = (int(number) for number in head.copy().view("<i4")) if len(head) == 8 else (0, 0)
        start = self._position + 8
        self._position = start + size
        levels = self._tables[start : self._position]
        if (
            abs(low) > 1 << 30
            or not 1 <= size <= MAX_SYMBOLS
            or len(levels) != size
            or levels.max() >= len(_FREQUENCIES)
            or not levels.any()
        ):
            raise FormatError("a table of frequencies", f"{size} symbols in {len(levels)} bytes")
        return low, levels


def pack_bits(values: np.ndarray, widths: np.ndarray) -> bytes:
    """The lowest bits of numbers, without a gap: those of one width together, the narrowest first.

    Args:
        values: (N,) uint64.
        widths: (N,) bits of each, 0 to 64.
    """
    parts = [np.zeros(0, np.uint8)]
    for width in np.unique(widths[widths > 0]):
        octets = values[widths == width].astype("<u8").view(np.uint8).reshape(-1, 8)
        parts.append(np.unpackbits(octets, axis=1, count=width, bitorder="little").ravel())
    return np.packbits(np.concatenate(parts)).tobytes()


def unpack_bits(data: bytes, widths: np.ndarray) -> np.ndarray:
    """Undo :func:`pack_bits`.

    Raises:
        FormatError: more or fewer bits than the widths ask for.
    """
    total = int(widths.sum())
    if len(data) != (total + 7) // 8:
        raise FormatError(f"{total:,} bits", f"{len(data):,} bytes")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=total)
    values, start = np.zeros(len(widths), np.uint64), 0
    for width in np.unique(widths[widths > 0]):
        selected = np.flatnonzero(widths == width)
        end = start + len(selected) * int(width)
        octets = np.zeros((len(selected), 8), np.uint8)
        octets[:, : (width + 7) // 8] = np.packbits(bits[start:end].reshape(-1, width), axis=1, bitorder="little")
        values[selected] = octets.view("<u8")[:, 0]
        start = end
    return values


def _best_shift(symbols: np.ndarray, contexts: np.ndarray) -> int:
    """By how many bits to shorten contexts for the fewest bits of symbols and tables together."""
    low = int(symbols.min())
    span = int(symbols.max()) - low + 1
    num_contexts = 1 << MAX_SHIFT
    if num_contexts * span > _MAX_COUNTS:
        return 0
    places = contexts.astype(np.int64) * span + (symbols - low)
    counts = np.bincount(places, minlength=num_contexts * span).reshape(num_contexts, span)
    bits = [_bits_of(counts)]
    while len(counts) > 1:
        counts = counts[0::2] + counts[1::2]
        bits.append(_bits_of(counts))
    return int(np.argmin(bits))


def _bits_of(counts: np.ndarray) -> float:
    """Of symbols and tables, about, where (C,S) ``counts`` say how often each symbol comes in each context."""
    occurs = counts > 0
    used = occurs.any(1)
    sizes = counts.shape[1] - occurs.argmax(1) - occurs[:, ::-1].argmax(1)
    totals, each = counts.sum(1)[used], counts[occurs]
    entropy = (totals * np.log2(totals)).sum() - (each * np.log2(each)).sum()
    return float(entropy + _TABLE_BITS * used.sum() + _SYMBOL_BITS * sizes[used].sum())


def _by_context(contexts: np.ndarray | None, count: int) -> tuple[np.ndarray | None, list[int]]:
    """The order that brings symbols of a context together, None for any, and how many of each there are, none aside."""
    if contexts is None:
        return None, [count] if count else []
    contexts = contexts.astype(np.uint8, copy=False)  # numpy then sorts by counting
    sizes = np.bincount(contexts)
    return np.argsort(contexts, kind="stable"), sizes[sizes > 0].tolist()


def _levels(counts: np.ndarray) -> np.ndarray:
    """(K,) uint8: index of the nearest frequency, 0 exactly for what never comes."""
    return np.where(counts > 0, np.searchsorted(_BOUNDS, 16.0 * counts) + 1, 0).astype(np.uint8)


def _model(levels: np.ndarray) -> Categorical | None:
    """The coder's table; None where there is only one symbol, which takes no bits."""
    if np.count_nonzero(levels) == 1:
        return None
    frequencies = _FREQUENCIES[levels].astype(np.float64)
    return Categorical(frequencies / frequencies.sum(), perfect=False)
