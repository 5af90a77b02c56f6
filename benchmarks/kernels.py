"""The time of a training step by kernel on a GPU, or by torch operation on the CPU.

    python -m benchmarks.kernels --gaussians 1000000 --size 1600x1060

Steps take slightly longer than in benchmarks.rasterizer, because torch's profiler takes time.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.rasterizer import our_work, random_scene, trainable_model
from compact_splats.arguments import DEVICES, pick_device
from compact_splats.gaussian_renderer import DEVICES as ENGINE_DEVICES
from compact_splats.utils.errors import run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info
from compact_splats.utils.table import text_table
from compact_splats.utils.usage import synchronize

WARM_UP = 3


def kernel_times(gaussians: int, width: int, height: int, device: torch.device, steps: int) -> list[dict]:
    """Profile steps on a random scene.

    Returns:
        For each kernel its name, calls per step, milliseconds per step, and share of the sum; the longest first.
    """
    camera, photo, points = random_scene(gaussians, width, height, torch.Generator().manual_seed(0))
    work = our_work(camera, photo, trainable_model(points, device))
    for _ in range(WARM_UP):
        work.step()
    synchronize(device)
    on_gpu = device.type != "cpu"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as profiler:
        for _ in range(steps):
            work.step()
        synchronize(device)

    times: dict[str, tuple[int, float]] = {}
    for event in profiler.key_averages():
        if on_gpu and event.device_type == torch.autograd.DeviceType.CPU:
            continue  # launches a kernel, which has its own entry
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        times[event.key] = (event.count, microseconds)
    total = sum(microseconds for _, microseconds in times.values()) or 1.0
    ordered = sorted(times.items(), key=lambda entry: -entry[1][1])
    return [
        {"kernel": name, "calls": count / steps, "ms": 1e-3 * us / steps, "share": us / total}
        for name, (count, us) in ordered
    ]


def table(kernels: list[dict], num_rows: int = 25) -> str:
    """The longest kernels, and the sum of all."""
    lines = [["kernel", "ms/step", "share", "calls"]]
    for each in kernels[:num_rows]:
        lines.append([each["kernel"][:90], f"{each['ms']:.3f}", f"{each['share']:.1%}", f"{each['calls']:.1f}"])
    lines.append([f"all {len(kernels)}", f"{sum(each['ms'] for each in kernels):.3f}", "", ""])
    return text_table(lines)


def main() -> None:
    """Measure one case, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=1_000_000)
    parser.add_argument("--size", default="1600x1060", help="WxH")
    parser.add_argument("--steps", type=int, default=20, help="steps that are averaged")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--out", type=Path, help="write all figures as JSON here")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    device = pick_device(options.device, ENGINE_DEVICES)
    kernels = kernel_times(options.gaussians, width, height, device, options.steps)
    print(f"{options.gaussians:,} Gaussians, {width}x{height}, {device.type}")
    print(table(kernels))
    if options.out:
        write_json(options.out, {"machine": machine_info(), "gaussians": options.gaussians, "width": width,
                                 "height": height, "kernels": kernels})  # fmt: skip


if __name__ == "__main__":
    run_script(main)
