"""Times the engine and a whole training step over numbers of Gaussians and resolutions, on random or real scenes.

    python -m benchmarks.rasterizer                                      # random scenes
    python -m benchmarks.rasterizer --scene SCENE -r 270 --gaussians 13445 45000   # a real capture
    python -m benchmarks.rasterizer --device cuda --deterministic --gsplat         # both of our modes, beside gsplat

It measures speed and memory only; quality is measured by training.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

# As train.py does, before torch is imported: idle OpenMP threads must not spin on the rasterizer's cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from diff_gaussian_rasterization import LIMITS, photometric_loss
from torch import Tensor

from benchmarks.native import build, find_compiler, write_case
from benchmarks.timing import median_seconds
from compact_splats.arguments import DEVICES, pick_device
from compact_splats.arguments.device import use_threads
from compact_splats.arguments.schedule import FULL
from compact_splats.gaussian_renderer import DEVICES as ENGINE_DEVICES
from compact_splats.gaussian_renderer import importance, render, render_pass
from compact_splats.scene import load_scene
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.points import Points
from compact_splats.training.gradients import add_gradients
from compact_splats.utils.errors import run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info
from compact_splats.utils.memory import keep_freed_memory
from compact_splats.utils.usage import MemoryMeter


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


def load_case(scene: Path | None, images: str, size: str | int, num: int | None) -> tuple[Camera, Tensor, Points]:
    """A camera, its photo and points: of a random scene, or the middle training view of a real one.

    Args:
        scene: folder of a real scene; None: a random one.
        images: its images folder.
        size: "WxH" of a random scene, or the resolution of a real one.
        num: of points; None: those of the real scene.
    """
    generator = torch.Generator().manual_seed(0)
    if scene is None:
        width, height = map(int, size.split("x"))
        return random_scene(num, width, height, generator)
    loaded = load_scene(scene, images, size)
    camera = loaded.train[len(loaded.train) // 2]
    return camera, camera.photo.pixels(), repeated(loaded.points, num or len(loaded.points.xyz), generator)


def trainable_model(points: Points, device: torch.device) -> GaussianModel:
    """Gaussians at the points with all SH degrees switched on, and an Adam that leaves them where they are.

    Steps toward a photo of noise would make another scene of it while it is measured.
    """
    return ready_to_train(GaussianModel.from_points(points, max_sh_degree=3, device=device))


def ready_to_train(model: GaussianModel) -> GaussianModel:
    """The model, as :func:`trainable_model` says."""
    model.start_training(dict.fromkeys(FULL.learning_rates_at(0, 1.0), 0.0))
    while model.sh_degree < model.max_sh_degree:
        model.raise_sh_degree()
    return model


class Work:
    """The parts of a training step on one view, each as a function to be timed.

    Attributes:
        draw: draws the view; differentiable.
        give_gradients: of the photometric loss of the view, to the parameters.
        step_optimizer: updates all rows and drops their gradients.
    """

    def __init__(
        self,
        camera: Camera,
        photo: Tensor,
        model: GaussianModel,
        draw: Callable[[], Tensor],
        give_gradients: Callable[[], object],
        step_optimizer: Callable[[], object],
    ) -> None:
        self.model, self.draw, self.give_gradients, self.step_optimizer = model, draw, give_gradients, step_optimizer
        self._loss_of = partial(photometric_loss, photo=photo.to(model.device))
        self._image = draw().detach()
        self._toward = torch.randn_like(self._image)

    def forward(self) -> None:
        """Draw, without a graph."""
        with torch.no_grad():
            self.draw()

    def forward_backward(self) -> None:
        """Draw, and all gradients for a given one of the image."""
        self.drop_gradients()
        (self.draw() * self._toward).sum().backward()

    def loss(self) -> None:
        """The loss and the image's gradient."""
        self._image.grad = None
        self._loss_of(self._image.requires_grad_()).loss.backward()

    def set_gradients(self) -> None:
        """What a backward pass leaves."""
        for row in self.model.parameters.values():
            row.grad = torch.full_like(row, 1e-9)

    def drop_gradients(self) -> None:
        """So that the next are not added to them."""
        for row in self.model.parameters.values():
            row.grad = None

    def step(self) -> None:
        """A whole step."""
        self.give_gradients()
        self.step_optimizer()

    def seconds(self, repeats: int) -> dict[str, float]:
        """Median seconds of each part."""
        timed = partial(median_seconds, repeats=repeats, device=self.model.device)
        return {
            "forward": timed(self.forward),
            "forward_backward": timed(self.forward_backward),
            "loss": timed(self.loss),
            "adam": timed(self.step_optimizer, prepare=self.set_gradients),
            "step": timed(self.step),
        }


def our_work(camera: Camera, photo: Tensor, model: GaussianModel) -> Work:
    """A step as train.py makes it."""
    keep_freed_memory()
    photo, background = photo.to(model.device), torch.zeros(3)

    def give_gradients() -> None:
        view = render_pass(camera, model, background, model.waiting_gradients())
        loss = view.photometric_loss(photo)
        view.backward()
        add_gradients(model, view, loss)

    return Work(camera, photo, model, lambda: render(camera, model).image, give_gradients, model.update)


