"""Speed and memory of a training whose photos do not fit into memory, against one whose photos do.

    python -m benchmarks.photo_cache --photos 500 --fits 50 --photo-memory 256MB --out photo_cache.json

Writes a scene of so many photos (eight JPEGs under many names, on circles around the objects of the demo scene) and
one of ``--fits`` photos, and trains both in turns, each in a process of its own. Medians of the repeats. Of each:
seconds to step 1 since the imports and of a step, in wall and CPU time, and peak memory. Before the steps that are
timed all photos are decoded once, so that those that do not fit are read from the file; with ``--fill 0`` only as many
as fit, so that most are decoded in the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import torch

from compact_splats.arguments.schedule import FULL
from compact_splats.arguments.sizes import memory_size
from compact_splats.demo.scene import Lens, make_poses, make_shapes, render_view, sample_points, write_colmap
from compact_splats.scene import load_scene
from compact_splats.scene.cameras import in_turn
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.loading import Decoding
from compact_splats.training.strategies import standard_strategies
from compact_splats.training.training import Training
from compact_splats.utils.errors import run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info
from compact_splats.utils.usage import MB, MemoryMeter

ROOT = Path(__file__).parent.parent
NUM_PICTURES, NUM_POINTS = 8, 20_000


def write_scene(folder: Path, num_photos: int, width: int, height: int) -> None:
    """A COLMAP scene whose photos are a few pictures under many names; most poses do not belong to their pictures."""
    rng = np.random.default_rng(0)
    shapes, lens, poses = make_shapes(rng), Lens(width, height), make_poses(num_photos, rng)
    xyz, rgb = sample_points(shapes, lens, poses[:: -(-num_photos // 100)], NUM_POINTS, rng)
    (folder / "images").mkdir(parents=True)
    (folder / "sparse" / "0").mkdir(parents=True)
    names = [f"{i:05}.jpg" for i in range(num_photos)]
    for i, name in enumerate(names):
        path = folder / "images" / name
        if i < NUM_PICTURES:
            small = render_view(shapes, Lens(width // 8, height // 8), poses[i])
            large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
            noisy = np.clip(large + rng.normal(0, 4, large.shape), 0, 255)  # for as many bytes as from a camera
            cv2.imwrite(str(path), noisy.astype(np.uint8), (cv2.IMWRITE_JPEG_QUALITY, 92))
        else:
            os.link(folder / "images" / names[i % NUM_PICTURES], path)
    write_colmap(folder / "sparse" / "0", lens, poses, names, xyz, rgb)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Train in this process."""
    device, start, cpu_start = torch.device("cpu"), time.perf_counter(), time.process_time()
    memory = MemoryMeter(device)
    scene = load_scene(
        options.scene, resolution=options.resolution, eval=False, photo_memory=memory_size(options.photo_memory)
    )
    with closing(Decoding(scene, device, options.scene)) as decoding:
        model = GaussianModel.from_points(scene.points, 3, device)
        strategies = standard_strategies(scene, FULL, 1_000_000)
        training = Training(scene, model, FULL, strategies)
        next(training)
        first, cpu_first = time.perf_counter(), time.process_time()
        decoding.finish()
        photos = [camera.required_photo for camera in scene.train]
        num = max(scene.photos.most_bytes // photos[0].num_bytes, int(options.fill * len(photos)))
        for camera in in_turn(scene.train[:num], device):
            camera.required_photo.planes()
        for _ in range(options.warm_up):
            next(training)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(options.steps):
            next(training)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {
            "seconds_to_step_1": first - start,
            "cpu_seconds_to_step_1": cpu_first - cpu_start,
            "ms_per_step": 1e3 * wall / options.steps,
            "cpu_ms_per_step": 1e3 * cpu / options.steps,
            "peak_mb": memory.read()["peak_rss_mb"],
            "photos_mb": scene.photos.num_bytes / MB,
            "photos_at_most_mb": scene.photos.most_bytes / MB,
            "fits": scene.photos.holds_all,
        }


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=500, help="that do not fit")
    parser.add_argument("--fits", type=int, default=100, help="photos of the scene that fits")
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 1066), metavar=("W", "H"), help="of the photos, px")
    parser.add_argument("-r", "--resolution", type=int, default=-1, help="as for train.py")
    parser.add_argument("--photo-memory", default="256MB", help="as for train.py; of the scene that fits: any")
    parser.add_argument("--fill", type=float, default=1.0, help="least share of the photos to decode before")
    parser.add_argument("--warm-up", type=int, default=5, help="steps that are not timed")
    parser.add_argument("--steps", type=int, default=40, help="steps that are")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="of the scenes and the file (default: that of temporary files)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)  # measure in this process
    options = parser.parse_args()
    if options.scene:
        print(json.dumps(measure(options)))
        return
    found: dict[str, list[dict]] = {"fits": [], "limited": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, number in (("fits", options.fits), ("limited", options.photos)):
            write_scene(Path(folder) / name, number, *options.size)
        for _ in range(options.repeats):
            for name, size in (("fits", "1000GB"), ("limited", options.photo_memory)):
                words = ["--scene", f"{folder}/{name}", "--photo-memory", size, "-r", str(options.resolution)]
                words += ["--warm-up", str(options.warm_up), "--steps", str(options.steps), "--fill", str(options.fill)]
                command = [sys.executable, "-m", "benchmarks.photo_cache", *words]
                done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
                assert found[name][-1]["fits"] == (name == "fits"), "see --photo-memory"
    result = {
        name: {key: statistics.median(each[key] for each in runs) for key in runs[0]} for name, runs in found.items()
    }
    for name, values in result.items():
        print(f"{name:8}" + "  ".join(f"{key} {value:,.1f}" for key, value in values.items()))
    for key in ("ms_per_step", "cpu_ms_per_step"):
        ratios = [a[key] / b[key] for a, b in zip(found["fits"], found["limited"], strict=True)]
        result[f"speed_by_{key}"] = statistics.median(ratios)
        print(f"speed by {key}: {result[f'speed_by_{key}']:.1%} of that of the scene that fits")
    if options.out:
        settings = {key: value for key, value in vars(options).items() if key not in ("out", "folder", "scene")}
        write_json(options.out, {"machine": machine_info(), "settings": settings, "result": result, "runs": found})


if __name__ == "__main__":
    run_script(main)
