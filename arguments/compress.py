"""The options of compress.py, and the schedule of the post-hoc stage."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compact_splats.arguments.config import (
    MachineConfig,
    SceneConfig,
    check_resolution,
    of_run,
    run_folder,
    scene_of_run,
)
from compact_splats.arguments.edits import KeepConfig
from compact_splats.arguments.options import Command, check, from_json, option, read_json
from compact_splats.arguments.schedule import LearningRates
from compact_splats.utils.errors import InputError

PROFILES = ("compact", "seed")
PRUNE_BY = ("error", "gradient")
QUALITIES = ("small", "default", "high")  # of compact; what they mean: compression/compact.py
DEFAULT_ROUNDS = 25  # [POSTHOC]


@dataclass(frozen=True)
class FineTuneRates:
    """Adam's learning rate for each parameter, before the factor of the :class:`Phase`.

    That of the means is the last one of training; the others are those of training divided by 5, or by 1.25 for the
    higher SH degrees.

    Attributes:
        means: to be multiplied by the scene's extent.
    """

    means: float = LearningRates.means_last
    log_scales: float = 1e-3
    quats: float = 2e-4
    opacity_logits: float = 5e-3
    sh_dc: float = 5e-4
    sh_rest: float = 2e-4

    def at(self, factor: float, extent: float) -> dict[str, float]:
        """Learning rates by parameter name, times ``factor``."""
        rates = {**asdict(self), "means": self.means * extent}
        return {name: rate * factor for name, rate in rates.items()}


# Only fast parameters cross coarse quantization steps.
RATES = {"compact": FineTuneRates(sh_dc=1e-3, sh_rest=4e-4), "seed": FineTuneRates()}
# Gaussians of a prefix move to where the ones that it lacks were.
ORDER_RATES = FineTuneRates(means=4 * LearningRates.means_last)


@dataclass(frozen=True)
class Phase:
    """A phase of fine-tuning. Its steps count from 1.

    Attributes:
        steps: number of steps.
        refit_every: steps between two fits of the quantizer, if there is one; the first fit is before step 1.
        frozen_from: from this step on, the quantizer is not fitted any more.
        mean_from: the result is the mean of the parameters after each step from this one on; None: after the last step.
        first_factor: of the learning rates at the first step.
        last_factor: of the learning rates at the last step; log-linear in between.
    """

    steps: int
    refit_every: int = 1
    frozen_from: int = 1
    mean_from: int | None = None
    first_factor: float = 1.0
    last_factor: float = 1.0

    def refits(self, step: int) -> bool:
        """Whether the quantizer is fitted again before ``step``."""
        return 1 < step < self.frozen_from and (step - 1) % self.refit_every == 0

    def factor(self, step: int) -> float:
        """Factor of the learning rates of ``step``."""
        progress = (step - 1) / max(1, self.steps - 1)
        return math.exp((1 - progress) * math.log(self.first_factor) + progress * math.log(self.last_factor))

    def scaled(self, factor: float) -> Phase:
        """The same phase in ``factor`` times the steps; at least one step, unless the factor is 0."""
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
    """Rounds of pruning and fine-tuning, then the last steps [POSTHOC].

    Attributes:
        pruned_share: share of the current Gaussians that each round prunes.
        round: fine-tuning of each round.
        last: fine-tuning after the last round.
        only: fine-tuning without rounds: short, as more steps overfit a trained model to the training views.
        trim: fine-tuning if the file is above the target size after ``last`` and more Gaussians were pruned.
    """

    pruned_share: float = 0.05
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


@dataclass(frozen=True)
class OrderSchedule:
    """How a nested model is made: pruning level by level, then fine-tuning of prefixes.

    Attributes:
        levels: shares of the Gaussians, falling: prefixes that are as good as models of so many Gaussians.
        pruned_share: share of the current Gaussians that each round prunes.
        round: fine-tuning after each round.
        level: fine-tuning when a level is reached.
        prefixes: fine-tuning at the end; each step renders one prefix.
        whole_share: share of these steps that render the whole model.
        any_share: share of these steps that render a prefix of random length; the others render one of the levels.
        shortest: share of the Gaussians in the shortest prefix of random length.
    """

    levels: tuple[float, ...] = (0.5, 0.25)
    pruned_share: float = 0.2
    round: Phase = Phase(steps=100, first_factor=8.0, last_factor=8.0)
    level: Phase = Phase(steps=400, mean_from=300, first_factor=8.0, last_factor=0.8)
    prefixes: Phase = Phase(steps=8_000, mean_from=6_000, first_factor=16.0, last_factor=0.8)
    whole_share: float = 0.5
    any_share: float = 0.1
    shortest: float = 0.1

    def scaled(self, factor: float) -> OrderSchedule:
        """The same levels with ``factor`` times the steps."""
        phases = ("round", "level", "prefixes")
        return replace(self, **{name: getattr(self, name).scaled(factor) for name in phases})


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(Command, MachineConfig, SceneConfig):
    """The options of the commands that fine-tune a model."""

    source_path: Path = option(
        type=Path, short="-s", group="basic", help="folder of the scene (default: that of the run)"
    )
    model_path: Path | None = option(
        None, type=Path, short="-m", positional="MODEL", group="basic", help="folder that train.py wrote; a file is as "
        "with --ply"
    )  # fmt: skip
    ply: Path | None = option(
        None, type=Path, group="basic", help="take this file, a model of any trainer and format, instead of the "
        "folder's"
    )  # fmt: skip
    iteration: int = option(-1, type=int, low=-1, help="the saved step of the run; -1: the last")
    lambda_dssim: float = option(0.2, type=float, low=0, high=1, help="weight of the SSIM term in the loss, 0 to 1")
    seed: int = option(0, type=int, low=0, help="seed of the random numbers")

    def check_model(self) -> None:
        """Check the values; for ``__post_init__``.

        Raises:
            InputError: a value has the wrong type or is out of range.
        """
        check(self)
        _refuse_no_model(self.model_path, self.ply)
        check_resolution(self.resolution)

    @classmethod
    def completed(cls, flags: dict[str, Any]) -> dict[str, Any]:
        """Options of the scene and of the loss default to those of the run's ``config.json``."""
        if "ply" not in flags and flags.get("model_path", Path()).is_file():
            file = flags.pop("model_path")
            flags |= of_run(file) or {"ply": file}
        _refuse_no_model(flags.get("model_path"), flags.get("ply"))
        folder = flags["model_path"] if "model_path" in flags else run_folder(flags["ply"])
        trained = scene_of_run(folder)
        if folder is not None and (path := folder / "config.json").exists():
            loss = {name: value for name, value in read_json(path).items() if name == "lambda_dssim"}
            trained |= from_json(cls, loss, path)
        if "source_path" not in trained | flags:
            raise InputError(
                "no scene to fine-tune on: give its folder with -s; compress.py export changes formats without photos"
            )
        return {**trained, **flags}


