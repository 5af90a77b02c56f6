"""Train Gaussians on posed photos: builds the parts from the config, then runs the one loop that serves every schedule.

photos + poses            config (frozen) + Schedule (frozen)
      |                            |
 scene.load_scene --> Scene        |
      |  cameras, points           v
      +--> GaussianModel <---- train.py, for each step -------------------------------+
             rows + Adam   render(camera, model) -> RenderOutput -> photometric_loss  |
                  ^            ^ gaussian_renderer -> engine          + penalty       |
                  |                                               backward, step      |
                  +--- remap <-- grow (densification) / victims (natural selection) --+
                  |
            point_cloud.ply --> render.py -> metrics.py
"""

import math
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

# Before torch is imported: its idle OpenMP threads would otherwise spin on the cores that the rasterizer needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from diff_gaussian_rasterization import photometric_loss
from torch import Tensor

from compact_splats.arguments import TrainConfig, pick_device
from compact_splats.arguments.device import use_deterministic_algorithms
from compact_splats.arguments.options import flags_that_save_memory, to_json
from compact_splats.arguments.schedule import Schedule
from compact_splats.arguments.sharing import shared
from compact_splats.gaussian_renderer import DEVICES, importance, render
from compact_splats.gaussian_renderer.evaluation import Scores, ground_truth, measure
from compact_splats.scene import Scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.checkpoint import Checkpoints, Interval, OtherRanks
from compact_splats.training.densification import Densification, EdgeWeights, add_view_scores
from compact_splats.training.faults import SkippedViews
from compact_splats.training.gradients import WaitingGradients, add_gradients
from compact_splats.training.loading import check_all_photos, check_same_start, first_gaussians, load
from compact_splats.training.memory import check_memory, no_room_to_grow
from compact_splats.training.natural_selection import NaturalSelection
from compact_splats.training.processes import ALONE, OneRank, digest, joined_ranks
from compact_splats.training.progress import Progress
from compact_splats.training.random_streams import RandomStates, generators
from compact_splats.training.resume import check_same_poses, finished, settled_start
from compact_splats.training.run_context import Around
from compact_splats.training.run_folder import Run, free_folder
from compact_splats.training.summary import describe
from compact_splats.training.view_sampler import ViewSampler
from compact_splats.training.viewer_files import camera_entries, cfg_args, write_points
from compact_splats.utils.errors import run_script
from compact_splats.utils.lock import FolderLock
from compact_splats.utils.signals import StopRequest
from compact_splats.utils.usage import MB, MemoryMeter, Stopwatch
from compact_splats.viewer.training import NoViewer, check_viewer, training_viewer

LOG_EVERY = 100  # steps


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    with joined_ranks() as ranks:
        train(TrainConfig.from_command_line(sys.argv[1:] if argv is None else argv), ranks)


def train(config: TrainConfig, ranks: OneRank = ALONE) -> dict[str, Any]:
    """Train on a scene and leave the result in a run folder.

    Args:
        config: what to do; without a ``model_path`` a new folder below ``output`` is made.
        ranks: the processes that train together. Only the first writes.

    Returns:
        The content of ``summary.json``: quality, size, time, memory, and where the Gaussians are. Nothing in processes
        other than the first.

    Raises:
        InputError: the scene or the folder is unusable; nothing has been written then.
    """
    device = ranks.own_device(pick_device(config.device, DEVICES))
    check_viewer(config, ranks)
    config = replace(config, threads=config.threads or ranks.threads)
    if config.threads:
        torch.set_num_threads(config.threads)
    name = f"{config.source_path.absolute().name}-{config.schedule}-{config.final_budget}"
    folder = config.model_path or ranks.share(free_folder(name))
    with FolderLock(folder) if ranks.is_first else nullcontext() as lock:
        run = Run(folder, tensorboard=config.tensorboard, quiet=config.quiet, writes=ranks.is_first, lock=lock)
        checkpoints = Checkpoints(folder, Interval.parse(config.checkpoint_every), ranks)
        if summary := ranks.share(finished(config, run) if ranks.is_first else None):
            checkpoints.clear()  # if it was killed before it could do so
            return summary
        return train_into(run, checkpoints, config, device, ranks)


