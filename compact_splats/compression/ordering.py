"""Nested models: the first Gaussians alone are a good model, for any number of them.

The order comes from pruning: the Gaussians that are pruned first come last. Each takes the values that it had when it
was pruned, so that the first ones are as large as a small model needs them. Then steps that render the whole and steps
that render a prefix of random length take turns, as in slimmable networks [arXiv:1812.08928].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compact_splats.arguments.compress import FineTuneRates, OrderSchedule, Phase
from compact_splats.compression.finetune import Photos, fit
from compact_splats.compression.scores import removal_scores
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.natural_selection import TARGET_LOGIT
from compact_splats.training.progress import Progress
from compact_splats.training.training import Training
from compact_splats.utils.errors import InputError


@dataclass(frozen=True)
class Prefix:
    """The quality of the first Gaussians of a model.

    Attributes:
        gaussians: their number.
        psnr: mean over the views, dB.
        ssim: mean over the views.
    """

    gaussians: int
    psnr: float
    ssim: float


def nested(
    model: GaussianModel,
    photos: Photos,
    schedule: OrderSchedule,
    rates: FineTuneRates,
    generator: torch.Generator,
    quiet: bool = False,
) -> GaussianModel:
    """Make a nested model of as many Gaussians.

    Args:
        model: a trained model; it is pruned.
        photos: the data of fine-tuning.
        schedule: levels and phases of fine-tuning.
        rates: Adam's learning rates.
        generator: of the lengths of prefixes, on the CPU.
        quiet: show no progress bar.

    Returns:
        The nested model, marked as such.
    """
    model = _ordered(model, photos, schedule, rates, quiet)

    def rendered(training: Training) -> GaussianModel:
        return drawn_prefix(model, schedule, generator)

    model.start_training(rates.at(1.0, photos.scene.extent))
    _fine_tune(model, photos, schedule.prefixes, rates, "prefixes", quiet, rendered)
    model.nested = True
    return model


def drawn_prefix(model: GaussianModel, schedule: OrderSchedule, generator: torch.Generator) -> GaussianModel:
    """The model as a step renders it: the whole, or with all but the first Gaussians too faint to be drawn."""
    share = drawn_share(schedule, generator)
    return model if share == 1 else _hidden_from(model, math.ceil(share * model.num_gaussians))


def drawn_share(schedule: OrderSchedule, generator: torch.Generator) -> float:
    """The share of the Gaussians, from the first one on, that a step renders; 1: all of them."""
    step, length = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    if step < schedule.whole_share:
        return 1.0
    if step < schedule.whole_share + schedule.any_share:
        return schedule.shortest**length  # as often from 10 to 20 % as from 20 to 40 %
    choices = (*schedule.levels, schedule.levels[-1])  # the last level is the hardest
    return choices[int(length * len(choices))]


def first(model: GaussianModel, count: int) -> GaussianModel:
    """A model of the first ``count`` Gaussians."""
    return model.with_parameters({name: values.detach()[:count] for name, values in model.parameters.items()})


def measured(model: GaussianModel, photos: Photos, shares: tuple[float, ...]) -> list[Prefix]:
    """The quality of prefixes on the test views, or on the training views where there are none.

    Args:
        model: in any order.
        photos: scene and background.
        shares: of the Gaussians.

    Raises:
        InputError: masks leave no pixel of any of the views.
    """
    scene, prefixes = photos.scene, []
    for share in shares:
        count = math.ceil(share * model.num_gaussians)
        found = evaluate(scene.test or scene.train, first(model, count), photos.background)
        psnr, ssim = found["psnr"], found["ssim"]
        if psnr is None or ssim is None:
            raise InputError("masks leave no pixel of any view to measure: check the masks of the scene")
        prefixes.append(Prefix(count, psnr, ssim))
    return prefixes


def _ordered(
    model: GaussianModel, photos: Photos, schedule: OrderSchedule, rates: FineTuneRates, quiet: bool
) -> GaussianModel:
    """The Gaussians in the opposite order of pruning, each with its values of the last level that it reached."""
    num = model.num_gaussians
    levels = [math.ceil(share * num) for share in schedule.levels]
    if num * schedule.shortest < 1:
        raise InputError(f"the model has {num} Gaussians, too few to leave some out: give a larger one")
    values = {name: rows.detach().clone() for name, rows in model.parameters.items()}
    model.per_gaussian["place"] = torch.arange(num, device=model.device)
    model.start_training(rates.at(1.0, photos.scene.extent))
    pruned: list[Tensor] = []
    for count in dict.fromkeys([*levels, math.ceil(schedule.shortest * num)]):
        while model.num_gaussians > count:
            left = max(count, int((1 - schedule.pruned_share) * model.num_gaussians))
            best = _best_first(model, photos)
            pruned.append(model.per_gaussian["place"][best[left:]])
            model.keep(best[:left].sort().values)
            _fine_tune(model, photos, schedule.round, rates, f"{left:,} Gaussians", quiet)
        if count in levels:
            _fine_tune(model, photos, schedule.level, rates, f"{count:,} Gaussians", quiet)
            for name, rows in model.parameters.items():
                values[name][model.per_gaussian["place"]] = rows.detach()
    order = torch.cat([model.per_gaussian["place"][_best_first(model, photos)], *reversed(pruned)])
    return model.with_parameters({name: rows[order] for name, rows in values.items()})


def _best_first(model: GaussianModel, photos: Photos) -> Tensor:
    scores = removal_scores(model, photos.scene.train, photos.background)
    return scores.argsort(descending=True, stable=True)


def _hidden_from(model: GaussianModel, count: int) -> GaussianModel:
    """The model with the Gaussians from ``count`` on too faint to be drawn; in their places, as gradients need them."""
    rows = {name: values.detach() for name, values in model.parameters.items()}
    rows["opacity_logits"] = rows["opacity_logits"].clone()
    rows["opacity_logits"][count:] = TARGET_LOGIT
    return model.with_parameters(rows)


def _fine_tune(
    model: GaussianModel,
    photos: Photos,
    phase: Phase,
    rates: FineTuneRates,
    label: str,
    quiet: bool,
    rendered: Callable[[Training], GaussianModel] | None = None,
) -> None:
    progress = Progress(phase.steps, quiet or not phase.steps, label=label, leave=False)
    fit(model, photos, phase, rates, progress, rendered, scaled=lambda loss: loss.clamp_min(1e-9).log())
    progress.close()
