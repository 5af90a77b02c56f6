"""Measure rendered test views: PSNR, SSIM, LPIPS and colour-corrected PSNR of the PNG pairs that render.py wrote.

Reads only ``MODEL/test/METHOD/{renders,gt}/*.png``. Writes ``results.json`` and ``per_view.json`` into the model's
folder, in the layout of 3DGS.
"""

from compact_splats.arguments.metrics import MetricsConfig
from compact_splats.arguments.options import run_command

if __name__ == "__main__":  # above the imports that load torch, for which --help does not wait
    run_command(MetricsConfig, "metrics", "measure_models")

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from compact_splats.arguments.device import pick_device
from compact_splats.gaussian_renderer.lpips import MIN_SIZE, Lpips
from compact_splats.suite.pairs import Pair, find_methods, find_pairs
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import write_json
from compact_splats.utils.losses import color_corrected, psnr, ssim
from compact_splats.utils.table import text_table

METRICS = {"SSIM": ".4f", "PSNR": ".2f", "LPIPS": ".4f", "CC_PSNR": ".2f"}  # and their formats
Distance = Callable[[Tensor, Tensor], Tensor]
Scores = dict[str, float | None]


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    measure_models(MetricsConfig.from_command_line(argv))


def measure_models(config: MetricsConfig) -> None:
    """Measure every method of every model folder.

    Raises:
        InputError: a folder has no renders, or files that can't be used.
    """
    device = pick_device(config.device)
    methods = [(model, find_methods(model)) for model in config.model_paths]
    lpips = load_lpips(config.vgg, device) if config.lpips else None
    lines = [["model", "method", "views", *METRICS]]
    for model, folders in methods:
        per_view = {
            folder.name: measure(find_pairs(folder), lpips, device, f"{model.name}/{folder.name}") for folder in folders
        }
        results = {method: {metric: mean(views[metric]) for metric in METRICS} for method, views in per_view.items()}
        write_json(model / "per_view.json", per_view)
        write_json(model / "results.json", results)
        for method, scores in results.items():
            figures = ("-" if scores[each] is None else f"{scores[each]:{METRICS[each]}}" for each in METRICS)
            lines.append([str(model), method, str(len(per_view[method]["PSNR"])), *figures])
    print(text_table(lines, left=2))


def load_lpips(vgg: Path | None, device: torch.device) -> Lpips | None:
    """LPIPS. Without ``vgg`` and where its default weights can't be had, print the reason and return None."""
    try:
        return Lpips(vgg, device)
    except InputError as reason:
        if vgg is not None:
            raise
        print(f"LPIPS is left out: {reason}")
        return None


def measure(pairs: list[Pair], lpips: Distance | None, device: torch.device, label: str) -> dict[str, Scores]:
    """Measure image pairs.

    Args:
        pairs: of one method.
        lpips: distance of two (3,H,W) images in [0, 1], or None.
        device: of the computation.
        label: text of the progress bar.

    Returns:
        For each metric the value of each view by file name; None if it was not measured or is not finite, or if no
        pixel counts: render.py makes masked pixels black in both images.
    """
    scores: dict[str, Scores] = {metric: {} for metric in METRICS}
    for pair in tqdm(pairs, desc=label, unit="view", leave=False):
        image, photo = (pixels.to(device) for pixels in pair.read())
        if not (image.any() or photo.any()):
            for metric in METRICS:
                scores[metric][pair.name] = None
            continue
        scores["SSIM"][pair.name] = number(ssim(image, photo))
        scores["PSNR"][pair.name] = number(psnr(image, photo))
        scores["CC_PSNR"][pair.name] = number(psnr(color_corrected(image, photo), photo))
        measurable = lpips is not None and min(image.shape[1:]) >= MIN_SIZE
        scores["LPIPS"][pair.name] = number(lpips(image, photo)) if measurable else None
    return scores


def number(value: Tensor) -> float | None:
    """The value, or None if it is not finite, as the PSNR of equal images: JSON has no infinity."""
    return value.item() if math.isfinite(value.item()) else None


def mean(views: Scores) -> float | None:
    """Mean over the views that have a value; None if there are none."""
    values = [value for value in views.values() if value is not None]
    return sum(values) / len(values) if values else None
