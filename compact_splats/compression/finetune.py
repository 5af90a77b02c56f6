"""Quantization-aware fine-tuning: a training that renders the model as it is stored.

Every step renders the values that decoding would give, and their gradients update the float parameters
(straight-through). Learning rates are high, so that parameters cross quantization steps. The result is the mean over
the last steps, which averages out the noise. The target is the photos where Gaussians were pruned, and otherwise the
mean of them and of the renders of the model as it was given: on the photos alone, trained models overfit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from diff_gaussian_rasterization import photometric_loss
from torch import Tensor

from compact_splats.arguments.compress import FineTuneRates, Phase
from compact_splats.compression.quantizer import Quantizer
from compact_splats.gaussian_renderer import render
from compact_splats.gaussian_renderer.evaluation import ground_truth
from compact_splats.scene.cameras import Camera
from compact_splats.scene.dataset import Scene
from compact_splats.scene.gaussian_model import PARAMETER_NAMES, GaussianModel
from compact_splats.training.averaging import MeanOfLastSteps
from compact_splats.training.exposure import Exposure
from compact_splats.training.progress import Progress
from compact_splats.training.strategy import Strategy
from compact_splats.training.training import Target, Training
from compact_splats.training.view_sampler import ViewSampler
from compact_splats.utils.images import to_uint8

SQUARES = 20.0  # weight of the MSE; at 30 dB, 15 would match the weight of L1 in training


@dataclass(frozen=True)
class Photos:
    """The data of fine-tuning.

    Attributes:
        scene: its training views have photos.
        views: draws the training views, on from phase to phase.
        background: (3,) RGB in [0, 1], in main memory.
        ssim_weight: of the loss.
        exposure: of the training photos, as the training has found it; None: photos are taken as they are.
    """

    scene: Scene
    views: ViewSampler
    background: Tensor
    ssim_weight: float
    exposure: Exposure | None = None


@dataclass(frozen=True)
class FineTuneSchedule:
    """A phase of fine-tuning as the schedule of a :class:`Training`: every step updates all parameters."""

    phase: Phase
    rates: FineTuneRates

    @property
    def iterations(self) -> int:
        """Number of steps."""
        return self.phase.steps

    def learning_rates_at(self, step: int, extent: float) -> dict[str, float]:
        """Learning rates of ``step``, by parameter name; ``extent`` in world units."""
        return self.rates.at(self.phase.factor(step), extent)

    def betas(self, step: int) -> None:
        """None: those of the optimizer stay."""

    def updated_parameters(self, step: int) -> tuple[str, ...]:
        """Names of the parameters that ``step`` updates."""
        return PARAMETER_NAMES

    def raises_sh_degree(self, step: int) -> bool:
        """Never: the model keeps its SH degree."""
        return False

    def photo_divisor(self, step: int) -> int:
        """Always 1."""
        return 1

    def may_edit(self, step: int) -> bool:
        """Never."""
        return False


class QuantizationPenalty(Strategy):
    """Adds the quantizer's penalty for the size of the file to the loss of a step, if ``applies()``."""

    def __init__(self, quantizer: Quantizer, applies: Callable[[], bool]) -> None:
        self._quantizer, self._applies = quantizer, applies

    def loss_term(self, training: Training) -> Tensor | None:
        """The penalty, if the quantizer has one."""
        if not self._applies():
            return None
        penalty = self._quantizer.penalty(training.model.parameters)
        return penalty if isinstance(penalty, Tensor) else None


