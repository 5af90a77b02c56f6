"""The method and nothing else: an iterator. A step renders a view, updates the Gaussians and edits the set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from compact_splats.arguments.schedule import Schedule
from compact_splats.gaussian_renderer import render_pass
from compact_splats.gaussian_renderer.evaluation import ground_truth
from compact_splats.scene.cameras import Camera, in_turn, want_photos
from compact_splats.scene.dataset import Scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.exposure import Exposure
from compact_splats.training.gradients import add_gradients
from compact_splats.training.loss import Loss, measure, photometric_loss
from compact_splats.training.poses import PoseRefinement
from compact_splats.training.processes import SINGLE_PROCESS, SingleProcess
from compact_splats.training.random_streams import random_stream
from compact_splats.training.strategy import Strategy
from compact_splats.training.view_sampler import ViewSampler
from compact_splats.utils.memory import keep_freed_memory

Target = Callable[[Camera, Tensor], tuple[Tensor, Tensor | None]]
SMALLEST_SIDE = 64  # px: photos are not made smaller than that


class StepSchedule(Protocol):
    """What a training needs of its schedule; :class:`arguments.schedule.Schedule` is the one of the method."""

    @property
    def iterations(self) -> int:
        """Number of steps."""

    def learning_rates_at(self, step: int, extent: float) -> dict[str, float]:
        """Learning rate of every parameter by name; ``extent`` of the scene in world units."""

    def betas(self, step: int) -> dict[str, tuple[float, float]] | None:
        """Adam's betas of every parameter by name; None: they stay."""

    def raises_sh_degree(self, step: int) -> bool:
        """Whether one more SH degree is rendered from ``step`` on."""

    def updated_parameters(self, step: int) -> tuple[str, ...]:
        """Names of the parameters that ``step`` updates; gradients of the others add up."""

    def photo_divisor(self, step: int) -> int:
        """By what the size of the photos is divided at ``step``."""

    def may_edit(self, step: int) -> bool:
        """Whether strategies may edit the set after ``step``; processes compare their sets then."""


@dataclass(frozen=True)
class Step:
    """What one step of a training did. Tensors are on the model's device and have no graph.

    Attributes:
        number: from 1.
        camera: the view; of this process, where several train together.
        image: (3,H,W) float32, as it was compared with the photo: as rendered, or in the exposure of the photo.
        photo: (3,H,W) uint8.
        mask: (H,W) bool, False where a pixel does not count; None: all count.
        loss: () float32, without the terms that strategies add.
        usable: () bool, False where loss or gradients were not finite and the view counts for nothing.
    """

    number: int
    camera: Camera
    image: Tensor
    photo: Tensor
    mask: Tensor | None
    loss: Tensor
    usable: Tensor


