"""What pyproject.toml cannot say: where pip finds the engine."""

from pathlib import Path

from setuptools import setup

SUBMODULES = Path(__file__).resolve().parent / "submodules"
ENGINE = ("diff-gaussian-rasterization", "simple-knn")
DEPENDENCIES = [
    "torch>=2.4", "numpy>=1.26", "scipy>=1.11", "opencv-python-headless", "pillow>=10.1", "tqdm",
    "tensorboard", "matplotlib", "constriction",
]  # fmt: skip

# In a checkout pip builds the engine from its folder. An sdist has no such folder: there the engine is a package
# like any other.
engine = [f"{name} @ {(SUBMODULES / name).as_uri()}" if SUBMODULES.is_dir() else name for name in ENGINE]
setup(install_requires=[*DEPENDENCIES, *engine])
