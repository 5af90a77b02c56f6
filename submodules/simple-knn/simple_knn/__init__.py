"""Mean squared distance to the nearest neighbours, with scipy's k-d tree."""

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

_NUM_NEIGHBOURS = 3


def mean_squared_distance(points: Tensor | np.ndarray) -> Tensor:
    """Mean squared distance of each point to its 3 nearest neighbours.

    A duplicate is a neighbour at distance 0. With fewer than 4 points the mean is over all other points, and 0 for a
    single point.

    Args:
        points: (N,3) finite, any real dtype, any device.

    Returns:
        (N,) float32, squared units of ``points``, on their device; on the CPU for numpy.

    Raises:
        ValueError: ``points`` is not (N,3) or not finite.
    """
    device = points.device if isinstance(points, Tensor) else torch.device("cpu")
    xyz = np.asarray(points.detach().cpu() if isinstance(points, Tensor) else points, dtype=np.float64)
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise ValueError(f"points: expected shape (N, 3), got {tuple(xyz.shape)}")
    if not np.isfinite(xyz).all():
        raise ValueError("points: expected finite coordinates, got NaN or infinity")
    neighbours = min(_NUM_NEIGHBOURS, len(xyz) - 1)
    if neighbours < 1:
        return torch.zeros(len(xyz), device=device)
    # The first result is the point itself or a duplicate, both at distance 0.
    distances, _ = cKDTree(xyz).query(xyz, k=neighbours + 1, workers=torch.get_num_threads())
    return torch.from_numpy(np.square(distances[:, 1:]).mean(axis=1).astype(np.float32)).to(device)
