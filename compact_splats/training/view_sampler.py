"""The order in which training views are drawn."""

from typing import Any

import torch


class ViewSampler:
    """Draws views without replacement from a shuffled stack that is refilled when empty.

    Args:
        num_views: how many there are, at least 1.
        generator: on the CPU; the only source of the order.
    """

    def __init__(self, num_views: int, generator: torch.Generator) -> None:
        assert num_views > 0, "no views to draw from"
        self._num_views = num_views
        self._generator = generator
        self._stack: list[int] = []

    def draw(self) -> int:
        """Index of the next view."""
        if not self._stack:
            self._stack = torch.randperm(self._num_views, generator=self._generator).tolist()
        return self._stack.pop()

    def draw_many(self, count: int | None) -> list[int]:
        """The next ``count`` views; all of them, in order, with None or where there are no more than that."""
        if count is None or count >= self._num_views:
            return list(range(self._num_views))
        return [self.draw() for _ in range(count)]

    def upcoming(self, count: int) -> list[int]:
        """The views that the next draws will give, ``count`` of them or all until the stack has been refilled once."""
        views = self._stack[: -count - 1 : -1]
        if len(views) < count:
            generator = torch.Generator().set_state(self._generator.get_state())
            views += torch.randperm(self._num_views, generator=generator).tolist()[::-1]
        return views[:count]

    def state_dict(self) -> dict[str, Any]:
        """The views left on the stack, and the generator."""
        return {"stack": list(self._stack), "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._stack = list(state["stack"])
        self._generator.set_state(state["generator"])
