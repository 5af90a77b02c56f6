"""Times the engine and a whole training step over numbers of Gaussians and resolutions, on random or real scenes.

    python -m benchmarks.rasterizer                                      # random scenes
    python -m benchmarks.rasterizer --scene SCENE -r 270 --gaussians 13445 45000   # the comparison with OpenSplat

It measures speed and memory only; quality is measured by training.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

# As train.py does, before torch is imported: idle OpenMP threads must not spin on the rasterizer's cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from diff_gaussian_rasterization import LIMITS, photometric_loss
from torch import Tensor

from arguments import DEVICES, pick_device
from arguments.schedule import FULL
from benchmarks.machine import machine_info, median_seconds, num_cores
from gaussian_renderer import importance, render
from scene import load_scene
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from scene.points import Points
from utils.errors import run_script
from utils.files import write_json
from utils.usage import MemoryMeter

# Splat-pixel pairs a second and core of a plain AVX2 loop, the yardstick for pairs per second.
PAIRS_PER_SECOND_AND_CORE = 1.2e9
# Seconds of a step of OpenSplat's CPU mode on the fox capture at 270x480, two cores, by number of Gaussians.
OPENSPLAT_SECONDS = {13_445: 0.6, 45_000: 0.8}
OPENSPLAT_SIZE = (270, 480)


def random_scene(num: int, width: int, height: int, generator: torch.Generator) -> tuple[Camera, Tensor, Points]:
    """A camera, a photo of noise and points on a wavy wall that fills the view: real points lie on surfaces, too."""
    focal = 0.9 * max(width, height)
    u, v, depth = torch.rand(3, num, generator=generator)
    z = 4 + torch.sin(6 * u) * torch.cos(5 * v) + 0.1 * depth
    xyz = torch.stack([(u - 0.5) * width / focal * z, (v - 0.5) * height / focal * z, z], 1)
    rgb = torch.randint(0, 256, (num, 3), generator=generator, dtype=torch.uint8)
    camera = Camera("random", width, height, focal, focal, width / 2, height / 2, torch.eye(4), None)
    photo = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return camera, photo, Points(xyz, rgb)


def repeated(points: Points, num: int, generator: torch.Generator) -> Points:
    """Exactly ``num`` points: the first ones, or all of them again and again, moved by 1 % of the cloud's spread."""
    source = torch.arange(num) % len(points.xyz)
    jitter = 0.01 * points.xyz.std(0) * torch.randn(num, 3, generator=generator)
    jitter[: len(points.xyz)] = 0
    return replace(points, xyz=points.xyz[source] + jitter, rgb=points.rgb[source])


def trainable_model(points: Points, device: torch.device) -> GaussianModel:
    """Gaussians at the points with all SH degrees switched on, and Adam."""
    model = GaussianModel.from_points(points, max_sh_degree=3, device=device)
    model.start_training(FULL.learning_rates(0, 1.0))
    while model.sh_degree < model.max_sh_degree:
        model.raise_sh_degree()
    return model


def measure(camera: Camera, photo: Tensor, points: Points, device: torch.device, threads: int, repeats: int) -> dict:
    """Seconds of each part of a training step on one view, splat-pixel pairs, and peak memory.

    ``pairs`` are all pixels of the tiles that a splat touches: what a plain loop over tiles evaluates. Those whose
    alpha counts are the ``contributing_pairs``.
    """
    memory = MemoryMeter(device)
    model = trainable_model(points, device)
    photo = photo.to(device)
    background = torch.zeros(3, device=device)
    shown = partial(render, camera, model, background, threads=threads)
    loss_of = partial(photometric_loss, photo=photo, threads=threads)
    image = shown().image.detach()
    toward = torch.randn_like(image)

    def forward() -> None:
        with torch.no_grad():
            shown()

    def forward_backward() -> None:
        (shown().image * toward).sum().backward()

    def loss() -> None:
        loss_of(image.requires_grad_()).loss.backward()

    def give_gradients() -> None:
        for row in model.rows.values():
            row.grad = torch.full_like(row, 1e-9)

    def step() -> None:
        loss_of(shown().image).loss.backward()
        model.step()

    pairs = shown().image.grad_fn.frame.num_instances * LIMITS["tile"] ** 2
    weights = torch.ones(camera.height, camera.width, device=device)
    contributing = importance(camera, model, weights, threads=threads).num_pixels.sum().item()
    seconds = {
        "forward": median_seconds(forward, repeats, device),
        "forward_backward": median_seconds(forward_backward, repeats, device, model.optimizer.zero_grad),
        "loss": median_seconds(loss, repeats, device),
        "adam": median_seconds(model.step, repeats, device, give_gradients),
        "step": median_seconds(step, repeats, device),
    }
    limit = PAIRS_PER_SECOND_AND_CORE * (threads or num_cores())
    return {
        "gaussians": model.num_gaussians,
        "width": camera.width,
        "height": camera.height,
        "threads": threads or num_cores(),
        "pairs": pairs,
        "contributing_pairs": contributing,
        "seconds": seconds,
        # The backward pass looks at each pair a second time.
        "share_of_limit": {
            "forward": pairs / seconds["forward"] / limit,
            "forward_backward": 2 * pairs / seconds["forward_backward"] / limit,
        },
        **memory.read(),
    }


