"""Render the test and training views of a trained model to PNGs beside their photos, or measure frames per second."""

import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Before torch is imported: its idle OpenMP threads would otherwise spin on the cores that the rasterizer needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor
from tqdm import tqdm

from arguments import RenderConfig, TrainConfig, pick_device
from arguments.options import flags_that_save_memory
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
    """Render the views of a scene into the model's folder, ``{test,train}/ours_N/{renders,gt}/00000.png`` and on.

    Raises:
        InputError: model or scene can't be read, there is no view to render, or the folder can't be written.
    """
    device = pick_device(config.device, DEVICES)
    if config.threads:
        torch.set_num_threads(config.threads)
    path, iteration = find_model(config)
    run = Run(config.model_path, quiet=config.quiet)
    model = GaussianModel.load_ply(path, device)
    splits = find_views(config)
    background = torch.full((3,), float(config.white_background))
    options = {"antialiased": config.antialiasing, "threads": config.threads}
    run.say(f"{path}: {model.num_gaussians:,} Gaussians")
    if config.time:
        run.say(describe_times([camera for views in splits.values() for camera in views], model, background, options))
        return
    for split, views in splits.items():
        for index, camera in enumerate(tqdm(views, desc=split, unit="view", disable=config.quiet)):
            run.write_view(split, iteration, index, *view_pair(camera, model, background, **options))
        run.say(f"{split}: {len(views)} views in {config.model_path / split / f'ours_{iteration}'}")


def find_model(config: RenderConfig) -> tuple[Path, int]:
    """The PLY to render and the number for its renders' folder.

    Raises:
        InputError: there is none.
    """
    if config.model is not None:
        return config.model, max(config.iteration, 0)
    found = saved_iterations(config.model_path)
    if config.iteration == -1 and (config.model_path / "config.json").exists():
        # Leftovers of a longer run in the same folder are not this model.
        last = TrainConfig.from_folder(config.model_path).make_schedule().iterations
        found = [iteration for iteration in found if iteration <= last]
    wanted = config.iteration if config.iteration != -1 else max(found, default=None)
    if wanted not in found:
        have = f"those of steps {', '.join(map(str, found))}" if found else "none"
        what = "saved Gaussians" if config.iteration == -1 else f"the Gaussians of step {wanted}"
        raise InputError(config.model_path / "point_cloud", what, have, "train first, or see -m and --iteration")
    return Run(config.model_path).ply_path(wanted), wanted


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


def describe_times(cameras: Sequence[Camera], model: GaussianModel, background: Tensor, options: dict) -> str:
    """Render views again and again, and tell how fast that went."""
    rounds = -(-(WARM_UP_FRAMES + TIMED_FRAMES) // len(cameras))
    seconds = [frame_seconds(camera, model, background, options) for camera in list(cameras) * rounds]
    median = statistics.median(seconds[WARM_UP_FRAMES:])
    frames = len(seconds) - WARM_UP_FRAMES
    size = f"{cameras[0].width}x{cameras[0].height} px"
    return (
        f"{1 / median:.1f} frames/s, {1000 * median:.2f} ms each (median of {frames} frames at {size}, {model.device})"
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
