"""Quality against CPU seconds: trains a scene by several schedules, one after the other, and measures as it goes.

    python -m benchmarks.quality --scene SCENE --final-budget 20000 --runs quick:1000 quick fast full --out quality.json
    python -m benchmarks.quality --plot quality.png quality.json other.json

CPU seconds are those of the process while it trains: loading, measuring and saving do not count.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from compact_splats.arguments.config import SCHEDULES
from compact_splats.arguments.device import use_threads
from compact_splats.arguments.schedule import num_random_points
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.scene import load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.strategies import standard_strategies
from compact_splats.training.training import Training
from compact_splats.utils.errors import InputError, run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info

MEASUREMENTS = 20  # per run


def measure(folder: Path, resolution: int, name: str, budget: int, seed: int) -> dict:
    """Train once. ``name`` is that of a schedule, with the number of steps after a colon where it is another."""
    kind, _, steps = name.partition(":")
    schedule = SCHEDULES[kind]
    schedule = schedule.scaled(int(steps) / schedule.iterations) if steps else schedule
    scene = load_scene(folder, resolution=resolution, num_random_points=num_random_points(budget))
    model = GaussianModel.from_points(scene.points, 3, "cpu")
    strategies = standard_strategies(scene, schedule, budget, seed=seed)
    start, course = time.process_time(), []
    for step in Training(scene, model, schedule, strategies, seed=seed):
        if step.number % max(1, schedule.iterations // MEASUREMENTS) and step.number != schedule.iterations:
            continue
        seconds = time.process_time() - start
        course.append({"step": step.number, "cpu_seconds": seconds, "gaussians": model.num_gaussians})
        course[-1] |= evaluate(scene.test, model)
        start = time.process_time() - seconds
    last = course[-1]
    print(
        f"{name}, seed {seed}: {last['psnr']:.2f} dB, SSIM {last['ssim']:.4f}, {last['gaussians']:,} Gaussians, "
        f"{last['cpu_seconds']:.0f} s of CPU",
        flush=True,
    )
    train = evaluate(scene.train[::7], model)
    return {"run": name, "seed": seed, "iterations": schedule.iterations, "train": train, "course": course}


def plot(paths: list[Path], out: Path) -> None:
    """Draw PSNR over CPU seconds: a line for each run of the JSON files."""
    from matplotlib.figure import Figure  # takes a while to load

    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    names: list[str] = []
    results = [result for path in paths for result in json.loads(path.read_text())["results"]]
    for result in results:
        names += [] if result["run"] in names else [result["run"]]
        points = [(point["cpu_seconds"], point["psnr"]) for point in result["course"]]
        label = result["run"] if result["seed"] == 0 else None
        axes.plot(*zip(*points, strict=True), color=f"C{names.index(result['run'])}", label=label, linewidth=1.4)
    axes.set(xscale="log", xlabel="CPU seconds of training, one thread", ylabel="PSNR of the test views, dB")
    axes.set_ylim(bottom=min(result["course"][-1]["psnr"] for result in results) - 10)  # caps of opacities fall below
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(color="#dfe2e6")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(out)


def main() -> None:
    """Measure, print, write the JSON; or plot what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, help="folder of a scene")
    parser.add_argument("-r", "--resolution", type=int, default=-1, help="as for train.py")
    parser.add_argument("--final-budget", type=int, default=20_000)
    parser.add_argument("--runs", nargs="*", default=["quick"], metavar="SCHEDULE[:STEPS]")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--plot", type=Path, help="picture to draw of JSON files that were written")
    parser.add_argument("json", type=Path, nargs="*")
    options = parser.parse_args()
    if options.plot:
        return plot(options.json, options.plot)
    if options.scene is None:
        raise InputError("--scene is missing: the folder of a scene")

    use_threads(options.threads)
    results = []
    for name in options.runs:
        for seed in options.seeds:
            results.append(measure(options.scene, options.resolution, name, options.final_budget, seed))
            if options.out:
                about = {"scene": options.scene.name, "budget": options.final_budget, "machine": machine_info()}
                write_json(options.out, {**about, "results": results})


if __name__ == "__main__":
    run_script(main)
