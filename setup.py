"""What pyproject.toml cannot say: where pip finds the engine."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
SUBMODULES = ROOT / "submodules"
# The packages of the engine, and their folders.
ENGINE = {"diff-gaussian-rasterization": "diff-gaussian-rasterization", "compact-splats-simple-knn": "simple-knn"}
# What training, rendering, measuring and compressing need; pyproject.toml has the rest, as extras.
DEPENDENCIES = [
    "torch>=2.4", "numpy>=1.26", "scipy>=1.11", "opencv-python-headless", "pillow>=10.1", "tqdm", "constriction",
]  # fmt: skip

# In a checkout pip builds the engine from its folder. An sdist has no such folder: there the engine is a package
# like any other, of the same version.
version = re.search(r'^__version__ = "(.*)"$', (ROOT / "compact_splats" / "__init__.py").read_text(), re.M)[1]
engine = [
    f"{name} @ {(SUBMODULES / folder).as_uri()}" if SUBMODULES.is_dir() else f"{name}=={version}"
    for name, folder in ENGINE.items()
]
setup(install_requires=[*DEPENDENCIES, *engine])
