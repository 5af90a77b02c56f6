"""What compress.py can be told, and when everything happens in a compression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compact_splats.arguments.config import MachineConfig, SceneConfig, at_least, check_resolution, in_range
from compact_splats.arguments.options import build, check, from_json, given, option, read_json
from compact_splats.arguments.schedule import LearningRates
from compact_splats.utils.errors import InputError

PROFILES = ("compact", "seed")
DEFAULT_ROUNDS = 25  # [POSTHOC]


@dataclass(frozen=True)
class FineTuneRates:
    """Adam's rates where fine-tuning begins, one per row of the model.

    The means go on with the rate at which training ends; the others are the training's by 5, that of the higher SH
    degrees by 1.25. ``PostHocSchedule`` multiplies them.

    Attributes:
        means: times the scene's extent.
    """

    means: float = LearningRates.means_last
    log_scales: float = 1e-3
    quats: float = 2e-4
    opacity_logits: float = 5e-3
    sh_dc: float = 5e-4
    sh_rest: float = 2e-4

    def at(self, factor: float, extent: float) -> dict[str, float]:
        """Rate of every row, times ``factor``."""
        return {
            "means": self.means * extent * factor,
            "log_scales": self.log_scales * factor,
            "quats": self.quats * factor,
            "opacity_logits": self.opacity_logits * factor,
            "sh_dc": self.sh_dc * factor,
            "sh_rest": self.sh_rest * factor,
        }


# Coarse steps are crossed only by rows that move fast.
RATES = {"compact": FineTuneRates(sh_dc=1e-3, sh_rest=4e-4), "seed": FineTuneRates()}


@dataclass(frozen=True)
class Phase:
    """A stretch of fine-tuning. Its steps count from 1.

    Attributes:
        steps: how many.
        refit_every: steps between two fits of the quantizer; the first is made before step 1.
        frozen_from: from this step on the quantizer stays as it is.
        mean_from: what is left in the end is the mean of the rows after each step from this one on; None: the last.
        first_factor: what the rates are multiplied by at the first step.
        last_factor: the same for the last step; log-linear in between.
    """

    steps: int
    refit_every: int
    frozen_from: int
    mean_from: int | None = None
    first_factor: float = 1.0
    last_factor: float = 1.0

    def refits(self, step: int) -> bool:
        """Whether the quantizer is fitted anew before ``step``."""
        return 1 < step < self.frozen_from and (step - 1) % self.refit_every == 0

    def factor(self, step: int) -> float:
        """What the rates of ``step`` are multiplied by."""
        progress = (step - 1) / max(1, self.steps - 1)
        return math.exp((1 - progress) * math.log(self.first_factor) + progress * math.log(self.last_factor))

    def scaled(self, factor: float) -> Phase:
        """The same in ``factor`` times the steps; a phase that had steps keeps one, unless the factor is 0."""
        at_least_one = min(1, math.ceil(factor))
        return replace(
            self,
            steps=max(at_least_one, round(self.steps * factor)),
            refit_every=max(1, round(self.refit_every * factor)),
            frozen_from=round(self.frozen_from * factor),
            mean_from=None if self.mean_from is None else round(self.mean_from * factor),
        )


@dataclass(frozen=True)
class PostHocSchedule:
    """Rounds of removing and fine-tuning, then the last steps [POSTHOC].

    Attributes:
        removed_share: of the Gaussians that are left, in each round.
        round: fine-tuning of each round.
        last: fine-tuning after the last round.
        only: fine-tuning where there are no rounds. The model has been trained to its end, and more steps fit it to the
            training views more than to others.
        trim: fine-tuning where the file is still larger than asked for after ``last`` and a few more had to go.
    """

    removed_share: float = 0.05
    round: Phase = Phase(steps=1_000, refit_every=100, frozen_from=1_001, first_factor=4.0, last_factor=4.0)
    last: Phase = Phase(
        steps=5_000, refit_every=100, frozen_from=3_750, mean_from=3_750, first_factor=4.0, last_factor=0.8
    )
    only: Phase = Phase(steps=1_200, refit_every=100, frozen_from=900, mean_from=900, first_factor=8.0, last_factor=1.6)
    trim: Phase = Phase(steps=1_000, refit_every=1_000, frozen_from=1, mean_from=750, first_factor=8.0, last_factor=1.6)

    def scaled(self, factor: float) -> PostHocSchedule:
        """The same rounds with ``factor`` times the steps."""
        phases = ("round", "last", "only", "trim")
        return replace(self, **{name: getattr(self, name).scaled(factor) for name in phases})


@dataclass(frozen=True, kw_only=True)
class CompressConfig(MachineConfig, SceneConfig):
    """All of a compression.

    Raises:
        InputError: a value is of the wrong type or out of its range.
    """

    source_path: Path = option(type=Path, short="-s", help="folder of the scene (default: that of the run)")
    model_path: Path | None = option(
        None, type=Path, short="-m", help="folder that train.py wrote; the file goes into its folder compressed/"
    )
    ply: Path | None = option(None, type=Path, help="compress this file, a PLY of any origin, instead of the folder's")
    iteration: int = option(-1, type=int, help="the saved step to compress; -1: the last")
    out: Path | None = option(
        None, type=Path, short="-o", help="file to write (default: compressed/PROFILE.gsz in the folder of -m, "
        "compressed/NAME.gsz beside --ply)"
    )  # fmt: skip
    profile: str = option("compact", choices=PROFILES, help="compact: smallest; seed: 8-bit colours, 16-bit floats")
    prune: bool = option(True, type=bool, help="remove Gaussians in rounds; without, only quantize and fine-tune")
    target_gaussians: int | None = option(None, type=int, help="remove until exactly so many are left")
    target_mb: float | None = option(None, type=float, help="remove until the file has at most so many MB (10^6 bytes)")
    max_psnr_drop: float | None = option(
        None, type=float, help="remove as long as the training views lose at most so many dB"
    )
    rounds: int | None = option(
        None, type=int, help=f"remove in at most so many rounds (default: {DEFAULT_ROUNDS}, or as many as the targets "
        "above need); of all that is asked for, what is reached first counts"
    )  # fmt: skip
    steps: float = option(
        1.0, type=float, help="multiply all numbers of fine-tuning steps, 1,000 a round and 5,000 at the end, or 1,200 "
        "where nothing is removed, by this; 0: no fine-tuning"
    )  # fmt: skip
    lambda_dssim: float = option(0.2, type=float, help="weight of the SSIM part of the loss, 0 to 1")
    seed: int = option(0, type=int, help="start of all random draws")
    quiet: bool = option(False, type=bool, help="print nothing but errors")

    def __post_init__(self) -> None:
        check(self)
        _refuse_no_model(self.model_path, self.ply)
        at_least(0, "--threads", self.threads)
        at_least(-1, "--iteration", self.iteration)
        at_least(0, "--steps", self.steps)
        at_least(0, "--seed", self.seed)
        in_range(0, 1, "--lambda-dssim", self.lambda_dssim)
        check_resolution(self.resolution)
        for name, low in (("target_gaussians", 1), ("target_mb", 1e-6), ("max_psnr_drop", 0), ("rounds", 0)):
            value, flag = getattr(self, name), "--" + name.replace("_", "-")
            if value is None:
                continue
            at_least(low, flag, value)
            if not self.prune:
                raise InputError(flag, "nothing beside --no-prune", str(value), "leave one of the two out")
        for name in ("steps", "target_mb", "max_psnr_drop"):
            if getattr(self, name) == math.inf:
                raise InputError("--" + name.replace("_", "-"), "a finite number", "infinity", "leave it out")

    def make_schedule(self) -> PostHocSchedule:
        """The schedule that the flags ask for."""
        return PostHocSchedule().scaled(self.steps)

    @classmethod
    def from_command_line(cls, argv: Sequence[str]) -> CompressConfig:
        """Read the flags of compress.py; what they leave open about the scene comes from the run's ``config.json``.

        Raises:
            InputError: a flag is unknown, missing or has a value it can't have.
        """
        flags = given(
            cls, argv, "Make a trained model small: remove what the photos miss least, fine-tune the rest as it is "
            "stored. Other commands: compress.py export, compress.py info; see their --help."
        )  # fmt: skip
        _refuse_no_model(flags.get("model_path"), flags.get("ply"))
        path = flags["model_path"] / "config.json" if "model_path" in flags else None
        values = read_json(path) if path and path.exists() else {}
        trained = from_json(SceneConfig, values, path)
        return build(cls, {**trained, **_loss_of(values, path), **flags})


def _refuse_no_model(model_path: Path | None, ply: Path | None) -> None:
    if model_path is None and ply is None:
        raise InputError("command line", "a model", "neither -m nor --ply", "give -m FOLDER or --ply FILE")


def _loss_of(values: dict, path: Path) -> dict:
    """What a run's config says about the loss."""
    return from_json(CompressConfig, {name: values[name] for name in ("lambda_dssim",) if name in values}, path)
