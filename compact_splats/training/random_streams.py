"""Sources of random numbers, one for each purpose, and their states."""

from typing import Any

import torch


def generators(seed: int, count: int) -> list[torch.Generator]:
    """Independent sources of random numbers, so that one more draw here does not change what is drawn there."""
    seeds = torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [torch.Generator().manual_seed(each) for each in seeds]


class RandomStates:
    """The states of some generators, to be saved and continued together."""

    def __init__(self, sources: list[torch.Generator]) -> None:
        self._sources = sources

    def state_dict(self) -> dict[str, Any]:
        """The state of each."""
        return {"states": [source.get_state() for source in self._sources]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        for source, each in zip(self._sources, state["states"], strict=True):
            source.set_state(each)
