"""The post-hoc stage: remove what the photos miss least, fine-tune the rest as it is stored, again and again [POSTHOC].

Writes nothing: the result is the bytes of a file, and its course in figures.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from compact_splats.arguments.compress import FineTuneRates, Phase, PostHocSchedule
from compact_splats.compression.finetune import Photos, as_stored, detached, fine_tune
from compact_splats.compression.quantizer import Quantizer
from compact_splats.compression.scores import gradient_scores
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.progress import Progress

# Rounds end this far below the size asked for, because the last steps move it a little. Should they move it further,
# some more Gaussians go.
SIZE_MARGIN = 0.005


@dataclass(frozen=True)
class Stage:
    """The model at one point of its way, measured as it is stored.

    Attributes:
        name: "as given", which is the float model, "stored", "round N", "last steps" or "trimmed".
        gaussians: their number.
        bytes: size of the file.
        train_psnr: mean over all training views, dB.
        train_ssim: the same of SSIM.
        test_psnr: mean over the test views; None where there are none.
        test_ssim: the same of SSIM.
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
    """When removing ends: as soon as one of these is reached. None: not asked for.

    Attributes:
        num_gaussians: exactly so many are left.
        num_bytes: the file is no larger.
        psnr_drop: dB that the training views may lose; a round that loses more is undone.
        rounds: no more rounds.
    """

    num_gaussians: int | None = None
    num_bytes: int | None = None
    psnr_drop: float | None = None
    rounds: int | None = None

    def reached(self, stage: Stage, rounds: int) -> str | None:
        """The goal that ``stage`` meets after so many rounds, in words; None where there is more to do."""
        if self.num_gaussians is not None and stage.gaussians <= self.num_gaussians:
            return f"{self.num_gaussians:,} Gaussians"
        if self.num_bytes is not None and stage.bytes <= self._size_aimed_at:
            return f"{self.num_bytes / 1e6:g} MB"
        if self.rounds is not None and rounds >= self.rounds:
            return f"{self.rounds} round{'s' * (self.rounds != 1)}"
        return "a single Gaussian" if stage.gaussians <= 1 else None

    def missed(self, stage: Stage) -> list[str]:
        """What is not so although it was asked for, because something else came first."""
        missed = []
        if self.num_gaussians is not None and stage.gaussians > self.num_gaussians:
            missed.append(f"{self.num_gaussians:,} Gaussians")
        if self.num_bytes is not None and stage.bytes > self.num_bytes:
            missed.append(f"{self.num_bytes / 1e6:g} MB")
        return missed

    def next_count(self, gaussians: int, num_bytes: int, removed_share: float) -> int:
        """How many Gaussians to keep: a share of them goes, or less where that meets a goal.

        Args:
            gaussians: that there are, at least 2.
            num_bytes: that they take.
            removed_share: of a whole round.
        """
        count = gaussians - max(1, round(removed_share * gaussians))
        if self.num_gaussians is not None:
            count = max(count, self.num_gaussians)
        if self.num_bytes is not None:
            count = max(count, math.floor(gaussians * self._size_aimed_at / num_bytes))
        return min(count, gaussians - 1)

    @property
    def _size_aimed_at(self) -> float:
        return self.num_bytes * (1 - SIZE_MARGIN)


@dataclass(frozen=True)
class Result:
    """What a compression leaves.

    Attributes:
        data: the file.
        course: the model as it was given, as stored, after each round and after the last steps; the last entry is what
            ``data`` decodes to.
        stopped_by: what ended the rounds, in words; None where there were none to be.
        missed: what was asked for besides and is not so.
    """

    data: bytes
    course: list[Stage]
    stopped_by: str | None
    missed: list[str]

    def as_json(self) -> dict[str, Any]:
        """All but the file."""
        return {
            "stopped_by": self.stopped_by, "missed": self.missed, "course": [asdict(stage) for stage in self.course],
        }  # fmt: skip