class Training:
    """Fits Gaussians to the training views of a scene, one view a step.

        for step in Training(scene, model, schedule, strategies):
            print(step.number, float(step.loss))

    The steps are those of the schedule. Between two of them, the model may be rendered and saved.

    Args:
        scene: its training views have photos.
        model: is trained in place. It gets an Adam unless it has an optimizer.
        schedule: learning rates, SH degrees, and which parameters are updated when.
        strategies: what edits the set or adds to the loss, called in this order.
        loss: of (image, photo, mask), see :class:`training.loss.PhotometricLoss`.
        background: (3,) RGB in [0,1] in main memory; None: a new random one in every step. Photos with an alpha channel
            that is no mask are composited over it.
        seed: of the order of views and of random backgrounds.
        views: another order of views.
        rendered: the model to render in place of ``model``, as quantization-aware fine-tuning needs it: of the same
            Gaussians, with parameters of its own. Their gradients count as those of ``model`` (straight-through).
        target: what a view should look like, of its camera and the background: (3,H,W) uint8, and a mask or None; by
            default its photo.
        exposure: colour transforms of the training photos, learnt with the model; None: photos are taken as they are.
        poses: changes of the poses of ``scene.train``, learnt with the model; None: poses stay as they are.
        processes: those that train together, each with a view of its own in every step. All make the same edits.

    Attributes:
        step: the number of steps done; within a hook of a strategy, the number of the running one.
    """

    def __init__(
        self,
        scene: Scene,
        model: GaussianModel,
        schedule: StepSchedule,
        strategies: Sequence[Strategy] = (),
        *,
        loss: Loss = photometric_loss,
        background: Tensor | None = torch.zeros(3),  # noqa: B008
        seed: int = 0,
        views: ViewSampler | None = None,
        rendered: Callable[[Training], GaussianModel] | None = None,
        target: Target | None = None,
        exposure: Exposure | None = None,
        poses: PoseRefinement | None = None,
        processes: SingleProcess = SINGLE_PROCESS,
    ) -> None:
        self.scene, self.model, self.strategies = scene, model, list(strategies)
        self.schedule: StepSchedule = schedule
        self.step = 0
        self._divisor, self._smaller = 1, dict[int, Camera]()
        self._loss, self._background, self._rendered = loss, background, rendered
        self._target = target or (lambda camera, background: ground_truth(camera, model.device, background))
        self.exposure, self.poses, self._processes = exposure, poses, processes
        model.units, model.nested = scene.units, False
        keep_freed_memory()
        self._views = views or ViewSampler(len(scene.train), random_stream(seed, "views"))
        self._background_stream = random_stream(seed, "background")
        if model.optimizer is None:
            model.start_training(schedule.learning_rates_at(0, scene.extent))

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if self.step >= self.schedule.iterations:
            raise StopIteration
        self.step += 1
        step, model, strategies, processes = self.step, self.model, self.strategies, self._processes
        self._set_learning_rates()
        if self.schedule.raises_sh_degree(step):
            model.raise_sh_degree()

        if self.scene.photos.num_ahead:
            upcoming = processes.own_share(self._views.upcoming(self.scene.photos.num_ahead * processes.count))
            want_photos([self.view(index) for index in upcoming], model.device)
        index = processes.own_draw(self._views.draw)
        camera = self.view(index)
        background = self._next_background()
        photo, mask = self._target(camera, background)
        stats = [each for strategy in strategies if (each := strategy.gradient_stats(self)) is not None]
        shown = model if self._rendered is None else self._rendered(self)
        progress = step / self.schedule.iterations
        poses = self.poses if self.poses is not None and self.poses.has_begun(progress) else None
        wants_depth = any(strategy.wants_inverse_depth(step) for strategy in strategies)
        sums = model.waiting_gradients()
        view = render_pass(
            camera, shown, background, sums, stats=stats, pose=poses is not None, inverse_depth=wants_depth
        )
        image, exposure = view.image, self.exposure
        if exposure is None:
            loss = measure(view, self._loss, photo, mask)
        else:
            loss, image, v_transform = exposure.measure(index, view, self._loss, photo, mask)
        terms = [term for strategy in strategies if (term := strategy.loss_term(self)) is not None]
        terms += [term for strategy in strategies if (term := strategy.view_loss(self, index, view)) is not None]

        view.backward()
        usable = add_gradients(model, view, loss, terms)

        updated = self.schedule.updated_parameters(step)
        processes.average_gradients(model.parameters[name] for name in updated)
        model.update(updated)
        if exposure is not None:
            exposure.update(progress, index, v_transform, usable, processes)
        if poses is not None:
            poses.update(progress, index, view.v_world_to_camera, usable, processes)
        for strategy in strategies:
            strategy.after_step(self)
        if self.schedule.may_edit(step):
            processes.check_same(f"Gaussians after step {step}", model.parameters.values())
        return Step(step, camera, image, photo, mask, loss, usable)

    def _set_learning_rates(self) -> None:
        rates = self.schedule.learning_rates_at(self.step, self.scene.extent)
        for strategy in self.strategies:
            rates = strategy.learning_rates(self.step, rates)
        self.model.set_learning_rates(rates, self.schedule.betas(self.step))

    def _next_background(self) -> Tensor:
        if self._background is not None:
            return self._background
        return self._processes.own_draw(lambda: torch.rand(3, generator=self._background_stream))

    def change_schedule(self, schedule: Schedule) -> None:
        """Continue by another schedule, between two steps: the same one at another pace."""
        self.schedule = schedule
        for strategy in self.strategies:
            strategy.change_schedule(schedule)

    # ---- for strategies ----

    @property
    def fixed_background(self) -> Tensor:
        """(3,) RGB in [0,1] in main memory: the background; black where it is random."""
        return torch.zeros(3) if self._background is None else self._background

    def view(self, index: int) -> Camera:
        """A training view at the size that the schedule has for the running step."""
        camera, divisor = self.scene.train[index], self.schedule.photo_divisor(self.step)
        if divisor != self._divisor:
            self._divisor, self._smaller = divisor, {}
        divisor = min(divisor, max(1, min(camera.width, camera.height) // SMALLEST_SIDE))
        if divisor == 1:
            return camera
        if index not in self._smaller:
            self._smaller[index] = camera.smaller(divisor)
        return self._smaller[index]

    def sum(self, *tensors: Tensor) -> None:
        """Add up each tensor over the processes that train together, in place."""
        self._processes.sum(*tensors)

    def mean_over_views(self, indices: Sequence[int], value: Callable[[Camera], Tensor]) -> Tensor:
        """Mean over training views of a number per Gaussian; processes that train together share the work.

        Args:
            indices: of the views.
            value: of a view, (N,) float32 on the model's device.
        """
        total = torch.zeros(self.model.num_gaussians, device=self.model.device)
        cameras = [self.view(index) for index in self._processes.own_share(indices)]
        for camera in in_turn(cameras, torch.device("cpu")):  # of the edge maps
            total += value(camera)
        self._processes.sum(total)
        return total / len(indices)

    # ---- checkpoints ----

    def state_dict(self) -> dict[str, Any]:
        """Everything that a step leaves behind for the next, of all processes, complete in the first; all call it."""
        own = {
            "gradients": self.model.waiting_gradients(),
            "per_gaussian": dict(self.model.per_gaussian),
            "strategies": [strategy.state_dict() for strategy in self.strategies],
        }
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "views": self._views.state_dict(),
            "background": self._background_stream.get_state(),
            "exposure": None if self.exposure is None else self.exposure.state_dict(),
            "poses": None if self.poses is None else self.poses.state_dict(),
            "processes": self._processes.gather(own),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the step at which :meth:`state_dict` was called, with the same bits."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self._views.load_state_dict(state["views"])
        self._background_stream.set_state(state["background"])
        if self.exposure is not None:
            self.exposure.load_state_dict(state["exposure"])
        if self.poses is not None:
            self.poses.load_state_dict(state["poses"])
        own = state["processes"][self._processes.rank]
        self.model.set_waiting_gradients(own["gradients"])
        device = self.model.device
        self.model.per_gaussian = {name: values.to(device) for name, values in own["per_gaussian"].items()}
        for strategy, each in zip(self.strategies, own["strategies"], strict=True):
            strategy.load_state_dict(each)
