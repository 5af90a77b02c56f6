"""A training from a scene folder to a run folder: builds the parts from the config and runs the one loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compact_splats.arguments import TrainConfig, pick_device
from compact_splats.arguments.device import use_deterministic_algorithms, use_threads
from compact_splats.arguments.interval import Interval
from compact_splats.arguments.options import to_json
from compact_splats.arguments.schedule import Schedule, num_random_points
from compact_splats.arguments.sharing import shared
from compact_splats.gaussian_renderer import DEVICES
from compact_splats.gaussian_renderer.evaluation import Scores
from compact_splats.scene import Scene, ply
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.parameters import SavedArrays
from compact_splats.scene.saved_cameras import camera_entries
from compact_splats.training.checkpoint import Checkpoints
from compact_splats.training.digest import digest
from compact_splats.training.faults import SkippedViews
from compact_splats.training.loading import (
    Decoding,
    check_all_photos,
    check_same_start,
    depth_loss_for,
    exposure_for,
    first_gaussians,
    load,
    max_with_depth_loss,
    poses_for,
)
from compact_splats.training.loss import PhotometricLoss
from compact_splats.training.memory import check_memory, no_room_to_grow
from compact_splats.training.processes import SINGLE_PROCESS, SingleProcess
from compact_splats.training.progress import Progress
from compact_splats.training.resume import check_same_poses, decide_start
from compact_splats.training.run_context import OpenViewer, RunContext, no_viewer
from compact_splats.training.run_folder import UNITS, Run, free_folder
from compact_splats.training.strategies import standard_strategies
from compact_splats.training.summary import describe
from compact_splats.training.time_limit import TimeLimit
from compact_splats.training.training import Training
from compact_splats.training.viewer_files import cfg_args, write_points
from compact_splats.utils.errors import InputError
from compact_splats.utils.lock import FolderLock
from compact_splats.utils.signals import StopRequest
from compact_splats.utils.usage import MB, MemoryMeter, Stopwatch


def train(
    config: TrainConfig,
    processes: SingleProcess = SINGLE_PROCESS,
    open_viewer: OpenViewer = no_viewer,
    read_init: Callable[..., SavedArrays] = ply.read,
) -> dict[str, Any]:
    """Train on a scene and leave the result in a run folder.

    Args:
        config: without a ``model_path`` a new folder below ``output`` is made.
        processes: those that train together. Only the first writes.
        open_viewer: of ``viewer.training.viewer_of``, for a ``config`` with a viewer.
        read_init: reads ``config.init_ply``; ``compression.read_model`` reads other formats than PLY.

    Returns:
        The content of ``summary.json``: quality, size, time, memory, and the path of the PLY. Empty in processes other
        than the first.

    Raises:
        InputError: the scene or the folder is unusable; nothing has been written then.
    """
    device = processes.own_device(pick_device(config.device, DEVICES))
    assert config.viewer is None or open_viewer is not no_viewer, "a config with a viewer needs open_viewer"
    use_threads(config.threads or processes.threads)
    use_deterministic_algorithms(config.deterministic)
    name = f"{config.source_path.absolute().name}-{config.schedule}-{config.final_budget}"
    folder = config.model_path or processes.share(free_folder(name))
    with FolderLock(folder) if processes.is_first else nullcontext() as lock:
        run = Run(folder, tensorboard=config.tensorboard, writes=processes.is_first, lock=lock)
        checkpoints = Checkpoints(folder, Interval.parse(config.checkpoint_every), processes)
        start = decide_start(config, run, checkpoints, processes)
        summary = start.summary or _train(
            config, run, checkpoints, start.about, device, processes, open_viewer, read_init
        )
        checkpoints.clear()
        return summary


def _train(
    config: TrainConfig, run: Run, checkpoints: Checkpoints, about: dict[str, Any] | None, device: torch.device,
    processes: SingleProcess, open_viewer: OpenViewer, read_init: Callable[..., SavedArrays],
) -> dict[str, Any]:  # fmt: skip
    """Train in a folder that no other process writes to; ``about`` is that of the checkpoint to continue from."""
    given = None
    if about is None and config.init_ply is not None:
        given = read_init(config.init_ply, keep_nan=config.keep_nan)
        config.say_notes(config.init_ply, given.notes)
        if config.antialiasing is None and given.antialiased:
            config = replace(config, antialiasing=True)
    schedule = shared(config.make_schedule(), processes.count)
    check = partial(check_memory, config, schedule, processes, device)
    scene = load(config, check, num_random_points(config.final_budget), max_tracked=max_with_depth_loss(config))
    if text := advice(config, device):
        config.say(text)
    if config.all_photos:
        check_all_photos(scene, config.source_path)
    check_same_start(processes, config, scene)
    poses = digest(camera.world_to_camera for camera in scene.train)
    checkpoints.about = {"config": to_json(config), "poses": poses, "processes": processes.count}
    if about is not None:
        check_same_poses(about, poses, config)
    memory = MemoryMeter(device, lambda: scene.photos.num_bytes)
    with closing(Decoding(scene, device, run.folder, processes.on_this_machine)) as decoding:
        if processes.count > 1 or config.minutes is not None:
            decoding.finish()  # all processes find a broken photo, none waits for others; a time limit measures speed
        model = first_gaussians(config, scene, device, given)
        training = make_training(config, schedule, scene, model, processes)
        time_limit = None
        if config.minutes is not None:
            time_limit = TimeLimit(training, schedule, config.final_budget, 60 * config.minutes, processes)
        no_memory = partial(no_room_to_grow, config, training, processes)
        with surroundings(
            config, training, decoding, run, checkpoints, memory, processes, open_viewer, no_memory, time_limit
        ) as context:
            if processes.is_first:
                run.first = partial(begin, context, is_new=about is None)
            scores = fit(training, context)
            if training.poses is not None:
                config.say(training.poses.describe())
            faults = {
                "skipped_views": context.skipped.total(),
                "photos_left_out": context.skipped.total_left_out(),
                "worst_views": context.view_losses.worst(),
            }
            if not processes.is_first:
                return {}
            summary = summary_of(context, faults, scores)
            run.finish(context.num_iterations, summary)
    config.say(describe(summary, config.final_budget, run.folder))
    return summary


def advice(config: TrainConfig, device: torch.device) -> str | None:
    """What someone without a GPU may not know; None: nothing."""
    if device.type != "cpu" or config.schedule != "full" or config.iterations is not None:
        return None
    return (
        "the full schedule takes long on a CPU: --schedule quick is nearly as good in a tenth of the time, and with "
        "--iterations 10000 as good in a fifth; --minutes M ends in time"
    )


def make_training(
    config: TrainConfig, schedule: Schedule, scene: Scene, model: GaussianModel, processes: SingleProcess
) -> Training:
    """The method as the flags ask for it."""
    model.antialiased = bool(config.antialiasing)
    strategies = standard_strategies(
        scene,
        schedule,
        config.final_budget,
        seed=config.seed,
        selection=config.selection,
        smoothing=config.smoothing_3d,
    )
    return Training(
        scene,
        model,
        schedule,
        strategies + depth_loss_for(config, scene),
        loss=PhotometricLoss(config.lambda_dssim, config.robust),
        background=None if config.random_background else torch.full((3,), float(config.white_background)),
        seed=config.seed,
        exposure=exposure_for(config, scene, model.device),
        poses=poses_for(config, scene),
        processes=processes,
    )


@contextmanager
def surroundings(
    config: TrainConfig, training: Training, decoding: Decoding, run: Run, checkpoints: Checkpoints,
    memory: MemoryMeter, processes: SingleProcess, open_viewer: OpenViewer,
    memory_error: Callable[[int], InputError | None], time_limit: TimeLimit | None,
) -> Iterator[RunContext]:  # fmt: skip
    """What runs beside a training: clock, signals, bar and viewer."""
    schedule, device = training.schedule, training.model.device
    clock = Stopwatch(device)
    with (
        StopRequest() as stop,
        closing(Progress(schedule.iterations, config.quiet)) as progress,
        checkpoints.pointed_to(),
        open_viewer(run.folder, training.scene, stop, clock) as viewer,
    ):
        skipped = SkippedViews(schedule.iterations, device, processes)
        if not training.scene.photos.holds_all:
            num_photos = len({camera.required_photo.path for camera in training.scene.train + training.scene.test})
            training.scene.photos.leave_out = partial(skipped.leave_out, num_photos=num_photos, warn=run.warn)
        yield RunContext(
            config, training, decoding, run, checkpoints, clock, memory, progress, skipped, stop, viewer, processes,
            memory_error, time_limit,
        )  # fmt: skip


def begin(context: RunContext, *, is_new: bool) -> None:
    """Wait until all photos that fit into memory are decoded, then write what belongs in the folder from the start.

    Raises:
        InputError: a photo is broken; nothing has been written or removed.
    """
    run, scene = context.run, context.training.scene
    with context.clock.paused():
        context.decoding.finish()
    run.write_inputs = partial(write_inputs, run, context.config, scene, context.training.model.device)
    run.remove_leftovers()
    if is_new:
        counts = {"train_views": len(scene.train), "test_views": len(scene.test), "points": len(scene.points.xyz)}
        run.log("start", 0, counts)
    run.write_inputs()


def fit(training: Training, context: RunContext) -> Scores:
    """The one loop of every schedule.

    Returns:
        The last measurement; nothing in processes other than the first.

    Raises:
        Stopped: the user asked for it; a checkpoint of the last step is there.
    """
    context.restore()
    for step in training:
        context.record(step)
    context.save_result()
    return context.measure(context.num_iterations)


def summary_of(context: RunContext, faults: dict[str, Any], scores: Scores) -> dict[str, Any]:
    """The content of ``summary.json``."""
    ply: Path = context.run.ply_path(context.num_iterations)
    seconds = context.clock.seconds
    return {
        "iterations": context.num_iterations,
        "processes": context.processes.count,
        "num_gaussians": context.training.model.num_gaussians,
        "ply_mb": ply.stat().st_size / MB,
        "training_minutes": seconds / 60,
        "steps_per_second": context.training.schedule.iterations / seconds,
        **faults,
        **context.memory.read(),
        **scores,
        "point_cloud": str(ply),
    }


def write_inputs(run: Run, config: TrainConfig, scene: Scene, device: torch.device) -> None:
    """Write what is known before training: the config, and what viewers of 3DGS look for."""
    values = {**to_json(config), "model_path": str(run.folder.absolute()), UNITS: scene.units.to_json()}
    run.write_json("config.json", values)
    run.write_text("cfg_args", cfg_args(values, device.type))
    run.write_json("cameras.json", camera_entries(scene.test + scene.train, scene.units))
    write_points(run.folder / "input.ply", scene.points, scene.units)
