"""simple_knn against brute force; duplicates, tiny clouds and bad input."""

import numpy as np
import pytest
import torch
from simple_knn import mean_squared_distance


def brute_force(points: np.ndarray) -> np.ndarray:
    squared = np.square(points[:, None] - points[None]).sum(-1)
    np.fill_diagonal(squared, np.inf)
    return np.sort(squared, axis=1)[:, :3].mean(axis=1)


@pytest.mark.parametrize("as_tensor", [True, False])
def test_equals_brute_force(as_tensor):
    """The tree finds the same three neighbours as comparing all pairs."""
    points = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    result = mean_squared_distance(torch.from_numpy(points) if as_tensor else points)
    assert result.dtype == torch.float32 and result.shape == (300,)
    # Worst measured: 6e-8 relative, the rounding to float32.
    np.testing.assert_allclose(result.numpy(), brute_force(points.astype(np.float64)), rtol=2e-7)


def test_a_duplicate_is_a_neighbour_at_distance_zero():
    """Of n equal points each sees min(3, n - 1) zeros, however many hits tie with the point itself."""
    base = np.random.default_rng(1).normal(size=(20, 3))
    for copies in (2, 3, 4, 7):
        points = np.repeat(base, copies, axis=0)
        expected = brute_force(points)
        np.testing.assert_allclose(mean_squared_distance(points).numpy(), expected, rtol=2e-7)
        assert (expected == 0).all() == (copies >= 4)


@pytest.mark.parametrize(
    "points, expected",
    [
        (np.zeros((0, 3)), []),
        ([[1, 2, 3]], [0]),
        ([[0, 0, 0], [2, 0, 0]], [4, 4]),
        ([[0, 0, 0], [1, 0, 0], [3, 0, 0]], [5, 2.5, 6.5]),
    ],
)
def test_fewer_than_four_points(points, expected):
    """The mean is over the neighbours there are; a lone point gets 0."""
    assert mean_squared_distance(np.array(points)).tolist() == expected


@pytest.mark.parametrize("bad", [np.zeros((4, 2)), np.zeros(3), np.full((4, 3), np.nan)])
def test_bad_points_are_refused(bad):
    """Wrong shapes and NaN raise ValueError instead of giving distances that mean nothing."""
    with pytest.raises(ValueError, match="points: expected"):
        mean_squared_distance(bad)
