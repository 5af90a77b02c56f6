"""Train compact 3D Gaussian Splatting models: what a notebook imports. The commands are in ``compact_splats.commands``.

The names below load when they are first used, so that ``train.py --help`` does not wait for torch.
"""

import importlib
import os
from pathlib import Path
from typing import Any

from usable_processors import num_processors

# Before torch is imported: its idle OpenMP threads would otherwise spin on the cores that the rasterizer needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# torch's number of threads. By itself torch ignores CPU limits, and MKL makes it one thread for each physical core.
os.environ.setdefault("OMP_NUM_THREADS", str(num_processors()))
os.environ.setdefault("MKL_DYNAMIC", "FALSE")

# In a wheel arguments/, scene/, gaussian_renderer/ and utils/ lie in this folder. In a checkout they lie beside it.
if not Path(__file__).with_name("scene").is_dir():
    __path__.append(str(Path(__file__).resolve().parent.parent))

__version__ = "0.1.0"

_HOMES = {
    "Camera": "scene.cameras",
    "Scene": "scene.dataset",
    "load_scene": "scene.dataset",
    "GaussianModel": "scene.gaussian_model",
    "render": "gaussian_renderer",
    "importance": "gaussian_renderer",
    "evaluate": "gaussian_renderer.evaluation",
    "Schedule": "arguments.schedule",
    "FULL": "arguments.schedule",
    "FAST": "arguments.schedule",
    "QUICK": "arguments.schedule",
    "Training": "training.training",
    "photometric_loss": "training.loss",
    "Strategy": "training.strategy",
    "standard_strategies": "training.strategies",
    "encode": "compression",
    "decode": "compression",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
