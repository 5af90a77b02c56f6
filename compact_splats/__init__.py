"""Train compact 3D Gaussian Splatting models: what a notebook imports. The commands are in ``compact_splats.commands``.

The names below load when they are first used, so that ``train.py --help`` does not wait for torch.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

_TOP = Path(__file__).resolve().parent.parent
HOW_TO_INSTALL = (
    "run `make setup` and `source .venv/bin/activate`"
    if (_TOP / "Makefile").is_file()
    else "install compact-splats with pip"
)


def _refuse(why: str) -> NoReturn:
    """Leave one of the scripts with a line; say the same to whoever else imports the package."""
    script = Path(sys.argv[0])
    if sys.argv[0] != "-m" and (script.suffix != ".py" or script.resolve().parent != _TOP):
        raise ImportError(f"{why}; {HOW_TO_INSTALL}")
    sys.stderr.write(f"error: {why}; {HOW_TO_INSTALL}\n")
    sys.exit(2)


# A Python that is too old reads this file and the scripts, which have no newer syntax, but not the rest.
if sys.version_info < (3, 10):  # noqa: UP036
    _refuse(f"Python 3.10 or later is needed, and this is Python {sys.version_info[0]}.{sys.version_info[1]}")
try:
    from usable_processors import num_processors
except ModuleNotFoundError:
    _refuse(f"{sys.executable} has no package usable_processors")

# Before torch is imported: its idle OpenMP threads would otherwise spin on the cores that the rasterizer needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# torch's number of threads. By itself torch ignores CPU limits, and MKL makes it one thread for each physical core.
os.environ.setdefault("OMP_NUM_THREADS", str(num_processors()))
os.environ.setdefault("MKL_DYNAMIC", "FALSE")

# In a wheel arguments/, scene/, gaussian_renderer/ and utils/ lie in this folder. In a checkout they lie beside it.
if not Path(__file__).with_name("scene").is_dir():
    __path__.append(str(_TOP))

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
