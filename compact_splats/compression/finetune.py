"""Fine-tuning of a model as it is stored: the one loop that pruning rounds and the last steps share.

The float rows of the model are the master. Every step renders what a file would give back, and the gradient found
there moves the master, as if storing had changed nothing (the straight-through gradient). Rates are high, so that rows
cross the steps in which they are stored, and the mean of the last ones is kept, in which what they waver by is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diff_gaussian_rasterization import photometric_loss
from torch import Tensor

from compact_splats.arguments.compress import FineTuneRates, Phase
from compact_splats.compression.quantizer import Quantizer, Rows
from compact_splats.gaussian_renderer import render
from compact_splats.gaussian_renderer.evaluation import ground_truth
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.progress import Progress
from compact_splats.training.view_sampler import ViewSampler

SQUARES = 40.0  # 15 would be about as much as absolute errors count in training, at 30 dB; PSNR counts squares only


@dataclass(frozen=True)
class Photos:
    """What a model is fitted to, and how it is rendered.

    Attributes:
        cameras: the training views, with photos.
        views: the order in which they are drawn.
        extent: of the scene, world units.
        background: (3,) RGB in [0, 1], in main memory.
        ssim_weight: of the loss.
        options: of :func:`gaussian_renderer.render`, ``antialiased`` and ``threads``.
    """

    cameras: Sequence[Camera]
    views: ViewSampler
    extent: float
    background: Tensor
    ssim_weight: float
    options: dict[str, Any]


def fine_tune(
    model: GaussianModel, quantizer: Quantizer, photos: Photos, phase: Phase, rates: FineTuneRates, progress: Progress
) -> None:
    """Fit the model, as the quantizer stores it, to the photos.

    Args:
        model: its rows change; its optimizer goes on from where it stands.
        quantizer: is fitted at the start of the phase and then when the phase says so. It has not changed since the
            last rendering when this ends.
        photos: what to fit to.
        phase: number of steps, rates, times to refit.
        rates: Adam's, to be multiplied by the phase's factor.
        progress: is told of every step.
    """
    quantizer.fit(detached(model))
    mean, summed = detached(model), 0
    for step in range(1, phase.steps + 1):
        model.set_learning_rates(rates.at(phase.factor(step), photos.extent))
        if phase.refits(step):
            quantizer.fit(detached(model))

        stored = as_stored(model, quantizer)
        camera = photos.cameras[photos.views.draw()]
        photo, mask = ground_truth(camera, model.device)
        image = render(camera, stored, photos.background, **photos.options).image
        threads = photos.options["threads"]
        loss = squares_loss(image, photo, mask, photos.ssim_weight, threads)
        loss.backward()
        for name, row in model.rows.items():
            row.grad = stored.rows[name].grad  # straight through
        if hasattr(quantizer, "penalty"):
            quantizer.penalty(model.rows).backward()
        model.step()
        if phase.mean_from is not None and step >= phase.mean_from:
            summed += 1
            mean = {name: torch.lerp(mean[name], row, 1 / summed) for name, row in detached(model).items()}

        progress.update(step, loss, image, photo, mask, model.num_gaussians)
        del image, loss  # with them goes what the engine kept for the backward pass
    if summed:
        with torch.no_grad():
            for name, row in model.rows.items():
                row.copy_(mean[name])


def squares_loss(image: Tensor, photo: Tensor, mask: Tensor | None, ssim_weight: float, threads: int) -> Tensor:
    """(1 - w) SQUARES MSE + w (1 - SSIM): as that of training, but with squares, which are what PSNR counts.

    Args:
        image: (3,H,W) float32.
        photo: (3,H,W) uint8.
        mask: (H,W) bool; where it is False, image and photo count as zero.
        ssim_weight: w.
        threads: CPU threads, 0: all cores.
    """
    error = image - photo / 255
    if mask is not None:
        error = error * mask
    unlike = photometric_loss(image, photo, mask=mask, ssim_weight=1.0, threads=threads).loss
    return (1 - ssim_weight) * SQUARES * error.square().mean() + ssim_weight * unlike


def as_stored(model: GaussianModel, quantizer: Quantizer) -> GaussianModel:
    """The model that the file would give back, with rows of its own, in the same order of Gaussians."""
    return GaussianModel(quantizer.quantized(detached(model)), model.sh_degree)


def detached(model: GaussianModel) -> Rows:
    """The rows of a model outside of any graph; they share its memory."""
    return {name: row.detach() for name, row in model.rows.items()}