def gsplat_work(camera: Camera, photo: Tensor, model: GaussianModel) -> Work:
    """The same step with gsplat's rasterizer and torch's fused Adam; the loss is ours, gsplat has none."""
    from gsplat import rasterization

    device = model.device
    matrix = camera.world_to_camera.to(device)[None]
    intrinsics = torch.tensor([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]], device=device)[None]
    groups = [{"params": [row], "lr": 0.0} for row in model.parameters.values()]
    optimizer = torch.optim.Adam(groups, eps=1e-15, fused=True)

    def draw() -> Tensor:
        colors = torch.cat([model.sh_dc, model.sh_rest], 1)
        images, _, _ = rasterization(
            model.means, model.quats, model.scales, model.opacities.view(-1), colors, matrix, intrinsics, camera.width,
            camera.height, near_plane=LIMITS["near"], sh_degree=model.sh_degree, packed=False,
        )  # fmt: skip
        return images[0].permute(2, 0, 1).contiguous()

    def step_optimizer() -> None:
        optimizer.step()
        optimizer.zero_grad()

    def give_gradients() -> None:
        photometric_loss(draw(), photo.to(device)).loss.backward()

    return Work(camera, photo, model, draw, give_gradients, step_optimizer)


def measure(
    camera: Camera,
    photo: Tensor,
    rows: dict[str, Tensor],
    device: torch.device,
    engine: str,
    repeats: int,
    limit: Path | None = None,
) -> dict:
    """Seconds of each part of a training step on one view, splat-pixel pairs, and peak memory.

    ``pairs`` are all pixels of the tiles that a splat touches: what a plain loop over tiles evaluates. Those whose
    alpha counts are the ``contributing_pairs``. Both are those of our engine.

    Args:
        camera: the view.
        photo: (3,H,W) uint8, what the loss compares with.
        rows: of a GaussianModel; they are copied.
        device: where it happens.
        engine: "ours", "deterministic" (ours, with the same bits from run to run) or "gsplat".
        repeats: the median of this many.
        limit: the program of limit.cpp, for the CPU.
    """
    memory = MemoryMeter(device)
    model = ready_to_train(GaussianModel({name: row.to(device, copy=True) for name, row in rows.items()}, sh_degree=0))
    with deterministic(engine == "deterministic"):
        work = (gsplat_work if engine == "gsplat" else our_work)(camera, photo, model)
        seconds = work.seconds(repeats)
    peak = memory.read()
    pairs = num_pairs(camera, model)
    return {
        "engine": engine,
        "device": device.type,
        "gaussians": model.num_gaussians,
        "width": camera.width,
        "height": camera.height,
        "threads": torch.get_num_threads(),
        **pairs,
        "seconds": seconds,
        "blending": blending(limit, camera, photo, model, repeats) if limit else None,
        **peak,
    }


def blending(program: Path, camera: Camera, photo: Tensor, model: GaussianModel, repeats: int) -> dict:
    """Pairs a second that the CPU engine blends on one thread, and the share of what a plain loop does in the same run.

    These pairs are those that the engine evaluates; see limit.cpp for the loop.
    """
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        case = Path(folder) / "case.bin"
        write_case(case, camera, photo, model)
        lines = subprocess.run([program, case, str(repeats)], check=True, capture_output=True, text=True).stdout
    values = {name: float(value) for name, value in map(str.split, lines.splitlines())}
    forward, plain = values["forward"], values["plain_forward"]
    both, plain_both = forward + values["backward"], plain + values["plain_backward"]
    return {
        "evaluated_pairs": int(values["evaluated"]),
        "contributing_pairs": int(values["contributing"]),
        "pairs_per_second": {"forward": 1e9 / forward, "forward_backward": 1e9 / both},
        "share_of_limit": {"forward": plain / forward, "forward_backward": plain_both / both},
    }


def num_pairs(camera: Camera, model: GaussianModel) -> dict[str, int]:
    """Splat-pixel pairs of a view: all, and those whose alpha counts."""
    shown = render(camera, model).image
    weights = torch.ones(camera.height, camera.width, device=model.device)
    return {
        "pairs": shown.grad_fn.frame.num_instances * LIMITS["tile"] ** 2,
        "contributing_pairs": importance(camera, model, weights).num_pixels.sum().item(),
    }


