"""The hooks by which a training changes its set of Gaussians or adds to its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from compact_splats.gaussian_renderer.gradient_stats import GradientStats

if TYPE_CHECKING:
    from diff_gaussian_rasterization import RenderPass

    from compact_splats.arguments.schedule import Schedule
    from compact_splats.training.training import Training


class Strategy:
    """Hooks of a training step, in the order in which they are called. Those of this class do nothing.

    A hook finds the running step in ``training.step`` (from 1), and the Gaussians in ``training.model``. It may edit
    the set with ``GaussianModel.remap`` and its relatives, in :meth:`after_step` only.
    """

    def learning_rates(self, step: int, rates: dict[str, float]) -> dict[str, float]:
        """The learning rates of ``step``, by parameter name, given those of the schedule."""
        return rates

    def gradient_stats(self, training: Training) -> GradientStats | None:
        """What the screen-space gradients of the view are added to if it is usable; None: they are not needed.

        Args:
            training: before the forward pass.
        """
        return None

    def wants_inverse_depth(self, step: int) -> bool:
        """Whether :meth:`view_loss` of ``step`` needs the inverse depth of its view."""
        return False

    def view_loss(self, training: Training, index: int, view: RenderPass) -> Tensor | None:
        """What this strategy adds to the loss of the step as a function of the view: (), or None.

        Args:
            training: between the forward and the backward pass.
            index: of the training view.
            view: after its forward pass. The gradient of the result is added to its ``v_inverse_depth``.
        """
        return None

    def loss_term(self, training: Training) -> Tensor | None:
        """What this strategy adds to the loss of the step: () with gradient for the parameters of the model, or None.

        Args:
            training: between the forward and the backward pass.
        """
        return None

    def after_step(self, training: Training) -> None:
        """Edit the set of Gaussians, after the optimizer's update."""

    def views_left(self, training: Training) -> int:
        """About how many views :meth:`after_step` is going to render that cost as much as a step."""
        return 0

    def change_schedule(self, schedule: Schedule) -> None:
        """Continue by the same schedule at another pace, between two steps."""

    def figures(self, training: Training) -> dict[str, float]:
        """Numbers for the log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes from step to step: tensors, numbers, strings, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
