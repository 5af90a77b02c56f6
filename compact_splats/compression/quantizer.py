"""What fine-tuning needs of a profile of the file format: stored values, and the file that holds them."""

from typing import Protocol

import numpy as np
from torch import Tensor

Parameters = dict[str, Tensor]  # by scene.gaussian_model.PARAMETER_NAMES, before activation


class Quantizer(Protocol):
    """A profile of the file format with its settings, and the ranges, palettes and the like of one model.

    Two methods are optional. ``prepared(rows) -> Parameters``: the same Gaussians in the form that is stored (sign of a
    quaternion, order of axes), called once before fine-tuning, so that stored values are close to the parameters.
    ``penalty(rows) -> Tensor``: (), a term of the loss of every step that makes the file smaller, differentiable with
    respect to the rows, which :meth:`fit` or :meth:`quantized` got last.
    """

    def fit(self, rows: Parameters) -> None:
        """Choose ranges and the like for these rows; they stay until the next call.

        Args:
            rows: float32 tensors on any device, no gradient asked for.
        """
        ...

    def quantized(self, rows: Parameters) -> Parameters:
        """The values that come back when ``rows`` are stored as the last :meth:`fit` says.

        Args:
            rows: float32 tensors; any number of Gaussians, those of the fit or others.

        Returns:
            New tensors of the same shapes, in the same order of Gaussians, without a graph.
        """
        ...

    def encode(self, rows: dict[str, np.ndarray]) -> bytes:
        """The file: decoding it gives :meth:`quantized` of these rows, bit for bit, in some order of Gaussians."""
        ...
