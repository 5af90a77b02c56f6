"""Fine-tuning of a model as it is stored: the one loop that pruning rounds and the last steps share.

The float rows of the model are the master. Every step renders what a file would give back, and the gradient found
there moves the master, as if storing had changed nothing (the straight-through gradient).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diff_gaussian_rasterization import photometric_loss
from torch import Tensor

from arguments.compress import FineTuneRates, Phase
from compression.quantizer import Quantizer, Rows
from gaussian_renderer import render
from gaussian_renderer.evaluation import ground_truth
from scene.cameras import Camera
from scene.gaussian_model import GaussianModel
from utils.progress import Progress
from utils.views import ViewSampler


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
            last rendering when this ends, so that what it stores is what was rendered.
        photos: what to fit to.
        phase: number of steps, rates, times to refit.
        rates: Adam's, to be multiplied by the phase's factor.
        progress: is told of every step.
    """
    quantizer.fit(detached(model))
    for step in range(1, phase.steps + 1):
        model.set_learning_rates(rates.at(phase.factor(step), photos.extent))
        if phase.refits(step):
            quantizer.fit(detached(model))

        stored = as_stored(model, quantizer)
        camera = photos.cameras[photos.views.draw()]
        photo, mask = ground_truth(camera, model.device)
        image = render(camera, stored, photos.background, **photos.options).image
        threads = photos.options["threads"]
        loss = photometric_loss(image, photo, mask=mask, ssim_weight=photos.ssim_weight, threads=threads).loss
        loss.backward()
        for name, row in model.rows.items():
            row.grad = stored.rows[name].grad  # straight through
        if hasattr(quantizer, "penalty"):
            quantizer.penalty(model.rows).backward()
        model.step()

        progress.update(step, loss, image, photo, mask, model.num_gaussians)
        del image, loss  # with them goes what the engine kept for the backward pass


def as_stored(model: GaussianModel, quantizer: Quantizer) -> GaussianModel:
    """The model that the file would give back, with rows of its own, in the same order of Gaussians."""
    return GaussianModel(quantizer.quantized(detached(model)), model.sh_degree)


def detached(model: GaussianModel) -> Rows:
    """The rows of a model outside of any graph; they share its memory."""
    return {name: row.detach() for name, row in model.rows.items()}