def opensplat_ratio(result: dict) -> float | None:
    """How many times faster than OpenSplat's step at this size, where its time is known."""
    near = abs(result["width"] - OPENSPLAT_SIZE[0]) <= 2 and abs(result["height"] - OPENSPLAT_SIZE[1]) <= 2
    seconds = OPENSPLAT_SECONDS.get(result["gaussians"])
    return seconds / result["seconds"]["step"] if near and seconds else None


def table(results: list[dict]) -> str:
    """The results as text, a line each."""
    lines = [
        f"{'scene':<10}{'Gaussians':>10}{'size':>11}{'Mpairs':>8}{'counting':>9}{'forward':>9}{'fwd+bwd':>9}{'loss':>8}{'Adam':>8}"
        f"{'step':>9}{'limit fwd':>11}{'f+b':>6}{'peak MB':>9}  OpenSplat"
    ]
    for r in results:
        ms = {name: f"{1e3 * seconds:.1f}" for name, seconds in r["seconds"].items()}
        share = {name: f"{100 * value:.0f} %" for name, value in r["share_of_limit"].items()}
        faster = f"{r['times_faster_than_opensplat']:.1f} x" if r["times_faster_than_opensplat"] else ""
        lines.append(
            f"{r['scene']:<10.9}{r['gaussians']:>10,}{r['width']:>6}x{r['height']:<4}{r['pairs'] / 1e6:>8.1f}"
            f"{r['contributing_pairs'] / r['pairs']:>9.0%}"
            f"{ms['forward']:>9}{ms['forward_backward']:>9}{ms['loss']:>8}{ms['adam']:>8}{ms['step']:>9}"
            f"{share['forward']:>11}{share['forward_backward']:>6}{r['peak_rss_above_start_mb']:>9.0f}  {faster}"
        )
    return "\n".join(lines + ["times in ms; limit: 1.2 G splat-pixel pairs a second and core"])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, help="folder of a real scene instead of random ones")
    parser.add_argument("-i", "--images", default="images", help="its images folder")
    parser.add_argument("-r", "--resolution", type=int, nargs="+", default=[-1], help="as for train.py, several")
    parser.add_argument("--gaussians", type=int, nargs="+", help="numbers of Gaussians (default: 10k to 300k; a scene: "
                        "one for each point)")  # fmt: skip
    parser.add_argument("--sizes", nargs="+", default=["320x240", "640x480", "1280x960"], help="of random scenes, WxH")
    parser.add_argument("--repeats", type=int, default=10, help="the median of this many is reported")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--out", type=Path, help="write all figures as JSON here")
    return parser.parse_args()


def measure_case(options: argparse.Namespace, size: str | int, num: int | None) -> dict:
    """Measure one case in a process of its own, so that memory kept from another case does not hide its peak.

    Args:
        options: the command line.
        size: "WxH" of a random scene, or the resolution of a real one.
        num: Gaussians; None: one for each point.
    """
    device = pick_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    if options.scene is None:
        width, height = map(int, size.split("x"))
        camera, photo, points = random_scene(num, width, height, generator)
    else:
        scene = load_scene(options.scene, options.images, size)
        camera = scene.train[len(scene.train) // 2]
        photo, points = camera.photo.pixels(), repeated(scene.points, num or len(scene.points.xyz), generator)
    result = measure(camera, photo, points, device, options.threads, options.repeats)
    name = options.scene.name if options.scene else "random"
    return {"scene": name, **result, "times_faster_than_opensplat": opensplat_ratio(result)}


def main() -> None:
    """Run all cases, print the table, write the JSON."""
    options = parse_arguments()
    sizes = options.resolution if options.scene else options.sizes
    counts = options.gaussians or ([None] if options.scene else [10_000, 30_000, 100_000, 300_000])
    pick_device(options.device)  # what is wrong with the options shows here, in one line
    if options.scene:
        load_scene(options.scene, options.images)
    results = []
    for size, num in itertools.product(sizes, counts):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            results.append(process.submit(measure_case, options, size, num).result())
    print(table(results))
    if options.out:
        report = {"machine": machine_info(), "options": {k: str(v) for k, v in vars(options).items()}}
        write_json(options.out, report | {"results": results})


if __name__ == "__main__":
    run_script(main)
