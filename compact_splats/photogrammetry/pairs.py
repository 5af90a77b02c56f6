"""The pairs of photos to match: all of them or, to save time, pairs by the order of the photos."""

from itertools import combinations

NUM_EXHAUSTIVE = 100  # photos: 4,950 pairs, each a fifth of a second of a core
NEIGHBOURS = 10  # photos that follow in sequence
NUM_ANCHORS = 40  # photos spread over the sequence, all matched with each other, for loop closure


def is_sequential(matching: str, num_photos: int, is_video: bool) -> bool:
    """Whether ``matching`` (auto, exhaustive or sequential) is sequential for these photos."""
    return matching == "sequential" or matching == "auto" and (is_video or num_photos > NUM_EXHAUSTIVE)


def pairs_to_match(num_photos: int, sequential: bool) -> list[tuple[int, int]]:
    """Index pairs (i, j), i < j, in ascending order.

    Args:
        num_photos: number of photos, in the order of their names.
        sequential: only neighbours, photos at a distance of 16, 32, 64, ..., and anchors; otherwise all pairs.
    """
    if not sequential:
        return list(combinations(range(num_photos), 2))
    distances = {*range(1, NEIGHBOURS + 1), *(1 << power for power in range(4, num_photos.bit_length()))}
    near = {(i, i + distance) for distance in distances for i in range(num_photos - distance)}
    anchors = sorted({round(i * (num_photos - 1) / (NUM_ANCHORS - 1)) for i in range(NUM_ANCHORS)})
    return sorted(near | set(combinations(anchors, 2)))
