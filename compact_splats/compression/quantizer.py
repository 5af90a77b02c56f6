"""The interface of a profile of .gsz to fine-tuning: the values that are stored, and the file that holds them."""

from typing import Protocol

from compact_splats.compression.arrays import Arrays, Parameters


class Quantizer(Protocol):
    """A profile of .gsz with its settings, and the ranges, steps and bases of one model.

    Two methods are optional. ``prepared(parameters) -> Parameters``: the same Gaussians in the form that is stored
    (sign of a quaternion, order of axes), called once before fine-tuning, so that stored values are close to them.
    ``penalty(parameters) -> Tensor``: (), a term of the loss of every step that makes the file smaller, differentiable
    with respect to the parameters. They are those of the last call of :meth:`fit` or :meth:`quantized`.
    """

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
