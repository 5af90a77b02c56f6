"""Render the test and training views of a trained model to PNGs beside their photos, or measure frames per second."""

import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before torch is imported: its idle OpenMP threads would otherwise spin on the cores that the rasterizer needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor
from tqdm import tqdm

from arguments import RenderConfig, TrainConfig, pick_device
from arguments.options import flags_that_save_memory
from compression import read_model
from gaussian_renderer import DEVICES, render
from gaussian_renderer.evaluation import view_pair
from scene import Camera, load_scene
from scene.gaussian_model import GaussianModel
from utils.errors import InputError, run_script
from utils.run import Run, saved_iterations
from utils.usage import synchronize

WARM_UP_FRAMES = 5
TIMED_FRAMES = 50  # at least


def main(argv: Sequence[str] | None = None) -> None:
    """Render as the command line says."""
    render_scene(RenderConfig.from_command_line(sys.argv[1:] if argv is None else argv))


def render_scene(config: RenderConfig) -> None:
    """Render the views of a scene into the model's folder, ``{test,train}/METHOD/{renders,gt}/00000.png`` and on.

    With ``config.time`` no view is written, but ``timing.json``.

    Raises:
        InputError: model or scene can't be read, there is no view to render, or the folder can't be written.
    """
    device = pick_device(config.device, DEVICES)
    if config.threads:
        torch.set_num_threads(config.threads)
    path, method = find_model(config)
    run = Run(config.model_path, quiet=config.quiet)
    model = GaussianModel.from_rows(read_model(path), device)
    splits = find_views(config)
    background = torch.full((3,), float(config.white_background))
    options = {"antialiased": config.antialiasing, "threads": config.threads}
    run.say(f"{path}: {model.num_gaussians:,} Gaussians")
    if config.time:
        times = measure_times([camera for views in splits.values() for camera in views], model, background, options)
        run.write_json("timing.json", {**times, "model": str(path.absolute())})
        run.say(describe_times(times))
        return
    for split, views in splits.items():
        for index, camera in enumerate(tqdm(views, desc=split, unit="view", disable=config.quiet)):
            run.write_view(split, method, index, *view_pair(camera, model, background, **options))
        run.say(f"{split}: {len(views)} views in {config.model_path / split / method}")


def find_model(config: RenderConfig) -> tuple[Path, str]:
    """The model to render and the name for its renders' folder.

    That of a PLY is ``ours_N``, as in 3DGS. All else is named after its file, so that several can be measured side by
    side in one run folder: ``compressed/compact.gsz`` goes to ``compact``, ``point_cloud.splat`` to its full name.

    Raises:
        InputError: there is none.
    """
    if config.model is None:
        path, iteration = find_ply(config.model_path, config.iteration)
        return path, f"ours_{iteration}"
    name = config.model.name
    if name.endswith(".ply") and not name.endswith(".compressed.ply"):
        return config.model, f"ours_{max(config.iteration, 0)}"
    stem = name.removesuffix(".gsz")
    return config.model, name if stem.startswith("ours_") else stem


def find_ply(folder: Path, iteration: int) -> tuple[Path, int]:
    """A model that training saved, and its step.

    Args:
        folder: of the run.
        iteration: -1: the last.

    Raises:
        InputError: there is none.
    """
    found = saved_iterations(folder)
    if iteration == -1 and (folder / "config.json").exists():
        # Leftovers of a longer run in the same folder are not this model.
        last = TrainConfig.from_folder(folder).make_schedule().iterations
        found = [each for each in found if each <= last]
    wanted = iteration if iteration != -1 else max(found, default=None)
    if wanted not in found:
        have = f"those of steps {', '.join(map(str, found))}" if found else "none"
        what = "saved Gaussians" if iteration == -1 else f"the Gaussians of step {wanted}"
        raise InputError(folder / "point_cloud", what, have, "train first, or see -m and --iteration")
    return Run(folder).ply_path(wanted), wanted


def find_views(config: RenderConfig) -> dict[str, tuple[Camera, ...]]:
    """The views to render, by split.

    Raises:
        InputError: the scene can't be read, or nothing of it is asked for.
    """
    scene = load_scene(
        config.source_path, config.images, config.resolution, config.eval, config.white_background, seed=0
    )
    skipped = {"test": config.skip_test, "train": config.skip_train}
    splits = {"test": scene.test, "train": scene.train}
    chosen = {split: views for split, views in splits.items() if views and not skipped[split]}
    if not chosen:
        found = ", ".join(f"{len(views)} {split} views" for split, views in splits.items())
        raise InputError("--skip-test, --skip-train", "something to render", found, "leave one of the flags out")
    return chosen


def measure_times(cameras: Sequence[Camera], model: GaussianModel, background: Tensor, options: dict) -> dict[str, Any]:
    """Render views again and again, and give the median of the times."""
    rounds = -(-(WARM_UP_FRAMES + TIMED_FRAMES) // len(cameras))
    seconds = [frame_seconds(camera, model, background, options) for camera in list(cameras) * rounds]
    median = statistics.median(seconds[WARM_UP_FRAMES:])
    return {
        "frames_per_second": 1 / median,
        "milliseconds": 1000 * median,
        "frames": len(seconds) - WARM_UP_FRAMES,
        "width": cameras[0].width,
        "height": cameras[0].height,
        "device": str(model.device),
        "num_gaussians": model.num_gaussians,
    }


def describe_times(times: dict[str, Any]) -> str:
    """The times for a reader."""
    return (
        f"{times['frames_per_second']:.1f} frames/s, {times['milliseconds']:.2f} ms each (median of "
        f"{times['frames']} frames at {times['width']}x{times['height']} px, {times['device']})"
    )


@torch.no_grad()
def frame_seconds(camera: Camera, model: GaussianModel, background: Tensor, options: dict) -> float:
    """Time of one frame from the model to the finished image."""
    synchronize(model.device)
    start = time.perf_counter()
    render(camera, model, background, **options)
    synchronize(model.device)
    return time.perf_counter() - start


if __name__ == "__main__":
    run_script(main, less_memory=flags_that_save_memory(RenderConfig))
