"""The post-hoc stage: rounds of pruning and quantization-aware fine-tuning [POSTHOC].

It writes no files: the result is the bytes of a .gsz and the measurements of every stage.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from compact_splats.arguments.compress import FineTuneRates, OrderSchedule, Phase, PostHocSchedule
from compact_splats.compression.arrays import Arrays
from compact_splats.compression.finetune import Photos, as_stored, fine_tune
from compact_splats.compression.ordering import drawn_prefix
from compact_splats.compression.quantizer import Quantizer
from compact_splats.compression.scores import gradient_scores, removal_scores
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.progress import Progress
from compact_splats.utils.errors import InputError

# Rounds end this share below the target size, because the last steps change the size a little. If they still exceed
# the target, more Gaussians are pruned.
SIZE_MARGIN = 0.005


@dataclass(frozen=True)
class Stage:
    """The model at one stage of the compression, measured as it is stored.

    Attributes:
        name: "as given" (the float model), "stored", "round N", "last steps" or "trimmed".
        gaussians: number of Gaussians.
        bytes: size of the file.
        train_psnr: mean over all training views, dB.
        train_ssim: mean SSIM over all training views.
        test_psnr: mean over the test views, dB; None without test views.
        test_ssim: mean SSIM over the test views.
    """

    name: str
    gaussians: int
    bytes: int
    train_psnr: float
    train_ssim: float
    test_psnr: float | None = None
    test_ssim: float | None = None


@dataclass(frozen=True)
class Goals:
    """When pruning ends: as soon as one of these goals is reached. None: no such goal.

    Attributes:
        num_gaussians: exact number of Gaussians to keep.
        num_bytes: largest size of the file.
        psnr_drop: largest loss of PSNR on the training views, dB; a round that loses more is undone.
        rounds: largest number of rounds.
    """

    num_gaussians: int | None = None
    num_bytes: int | None = None
    psnr_drop: float | None = None
    rounds: int | None = None

    def reached(self, stage: Stage, rounds: int) -> str | None:
        """The goal that ``stage`` reaches after ``rounds`` rounds, in words; None: continue."""
        if self.num_gaussians is not None and stage.gaussians <= self.num_gaussians:
            return f"{self.num_gaussians:,} Gaussians"
        if self.num_bytes is not None and stage.bytes <= self.num_bytes * (1 - SIZE_MARGIN):
            return f"{self.num_bytes / 1e6:g} MB"
        if self.rounds is not None and rounds >= self.rounds:
            return f"{self.rounds} round{'s' * (self.rounds != 1)}"
        return "a single Gaussian" if stage.gaussians <= 1 else None

    def missed(self, stage: Stage) -> list[str]:
        """The goals that ``stage`` misses, because another one was reached first."""
        missed = []
        if self.num_gaussians is not None and stage.gaussians > self.num_gaussians:
            missed.append(f"{self.num_gaussians:,} Gaussians")
        if self.num_bytes is not None and stage.bytes > self.num_bytes:
            missed.append(f"{self.num_bytes / 1e6:g} MB")
        return missed

    def next_count(self, gaussians: int, num_bytes: int, pruned_share: float) -> int:
        """Number of Gaussians to keep in the next round, which prunes less where that reaches a goal.

        Args:
            gaussians: current number, at least 2.
            num_bytes: current size of the file.
            pruned_share: of the Gaussians that a whole round prunes.
        """
        count = gaussians - max(1, round(pruned_share * gaussians))
        if self.num_gaussians is not None:
            count = max(count, self.num_gaussians)
        if self.num_bytes is not None:
            count = max(count, math.floor(gaussians * (self.num_bytes * (1 - SIZE_MARGIN)) / num_bytes))
        return min(count, gaussians - 1)


@dataclass(frozen=True)
class Result:
    """The result of a compression.

    Attributes:
        data: the file.
        course: the stages: as given, as stored, after each round, after the last steps. The last one is what ``data``
            decodes to.
        stopped_by: the goal that ended the rounds, in words; None without goals.
        missed: goals that were not reached, in words.
    """

    data: bytes
    course: list[Stage]
    stopped_by: str | None
    missed: list[str]

    def as_json(self) -> dict[str, Any]:
        """All but the data."""
        return {
            "stopped_by": self.stopped_by, "missed": self.missed, "course": [asdict(stage) for stage in self.course],
        }  # fmt: skip


@dataclass
class PostHoc:
    """One compression.

    Attributes:
        model: is compressed in place; the file holds it in the coordinates of its files.
        quantizer: the profile of the file, with its settings.
        decode: from the quantizer's file to arrays.
        photos: the data of fine-tuning.
        schedule: the share that is pruned in each round, and the phases of fine-tuning.
        rates: Adam's learning rates.
        prune_by: the score of a Gaussian: "error", see `removal_scores`, or "gradient", see `gradient_scores`.
        report: is called with every stage.
        quiet: show no progress bar.
        prefixes: of a nested model that stays nested: draws the number of Gaussians that a step of fine-tuning renders;
            None: each step renders all.
    """

    model: GaussianModel
    quantizer: Quantizer
    decode: Callable[[bytes], Arrays]
    photos: Photos
    schedule: PostHocSchedule = field(default_factory=PostHocSchedule)
    rates: FineTuneRates = field(default_factory=FineTuneRates)
    prune_by: str = "error"
    report: Callable[[Stage], None] = lambda stage: None
    quiet: bool = False
    prefixes: torch.Generator | None = None

    def run(self, goals: Goals | None, bytes_as_given: int) -> Result:
        """Prune in rounds until a goal is reached, fine-tune, and store.

        Args:
            goals: when to stop pruning; None: prune nothing.
            bytes_as_given: size of the file that the model was read from.
        """
        course: list[Stage] = []
        self._note(course, self._measured("as given", self.model, bytes_as_given))
        given = None
        if goals is None:
            rows = {name: each.detach().clone() for name, each in self.model.parameters.items()}
            given = self.model.with_parameters(rows)
        self._prepare()
        self._note(course, self._stored("stored"))
        if goals is None:  # more steps on the photos alone would overfit a trained model
            return Result(self._finish("last steps", self.schedule.only, course, given), course, None, [])
        stopped_by = self._rounds(goals, course)
        data = self._finish("last steps", self.schedule.last, course)
        while goals.num_bytes is not None and len(data) > goals.num_bytes and self.model.num_gaussians > 1:
            self._prune(goals.next_count(self.model.num_gaussians, len(data), self.schedule.pruned_share))
            data = self._finish("trimmed", self.schedule.trim, course)
        return Result(data, course, stopped_by, goals.missed(course[-1]))

    def _rounds(self, goals: Goals, course: list[Stage]) -> str:
        """Prune and fine-tune until a goal is reached; returns the goal in words."""
        stage, drop = course[-1], goals.psnr_drop
        for number in itertools.count(1):
            if reached := goals.reached(stage, rounds=number - 1):
                return reached
            before = None if drop is None else copy.deepcopy(self.model.state_dict())
            self._prune(goals.next_count(stage.gaussians, stage.bytes, self.schedule.pruned_share))
            self._fine_tune(f"round {number}", self.schedule.round)
            stage = self._stored(f"round {number}")
            self._note(course, stage)
            if before and drop is not None and course[0].train_psnr - stage.train_psnr > drop:
                self.model.load_state_dict(before)
                return f"{drop:g} dB: round {number} lost more and is undone"
        raise AssertionError("unreachable")

    def _prepare(self) -> None:
        """Bring the parameters into the form that is stored, and start Adam and the quantizer."""
        with torch.no_grad():
            prepared = self.quantizer.prepared(self.model.file_parameters())
            for name, values in self.model.units.world_model(prepared).items():
                self.model.parameters[name].copy_(values)
        self.model.start_training(self.rates.at(1.0, self.photos.scene.extent))
        self.quantizer.fit(self.model.file_parameters())

    def _prune(self, count: int) -> None:
        """Keep the ``count`` Gaussians with the highest scores."""
        stored = as_stored(self.model, self.quantizer)
        photos = self.photos
        views = photos.scene.train, photos.background
        if self.prune_by == "gradient":
            scores = gradient_scores(stored, *views, ssim_weight=photos.ssim_weight, exposure=photos.exposure)
        else:
            scores = removal_scores(stored, *views)
        self.model.keep(scores.argsort(descending=True, stable=True)[:count].sort().values)

    def _fine_tune(self, name: str, phase: Phase, given: GaussianModel | None = None) -> None:
        progress = Progress(phase.steps, self.quiet or not phase.steps, label=name, leave=False)
        draw = self.prefixes
        shown = None if draw is None else partial(drawn_prefix, schedule=OrderSchedule(), generator=draw)
        fine_tune(self.model, self.quantizer, self.photos, phase, self.rates, progress, given, shown)
        progress.close()

    def _finish(self, name: str, phase: Phase, course: list[Stage], given: GaussianModel | None = None) -> bytes:
        """Fine-tune, store, and measure the decoded model."""
        self._fine_tune(name, phase, given)
        data = self._encoded()
        decoded = GaussianModel.from_arrays(self.decode(data), self.model.device, self.model.units)
        self._note(course, self._measured(name, decoded, len(data)))
        return data

    def _encoded(self) -> bytes:
        return self.quantizer.encode(self.model.to_arrays())

    def _stored(self, name: str) -> Stage:
        return self._measured(name, as_stored(self.model, self.quantizer), len(self._encoded()))

    def _measured(self, name: str, model: GaussianModel, num_bytes: int) -> Stage:
        background, test_views = self.photos.background, self.photos.scene.test
        train = evaluate(self.photos.scene.train, model, background)
        test = evaluate(test_views, model, background) if test_views else {"psnr": None, "ssim": None}
        psnr, ssim = train["psnr"], train["ssim"]
        if psnr is None or ssim is None:
            raise InputError("masks leave no pixel of any training view: check the masks of the scene")
        return Stage(name, model.num_gaussians, num_bytes, psnr, ssim, test["psnr"], test["ssim"])

    def _note(self, course: list[Stage], stage: Stage) -> None:
        course.append(stage)
        self.report(stage)