@dataclass(frozen=True, kw_only=True)
class CompressConfig(FineTuneConfig, KeepConfig):
    """The options of compress.py."""

    about = (
        "Compress a trained model: prune the Gaussians that matter least, and fine-tune the rest "
        "quantization-aware. Other commands: compress.py order, export and info; see their --help."
    )
    examples = ("output/my_scene --no-prune", "model.ply -s my_scene --target-mb 2")

    out: Path | None = option(
        None, type=Path, short="-o", group="output", help="file to write (default: compressed/PROFILE.gsz in the "
        "folder of -m, compressed/NAME.gsz beside --ply)"
    )  # fmt: skip
    overwrite: bool = option(
        False, type=bool, group="output", help="with --ply, without --out: replace a file of that name; an older "
        "result in the folder of -m is always replaced"
    )  # fmt: skip
    profile: str = option(
        "compact", choices=PROFILES, group="basic", help="compact: smallest; seed: 8-bit colours, 16-bit floats"
    )
    quality: str = option(
        "default", choices=QUALITIES, group="basic", help="of compact: a smaller file, or one that is closer to the "
        "model"
    )  # fmt: skip
    prune: bool = option(
        True, type=bool, group="basic", help="prune in rounds; --no-prune: only quantize and fine-tune"
    )
    prune_by: str = option(
        "error", choices=PRUNE_BY, help="error: prune the Gaussians whose removal changes the images least; gradient: "
        "those with the smallest gradients of the loss"
    )  # fmt: skip
    target_gaussians: int | None = option(
        None, type=int, low=1, group="basic", help="prune to exactly this number of Gaussians"
    )  # fmt: skip
    target_mb: float | None = option(
        None, type=float, low=1e-6, group="basic", help="prune until the file has at most this many MB (10^6 bytes)"
    )
    max_psnr_drop: float | None = option(
        None, type=float, low=0, group="basic", help="prune while the PSNR of the training views drops by at most this "
        "many dB"
    )  # fmt: skip
    rounds: int | None = option(
        None, type=int, low=0, help=f"largest number of rounds (default: {DEFAULT_ROUNDS}, or as many as the targets "
        "above need); pruning ends at the first target that is reached"
    )  # fmt: skip
    steps: float = option(
        1.0, type=float, low=0, help="factor for the numbers of fine-tuning steps: 1,000 per round and 5,000 at the "
        "end, or 1,200 with --no-prune; 0: no fine-tuning"
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.check_model()
        _ = self.crop_numbers
        if self.quality != "default" and self.profile != "compact":
            raise InputError(f"--quality {self.quality} is for --profile compact: leave one of them out")
        for name in ("target_gaussians", "target_mb", "max_psnr_drop", "rounds"):
            if getattr(self, name) is not None and not self.prune:
                flag = "--" + name.replace("_", "-")
                raise InputError(f"{flag} and --no-prune exclude each other: leave one of them out")
        if self.prune_by != "error" and not self.prune:
            raise InputError("--prune-by and --no-prune exclude each other: leave one of them out")
        for name in ("steps", "target_mb", "max_psnr_drop"):
            if getattr(self, name) == math.inf:
                raise InputError(f"--{name.replace('_', '-')} must be finite: leave it out for no limit")

    def make_schedule(self) -> PostHocSchedule:
        """The schedule with ``steps`` times the steps."""
        return PostHocSchedule().scaled(self.steps)


@dataclass(frozen=True, kw_only=True)
class OrderConfig(FineTuneConfig):
    """The options of ``compress.py order``."""

    about = (
        "Order the Gaussians of a trained model and fine-tune them so that the first ones alone, any number of "
        "them, are a good model, too: a nested model, a 3DGS PLY of as many Gaussians."
    )
    examples = ("output/my_scene", "model.ply -s my_scene -o nested.ply")
    subcommand = "order"

    out: Path | None = option(
        None, type=Path, short="-o", group="output", help="PLY to write (default: nested/NAME.ply in the folder of -m, "
        "or beside --ply, with the name of the model's file)"
    )  # fmt: skip
    overwrite: bool = option(False, type=bool, group="output", help="replace a file of that name")
    smallest: float = option(
        0.25, type=float, low=0.01, high=0.5, group="basic", help="smallest share of the Gaussians, 0.01 to 0.5, that "
        "is to be as good as a model of so many; a smaller one costs the larger ones quality"
    )  # fmt: skip
    steps: float = option(1.0, type=float, low=0, help="factor for the numbers of fine-tuning steps; 0: only order")

    def __post_init__(self) -> None:
        self.check_model()
        if self.steps == math.inf:
            raise InputError("--steps must be finite")
        if self.out is not None and self.out.suffix.lower() != ".ply":
            raise InputError(f"--out {self.out} must end in .ply, the format that is written")

    def make_schedule(self) -> OrderSchedule:
        """The schedule with ``steps`` times the steps, and with levels down to ``smallest``."""
        schedule = OrderSchedule().scaled(self.steps)
        levels = (*(level for level in schedule.levels if level > self.smallest), self.smallest)
        return replace(schedule, levels=levels, shortest=min(schedule.shortest, self.smallest))


def _refuse_no_model(model_path: Path | None, ply: Path | None) -> None:
    if model_path is None and ply is None:
        raise InputError("no model: give -m FOLDER or --ply FILE")
