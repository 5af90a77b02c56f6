"""The time of a training step by kernel on a GPU, or by torch operation on the CPU.

    python -m benchmarks.kernels --gaussians 1000000 --size 1600x1060
    python -m benchmarks.kernels --scene SCENE --ply RUN/point_cloud/iteration_30000/point_cloud.ply   # a trained model

On a GPU also, for each kernel of the engine, the bytes that it must read and write at least, as a share of what the
GPU copies in that time; the share of a step in which the GPU is idle; and how long the host waits for it. Steps take
slightly longer than in benchmarks.rasterizer, because torch's profiler takes time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from diff_gaussian_rasterization import LIMITS
from torch.profiler import ProfilerActivity, profile

from benchmarks.rasterizer import Work, load_case, num_pairs, our_work, ready_to_train, trainable_model
from benchmarks.timing import median_seconds
from compact_splats.arguments import DEVICES, pick_device
from compact_splats.gaussian_renderer import DEVICES as ENGINE_DEVICES
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.errors import run_script
from compact_splats.utils.files import write_json
from compact_splats.utils.machine import machine_info
from compact_splats.utils.table import text_table
from compact_splats.utils.usage import synchronize

WARM_UP = 3
SPLAT, SLOT = 64, 4  # bytes of a projected Gaussian, and of an instance's index
GRADIENT = 48  # bytes of a splat's gradient


def bytes_at_least(num_gaussians: int, num_instances: int, num_pixels: int, width: int) -> dict[str, float]:
    """Bytes that a kernel of the CUDA engine reads and writes in a step at least, by its name.

    Args:
        num_gaussians: all of them visible.
        num_instances: pairs of a splat and a tile.
        num_pixels: of the image.
        width: numbers of a Gaussian.
    """
    return {
        "project_kernel": num_gaussians * (4 * width + SPLAT + 16),
        "gather_counts_kernel": num_gaussians * 12,
        "emit_kernel": num_gaussians * (SPLAT + 20) + num_instances * 8,
        "blend_kernel": num_instances * (SPLAT + SLOT) + num_pixels * 20,
        "segment_kernel": num_instances * (SPLAT + SLOT + GRADIENT) + num_pixels * 36,
        "project_backward_kernel": num_gaussians * (8 * width + SPLAT + GRADIENT + 8),
        "similarity_kernel": num_pixels * 3 * (4 + 1 + 12),
        "gradient_kernel": num_pixels * 3 * (12 + 4 + 1 + 4),
        "adam_kernel": num_gaussians * width * 7 * 4,
    }


def kernel_times(events: Iterable[Any], steps: int, on_gpu: bool) -> list[dict]:
    """For each kernel its name, calls per step, milliseconds per step, and share of the sum; the longest first.

    Args:
        events: torch's ``profiler.key_averages()``.
        steps: that were profiled.
        on_gpu: kernels, else operations of torch.
    """
    times: dict[str, tuple[int, float]] = {}
    for event in events:
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


def add_bytes(kernels: list[dict], known: dict[str, float], copy_rate: float) -> None:
    """Adds ``bytes`` and ``share_of_copy_rate`` to the kernels of the engine; copy_rate: bytes a second."""
    for each in kernels:
        for name, count in known.items():
            if f"::{name}" in each["kernel"] and each["ms"] > 0:
                each["bytes"] = count
                each["share_of_copy_rate"] = count / (1e-3 * each["ms"]) / copy_rate


def host_figures(events: Iterable[Any], steps: int, step_ms: float, busy_ms: float) -> dict[str, float]:
    """Figures of the host in a step on a GPU.

    Args:
        events: torch's ``profiler.key_averages()``.
        steps: that were profiled.
        step_ms: of a step, by the clock.
        busy_ms: of all kernels in a step.

    Returns:
        ``step_ms``, ``idle_share`` (of the GPU), ``waits`` and ``wait_ms`` (of the host for the GPU), ``host_ms`` (the
        rest of its time).
    """
    waits = [event for event in events if event.key.startswith("cuda") and "Synchronize" in event.key]
    wait_ms = sum(1e-3 * event.self_cpu_time_total for event in waits) / steps
    return {
        "step_ms": step_ms,
        "idle_share": max(0.0, 1 - busy_ms / step_ms),
        "waits": sum(event.count for event in waits) / steps,
        "wait_ms": wait_ms,
        "host_ms": max(0.0, step_ms - wait_ms),
    }


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a copy on the device reads and writes."""
    source = torch.ones(2**28 if device.type != "cpu" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds(lambda: target.copy_(source), 10, device)


def profile_steps(camera: Camera, work: Work, steps: int) -> dict[str, Any]:
    """Profile steps of training on one view: ``kernels``, and on a GPU ``copy_gb_per_second`` and ``host``."""
    device = work.model.device
    on_gpu = device.type != "cpu"
    for _ in range(WARM_UP):
        work.step()
    synchronize(device)
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as profiler:
        for _ in range(steps):
            work.step()
        synchronize(device)
        step_ms = 1e3 * (time.perf_counter() - started) / steps
    events = profiler.key_averages()
    figures: dict[str, Any] = {"kernels": kernel_times(events, steps, on_gpu)}
    if on_gpu:
        rate = copy_rate(device)
        instances = num_pairs(camera, work.model)["pairs"] // LIMITS["tile"] ** 2
        width = sum(row[0].numel() for row in work.model.parameters.values())
        known = bytes_at_least(work.model.num_gaussians, instances, camera.width * camera.height, width)
        add_bytes(figures["kernels"], known, rate)
        busy_ms = sum(each["ms"] for each in figures["kernels"])
        figures["copy_gb_per_second"] = 1e-9 * rate
        figures["host"] = host_figures(events, steps, step_ms, busy_ms)
    return figures


def table(figures: dict[str, Any], num_rows: int = 25) -> str:
    """The longest kernels, the sum of all, and the host."""
    kernels = figures["kernels"]
    lines = [["kernel", "ms/step", "share", "calls", "GB", "of copy rate"]]
    for each in kernels[:num_rows]:
        size = f"{1e-9 * each['bytes']:.3f}" if "bytes" in each else ""
        of_rate = f"{each['share_of_copy_rate']:.0%}" if "bytes" in each else ""
        lines.append(
            [each["kernel"][:90], f"{each['ms']:.3f}", f"{each['share']:.1%}", f"{each['calls']:.1f}", size, of_rate]
        )
    lines.append([f"all {len(kernels)}", f"{sum(each['ms'] for each in kernels):.3f}", "", "", "", ""])
    text = text_table(lines)
    if "host" in figures:
        host = figures["host"]
        text += (
            f"\ncopy: {figures['copy_gb_per_second']:,.0f} GB/s. A step: {host['step_ms']:.3f} ms, the GPU is idle "
            f"{host['idle_share']:.0%} of it; the host waits {host['waits']:.1f} times, {host['wait_ms']:.3f} ms, and "
            f"works {host['host_ms']:.3f} ms"
        )
    return text


def main() -> None:
    """Measure one case, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=1_000_000)
    parser.add_argument("--size", default="1600x1060", help="WxH")
    parser.add_argument("--scene", type=Path, help="folder of a real scene, for --ply")
    parser.add_argument("--ply", type=Path, help="a trained model of that scene")
    parser.add_argument("--steps", type=int, default=20, help="steps that are averaged")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--out", type=Path, help="write all figures as JSON here")
    options = parser.parse_args()
    if (options.scene is None) != (options.ply is None):
        parser.error("--scene and --ply belong together")
    device = pick_device(options.device, ENGINE_DEVICES)
    case = (options.scene, "images", -1, None) if options.scene else (None, "", options.size, options.gaussians)
    camera, photo, points = load_case(*case)
    if options.ply:
        model = ready_to_train(GaussianModel.load_ply(options.ply, device))
    else:
        model = trainable_model(points, device)
    figures = profile_steps(camera, our_work(camera, photo, model), options.steps)
    print(f"{model.num_gaussians:,} Gaussians, {camera.width}x{camera.height}, {device.type}")
    print(table(figures))
    if options.out:
        sizes = {"gaussians": model.num_gaussians, "width": camera.width, "height": camera.height}
        write_json(options.out, {"machine": machine_info(), **sizes, **figures})


if __name__ == "__main__":
    run_script(main)
