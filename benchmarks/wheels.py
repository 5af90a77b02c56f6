"""Prints what gpu-check needs and this Python lacks, one requirement a line, for a machine without a network.

    python3 benchmarks/wheels.py >lacking.txt                              # there, by the Python that has torch
    python3 -m pip download --no-deps --only-binary :all: -d wheels -r lacking.txt   # elsewhere, for the same Python
    make gpu-check OUT=folder TORCH=system VENV=.venv-system WHEELS=wheels

Needs no package itself. Left out is what only other commands use: convert.py, the live page, TensorBoard.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Module: package. What pytest and scikit-build-core need themselves is here too, as the download takes no dependencies.
NEEDED = {
    "numpy": "numpy", "scipy": "scipy", "cv2": "opencv-python-headless", "PIL": "pillow", "tqdm": "tqdm",
    "constriction": "constriction", "plyfile": "plyfile",
    "pytest": "pytest", "pluggy": "pluggy", "iniconfig": "iniconfig", "packaging": "packaging", "pygments": "pygments",
    "pytest_timeout": "pytest-timeout",
    "setuptools": "setuptools", "scikit_build_core": "scikit-build-core", "pathspec": "pathspec",
    "nanobind": "nanobind", "cmake": "cmake", "ninja": "ninja",
}  # fmt: skip


def pins() -> dict[str, str]:
    """The requirements of requirements*.txt for this version of Python, by package."""
    found: dict[str, str] = {}
    for path in sorted(ROOT.glob("requirements*.txt")):
        for line in path.read_text().splitlines():
            requirement = line.partition("#")[0].strip()
            if requirement:
                name = re.match(r"[\w-]+", requirement)[0]
                found[name] = f"{found[name]}\n{requirement}" if name in found else requirement
    return found


def lacking() -> list[str]:
    """The requirements of the packages that cannot be imported."""
    pinned = pins()
    return [pinned.get(name, name) for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]


def main() -> None:
    """Print them."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(*lacking(), sep="\n")


if __name__ == "__main__":
    main()
