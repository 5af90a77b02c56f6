"""Measure rendered test views: PSNR, SSIM and LPIPS of the PNG pairs that render.py wrote.

Reads ``MODEL/test/METHOD/{renders,gt}/*.png`` and nothing else, so that what is measured is what is on disk. Writes
``results.json`` and ``per_view.json`` into the model's folder, in the layout of 3DGS.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from compact_splats.arguments.device import DEVICES, pick_device
from compact_splats.arguments.options import Parser
from compact_splats.gaussian_renderer.lpips import MIN_SIZE, Lpips
from compact_splats.suite.pairs import Pair, find_methods, find_pairs
from compact_splats.utils.errors import InputError, run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.losses import psnr, ssim

METRICS = ("SSIM", "PSNR", "LPIPS")
Distance = Callable[[Tensor, Tensor], Tensor]
Scores = dict[str, float | None]


def main(argv: list[str]) -> None:
    """Measure every method of every model folder named on the command line."""
    args = parse_args(argv)
    lpips = load_lpips(args.vgg, args.device)
    rows = []
    for model in args.model_paths:
        per_view = {
            method.name: measure(find_pairs(method), lpips, args.device, f"{model.name}/{method.name}")
            for method in find_methods(model)
        }
        results = {method: {metric: mean(views[metric]) for metric in METRICS} for method, views in per_view.items()}
        write_json(model / "per_view.json", per_view)
        write_json(model / "results.json", results)
        rows += [(str(model), method, len(per_view[method]["PSNR"]), scores) for method, scores in results.items()]
    print(table(rows))


def parse_args(argv: list[str]) -> argparse.Namespace:
    """The command line; ``device`` comes back as a torch.device."""
    parser = Parser("Measure the rendered test views of trained models: PSNR, SSIM and LPIPS.")
    parser.add_argument(
        "-m", "--model-paths", type=Path, nargs="+", required=True, help="folders of train.py, rendered by render.py"
    )
    parser.add_argument("--vgg", type=Path, help="VGG16 checkpoint for LPIPS (default: the one in torch hub's cache)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU where there is one")
    args = parser.parse_args(argv)
    args.device = pick_device(args.device)
    return args


def load_lpips(vgg: Path | None, device: torch.device) -> Lpips | None:
    """LPIPS, or None with a printed reason where its weights cannot be had and none were asked for by name."""
    try:
        return Lpips(vgg, device)
    except InputError as reason:
        if vgg is not None:
            raise
        print(f"LPIPS is left out: {reason}")
        return None


def measure(pairs: list[Pair], lpips: Distance | None, device: torch.device, label: str) -> dict[str, Scores]:
    """Measure image pairs one by one.

    Args:
        pairs: checked pairs of one method.
        lpips: distance of two (3,H,W) images in [0, 1], or None.
        device: where to compute.
        label: text of the progress bar.

    Returns:
        For each metric the value of each view by file name; None where it could not be had or is not finite.
    """
    scores: dict[str, Scores] = {metric: {} for metric in METRICS}
    for pair in tqdm(pairs, desc=label, unit="view", leave=False):
        image, photo = (pixels.to(device) for pixels in pair.read())
        scores["SSIM"][pair.name] = number(ssim(image, photo))
        scores["PSNR"][pair.name] = number(psnr(image, photo))
        measurable = lpips is not None and min(image.shape[1:]) >= MIN_SIZE
        scores["LPIPS"][pair.name] = number(lpips(image, photo)) if measurable else None
    return scores


def number(value: Tensor) -> float | None:
    """A float that JSON can hold: the PSNR of equal images is infinite and becomes None."""
    return value.item() if math.isfinite(value.item()) else None


def mean(views: Scores) -> float | None:
    """Mean of the views that have a value; None where none has."""
    values = [value for value in views.values() if value is not None]
    return sum(values) / len(values) if values else None


def table(rows: list[tuple[str, str, int, Scores]]) -> str:
    """The summary: a line for each method of each model, with its number of views and mean scores."""
    width = max(len(model) for model, *_ in rows)
    column = max(12, *(len(method) for _, method, *_ in rows))
    lines = [f"{'model':{width}}  {'method':{column}} {'views':>5} {'SSIM':>7} {'PSNR':>7} {'LPIPS':>7}"]
    for model, method, num_views, scores in rows:
        cells = (("-" if scores[m] is None else f"{scores[m]:.{2 if m == 'PSNR' else 4}f}") for m in METRICS)
        lines.append(f"{model:{width}}  {method:{column}} {num_views:5d} " + " ".join(f"{cell:>7}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(lambda: main(sys.argv[1:]))
