"""Calls every function of the engine with every option, on small inputs, for compute-sanitizer.

    compute-sanitizer --tool memcheck python -m benchmarks.exercise

Checks only that all results are finite; the tests check that they are right.
"""

from __future__ import annotations

import argparse

import torch
from diff_gaussian_rasterization import View, importance, photometric_loss, rasterize
from diff_gaussian_rasterization.optimizer import Adam
from torch import Tensor

from benchmarks.rasterizer import deterministic
from compact_splats.arguments import DEVICES, pick_device
from compact_splats.gaussian_renderer import DEVICES as ENGINE_DEVICES
from compact_splats.utils.errors import run_script

WIDTH, HEIGHT = 75, 41  # px, not multiples of a tile


def make_view() -> View:
    """A camera at the origin that looks along z."""
    return View(WIDTH, HEIGHT, 60.0, 61.0, 37.0, 21.0, torch.eye(4), torch.tensor([0.1, 0.2, 0.3]))


def make_parameters(num: int, device: torch.device, generator: torch.Generator) -> dict[str, Tensor]:
    """Gaussians of all sizes in front of the camera; some are outside of the view, one is not finite."""
    draw = torch.randn(num, 18, generator=generator)
    z = 2 + 3 * torch.rand(num, generator=generator)
    parameters = {
        "means": torch.stack([0.5 * draw[:, 0] * z, 0.3 * draw[:, 1] * z, z], 1),
        "quats": draw[:, 2:6],
        "scales": (0.8 * draw[:, 6:9] - 2.5).exp(),
        "opacities": draw[:, 9].sigmoid(),
        "sh_dc": 0.3 * draw[:, 10:13].view(num, 1, 3),
        "sh_rest": 0.1 * torch.randn(num, 15, 3, generator=generator),
    }
    if num:
        parameters["means"][num // 2] = float("nan")
    return {name: each.contiguous().to(device).requires_grad_() for name, each in parameters.items()}


def exercise(num: int, device: torch.device, generator: torch.Generator) -> None:
    """Every call of the engine, with every option."""
    view, parameters = make_view(), make_parameters(num, device, generator)
    positional = [parameters[name] for name in ("means", "quats", "scales", "opacities")]
    pixels = torch.rand(3, HEIGHT, WIDTH, generator=generator).to(device)
    mask = torch.rand(HEIGHT, WIDTH, generator=generator).to(device) > 0.2
    stats = (torch.zeros(num, device=device), torch.zeros(num, device=device))
    screen_means = torch.zeros(num, 4, device=device, requires_grad=True)
    optimizer = Adam(list(parameters.values()))

    with torch.no_grad():
        rasterize(view, *positional, sh_dc=parameters["sh_dc"])
    shown = rasterize(
        view, *positional, sh_dc=parameters["sh_dc"], sh_rest=parameters["sh_rest"], sh_degree=3,
        antialiased=True, inverse_depth=True, stats=stats, screen_means=screen_means,
    )  # fmt: skip
    loss = photometric_loss(shown.image, pixels, mask=mask).loss
    (loss + shown.transmittance.mean() + shown.inverse_depth.mean()).backward()
    assert all(each.grad.isfinite().all() for each in parameters.values()), "a gradient that is not finite"
    optimizer.step(shown.radii)

    colors, upper = torch.rand(num, 3, device=device), torch.tensor([0.02, 0.0, 0.01, 0.02, 0.0, 0.02], device=device)
    means, opacities = parameters["means"], parameters["opacities"]
    drawn = rasterize(view, means, None, None, opacities, colors=colors, covariances=upper.repeat(num, 1)).image
    photometric_loss(drawn, (255 * pixels).byte()).loss.backward()
    optimizer.step()
    sums = importance(view, *positional, pixel_weights=pixels[0].contiguous())
    assert sums.weighted.isfinite().all() and drawn.isfinite().all(), "a result that is not finite"


def main() -> None:
    """Several numbers of Gaussians, with and without deterministic gradients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    options = parser.parse_args()
    device = pick_device(options.device, ENGINE_DEVICES)
    generator = torch.Generator().manual_seed(0)
    for is_deterministic in (False, True):
        with deterministic(is_deterministic):
            for num in (0, 1, 40, 1500):
                exercise(num, device, generator)
    print(f"all calls of the engine passed on {device.type}")


if __name__ == "__main__":
    run_script(main)
