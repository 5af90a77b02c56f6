"""Compares the peak memory of a training, without the photos, with 3 kB per Gaussian plus 300 bytes per pixel.

    python -m benchmarks.memory --scene SCENE -r 270 --final-budget 20000 --iterations 600

The schedule is scaled to the number of steps, with densification and natural selection as in a complete training.
Reading and decoding photos is not measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from compact_splats.arguments import DEVICES, TrainConfig
from compact_splats.scene import load_scene
from compact_splats.training.run import train
from compact_splats.utils.errors import run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info

BYTES_PER_GAUSSIAN = 3000
BYTES_PER_PIXEL = 300


def measure(config: TrainConfig) -> dict:
    """Train; returns the peak and the allowed number of bytes, and what the latter is computed from."""
    summary = train(config)
    log = [json.loads(line) for line in (config.model_path / "log.jsonl").read_text().splitlines()]
    scene = load_scene(config.source_path, config.images, config.resolution, config.eval)
    gaussians = max([len(scene.points.xyz), *(entry["gaussians"] for entry in log if "gaussians" in entry)])
    pixels = max(camera.width * camera.height for camera in scene.train)
    on_device = summary.get("peak_device_mb")
    peak = 1e6 * (summary["peak_rss_above_start_mb"] if on_device is None else on_device)
    return {
        "scene": config.source_path.name,
        "iterations": summary["iterations"],
        "most_gaussians": gaussians,
        "pixels": pixels,
        "peak_bytes": peak,
        "allowed_bytes": BYTES_PER_GAUSSIAN * gaussians + BYTES_PER_PIXEL * pixels,
    }


def main() -> None:
    """Measure, print, write the JSON; exit code 1 if the peak exceeds the allowed number of bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, required=True, help="folder of a scene")
    parser.add_argument("-i", "--images", default="images", help="subfolder of its photos")
    parser.add_argument("-r", "--resolution", type=int, default=-1, help="as for train.py")
    parser.add_argument("--final-budget", type=int, default=20_000)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--schedule", choices=("full", "fast"), default="full")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            source_path=options.scene, images=options.images, resolution=options.resolution, eval=True,
            model_path=Path(folder) / "run", final_budget=options.final_budget, iterations=options.iterations,
            schedule=options.schedule, device=options.device, threads=options.threads, tensorboard=False, quiet=True,
        )  # fmt: skip
        result = measure(config)
    share = result["peak_bytes"] / result["allowed_bytes"]
    print(
        f"{result['scene']}: up to {result['most_gaussians']:,} Gaussians, {result['pixels']:,} pixels a view: peak "
        f"{result['peak_bytes'] / 1e6:.0f} MB without the photos, {share:.0%} of {result['allowed_bytes'] / 1e6:.0f} MB"
    )
    if options.out:
        write_json(options.out, {"machine": machine_info(), "result": result})
    sys.exit(share > 1)


if __name__ == "__main__":
    run_script(main)
