"""Gaussians as viser's page wants them: centres, covariances, and one colour each, as seen from one place.

The page draws no spherical harmonics, so they are evaluated here for the place where the camera is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.spherical_harmonics import sh_basis
from compact_splats.training.densification import rotation_matrices

BYTES_EACH = 32  # what a Gaussian takes on its way to the page


@torch.no_grad()
def arrays(model: GaussianModel, rows: Tensor, eye: Tensor, degree: int) -> dict[str, np.ndarray]:
    """What ``add_gaussian_splats`` takes.

    Args:
        model: the Gaussians.
        rows: (M,) int64, those to show.
        eye: (3,) world units, where they are seen from.
        degree: of the spherical harmonics, at most that of the model.
    """
    means = model.means[rows]
    colors = _colors(means - eye.to(means), model.sh_dc[rows], model.sh_rest[rows], degree)
    return {
        "centers": means.cpu().numpy(),
        "covariances": _covariances(model.quats[rows], model.scales[rows]).cpu().numpy(),
        "rgbs": colors.clamp(0, 1).cpu().numpy(),
        "opacities": model.opacities[rows].cpu().numpy(),
    }


def _covariances(quats: Tensor, scales: Tensor) -> Tensor:
    """(M,3,3) of quaternions (M,4), real part first and of any length, and standard deviations (M,3)."""
    axes = rotation_matrices(quats) * scales[:, None]
    return axes @ axes.transpose(1, 2)


def _colors(directions: Tensor, sh_dc: Tensor, sh_rest: Tensor, degree: int) -> Tensor:
    """(M,3) of coefficients (M,1,3) and (M,K,3) along directions (M,3) of any length  [docs/math.md eq. 11]."""
    basis = sh_basis(torch.nn.functional.normalize(directions, dim=1), degree)
    used = torch.cat([sh_dc, sh_rest], dim=1)[:, : basis.shape[1]]
    return torch.einsum("nk,nkc->nc", basis, used) + 0.5
