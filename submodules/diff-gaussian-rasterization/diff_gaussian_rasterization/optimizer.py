"""Adam as a torch optimizer with a fused step for all parameters, on the CPU and on CUDA."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from . import _C
from .queue import queue_for, thread_count

# Settings of torch.optim.Adam that this Adam does not support, with the values that turn them off.
_ABSENT = {"weight_decay": 0, "amsgrad": False, "maximize": False}


class Adam(torch.optim.Optimizer):
    """Adam [Kingma and Ba, arXiv:1412.6980]; its step and its ``state_dict`` are those of ``torch.optim.Adam``.

    Parameters have to be contiguous, float32 and on one device. Weight decay, AMSGrad and ``maximize`` are not
    supported.
    """

    # torch.optim.Optimizer excludes these methods from torch.compile. For that, the first call imports the compiler,
    # which takes a second and 100 MB. Unwrapped they work without it.
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    _add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    _load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, **_ABSENT})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their settings.

        Raises:
            ValueError: A setting is out of range or not supported.
        """
        self._add_param_group(param_group)
        _check(self.param_groups[-1])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of this Adam or of ``torch.optim.Adam``.

        Raises:
            ValueError: The state does not fit the parameters, or a setting is not supported.
        """
        for group in state_dict["param_groups"]:
            _check(group)
        self._load_state_dict(state_dict)
        for state in self.state.values():  # torch's Adam counts in tensors, its fused one on the GPU
            state["step"] = int(state["step"])

    def step(self, visible: Tensor | None = None) -> None:
        """Update every parameter that has a gradient.

        Args:
            visible: (N,) int32, e.g. the radii of ``rasterize``, or bool; every parameter has N rows. Rows where it is
                0 and their moments do not change. None: all rows change.

        Raises:
            ValueError: A dtype, shape or device is not as above, or a parameter is not contiguous.
        """
        updated = [
            (group, parameter, self._state_of(parameter))
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if not updated:
            return
        if visible is not None and visible.dtype == torch.bool:
            visible = visible.to(torch.int32)
        steps = [_engine_step(*each) for each in updated]
        _C.adam(steps, queue_for(updated[0][1].device), visible=visible, threads=thread_count(0))
        for _, parameter, state in updated:
            torch.autograd.graph.increment_version(parameter)  # so that autograd detects the change
            state["step"] += 1

    # torch.optim.Optimizer would wrap it for profiles and hooks, which takes as long as the rest of its Python.
    step.hooked = True  # type: ignore[attr-defined]

    def register_step_pre_hook(self, hook: Any) -> Any:
        """Not supported."""
        raise NotImplementedError("Adam of diff_gaussian_rasterization calls no hooks of its step")

    register_step_post_hook = register_step_pre_hook

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


class SparseGaussianAdam(Adam):
    """`Adam` of the rows of visible Gaussians, as newer 3DGS code calls it [Taming 3DGS, arXiv:2406.15643]."""

    def __init__(self, params: Iterable[Any], lr: float, eps: float) -> None:
        super().__init__(params, lr=lr, eps=eps)

    def step(self, visibility: Tensor, N: int) -> None:
        """Update the visible rows of every parameter that has a gradient.

        Args:
            visibility: (N,) bool, or radii (N,) int32. Rows where it is 0 and their moments do not change.
            N: Number of Gaussians.

        Raises:
            ValueError: An argument, a parameter or its gradient does not have N rows, or as in `Adam.step`.
        """
        if tuple(visibility.shape) != (N,):
            raise ValueError(f"visibility: expected shape ({N},), got {tuple(visibility.shape)}")
        super().step(visibility)


def _check(group: dict[str, Any]) -> None:
    for name, value in _ABSENT.items():
        if group.get(name, value) != value:
            raise ValueError(f"{name}: expected {value}, got {group[name]}")
    lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
    if not (lr >= 0 and eps >= 0):
        raise ValueError(f"lr and eps: expected 0 or more, got {lr} and {eps}")
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ValueError(f"betas: expected two numbers in [0, 1), got {group['betas']}")


def _engine_step(group: dict[str, Any], parameter: Tensor, state: dict[str, Tensor]) -> Any:
    beta1, beta2 = group["betas"]
    return _C.AdamStep(
        group.get("name", "parameter"), parameter, parameter.grad.contiguous(), state["exp_avg"],
        state["exp_avg_sq"], rate=group["lr"], beta1=beta1, beta2=beta2, epsilon=group["eps"],
        step=state["step"] + 1,
    )  # fmt: skip
