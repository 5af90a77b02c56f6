"""Render a trained model: its views beside their photos, depth maps, a video; or measure frames per second."""

from compact_splats.arguments.options import run_command
from compact_splats.arguments.render import RenderConfig

if __name__ == "__main__":  # above the imports that load torch, for which --help does not wait
    run_command(RenderConfig, "render", "render_scene")

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from compact_splats.arguments.device import pick_device, use_threads
from compact_splats.compression.files import model_file
from compact_splats.compression.formats import META
from compact_splats.compression.load import load_model
from compact_splats.gaussian_renderer import DEVICES, render
from compact_splats.gaussian_renderer.evaluation import view_pair
from compact_splats.gaussian_renderer.maps import count_map, depth_map, depth_step, quantized, shades
from compact_splats.gaussian_renderer.video import render_video
from compact_splats.scene.cameras import Camera, in_turn
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.normalization import EXTENT, Units
from compact_splats.scene.paths import views_along
from compact_splats.scene.saved_cameras import read_camera_file, read_cameras
from compact_splats.training.loading import scene_of
from compact_splats.training.poses import take_refined_poses
from compact_splats.training.run_folder import RunFolder
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import check_writable, write_json
from compact_splats.utils.images import in_colours, to_uint8, write_png
from compact_splats.utils.usage import synchronize

WARM_UP_FRAMES = 5
MIN_TIMED_FRAMES = 50


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    render_scene(RenderConfig.from_command_line(sys.argv[1:] if argv is None else argv))


def render_scene(config: RenderConfig) -> None:
    """Render the views of a scene into the run folder: ``{test,train}/METHOD/{renders,gt}/00000.png``, ...

    With ``config.time`` only ``timing.json`` is written. With ``config.video`` only the video is written, and the run
    folder may be read-only.

    Raises:
        InputError: the model or the scene can't be read, there is nothing to render, or a file can't be written.
    """
    device = pick_device(config.device, DEVICES)
    use_threads(config.threads)
    path, method = find_model(config)
    if config.video is None:
        check_writable(config.model_path)
    background = torch.full((3,), float(config.white_background))
    if config.video:
        views, units = video_views(config)
        model = read_gaussians(config, path, device, units)
        config.say(render_video(config.video, views, config.frame_rate(), model, background, quiet=config.quiet))
        return
    splits, units = chosen_views(config)
    model = read_gaussians(config, path, device, units)
    if config.time:
        times = measure_times([camera for views in splits.values() for camera in views], model, background)
        write_json(config.model_path / "timing.json", {**times, "model": str(path.absolute())})
        config.say(describe_times(times))
        return
    step = depth_step(EXTENT * units.scale)
    for split, views in splits.items():
        folder = config.model_path / split / method
        bar = tqdm(in_turn(views, device), split, len(views), unit="view", disable=config.quiet)
        for index, camera in enumerate(bar):
            for kind, pixels in pictures(camera, model, background, rgba=config.rgba).items():
                write_png(picture_path(folder, kind, index), pixels)
            if config.depth:
                depth = depth_map(camera, model) * units.scale
                inverse = torch.where(depth > 0, 1 / depth, 0)  # gives near objects most of the colour scale
                write_map(folder, "depth", index, quantized(depth, step), inverse)
            if config.counts:
                counts = count_map(camera, model)
                write_map(folder, "counts", index, quantized(counts), counts.float())
        if config.depth:
            write_json(folder / "depth.json", {"world_units_per_step": step, "nothing": 0})
        remove_others(folder, len(views))
        config.say(f"{split}: {len(views)} views in {folder}")


@torch.no_grad()
def pictures(camera: Camera, model: GaussianModel, background: Tensor, *, rgba: bool) -> dict[str, Tensor]:
    """The pictures of a view by the folder that they go to, (3,H,W) or (4,H,W) uint8.

    Args:
        camera: the view; without a photo there is no "gt".
        model: the Gaussians.
        background: (3,) RGB in [0, 1].
        rgba: also a picture with alpha.
    """
    if camera.photo is None:
        found = {"renders": to_uint8(render(camera, model, background).image)}
    else:
        found = dict(zip(("renders", "gt"), view_pair(camera, model, background), strict=True))
    if rgba:
        output = render(camera, model)
        alpha = 1 - output.transmittance
        colour = torch.where(alpha > 0, output.image / alpha.clamp(min=1e-6), 0)
        found["rgba"] = to_uint8(torch.cat([colour, alpha[None]]))
    return found


def picture_path(folder: Path, kind: str, index: int) -> Path:
    """The PNG of a view, below the folder ``SPLIT/METHOD``."""
    return folder / kind / f"{index:05d}.png"


def remove_others(folder: Path, num_views: int) -> None:
    """Remove the pictures of views that an earlier call rendered beyond those of this one: metrics.py measures all."""
    for path in folder.glob("*/[0-9][0-9][0-9][0-9][0-9].png"):
        if int(path.stem) >= num_views:
            path.unlink()


