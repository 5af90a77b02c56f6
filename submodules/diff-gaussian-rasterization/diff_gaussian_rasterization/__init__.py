"""Differentiable rasterization of 3D Gaussians and the photometric loss, as torch functions on the CPU and on CUDA."""

from ._C import DEVICES, LIMITS, CudaError
from .compat import GaussianRasterizationSettings, GaussianRasterizer, TamingResults
from .loss import Loss, photometric_loss, ssim
from .optimizer import SparseGaussianAdam
from .rasterizer import Importance, Rasterized, View, importance, rasterize
from .render_pass import RenderPass

__all__ = [
    "DEVICES",
    "LIMITS",
    "CudaError",
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "Importance",
    "Loss",
    "Rasterized",
    "RenderPass",
    "SparseGaussianAdam",
    "TamingResults",
    "View",
    "importance",
    "photometric_loss",
    "rasterize",
    "ssim",
]
