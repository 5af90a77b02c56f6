"""Differentiable rasterization of 3D Gaussians and the photometric loss, as torch functions on the CPU and on CUDA."""

import torch

if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 4):
    raise ImportError(
        f"the engine needs torch 2.4 or newer, this is {torch.__version__}: pip install 'torch>=2.4'", name=__name__
    )

from . import _C
from ._C import DEVICES, LIMITS, CudaError
from .compat import GaussianRasterizationSettings, GaussianRasterizer, TamingResults
from .levels import load_level
from .loss import Loss, photometric_loss, ssim
from .optimizer import SparseGaussianAdam
from .rasterizer import Importance, Rasterized, View, importance, rasterize, removal_error
from .render_pass import RenderPass

# "v2", "v3" or "v4" of x86-64; empty in a build for one processor.
ISA = load_level(_C)

__all__ = [
    "DEVICES",
    "ISA",
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
    "removal_error",
    "ssim",
]
