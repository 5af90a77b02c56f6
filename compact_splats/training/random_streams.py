"""Independent sources of random numbers, one for each purpose."""

import torch

PURPOSES = ("views", "importance views", "densification", "selection", "background", "prefixes")


def random_stream(seed: int, purpose: str) -> torch.Generator:
    """A generator on the CPU for one of ``PURPOSES``: more draws for one do not change the draws for another."""
    seeds = torch.randint(2**62, (len(PURPOSES),), generator=torch.Generator().manual_seed(seed)).tolist()
    return torch.Generator().manual_seed(seeds[PURPOSES.index(purpose)])
