"""Gaussians in viser's format: centres, covariances, and one colour each.

Viser draws no spherical harmonics, so they are evaluated here for the position of the camera.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.spherical_harmonics import sh_basis
from compact_splats.utils.geometry import rotation_matrices

BYTES_EACH = 32  # of a Gaussian sent to the browser


@torch.no_grad()
def arrays(model: GaussianModel, indices: Tensor, eye: Tensor, degree: int) -> dict[str, Any]:
    """The arguments of viser's ``add_gaussian_splats``.

    Args:
        model: the Gaussians.
        indices: (M,) int64, the Gaussians to show.
        eye: (3,) camera centre, world units.
        degree: of the spherical harmonics, at most that of the model.
    """
    means = model.means[indices]
    colors = _colors(means - eye.to(means), model.sh_dc[indices], model.sh_rest[indices], degree)
    return {
        "centers": means.cpu().numpy(),
        "covariances": _covariances(model.quats[indices], model.scales[indices]).cpu().numpy(),
        "rgbs": colors.clamp(0, 1).cpu().numpy(),
        "opacities": model.opacities[indices].cpu().numpy(),
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