@dataclass
class PostHoc:
    """One compression.

    Attributes:
        model: its rows change, and its number of Gaussians.
        quantizer: the way to store it.
        decode: from the quantizer's file to rows.
        photos: the training views and how to render them.
        schedule: how much is removed, and when what happens.
        rates: Adam's.
        report: is given every stage as soon as it is known.
        quiet: show no progress.
    """

    model: GaussianModel
    quantizer: Quantizer
    decode: Callable[[bytes], dict[str, np.ndarray]]
    photos: Photos
    schedule: PostHocSchedule = field(default_factory=PostHocSchedule)
    rates: FineTuneRates = field(default_factory=FineTuneRates)
    report: Callable[[Stage], None] = lambda stage: None
    quiet: bool = False

    def run(self, goals: Goals | None, bytes_as_given: int) -> Result:
        """Remove in rounds until a goal is reached, fine-tune, and store.

        Args:
            goals: when to stop removing; None: remove nothing.
            bytes_as_given: size of the file that the model came from.
        """
        course: list[Stage] = []
        self._note(course, self._measured("as given", self.model, bytes_as_given))
        self._prepare()
        self._note(course, self._stored("stored"))
        stopped_by = None if goals is None else self._rounds(goals, course)
        data = self._finish("last steps", self.schedule.only if goals is None else self.schedule.last, course)
        while goals and goals.num_bytes is not None and len(data) > goals.num_bytes and self.model.num_gaussians > 1:
            self._remove(goals.next_count(self.model.num_gaussians, len(data), self.schedule.removed_share))
            data = self._finish("trimmed", self.schedule.trim, course)
        return Result(data, course, stopped_by, [] if goals is None else goals.missed(course[-1]))

    def _rounds(self, goals: Goals, course: list[Stage]) -> str:
        """Remove and fine-tune until a goal is reached, which is returned."""
        stage = course[-1]
        for number in itertools.count(1):
            if reached := goals.reached(stage, rounds=number - 1):
                return reached
            before = None if goals.psnr_drop is None else copy.deepcopy(self.model.state_dict())
            self._remove(goals.next_count(stage.gaussians, stage.bytes, self.schedule.removed_share))
            self._fine_tune(f"round {number}", self.schedule.round)
            stage = self._stored(f"round {number}")
            self._note(course, stage)
            if before is not None and course[0].train_psnr - stage.train_psnr > goals.psnr_drop:
                self.model.load_state_dict(before)
                return f"{goals.psnr_drop:g} dB: round {number} lost more and is undone"
        raise AssertionError("unreachable")

    def _prepare(self) -> None:
        """Bring the rows into the form that is stored, if there is one, and start Adam and quantizer."""
        if hasattr(self.quantizer, "prepared"):
            with torch.no_grad():
                for name, row in self.quantizer.prepared(detached(self.model)).items():
                    self.model.parameters[name].copy_(row)
        self.model.start_training(self.rates.at(1.0, self.photos.scene.extent))
        self.quantizer.fit(detached(self.model))

    def _remove(self, count: int) -> None:
        """Leave the ``count`` Gaussians with the highest scores."""
        stored = as_stored(self.model, self.quantizer)
        photos = self.photos
        scores = gradient_scores(
            stored, photos.scene.train, photos.background, ssim_weight=photos.ssim_weight
        )
        self.model.keep(scores.argsort(descending=True, stable=True)[:count].sort().values)

    def _fine_tune(self, name: str, phase: Phase) -> None:
        progress = Progress(phase.steps, self.quiet or not phase.steps, label=name, leave=False)
        fine_tune(self.model, self.quantizer, self.photos, phase, self.rates, progress)
        progress.close()

    def _finish(self, name: str, phase: Phase, course: list[Stage]) -> bytes:
        """Fine-tune, store, and measure what decoding gives back."""
        self._fine_tune(name, phase)
        data = self._encoded()
        decoded = GaussianModel.from_arrays(self.decode(data), self.model.device)
        decoded.antialiased = self.model.antialiased
        self._note(course, self._measured(name, decoded, len(data)))
        return data

    def _encoded(self) -> bytes:
        return self.quantizer.encode({name: row.cpu().numpy() for name, row in detached(self.model).items()})

    def _stored(self, name: str) -> Stage:
        return self._measured(name, as_stored(self.model, self.quantizer), len(self._encoded()))

    def _measured(self, name: str, model: GaussianModel, num_bytes: int) -> Stage:
        background, test_views = self.photos.background, self.photos.scene.test
        train = evaluate(self.photos.scene.train, model, background)
        test = evaluate(test_views, model, background) if test_views else {"psnr": None, "ssim": None}
        return Stage(
            name, model.num_gaussians, num_bytes, train["psnr"], train["ssim"], test["psnr"], test["ssim"]
        )  # fmt: skip

    def _note(self, course: list[Stage], stage: Stage) -> None:
        course.append(stage)
        self.report(stage)
