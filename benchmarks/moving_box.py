"""A copy of a scene in which something moves: a striped box at another place in every third training photo.

    python -m benchmarks.moving_box SCENE OUT

Training photos are those of ``--eval`` where the scene has no list: all but every eighth by name.
"""

import argparse
import shutil
from pathlib import Path

import cv2
import numpy as np

from compact_splats.utils.errors import run_script

SIDES = 0.22, 0.3  # of the box, as shares of the width and the height
COLOURS = (230, 60, 40), (40, 200, 220), (230, 60, 40)  # RGB of the stripes


def paste_box(photo: np.ndarray, rng: np.random.Generator) -> None:
    """Draw the box into a photo (H,W,3), BGR, somewhere."""
    height, width = photo.shape[:2]
    w, h = round(SIDES[0] * width), round(SIDES[1] * height)
    x, y = rng.integers(0, width - w), rng.integers(0, height - h)
    for i, colour in enumerate(COLOURS):
        photo[y + i * h // 3 : y + (i + 1) * h // 3, x : x + w] = colour[::-1]


def main() -> None:
    """Copy the scene and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    shutil.copytree(options.scene, options.out)
    rng = np.random.default_rng(0)
    train = [path for i, path in enumerate(sorted((options.out / "images").iterdir())) if i % 8]
    for path in train[2::3]:
        photo = cv2.imread(str(path))
        paste_box(photo, rng)
        cv2.imwrite(str(path), photo)


if __name__ == "__main__":
    run_script(main)