def fine_tune(
    model: GaussianModel, quantizer: Quantizer, photos: Photos, phase: Phase, rates: FineTuneRates, progress: Progress,
    given: GaussianModel | None = None, shown: Callable[[GaussianModel], GaussianModel] | None = None,
) -> None:  # fmt: skip
    """Fit the model, rendered as the quantizer stores it, to the photos.

    Args:
        model: its parameters change; its optimizer continues.
        quantizer: is fitted at the start and before the steps at which the phase refits.
        photos: scene, order of views, background.
        phase: number of steps, factors of the learning rates, steps that refit.
        rates: Adam's learning rates, before the phase's factor.
        progress: shows every step.
        given: fit to the mean of its renders and the photos, instead of the photos.
        shown: what a step renders of a nested model as it is stored, so that the model stays nested; None: all of it.
    """
    stays_nested = model.nested and shown is not None
    is_whole, loss_of_whole = True, torch.zeros(())  # of this step; of the last one that rendered all
    quantizer.fit(model.file_parameters())

    def rendered(training: Training) -> GaussianModel:
        nonlocal is_whole
        if phase.refits(training.step):
            quantizer.fit(model.file_parameters())
        stored = as_stored(model, quantizer)
        drawn = stored if shown is None else shown(stored)
        is_whole = drawn is stored
        return drawn

    def scaled(loss: Tensor) -> Tensor:
        """That of few Gaussians made as large as that of all, which it would outweigh."""
        nonlocal loss_of_whole
        if is_whole:
            loss_of_whole = loss.detach()
        return loss if is_whole else loss * (loss_of_whole / loss.detach().clamp_min(1e-9))

    penalty = QuantizationPenalty(quantizer, lambda: is_whole)  # as large against the loss of all as without prefixes
    fit(model, photos, phase, rates, progress, rendered, [penalty], scaled, given)
    model.nested = stays_nested


def fit(
    model: GaussianModel,
    photos: Photos,
    phase: Phase,
    rates: FineTuneRates,
    progress: Progress,
    rendered: Callable[[Training], GaussianModel] | None = None,
    strategies: Sequence[Strategy] = (),
    scaled: Callable[[Tensor], Tensor] = lambda loss: loss,
    given: GaussianModel | None = None,
) -> None:
    """Fit the model to the photos.

    Args:
        model: see :func:`fine_tune`, as for ``photos``, ``phase``, ``rates``, ``progress`` and ``given``.
        rendered: what is rendered in its place, see :class:`training.training.Training`.
        strategies: add to the loss.
        scaled: of the loss, so that steps with a large and with a small loss count alike.
    """
    measured = partial(squares_loss, ssim_weight=photos.ssim_weight)
    mean = [] if phase.mean_from is None else [MeanOfLastSteps(phase.mean_from)]
    training = Training(
        photos.scene,
        model,
        FineTuneSchedule(phase, rates),
        [*strategies, *mean],
        loss=lambda *pictures: scaled(measured(*pictures)),
        background=photos.background,
        views=photos.views,
        rendered=rendered,
        target=None if given is None else between(given, photos),
        exposure=photos.exposure,
    )
    for step in training:
        progress.update(step, model.num_gaussians)


def squares_loss(image: Tensor, photo: Tensor, mask: Tensor | None, ssim_weight: float) -> Tensor:
    """(1 - w) SQUARES MSE + w (1 - SSIM): as in training, but with the MSE, which PSNR is made of.

    Args:
        image: (3,H,W) float32.
        photo: (3,H,W) uint8.
        mask: (H,W) bool; where it is False, image and photo count as zero.
        ssim_weight: w.
    """
    error = image - photo / 255
    if mask is not None:
        error = error * mask
    unlike = photometric_loss(image, photo, mask=mask, ssim_weight=1.0).loss
    return (1 - ssim_weight) * SQUARES * error.square().mean() + ssim_weight * unlike


def between(given: GaussianModel, photos: Photos) -> Target:
    """The target of a training: the mean of each photo and the render of a model, in the exposure of the photo."""
    index_of = {camera: index for index, camera in enumerate(photos.scene.train)}

    @torch.no_grad()
    def target(camera: Camera, background: Tensor) -> tuple[Tensor, Tensor | None]:
        photo, mask = ground_truth(camera, given.device, background)
        image = render(camera, given, background).image
        if photos.exposure is not None:
            image = photos.exposure.applied(index_of[camera], image)
        return to_uint8((image + photo / 255) / 2), mask

    return target


def as_stored(model: GaussianModel, quantizer: Quantizer) -> GaussianModel:
    """The model that decoding would give, with its own parameters, in the same order of Gaussians."""
    return model.with_parameters(model.units.world_model(quantizer.quantized(model.file_parameters())))
