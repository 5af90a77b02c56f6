"""Differentiable rasterization of 3D Gaussians and the photometric loss, as torch functions on the CPU and on CUDA."""

from ._C import DEVICES, LIMITS, CudaError
from .compat import GaussianRasterizationSettings, GaussianRasterizer
from .loss import Loss, photometric_loss
from .rasterizer import Importance, Rasterized, View, importance, rasterize

__all__ = [
    "DEVICES",
    "LIMITS",
    "CudaError",
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "Importance",
    "Loss",
    "Rasterized",
    "View",
    "importance",
    "photometric_loss",
    "rasterize",
]
