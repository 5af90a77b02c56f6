"""One picture of the quality of a model: photo, image and error of its worst, median and best test view.

``python -m compact_splats.suite.comparison -m MODEL --out PICTURE.png`` reads the PNG pairs of the model's last
``test/ours_N``.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from compact_splats.suite.pairs import Pair, find_methods, find_pairs, is_trained
from compact_splats.utils.errors import run_script
from compact_splats.utils.files import atomic_write
from compact_splats.utils.losses import psnr

ERROR_SHOWN = 0.25  # mean absolute difference of the channels that gets the brightest colour
PANEL_WIDTHS = 320, 640  # px, least and most: views are scaled so that captions fit and are legible
GAP = 6  # px
PAPER, INK = 255, (40, 40, 40)


def comparison(pairs: list[Pair]) -> np.ndarray:
    """The picture (H,W,3) uint8 BGR: a row of three panels with captions for each chosen view."""
    measured = [(psnr(*pair.read()).item(), pair) for pair in pairs]
    chosen = _worst_median_best(sorted(measured, key=lambda entry: entry[0]))
    rows = [_row(f"{label} {pair.name}: PSNR {value:.2f} dB", pair) for label, value, pair in chosen]
    width = max(row.shape[1] for row in rows)
    return np.vstack([_padded(row, width) for row in rows])


def _worst_median_best(measured: list[tuple[float, Pair]]) -> list[tuple[str, float, Pair]]:
    """Up to three of the views, which are sorted by ascending PSNR."""
    last = len(measured) - 1
    places = {last: "best", last // 2: "median", 0: "worst"}  # with fewer than three views the later label counts
    return [(places[i], *measured[i]) for i in sorted(places)]


def _row(label: str, pair: Pair) -> np.ndarray:
    image, photo = pair.read()
    share = ((image - photo).abs().mean(0) / ERROR_SHOWN).clamp(0, 1)
    error = cv2.applyColorMap((255 * share).byte().numpy(), cv2.COLORMAP_INFERNO)
    captions = (f"photo, {label}", "image", f"error (bright: {ERROR_SHOWN:g} and more)")
    panels = [_captioned(p, c) for p, c in zip((_bgr(photo), _bgr(image), error), captions, strict=True)]
    return np.hstack(panels)


def _fitted(panel: np.ndarray) -> np.ndarray:
    height, width = panel.shape[:2]
    wanted = min(max(width, PANEL_WIDTHS[0]), PANEL_WIDTHS[1])
    how = cv2.INTER_AREA if wanted < width else cv2.INTER_NEAREST
    return cv2.resize(panel, (wanted, max(1, round(height * wanted / width))), interpolation=how)


def _bgr(image: Tensor) -> np.ndarray:
    return (255 * image).round().byte().permute(1, 2, 0).numpy()[:, :, ::-1]


def _captioned(panel: np.ndarray, caption: str) -> np.ndarray:
    panel = _fitted(panel)
    scale = panel.shape[1] / PANEL_WIDTHS[0]
    top, baseline = round(24 * scale), round(16 * scale)
    panel = cv2.copyMakeBorder(panel, top, GAP, GAP, GAP, cv2.BORDER_CONSTANT, value=(PAPER,) * 3)
    style = (cv2.FONT_HERSHEY_SIMPLEX, 0.42 * scale, INK, round(scale), cv2.LINE_AA)
    return cv2.putText(panel, caption, (GAP, baseline), *style)


def _padded(row: np.ndarray, width: int) -> np.ndarray:
    right = width - row.shape[1]
    return cv2.copyMakeBorder(row, 0, 0, 0, right, cv2.BORDER_CONSTANT, value=(PAPER,) * 3)


def main() -> None:
    """Read the command line and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, required=True, help="folder of train.py, rendered by render.py")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    args = parser.parse_args()
    methods = find_methods(args.model)
    picture = comparison(find_pairs(([method for method in methods if is_trained(method)] or methods)[-1]))
    encoded = cv2.imencode(".png", picture)[1]
    with atomic_write(args.out) as temporary:
        temporary.write_bytes(encoded.tobytes())
    print(f"{args.out}: photo, image and error")


if __name__ == "__main__":
    run_script(main)
