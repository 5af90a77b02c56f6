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

import dataclasses
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Before torch is imported: its idle OpenMP threads would otherwise spin on the cores that the rasterizer needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from diff_gaussian_rasterization import photometric_loss
from torch import Tensor

from arguments import TrainConfig, pick_device
from arguments.options import flags_that_save_memory, to_json
from arguments.schedule import Schedule
from arguments.sharing import shared
from gaussian_renderer import DEVICES, importance, render
from gaussian_renderer.evaluation import evaluate, ground_truth
from scene import Scene, load_scene
from scene.densification import Densification, EdgeWeights, add_view_scores
from scene.gaussian_model import GaussianModel
from scene.natural_selection import NaturalSelection
from utils.errors import run_script
from utils.progress import Progress
from utils.ranks import ALONE, OneRank, joined_ranks
from utils.run import Run, free_folder
from utils.usage import MB, MemoryMeter, Stopwatch
from utils.viewer_files import camera_entries, cfg_args, write_points
from utils.views import ViewSampler

LOG_EVERY = 100  # steps
NUM_TRAIN_VIEWS = 5  # measured beside the test views

Scores = dict[str, dict[str, float]]  # by split, then by metric


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
    config = dataclasses.replace(config, threads=config.threads or ranks.threads)
    if config.threads:
        torch.set_num_threads(config.threads)
    use_deterministic_algorithms(config.deterministic)
    name = f"{config.source_path.absolute().name}-{config.schedule}-{config.final_budget}"
    folder = config.model_path or free_folder(name)
    run = Run(folder, tensorboard=config.tensorboard, quiet=config.quiet, writes=ranks.is_first)
    if (run.folder / "config.json").exists():
        run.say(f"{run.folder} holds an earlier run; its files are replaced as new ones are ready")
    scene = load(config, run, device)
    check_same_start(ranks, config, scene)
    schedule = shared(config.make_schedule(), ranks.count)

    if ranks.is_first:
        write_inputs(run, config, scene, device)
    torch.optim.Adam([torch.zeros(1)])  # makes torch load the code behind it, which is no cost of this training
    memory = MemoryMeter(device)
    model = GaussianModel.from_points(scene.points, config.sh_degree, device)
    clock = Stopwatch(device)
    scores = fit(config, schedule, scene, model, run, clock, ranks)
    if not ranks.is_first:
        return {}
    iterations = config.make_schedule().iterations
    summary = {
        "iterations": iterations,
        "processes": ranks.count,
        "num_gaussians": model.num_gaussians,
        "ply_mb": run.ply_path(iterations).stat().st_size / MB,
        "training_minutes": clock.seconds / 60,
        "steps_per_second": schedule.iterations / clock.seconds,
        **memory.read(),
        **scores,
        "point_cloud": str(run.ply_path(iterations)),
    }
    run.write_json("summary.json", summary)
    run.close()
    run.say(describe(summary, config))
    return summary


def fit(
    config: TrainConfig,
    schedule: Schedule,
    scene: Scene,
    model: GaussianModel,
    run: Run,
    clock: Stopwatch,
    ranks: OneRank,
) -> Scores:
    """THE loop: fit the model to the photos, let it grow, and select it down to the budget.

    Where several processes share the run, each sees a view of its own in every step, and all make the same edits.

    Returns:
        The last measurement; nothing in processes other than the first.
    """
    device = model.device
    view_rng, importance_rng, growth_rng, selection_rng, background_rng = generators(config.seed, 5)
    views, importance_views = ViewSampler(len(scene.train), view_rng), ViewSampler(len(scene.train), importance_rng)
    densification = Densification(schedule.growths, config.final_budget, growth_rng, ranks)
    selection = NaturalSelection(schedule.selections, config.final_budget, selection_rng, mode=config.selection)
    background = torch.full((3,), float(config.white_background))
    options = {"antialiased": config.antialiasing, "threads": config.threads}
    edge_weights = EdgeWeights()

    def random_background() -> Tensor:
        return torch.rand(3, generator=background_rng)

    progress = Progress(schedule.iterations, config.quiet)
    num_iterations = config.make_schedule().iterations  # of one process, which is how the user counts
    save_steps, test_steps = (steps_of(each, ranks) for each in (config.save_iterations, config.test_iterations))
    scores: Scores = {}

    def edge_importance(num_views: int | None) -> Tensor:
        drawn = importance_views.draw_many(num_views)
        cameras = (scene.train[index] for index in ranks.own_share(drawn))
        sums = (importance(camera, model, edge_weights(camera).to(device), **options) for camera in cameras)
        total = add_view_scores(torch.zeros(model.num_gaussians, device=device), (view.weighted for view in sums))
        ranks.sum(total)
        return total / len(drawn)

    model.start_training(schedule.learning_rates(0, scene.extent))
    for step in range(1, schedule.iterations + 1):
        rates = schedule.learning_rates(step, scene.extent, selection.opacity_rate_factor(step))
        model.set_learning_rates(rates, schedule.betas(step))
        if schedule.raises_sh_degree(step):
            model.raise_sh_degree()

        camera = scene.train[ranks.own_draw(views.draw)]
        photo, mask = ground_truth(camera, device)
        behind = ranks.own_draw(random_background) if config.random_background else background
        image = render(camera, model, behind, stats=densification.stats_for(step, model), **options).image
        loss = photometric_loss(image, photo, mask=mask, ssim_weight=config.lambda_dssim, threads=config.threads).loss
        selection.adapt(step, model.opacities)
        (loss + selection.penalty(step, model.rows["opacity_logits"])).backward()
        due = schedule.rows_due(step)
        ranks.average(model.rows[name].grad for name in due)
        model.step(due)

        densification.edit(step, model, edge_importance)
        selection.edit(step, model)
        if schedule.may_edit(step):
            ranks.check_same(f"Gaussians after step {step}", model.rows.values())

        progress.update(step, loss, image, photo, mask, model.num_gaussians)
        del image, loss  # with them goes what the engine kept for the backward pass, before the next view needs as much
        if not ranks.is_first:
            continue
        is_last, iteration = step == schedule.iterations, min(step * ranks.count, num_iterations)
        if is_last or step % LOG_EVERY == 0:
            selecting = selection.figures(step, model.opacities)
            known = {**progress.means, "gaussians": model.num_gaussians, "seconds": clock.seconds, **selecting}
            run.log("step", iteration, known)
        if is_last or step in save_steps:
            with clock.paused():
                model.save_ply(run.ply_path(iteration))
        if is_last or step in test_steps:
            with clock.paused():
                scores = measure(scene, model, background, options)
                for split, values in scores.items():
                    run.log(split, iteration, values)
    progress.close()
    return scores