@contextmanager
def deterministic(is_on: bool) -> Iterator[None]:
    """Within it, torch asks for the same bits from run to run; what cannot give them only warns.

    torch would fill new memory then, too, which takes time and is not asked for by ``--deterministic`` of train.py.
    """
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(is_on, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def table(results: list[dict]) -> str:
    """The results as text, a line each; times in ms."""
    on_gpu = results[0]["device"] != "cpu"
    lines = [
        f"{'scene':<10}{'engine':<14}{'Gaussians':>10}{'size':>11}{'Mpairs':>8}{'counting':>9}{'forward':>9}{'fwd+bwd':>9}"
        f"{'loss':>8}{'Adam':>8}{'step':>9}{'peak MB':>9}" + ("" if on_gpu else "  Gpairs/s fwd   f+b  limit fwd   f+b")
    ]
    for r in results:
        line = f"{r['scene']:<10.9}{r['engine']:<14}{r['gaussians']:>10,}{r['width']:>6}x{r['height']:<4}"
        if "error" in r:
            lines.append(f"{line}  {r['error']}")
            continue
        ms = {name: f"{1e3 * seconds:.{3 if on_gpu else 1}f}" for name, seconds in r["seconds"].items()}
        line += (
            f"{r['pairs'] / 1e6:>8.1f}{r['contributing_pairs'] / max(r['pairs'], 1):>9.0%}{ms['forward']:>9}"
            f"{ms['forward_backward']:>9}{ms['loss']:>8}{ms['adam']:>8}{ms['step']:>9}"
            f"{r['peak_device_mb' if on_gpu else 'peak_rss_above_start_mb']:>9,.0f}"
        )
        if r["blending"]:
            pairs, share = r["blending"]["pairs_per_second"].values(), r["blending"]["share_of_limit"].values()
            line += "{:>14.2f}{:>6.2f}".format(*(each / 1e9 for each in pairs)) + "{:>11.0%}{:>6.0%}".format(*share)
        lines.append(line.rstrip())
    return "\n".join(lines + ([] if on_gpu else ["blending on one thread; limit: a plain loop in the L1 cache"]))


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
    parser.add_argument("--deterministic", action="store_true", help="also with the same bits from run to run")
    parser.add_argument("--gsplat", action="store_true", help="also gsplat, on a GPU and where it is installed")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--out", type=Path, help="write all figures as JSON here")
    return parser.parse_args()


def measure_case(
    options: argparse.Namespace, engines: Sequence[str], size: str | int, num: int | None, limit: Path | None = None
) -> list[dict]:
    """Measure one case; what fails has an ``error`` in place of figures.

    Args:
        options: the command line.
        engines: as for :func:`measure`.
        size: "WxH" of a random scene, or the resolution of a real one.
        num: Gaussians; None: one for each point.
        limit: the program of limit.cpp, for the CPU.
    """
    device = pick_device(options.device, ENGINE_DEVICES)
    use_threads(options.threads)
    camera, photo, points = load_case(options.scene, options.images, size, num)
    name = options.scene.name if options.scene else "random"
    rows = {key: row.detach() for key, row in GaussianModel.from_points(points, 3, "cpu").parameters.items()}
    results = []
    for engine in engines:
        result = {"scene": name, "engine": engine, "device": device.type, "gaussians": len(points.xyz),
                  "width": camera.width, "height": camera.height}  # fmt: skip
        try:
            result |= measure(camera, photo, rows, device, engine, options.repeats, limit)
        except (RuntimeError, TypeError) as error:  # out of memory, say, or another version of gsplat
            result["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        results.append(result)
        gc.collect()
        if device.type != "cpu":
            torch.cuda.empty_cache()
    return results


def engines_for(options: argparse.Namespace, device: torch.device) -> list[str]:
    """What is measured in each case."""
    on_gpu = device.type != "cpu"
    engines = ["ours", "deterministic"] if options.deterministic and on_gpu else ["ours"]
    if options.deterministic and not on_gpu:
        print("--deterministic: nothing to add, on the CPU the bits are always the same")
    if options.gsplat:
        if on_gpu and importlib.util.find_spec("gsplat"):
            engines.append("gsplat")
        else:
            print("--gsplat: left out, " + ("it is not installed" if on_gpu else "it needs a GPU"))
    return engines


def main() -> None:
    """Run all cases, print the table, write the JSON."""
    options = parse_arguments()
    sizes = options.resolution if options.scene else options.sizes
    counts = options.gaussians or ([None] if options.scene else [10_000, 30_000, 100_000, 300_000])
    device = pick_device(options.device, ENGINE_DEVICES)  # what is wrong with the options shows here, in one line
    if options.scene:
        load_scene(options.scene, options.images)
    engines = engines_for(options, device)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        limit = build(Path(folder) / "build", "limit") if device.type == "cpu" and find_compiler() else None
        for num, size in itertools.product(counts, sizes):
            if device.type == "cpu":  # in a process of its own, so that memory kept from another case hides no peak
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                    results += process.submit(measure_case, options, engines, size, num, limit).result()
            else:
                results += measure_case(options, engines, size, num)
            if options.out:  # after each case, for the event that the next one ends it all
                report = {"machine": machine_info(), "options": {k: str(v) for k, v in vars(options).items()}}
                write_json(options.out, report | {"results": results})
    print(table(results))
    if all("error" in result for result in results):
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
