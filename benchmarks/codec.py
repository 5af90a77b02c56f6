"""Time and memory of encoding and decoding .gsz: each profile, on synthetic Gaussians.

    python -m benchmarks.codec --gaussians 1000000 --out codec.json

MB are 1e6 bytes of float32 parameters: 236 bytes per Gaussian of SH degree 3. Each job runs in its own process; its
peak of memory does not include its input.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from compact_splats.compression import ColorBasis, decode, encode
from compact_splats.compression.arrays import Arrays
from compact_splats.compression.codec import PROFILES
from compact_splats.scene.cameras import Camera
from compact_splats.utils.errors import run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info
from compact_splats.utils.usage import MemoryMeter

MB = 1e6


def synthetic_arrays(num: int, seed: int = 0) -> Arrays:
    """Gaussians of SH degree 3 on wavy surfaces, with about the statistics of a trained model.

    Args:
        num: number of Gaussians.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((num, *shape), dtype=np.float32)

    means = 2 * normal(3)
    means[:, 1] = np.sin(2 * means[:, 0]) + 0.5 * np.cos(3 * means[:, 2]) + 0.02 * normal()
    color = np.stack([np.sin(means @ np.float32([1, 0.3, 0.7])), np.cos(means @ np.float32([0.2, 1.1, 0.5]))], 1)
    liveliness = rng.gamma(1.0, 1.0, (num, 1, 1)).astype(np.float32)
    grey = normal(15, 1)  # shared by the three channels
    return {
        "means": means,
        "log_scales": normal(3) + 0.5 * normal(1) - 4.5,
        "quats": normal(4) * np.float32([0.5, 1, 1, 1]) + np.float32([1, 0, 0, 0]),
        "opacity_logits": 2 * normal(1),
        "sh_dc": (color @ np.float32([[0.8, 0.7, 0.5], [0.2, -0.1, -0.4]]) + 0.5 * normal(1) + 0.1 * normal(3))[
            :, None
        ],
        "sh_rest": 0.06 * liveliness * (grey + 0.4 * normal(15, 3)),
    }


def cameras_around(num: int = 32) -> list[Camera]:
    """On a circle around the Gaussians, looking at its centre."""
    cameras = []
    for angle in np.linspace(0, 2 * np.pi, num, endpoint=False):
        pose = torch.eye(4)
        sine, cosine = math.sin(angle), math.cos(angle)
        pose[:3, :3] = torch.tensor([[cosine, 0.0, -sine], [0.0, 1.0, 0.0], [sine, 0.0, cosine]])
        pose[2, 3] = 8.0
        cameras.append(Camera(f"{angle:.2f}", 1600, 1200, 1200.0, 1200.0, 800.0, 600.0, pose, None))
    return cameras


def measure(job: str, profile: str, num: int, path: Path) -> dict[str, float]:
    """Encode into a file, or decode it.

    Args:
        job: "encode" or "decode".
        profile: of the file.
        num: Gaussians.
        path: the file.

    Returns:
        Seconds, and the peak of memory in MB above the start.
    """
    settings = {"color_basis": ColorBasis.of_cameras(cameras_around())} if profile == "compact" else {}
    encode(synthetic_arrays(10), profile, **settings)  # warm-up: modules that load late
    given = synthetic_arrays(num) if job == "encode" else path.read_bytes()
    meter = MemoryMeter(torch.device("cpu"))
    start = time.perf_counter()
    result = encode(given, profile, **settings) if job == "encode" else decode(given)
    seconds = time.perf_counter() - start
    peak = meter.read()["peak_rss_above_start_mb"]
    if job == "encode":
        path.write_bytes(result)
    return {"seconds": seconds, "peak_mb": peak}


def measure_apart(*arguments: str | Path) -> dict[str, float]:
    """:func:`measure` in another process."""
    command = [sys.executable, "-m", "benchmarks.codec", "--job", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent.parent)
    return json.loads(done.stdout.splitlines()[-1])


def measure_profile(profile: str, num: int, repeats: int) -> dict:
    """Size of the file, and medians of the measurements of both jobs."""
    float_mb = 59 * 4 * num / MB
    result = {"profile": profile, "gaussians": num, "float_mb": float_mb}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gsz"
        for job in ("encode", "decode"):
            runs = [measure_apart(job, profile, str(num), path) for _ in range(repeats)]
            figures = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            result[job] = {**figures, "mb_per_s": float_mb / figures["seconds"], "runs": runs}
        result["bytes_per_gaussian"] = path.stat().st_size / num
    return result


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=1_000_000)
    parser.add_argument("--profiles", choices=sorted(PROFILES), nargs="+", default=sorted(PROFILES))
    parser.add_argument("--repeats", type=int, default=3, help="runs of each job; the median is reported")
    parser.add_argument("--out", type=Path, help="JSON file for all measurements")
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job, profile, num, path = options.job
        print(json.dumps(measure(job, profile, int(num), Path(path))))
        return
    results = []
    for profile in options.profiles:
        result = measure_profile(profile, options.gaussians, options.repeats)
        results.append(result)
        told = "; ".join(
            f"{job} {result[job]['seconds']:.2f} s, {result[job]['mb_per_s']:.0f} MB/s, "
            f"{result[job]['peak_mb']:.0f} MB of memory"
            for job in ("encode", "decode")
        )
        print(f"{profile}: {options.gaussians:,} Gaussians, {result['float_mb']:.0f} MB", end=", ")
        print(f"{result['bytes_per_gaussian']:.2f} bytes per Gaussian; {told}", flush=True)
    if options.out:
        write_json(options.out, {"machine": machine_info(), "results": results})


if __name__ == "__main__":
    run_script(main)