def write_map(folder: Path, kind: str, index: int, values: Tensor, shown: Tensor) -> None:
    """Write a map of a view as 16-bit PNG and, in the folder ``KIND_in_colours``, in colours.

    Args:
        folder: ``SPLIT/METHOD`` of the run.
        kind: "depth" or "counts".
        index: of the view.
        values: (H,W) int32.
        shown: (H,W) float, mapped to colours; 0 becomes black.
    """
    write_png(picture_path(folder, kind, index), values)
    write_png(picture_path(folder, f"{kind}_in_colours", index), in_colours(shades(shown), shown > 0))


def read_gaussians(config: RenderConfig, path: Path, device: torch.device, units: Units) -> GaussianModel:
    """Read the model, in world units.

    Args:
        config: the options.
        path: of any format.
        device: of the model.
        units: of the scene or its cameras.

    Raises:
        InputError: it can't be read.
    """
    known = RunFolder(config.model_path).units()
    model = load_model(path, config, device, units if known else units.without_offset())
    config.say(f"{path}: {model.num_gaussians:,} Gaussians")
    return model


def video_views(config: RenderConfig) -> tuple[list[Camera], Units]:
    """The camera of each frame of a video, and the units of the cameras.

    Raises:
        InputError: there are no cameras, or the path can't be made from them.
    """
    cameras, units = find_cameras(config)
    size = config.frame_size(cameras[0].width, cameras[0].height)
    return views_along(config.path or "orbit", cameras, config.num_frames(len(cameras)), size), units


def find_cameras(config: RenderConfig) -> tuple[tuple[Camera, ...], Units]:
    """The cameras of the run's ``cameras.json`` or, without that file, of the scene, sorted by name; and their units.

    Raises:
        InputError: there are none.
    """
    saved = config.model_path / "cameras.json"
    if saved.exists() or config.source_path is None:
        return read_cameras(saved, RunFolder(config.model_path).units())
    scene = scene_of(config, RunFolder(config.model_path).units())
    return tuple(sorted(scene.test + scene.train, key=lambda camera: camera.name)), scene.units


def find_model(config: RenderConfig) -> tuple[Path, str]:
    """The file of the model and METHOD, the name of the folder of its renders.

    METHOD is ``ours_N`` for a PLY, as in 3DGS, and the file name for other formats (without .gsz: ``compact`` for
    ``compressed/compact.gsz``), so that metrics.py can compare several models of one run folder.

    Raises:
        InputError: the run has no saved model.
    """
    if config.model is None:
        path, iteration = RunFolder(config.model_path).find_ply(config.iteration)
        return path, f"ours_{iteration}"
    path = model_file(config.model, config.iteration)
    name = path.absolute().parent.name if path.name == META else path.name
    if name.endswith(".ply") and not name.endswith(".compressed.ply"):
        return path, f"ours_{max(config.iteration, 0)}"
    stem = name.removesuffix(".gsz")
    return path, name if stem.startswith("ours_") else stem


def chosen_views(config: RenderConfig) -> tuple[dict[str, tuple[Camera, ...]], Units]:
    """The views to render, by split, and the units of their cameras.

    Raises:
        InputError: there are none, or they can't be read.
    """
    if config.cameras is not None:
        cameras, units = read_camera_file(config.cameras, RunFolder(config.model_path).units())
        return {"cameras": cameras}, units
    scene = scene_of(config, RunFolder(config.model_path).units())
    take_refined_poses(scene, config.model_path)
    skipped = {"test": config.skip_test, "train": config.skip_train}
    splits = {"test": scene.test, "train": scene.train}
    chosen = {split: views for split, views in splits.items() if views and not skipped[split]}
    if not chosen:
        counts = " and ".join(f"{len(views)} {split} views" for split, views in splits.items())
        raise InputError(f"nothing to render: the scene has {counts}; leave out --skip-test or --skip-train")
    return chosen, scene.units


def measure_times(cameras: Sequence[Camera], model: GaussianModel, background: Tensor) -> dict[str, Any]:
    """The content of ``timing.json``: the median time of a frame, over repeated renders of the views."""
    rounds = -(-(WARM_UP_FRAMES + MIN_TIMED_FRAMES) // len(cameras))
    seconds = [frame_seconds(camera, model, background) for camera in list(cameras) * rounds]
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
    """A line for the user."""
    return (
        f"{times['frames_per_second']:.1f} frames/s, {times['milliseconds']:.2f} ms each (median of "
        f"{times['frames']} frames at {times['width']}x{times['height']} px, {times['device']})"
    )


@torch.no_grad()
def frame_seconds(camera: Camera, model: GaussianModel, background: Tensor) -> float:
    """Time to render one image, with the device synchronised before and after."""
    synchronize(model.device)
    start = time.perf_counter()
    render(camera, model, background)
    synchronize(model.device)
    return time.perf_counter() - start
