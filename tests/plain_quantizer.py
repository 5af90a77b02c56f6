"""A quantizer that is as simple as can be, for tests of what uses one: a uniform grid over the range of each row."""

import io

import numpy as np
import torch
from torch import Tensor

from compact_splats.compression.quantizer import Quantizer


class PlainQuantizer(Quantizer):
    """Stores every row in steps of 1 / ``levels`` of its range, as integers in an npz archive.

    Attributes:
        fits: how often the ranges were chosen.
        ranges: lowest value and step by name of row.
    """

    def __init__(self, levels: int = 1023) -> None:
        self.levels = levels
        self.fits = 0
        self.ranges: dict[str, tuple[float, float]] = {}

    def fit(self, rows: dict[str, Tensor]) -> None:
        self.fits += 1
        for name, row in rows.items():
            low, high = (float(row.min()), float(row.max())) if row.numel() else (0.0, 0.0)
            self.ranges[name] = low, max(high - low, 1e-6) / self.levels

    def quantized(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._value(name, self._cell(name, row)) for name, row in rows.items()}

    def encode(self, rows: dict[str, np.ndarray]) -> bytes:
        cells = {name: self._cell(name, torch.from_numpy(row)).numpy() for name, row in rows.items()}
        order = np.lexsort(cells["means"].T)  # as a file may have an order of its own
        content = {name: cell[order].astype(np.uint16) for name, cell in cells.items()}
        content |= {f"range_{name}": np.array(ends, np.float64) for name, ends in self.ranges.items()}
        file = io.BytesIO()
        np.savez_compressed(file, **content)
        return file.getvalue()

    def _cell(self, name: str, row: Tensor) -> Tensor:
        low, step = self.ranges[name]
        return ((row.double() - low) / step).round().clamp(0, self.levels)

    def _value(self, name: str, cell: Tensor) -> Tensor:
        low, step = self.ranges[name]
        return (low + step * cell).float()


def decode(data: bytes) -> dict[str, np.ndarray]:
    """Rows of a file of :class:`PlainQuantizer`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as content:
        return {
            name: (content[f"range_{name}"][0] + content[f"range_{name}"][1] * content[name].astype(np.float64)).astype(
                np.float32
            )
            for name in content
            if not name.startswith("range_")
        }