def train_into(
    run: Run, checkpoints: Checkpoints, config: TrainConfig, device: torch.device, ranks: OneRank
) -> dict[str, Any]:
    """Train, or continue a training, in a folder that nobody else writes to; as :func:`train`."""
    config, begun = settled_start(config, run, checkpoints, ranks)
    use_deterministic_algorithms(config.deterministic)
    schedule = shared(config.make_schedule(), ranks.count)
    scene = load(config, run, device, partial(check_memory, config, schedule, ranks, device))
    if config.all_photos:
        check_all_photos(scene, config.source_path)
    check_same_start(ranks, config, scene)
    checkpoints.about = {
        "config": to_json(config),
        "poses": digest(camera.world_to_camera for camera in scene.train),
        "processes": ranks.count,
    }
    if begun is not None:
        check_same_poses(begun, checkpoints, config)

    torch.optim.Adam([torch.zeros(1)])  # makes torch load the code behind it, which is no cost of this training
    memory = MemoryMeter(device)
    model = first_gaussians(config if begun is None else replace(config, init_ply=None), scene, device)
    if ranks.is_first:
        run.write_inputs = partial(write_inputs, run, config, scene, device)
        run.remove_leftovers()
        if begun is None:
            counts = {"train_views": len(scene.train), "test_views": len(scene.test), "points": len(scene.points.xyz)}
            run.log("start", 0, counts)
        run.write_inputs()
    clock = Stopwatch(device)
    with (
        StopRequest() as stop,
        closing(Progress(schedule.iterations, config.quiet)) as progress,
        checkpoints.pointed_to(),
        training_viewer(config, run.folder, scene, stop, clock) as viewer,
    ):
        skipped = SkippedViews(schedule.iterations, device)
        around = Around(run, clock, memory, progress, checkpoints, skipped, stop, ranks)
        scores = fit(config, schedule, scene, model, around, viewer)
        num_skipped = around.num_skipped()
        if not ranks.is_first:
            return {}
        iterations = config.make_schedule().iterations
        ply = run.ply_path(iterations)
        summary = {
            "iterations": iterations,
            "processes": ranks.count,
            "num_gaussians": model.num_gaussians,
            "ply_mb": ply.stat().st_size / MB,
            "training_minutes": clock.seconds / 60,
            "steps_per_second": schedule.iterations / clock.seconds,
            "skipped_views": num_skipped,
            **memory.read(),
            **scores,
            "point_cloud": str(ply),
        }
        run.finish(iterations, summary)
    checkpoints.clear()
    run.say(describe(summary, config.final_budget))
    return summary


