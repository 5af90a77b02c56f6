"""The interface of a profile of .gsz to fine-tuning: the values that are stored, and the file that holds them."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from compact_splats.compression.arrays import Arrays, Parameters


class Quantizer(Protocol):
    """A profile of .gsz with its settings, and the ranges, steps and bases of one model. Quantizers inherit from it.

    Parameters are in the coordinates of files, except those of :meth:`penalty`, which are the model's.
    """

    def prepared(self, parameters: Parameters) -> Parameters:
        """The same Gaussians in the form that is stored (sign of a quaternion, order of axes).

        Called once before fine-tuning, so that stored values are close to the parameters.
        """
        return parameters

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor | float:
        """(), a term of the loss of every step that makes the file smaller, differentiable.

        Args:
            parameters: those of the last call of :meth:`fit` or :meth:`quantized`.
        """
        return 0.0

    def fit(self, parameters: Parameters) -> None:
        """Choose ranges and the like for these parameters; they stay until the next call.

        Args:
            parameters: float32 on any device, without gradient.
        """
        ...

    def quantized(self, parameters: Parameters) -> Parameters:
        """The values that decoding would give, stored as the last :meth:`fit` says.

        Args:
            parameters: float32, of any number of Gaussians, those of the fit or others.

        Returns:
            New tensors of the same shapes, in the same order of Gaussians, without a graph.
        """
        ...

    def encode(self, arrays: Arrays) -> bytes:
        """The file. It decodes to :meth:`quantized` of these arrays, bit for bit, in some order of Gaussians."""
        ...
