"""Morton order: cells of a grid along a space-filling curve, by interleaving the bits of x, y and z.

[G. M. Morton, A computer oriented geodetic data base and a new technique in file sequencing, IBM, 1966]
"""

import numpy as np

MAX_BITS = 21  # per axis
# Each step doubles the gaps between groups of bits, until every third bit is used, see `_spread`.
_STEPS = (
    (32, 0x001F00000000FFFF),
    (16, 0x001F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)
_MASK = (1 << MAX_BITS) - 1
_PART = 1 << 13  # codes at a time: few enough for the cache


def morton_order(cells: np.ndarray) -> np.ndarray:
    """The stable permutation that sorts cells along the curve.

    Args:
        cells: (N,3) integers from 0 to 2^21 - 1.

    Returns:
        (N,) int64.
    """
    return np.argsort(morton_codes(cells), kind="stable").astype(np.int64, copy=False)


def morton_codes(cells: np.ndarray) -> np.ndarray:
    """Positions on the curve: bit i of x goes to bit 3i, of y to 3i + 1, of z to 3i + 2.

    Args:
        cells: (N,3) integers from 0 to 2^21 - 1.

    Returns:
        (N,) uint64.
    """
    assert cells.ndim == 2 and cells.shape[1] == 3, cells.shape
    assert not len(cells) or 0 <= cells.min() <= cells.max() <= _MASK, "cells of more than 21 bits"
    codes = _spread(cells[:, 0])
    for axis in (1, 2):
        codes |= _spread(cells[:, axis]) << np.uint64(axis)
    return codes


def morton_cells(codes: np.ndarray) -> np.ndarray:
    """Undo :func:`morton_codes`.

    Args:
        codes: (N,) uint64 below 2^63.

    Returns:
        (N,3) uint32.
    """
    cells = np.empty((len(codes), 3), np.uint32)
    for start in range(0, len(codes), _PART):
        part = slice(start, start + _PART)
        for axis in range(3):
            cells[part, axis] = _gather(codes[part] >> np.uint64(axis))
    return cells


def _spread(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.uint64)
    for shift, mask in _STEPS:
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values


def _gather(codes: np.ndarray) -> np.ndarray:
    masks = [mask for _, mask in _STEPS]
    codes = codes & np.uint64(masks[-1])
    for (shift, _), mask in zip(reversed(_STEPS), [*masks[-2::-1], _MASK], strict=True):
        codes = (codes | (codes >> np.uint64(shift))) & np.uint64(mask)
    return codes.astype(np.uint32)