def fit(
    config: TrainConfig, schedule: Schedule, scene: Scene, model: GaussianModel, around: Around, viewer: NoViewer
) -> Scores:
    """THE loop: fit the model to the photos, let it grow, and select it down to the budget.

    Where several processes share the run, each sees a view of its own in every step, and all make the same edits.

    Returns:
        The last measurement; nothing in processes other than the first.

    Raises:
        Stopped: as the user has asked for; a checkpoint of the last step is there.
    """
    run, clock, progress, ranks = around.run, around.clock, around.progress, around.ranks
    device = model.device
    sources = view_rng, importance_rng, growth_rng, selection_rng, background_rng = generators(config.seed, 5)
    views, importance_views = ViewSampler(len(scene.train), view_rng), ViewSampler(len(scene.train), importance_rng)
    densification = Densification(schedule.growths, config.final_budget, growth_rng, ranks)
    selection = NaturalSelection(schedule.selections, config.final_budget, selection_rng, mode=config.selection)
    background = torch.full((3,), float(config.white_background))
    options = {"antialiased": config.antialiasing, "threads": config.threads}
    edge_weights = EdgeWeights()

    def random_background() -> Tensor:
        return torch.rand(3, generator=background_rng)

    num_iterations = config.make_schedule().iterations  # of one process, which is how the user counts
    save_steps, test_steps = (steps_of(each, ranks) for each in (config.save_iterations, config.test_iterations))

    def edge_importance(num_views: int | None) -> Tensor:
        drawn = importance_views.draw_many(num_views)
        cameras = (scene.train[index] for index in ranks.own_share(drawn))
        sums = (importance(camera, model, edge_weights(camera).to(device), **options) for camera in cameras)
        total = add_view_scores(torch.zeros(model.num_gaussians, device=device), (view.weighted for view in sums))
        ranks.sum(total)
        return total / len(drawn)

    def measured(iteration: int) -> Scores:
        if not ranks.is_first:
            return {}
        with clock.paused():
            scores = measure(scene, model, background, options)
        for split, values in scores.items():
            run.log(split, iteration, values)
        return scores

    model.start_training(schedule.learning_rates(0, scene.extent))
    of_each_rank = {"gradients": WaitingGradients(model), "densification": densification, "skipped": around.skipped}
    changing = {  # all that a step leaves behind for the next; what is not in here is the same in every run
        "model": model, "densification": densification, "selection": selection, "views": views,
        "importance views": importance_views, "random": RandomStates(sources), **around.parts(),
        "other ranks": OtherRanks(ranks, of_each_rank),
    }  # fmt: skip
    done = around.checkpoints.restore(changing)
    for step in range(done + 1, schedule.iterations + 1):
        rates = schedule.learning_rates(step, scene.extent, selection.opacity_rate_factor(step))
        model.set_learning_rates(rates, schedule.betas(step))
        if schedule.raises_sh_degree(step):
            model.raise_sh_degree()

        camera = scene.train[ranks.own_draw(views.draw)]
        photo, mask = ground_truth(camera, device)
        behind = ranks.own_draw(random_background) if config.random_background else background
        stats = densification.stats_of_view(step, model)
        image = render(camera, model, behind, stats=stats, **options).image
        loss = photometric_loss(image, photo, mask=mask, ssim_weight=config.lambda_dssim, threads=config.threads).loss
        selection.adapt(step, model.opacities)
        usable = add_gradients(model, loss + selection.penalty(step, model.rows["opacity_logits"]))
        densification.add(stats, usable)
        around.skipped.note(usable, camera.name)
        due = schedule.rows_due(step)
        ranks.average_gradients(model.rows[name] for name in due)
        model.step(due)

        densification.edit(step, model, edge_importance)
        selection.edit(step, model)
        if schedule.may_edit(step):
            ranks.check_same(f"Gaussians after step {step}", model.rows.values())

        progress.update(step, loss, image, photo, mask, model.num_gaussians, around.skipped.count)
        del image, loss  # with them goes what the engine kept for the backward pass, before the next view needs as much
        is_last, iteration = step == schedule.iterations, min(step * ranks.count, num_iterations)
        if is_last or step % LOG_EVERY == 0:
            known = {**progress.means, "gaussians": model.num_gaussians, "seconds": clock.seconds}
            known |= {"skipped": around.num_skipped(), **selection.figures(step, model.opacities)}
            run.log("step", iteration, known)
        if is_last:
            break
        if step in save_steps:
            around.save_model(model, iteration)
        if step in test_steps:
            measured(iteration)
        viewer.step(model, step)
        around.pause(step, changing, no_room_to_grow(config, schedule, ranks, model, step))
    around.save_result(model, num_iterations, schedule.iterations, changing)
    return measured(num_iterations)


def steps_of(iterations: Iterable[int], ranks: OneRank) -> set[int]:
    """The steps in which so many views have been seen by all processes together."""
    return {math.ceil(each / ranks.count) for each in iterations}


def write_inputs(run: Run, config: TrainConfig, scene: Scene, device: torch.device) -> None:
    """Write what is known before training: the config, and what viewers of 3DGS look for."""
    values = {**to_json(config), "model_path": str(run.folder.absolute())}
    run.write_json("config.json", values)
    run.write_text("cfg_args", cfg_args(values, device.type))
    run.write_json("cameras.json", camera_entries(scene.test + scene.train))
    write_points(run.folder / "input.ply", scene.points.xyz, scene.points.rgb)


if __name__ == "__main__":
    run_script(main, less_memory=flags_that_save_memory(TrainConfig))
