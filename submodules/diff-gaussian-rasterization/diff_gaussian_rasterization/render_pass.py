"""A view through the engine without autograd, for training loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from . import _C
from .queue import queue_for, thread_count
from .rasterizer import View, _images, _rows


class RenderPass:
    """Renders a view; then gives the gradients of a loss, and adds them to sums. The same bits as by autograd.

    All memory and arguments are made before the forward pass: after a call of the engine the caches hold nothing of
    Python and torch any more, and every function of torch takes up to 50 us, once.

    Args:
        view: Camera and background.
        rows: Tensors of the Gaussians, by the names of `rasterize`'s arguments. They keep their values until the last
            call.
        sums: By these names, what `add_gradients` adds to: float32, contiguous. Without a sum, the gradient stays in
            ``gradients``.
        stats: Pairs (abs_grad_sum (N,), views (N,)), both float32, contiguous. For each visible Gaussian,
            `add_gradients` adds the norm of the sums over pixels of the absolute screen-space gradients, and 1.
        unchecked: The row whose gradient `add_gradients` does not look at.
        sh_degree, antialiased, inverse_depth, threads: As in `rasterize`.
        pose: Whether `backward` computes the gradient for ``view.world_to_camera``, too.

    Attributes:
        image, transmittance, radii, inverse_depth: As in `Rasterized`.
        v_image: (3, H, W), the gradient of the loss for the image: of `photometric_loss`, or to be filled.
        v_inverse_depth: (H, W) zeros, to which a loss may add its gradient for ``inverse_depth``; without it None.
        gradients: By name, those of the rows that require one; `backward` fills them.
        v_world_to_camera: (4, 4), the gradient for each element of the matrix; None without ``pose``.

    Raises:
        ValueError: A shape, dtype or device is not as in `rasterize`.
    """

    def __init__(
        self,
        view: View,
        rows: Mapping[str, Tensor],
        sums: Mapping[str, Tensor | None],
        *,
        stats: Sequence[tuple[Tensor, Tensor]] = (),
        unchecked: str = "",
        sh_degree: int = 0,
        antialiased: bool = False,
        inverse_depth: bool = False,
        threads: int = 0,
        pose: bool = False,
    ) -> None:
        if view.width < 1 or view.height < 1:
            raise ValueError(f"view: expected a size of 1 x 1 or more, got {view.width} x {view.height}")
        means = rows["means"]
        device, dtype = means.device, means.dtype
        self.image = torch.empty(3, view.height, view.width, dtype=dtype, device=device)
        self.v_image = torch.empty(3, view.height, view.width, dtype=dtype, device=device)
        self.transmittance = torch.empty(view.height, view.width, dtype=dtype, device=device)
        self.inverse_depth = torch.empty_like(self.transmittance) if inverse_depth else None
        self.v_inverse_depth = torch.zeros_like(self.transmittance) if inverse_depth else None
        self.radii = torch.empty(means.shape[0], dtype=torch.int32, device=device)
        self.gradients = {
            name: torch.empty(row.shape, dtype=dtype, device=device) for name, row in rows.items() if row.requires_grad
        }
        self.v_world_to_camera = torch.empty(4, 4, dtype=dtype, device=device) if pose else None
        self._loss = torch.empty((), dtype=dtype, device=device)
        self._usable = torch.empty((), dtype=torch.bool, device=device)
        self._rows, self._v_rows = _rows(rows), _C.Rows(**self.gradients)
        self._images = _images(self.image, self.transmittance, self.inverse_depth)
        self._v_images = _images(self.v_image, None, self.v_inverse_depth)
        self._sums = [
            _C.GradientSum(name, gradient, sums.get(name), name != unchecked)
            for name, gradient in self.gradients.items()
        ]
        self._abs_grad = torch.empty(means.shape[0], device=device) if stats else None
        self._seen = torch.empty(means.shape[0], device=device) if stats else None
        for abs_grad_sum, views in stats:
            self._sums += [
                _C.GradientSum("abs_grad_sum", self._abs_grad, abs_grad_sum, False),
                _C.GradientSum("views", self._seen, views, False),
            ]
        self._queue, self._threads = queue_for(device), thread_count(threads)
        self._frame = _C.forward(
            self._rows, view._for_engine(dtype), self._queue, antialiased=antialiased, sh_degree=sh_degree,
            threads=self._threads, differentiable=True, out=self._images, radii=self.radii,
        )  # fmt: skip

    def photometric_loss(self, photo: Tensor, mask: Tensor | None = None, ssim_weight: float = 0.2) -> Tensor:
        """The loss of the function `photometric_loss`, (); its gradient goes to ``v_image``. Arguments as there."""
        _C.photometric_loss(
            self.image, photo.contiguous(), self._queue, mask=None if mask is None else mask.contiguous(),
            ssim_weight=ssim_weight, margin=0, threads=self._threads, loss=self._loss, parts=None, v_image=self.v_image,
        )  # fmt: skip
        return self._loss

    def backward(self) -> None:
        """From ``v_image`` to ``gradients`` and ``v_world_to_camera``."""
        _C.backward(
            self._frame, self._rows, self._v_rows, self._queue, images=self._images, v_images=self._v_images,
            v_screen_means=None, abs_grad=self._abs_grad, seen=self._seen, v_world_to_camera=self.v_world_to_camera,
        )  # fmt: skip
        self._frame = None  # the largest part of the memory

    def add_gradients(self, loss: Tensor, *, largest: float) -> Tensor:
        """Add ``gradients`` to the sums, and to the statistics, in place: all if the view is usable, otherwise none.

        A view is usable if |loss| and the squares of the checked gradients add up to less than ``largest``, which they
        do not if one is NaN or infinite. If it is not, ``gradients`` is empty afterwards; on a GPU, where the CPU does
        not wait for the answer, gradients without a sum become zero.

        Args:
            loss: One float32 on the device of the gradients.
            largest: A float32.

        Returns:
            () bool on the device: whether the view was usable.
        """
        may_be_usable = _C.add_gradients(
            self._sums, self._queue, loss=loss, largest=largest, usable=self._usable, threads=self._threads
        )
        if not may_be_usable:
            self.gradients = {}
        return self._usable
