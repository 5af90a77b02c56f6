"""What surrounds a training: the run folder, bar, log, checkpoints, measurements, viewer, and what ends it early.

It gets the record of each step and never reaches into one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from compact_splats.arguments import TrainConfig
from compact_splats.gaussian_renderer.evaluation import Scores, measure
from compact_splats.scene.colmap import colmap_model
from compact_splats.scene.dataset import Scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.saved_cameras import camera_entries
from compact_splats.training.checkpoint import Checkpoints, Stateful
from compact_splats.training.exposure import FILE
from compact_splats.training.faults import SkippedViews
from compact_splats.training.loading import Decoding
from compact_splats.training.processes import SingleProcess
from compact_splats.training.progress import Progress
from compact_splats.training.run_folder import Run
from compact_splats.training.time_limit import TimeLimit
from compact_splats.training.training import Step, Training
from compact_splats.training.view_losses import ViewLosses
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import flush_to_disk
from compact_splats.utils.signals import StopRequest
from compact_splats.utils.usage import MemoryMeter, Stopwatch

LOG_EVERY = 100  # steps
REFINED = "refined/sparse/0"  # the folder of the COLMAP model in a run folder


class NullViewer:
    """Shows nothing."""

    def step(self, model: GaussianModel, step: int) -> None:
        """Do nothing."""


# Opens the viewer of a training for a block: of the run folder, the scene, the request to stop, and the clock.
OpenViewer = Callable[[Path, Scene, StopRequest, Stopwatch], AbstractContextManager[NullViewer]]


@contextmanager
def no_viewer(folder: Path, scene: Scene, stop: StopRequest, clock: Stopwatch) -> Iterator[NullViewer]:
    """The viewer of a training that is not shown."""
    yield NullViewer()


@dataclass
class RunContext:
    """The run context of this process, among those that train together. The first writes, measures and shows.

    Attributes:
        config: of the run.
        training: whose steps are recorded.
        decoding: of its photos, which may still run during the first steps.
        memory_error: why the set can't grow after a step, if there is no memory for it.
        time_limit: chooses the number of steps; None: the config does.
    """

    config: TrainConfig
    training: Training
    decoding: Decoding
    run: Run
    checkpoints: Checkpoints
    clock: Stopwatch
    memory: MemoryMeter
    progress: Progress
    skipped: SkippedViews
    stop: StopRequest
    viewer: NullViewer
    processes: SingleProcess
    memory_error: Callable[[int], InputError | None]
    time_limit: TimeLimit | None = None

    def __post_init__(self) -> None:
        self.view_losses = ViewLosses(self.processes)
        self._save_steps = self._steps_of(self.config.save_iterations)
        self._test_steps = self._steps_of(self.config.test_iterations)
        shown = {"run": self.run} if self.processes.is_first else {}
        limit = {"time limit": self.time_limit} if self.time_limit else {}
        self._parts: dict[str, Stateful] = {
            "training": self.training, **shown, "clock": self.clock, "memory": self.memory, "progress": self.progress,
            "skipped": self.skipped, "view losses": self.view_losses, **limit,
        }  # fmt: skip

    @property
    def num_iterations(self) -> int:
        """Number of views that the training sees: the steps of one process, as the user counts."""
        if self.time_limit is None:
            return self.config.make_schedule().iterations
        return self.training.schedule.iterations * self.processes.count

    def restore(self) -> None:
        """Continue from the checkpoint that was found, if there is one."""
        self.checkpoints.restore(self._parts)

    def record(self, step: Step) -> None:
        """Show and log a step; between two steps save, measure, show and write checkpoints, where due.

        Raises:
            Stopped: the user asked for it; a checkpoint of this step is there.
            InputError: the training can't continue.
        """
        if self.time_limit is not None:
            self.time_limit.after_step(step.number, self.clock.seconds)
            self.progress.num_steps = self.training.schedule.iterations
        self.skipped.note(step.usable, step.camera.name)
        self.view_losses.note(step.camera.name, step.loss)
        self.progress.update(step, self.training.model.num_gaussians, self.skipped.count)
        if self.decoding.is_over:
            self.run.begin()
        is_last = step.number == self.training.schedule.iterations
        if is_last or step.number % LOG_EVERY == 0:
            self._log(step.number)
        if is_last:
            return
        if step.number in self._save_steps:
            self._save_on_the_way(self._iteration(step.number))
        if step.number in self._test_steps:
            self.measure(self._iteration(step.number))
        self.viewer.step(self.training.model.drawn(), step.number)
        self._pause(step.number)

    def measure(self, iteration: int) -> Scores:
        """Measure and log quality; nothing in processes other than the first."""
        if not self.processes.is_first:
            return {}
        background = torch.full((3,), float(self.config.white_background))
        with self.clock.paused():
            scores = measure(self.training.scene, self.training.model, background)
        for split, values in scores.items():
            self.run.log(split, iteration, values)
        return scores

    def save_result(self) -> None:
        """Save the model of the last step, or at least a checkpoint from which it can be saved later.

        Raises:
            InputError: it can't be written.
        """
        error = None
        with self.clock.paused():
            try:
                if self.processes.is_first:
                    self._save_ply(self.num_iterations)
                    self._save_exposure()
            except InputError as caught:
                error = caught
            if self.processes.share(error) is not None:
                with suppress(InputError):  # where there is no room for the one, there may be none for the other
                    self.checkpoints.save(self.training.step, self._parts, self.run.settle)
        self.processes.raise_one(error)

    def _steps_of(self, iterations: Iterable[int]) -> set[int]:
        """The steps after which so many views have been seen by all processes together."""
        return {math.ceil(each / self.processes.count) for each in iterations}

    def _iteration(self, step: int) -> int:
        return min(step * self.processes.count, self.num_iterations)

    def _log(self, step: int) -> None:
        known = {**self.progress.means, "gaussians": self.training.model.num_gaussians, "seconds": self.clock.seconds}
        known |= {"skipped": self.skipped.total()}
        for strategy in self.training.strategies:
            known |= strategy.figures(self.training)
        self.run.log("step", self._iteration(step), known)

    def _save_on_the_way(self, iteration: int) -> None:
        """Save the model in the first process; a failure is a warning."""
        if self.processes.is_first:
            with self.clock.paused(), self.run.tolerating(f"the model of step {iteration}"):
                self._save_ply(iteration)

    def _save_ply(self, iteration: int) -> None:
        self.run.settle()
        path = self.run.ply_path(iteration)
        self.training.model.save_ply(path)
        self._save_poses()
        flush_to_disk(path)

    def _save_poses(self) -> None:
        """Write refined poses: to cameras.json, and as a COLMAP model."""
        poses, scene = self.training.poses, self.training.scene
        if poses is None:
            for path in (self.run.folder / REFINED).glob("*.txt"):  # of an older run
                path.unlink()
            return
        cameras = (*scene.test, *scene.train)
        self.run.write_json("cameras.json", camera_entries(cameras, scene.units))
        for name, text in colmap_model(cameras, scene.points, scene.units).items():
            self.run.write_text(f"{REFINED}/{name}", text)
        if diverged := [scene.train[i].name for i in poses.diverged()]:
            self.run.warn(
                f"the poses of {len(diverged)} photos, {diverged[0]} for one, are beyond the limits and stay there"
            )

    def _save_exposure(self) -> None:
        exposure, cameras = self.training.exposure, self.training.scene.train
        if exposure is None:
            (self.run.folder / FILE).unlink(missing_ok=True)  # of an older run
            return
        self.run.write_json(FILE, exposure.by_name(cameras))
        if diverged := [cameras[i].name for i in exposure.diverged()]:
            self.run.warn(f"the exposure of {len(diverged)} photos, {diverged[0]} for one, is beyond the limits")

    def _pause(self, step: int) -> None:
        """Write a checkpoint if one is due or if the training has to end, and then end it; all processes call this."""
        error = self.memory_error(step) or self.skipped.too_many(step)
        is_asked = bool(self.stop)
        if not self.processes.any(step, is_asked or error is not None or self.checkpoints.is_due(step)):
            return
        with self.clock.paused(), self.run.tolerating("a checkpoint"):
            self.checkpoints.save(step, self._parts, self.run.settle)
        saved = self.processes.share(self.checkpoints.newest)
        self.processes.raise_one(self.stop.stopped(_stop_message(step, saved)) if is_asked else error)


def _stop_message(step: int, saved: int | None) -> str:
    if saved is None:
        return f"stopped after step {step}; there is no checkpoint, the same command begins anew"
    where = "from there" if saved == step else f"after step {saved}"
    return f"stopped after step {step}; the same command with --resume continues {where}"