def steps_of(iterations: Iterable[int], ranks: OneRank) -> set[int]:
    """The steps in which so many views have been seen by all processes together."""
    return {math.ceil(each / ranks.count) for each in iterations}


def check_same_start(ranks: OneRank, config: TrainConfig, scene: Scene) -> None:
    """Make sure that all processes start from the same; what the photos show is not looked at.

    Raises:
        InputError: one does not.
    """
    neutral = {"source_path": Path(), "model_path": None, "device": "auto", "threads": 0, "quiet": False}
    settings = repr((dataclasses.replace(config, **neutral), [camera.name for camera in scene.train]))
    settings = torch.frombuffer(bytearray(settings.encode()), dtype=torch.uint8)
    poses = [camera.world_to_camera for camera in scene.train]
    points = [scene.points.xyz, scene.points.rgb]
    ranks.check_same("flags, photos, poses and points", [settings, *poses, *points])


def generators(seed: int, count: int) -> list[torch.Generator]:
    """Independent sources of random numbers, so that one more draw here does not change what is drawn there."""
    seeds = torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [torch.Generator().manual_seed(each) for each in seeds]


def use_deterministic_algorithms(wanted: bool) -> None:
    """Let engine and torch give the same bits from every run, or not."""
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing reads it, and filling takes time


def load(config: TrainConfig, run: Run, device: torch.device) -> Scene:
    """Read the scene and decode all photos, so that whatever is wrong with them shows before anything is written.

    Raises:
        InputError: the scene or one of its photos can't be read.
    """
    scene = load_scene(
        config.source_path, config.images, config.resolution, config.eval, config.white_background, config.seed
    )
    scene.prefetch(config.threads or torch.get_num_threads())
    for camera in scene.train + scene.test:
        camera.photo.pixels()
        if device.type != "cpu":
            camera.photo.pin_memory()
    first = scene.train[0]
    run.say(
        f"{config.source_path}: {len(scene.train)} training and {len(scene.test)} test views, "
        f"{first.width}x{first.height} px, {len(scene.points.xyz):,} points"
    )
    return scene


def write_inputs(run: Run, config: TrainConfig, scene: Scene, device: torch.device) -> None:
    """Write what is known before training: the config, and what viewers of 3DGS look for."""
    values = {**to_json(config), "model_path": str(run.folder.absolute())}
    run.write_json("config.json", values)
    run.write_text("cfg_args", cfg_args(values, device.type))
    run.write_json("cameras.json", camera_entries(scene.test + scene.train))
    write_points(run.folder / "input.ply", scene.points.xyz, scene.points.rgb)
    counts = {"train_views": len(scene.train), "test_views": len(scene.test), "points": len(scene.points.xyz)}
    run.log("start", 0, counts)


def measure(scene: Scene, model: GaussianModel, background: Tensor, options: dict[str, Any]) -> Scores:
    """Quality of the test views, if there are any, and of a few training views."""
    stride = max(1, len(scene.train) // NUM_TRAIN_VIEWS)
    splits = {"test": scene.test, "train": scene.train[::stride][:NUM_TRAIN_VIEWS]}
    return {name: evaluate(views, model, background, **options) for name, views in splits.items() if views}


def describe(summary: dict[str, Any], config: TrainConfig) -> str:
    """The summary for a reader."""
    quality = [
        f"{split + ' views':12} PSNR {summary[split]['psnr']:.2f} dB   SSIM {summary[split]['ssim']:.4f}"
        for split in ("test", "train")
        if split in summary
    ]
    if "test" not in summary:
        quality.append("             (no test views: --eval keeps every 8th photo out of training)")
    memory = f"{'memory':12} peak {summary['peak_rss_mb']:,.0f} MB"
    if "peak_rss_above_start_mb" in summary:
        memory += f", {summary['peak_rss_above_start_mb']:,.0f} MB of it since the start of training"
    if "peak_device_mb" in summary:
        memory += f"; on the GPU {summary['peak_device_mb']:,.0f} MB"
    return "\n".join(
        [
            *quality,
            f"{'Gaussians':12} {summary['num_gaussians']:,} of {config.final_budget:,}   {summary['ply_mb']:.2f} MB",
            f"{'time':12} {summary['training_minutes']:.2f} min without loading, measuring and saving, "
            f"{summary['steps_per_second']:.1f} steps/s",
            memory,
            f"{'files':12} {summary['point_cloud']}",
        ]
    )


if __name__ == "__main__":
    run_script(main, less_memory=flags_that_save_memory(TrainConfig))
