"""The 3D smoothing filter at other scales: trains a scene, and renders it at half, once and twice the size.

    python -m benchmarks.scales SCENE TWICE --run quick --out scales.json

TWICE is the same capture in twice the size: photos of the same names and poses. Photos of half the size are made of
those of SCENE. Each of four trainings, with and without the filter and ``--antialiasing``, is measured on the test
views in the three sizes. The renderer is the one that the training has, anti-aliased or not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.quality import SETTINGS, Setting, schedule_of
from compact_splats.arguments.device import use_threads
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.scene import load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.strategies import standard_strategies
from compact_splats.training.training import Training
from compact_splats.utils.errors import InputError, run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info


def main() -> None:
    """Measure, print a table in Markdown, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("twice", type=Path)
    parser.add_argument("--run", default="quick", metavar="SCHEDULE[:STEPS]")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    use_threads(1)
    scene, twice = load_scene(options.scene), load_scene(options.twice)
    if [camera.name for camera in scene.test] != [camera.name for camera in twice.test]:
        raise InputError(f"{options.twice} has other test views than {options.scene}")
    sizes = {"half": [camera.smaller(2) for camera in scene.test], "once": scene.test, "twice": twice.test}
    budget = SETTINGS.get(options.scene.name, Setting()).budget
    results = []
    print(f"| filter | anti-aliased | {' | '.join(sizes)} |\n|---|---|{'---|' * len(sizes)}", flush=True)
    for antialiased in (False, True):
        for smoothing in (False, True):
            schedule, _ = schedule_of(options.run, "")
            model = GaussianModel.from_points(scene.points, 3, "cpu")
            model.antialiased = antialiased
            strategies = standard_strategies(scene, schedule, budget, smoothing=smoothing)
            for _ in Training(scene, model, schedule, strategies):
                pass
            found = {size: evaluate(cameras, model, torch.zeros(3)) for size, cameras in sizes.items()}
            results.append({"smoothing": smoothing, "antialiased": antialiased, **found})
            cells = " | ".join(f"{scores['psnr']:.2f} / {scores['ssim']:.4f}" for scores in found.values())
            print(f"| {smoothing} | {antialiased} | {cells} |", flush=True)
    if options.out:
        about = {"scene": options.scene.name, "run": options.run, "gaussians": budget}
        write_json(options.out, {"machine": machine_info(), **about, "results": results})


if __name__ == "__main__":
    run_script(main)
