"""The Gaussians and their optimizer, kept aligned through every edit of the set.

When to split, prune or update is decided elsewhere (``arguments/schedule.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diff_gaussian_rasterization.optimizer import Adam
from simple_knn import mean_squared_distance
from torch import Tensor, nn

from compact_splats.scene import ply
from compact_splats.scene.normalization import Units
from compact_splats.scene.parameters import PARAMETER_NAMES, SH_C0, SavedArrays, is_antialiased, is_nested, offset_of
from compact_splats.scene.points import Points
from compact_splats.scene.smoothing import SMOOTHING, smoothed

INITIAL_OPACITY = 0.1
MIN_SQUARED_DISTANCE = 1e-7  # of the initial scale, world units squared: coincident points get a size too

# MKL's vector functions set themselves up in their first call. Where several threads make that call at once, some
# values of it round differently from run to run. One thread makes it here.
torch.ones(1).exp()


class GaussianModel:
    """N Gaussians as six rows of parameters before activation, with Adam's moments beside them.

    Attributes:
        rows: float32 parameters; ``means`` (N,3) world units, ``log_scales`` (N,3), ``quats`` (N,4) real part first,
            any length, ``opacity_logits`` (N,1), ``sh_dc`` (N,1,3), ``sh_rest`` (N,K,3), K = (max degree + 1)^2 - 1.
            Every ``remap`` makes new ones: do not keep them across steps.
        optimizer: a torch.optim.Optimizer, None until :meth:`start_training`. Another one may be set, over
            :meth:`parameter_groups` or the parameters themselves.
        per_gaussian: further tensors with one entry per Gaussian, statistics of strategies for example. :meth:`remap`
            moves them, too; entries of new Gaussians are zero.
        sh_degree: degree that is rendered now.
        max_sh_degree: degree that ``sh_rest`` has room for.
        antialiased: rendering compensates the opacity of splats that are widened to a pixel.
        nested: the first Gaussians alone, any number of them, are a good model. A ``Training`` sets it to False.
        units: from the coordinates of the parameters to those of files. A ``Training`` sets those of its scene.
    """

    def __init__(self, parameters: dict[str, Tensor], sh_degree: int) -> None:
        assert set(parameters) == set(PARAMETER_NAMES), f"parameters {sorted(parameters)}"
        assert len({len(values) for values in parameters.values()}) == 1, "parameters of different lengths"
        self.parameters = {name: nn.Parameter(parameters[name].contiguous()) for name in PARAMETER_NAMES}
        self.optimizer: Any = None
        self.per_gaussian: dict[str, Tensor] = {}
        self.antialiased = self.nested = False
        self.units = Units()
        self.sh_degree = sh_degree
        self.max_sh_degree = math.isqrt(parameters["sh_rest"].shape[1] + 1) - 1

    # ---- creation, reading, writing ----

    @classmethod
    def from_points(cls, points: Points, max_sh_degree: int, device: torch.device | str) -> GaussianModel:
        """One isotropic Gaussian per point, in its colour, sized by the distance of its neighbours [3DGS].

        Args:
            points: xyz (P,3) world units, rgb (P,3) uint8.
            max_sh_degree: 0 to 3; training starts at degree 0.
            device: of the parameters.
        """
        xyz = points.xyz.float()
        num = len(xyz)
        squared = mean_squared_distance(xyz).float().clamp_min(MIN_SQUARED_DISTANCE)
        parameters = {
            "means": xyz,
            "log_scales": squared.sqrt().log()[:, None].repeat(1, 3),
            "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(num, 1),
            "opacity_logits": torch.full((num, 1), INITIAL_OPACITY).logit(),
            "sh_dc": (points.rgb.float()[:, None] / 255 - 0.5) / SH_C0,
            "sh_rest": torch.zeros(num, (max_sh_degree + 1) ** 2 - 1, 3),
        }
        return cls({name: values.to(device, copy=True) for name, values in parameters.items()}, sh_degree=0)

    @classmethod
    def load_ply(
        cls,
        path: str | Path,
        device: torch.device | str,
        max_sh_degree: int | None = None,
        units: Units = Units(),  # noqa: B008  frozen
    ) -> GaussianModel:
        """Read a 3DGS PLY; its SH degree is rendered in full. For other formats see ``compression.read_model``.

        Args:
            path: of the file.
            device: of the parameters.
            max_sh_degree: see :meth:`from_arrays`.
            units: see :meth:`from_arrays`.

        Raises:
            InputError: not a 3DGS PLY, see ``scene.ply.read``.
        """
        return cls.from_arrays(ply.read(path), device, units, max_sh_degree)

    @classmethod
    def from_arrays(
        cls,
        arrays: dict[str, np.ndarray],
        device: torch.device | str,
        units: Units = Units(),  # noqa: B008  frozen
        max_sh_degree: int | None = None,
    ) -> GaussianModel:
        """Make a model of arrays; their SH degree is rendered in full, and ``antialiased`` is their mark.

        Args:
            arrays: float32, by ``PARAMETER_NAMES``, in the shapes of the attribute ``parameters``; they are copied.
            device: of the parameters.
            units: the arrays are in the coordinates of files, the model is in world units; an offset that the arrays
                name comes first.
            max_sh_degree: degree of the model: higher coefficients are dropped, missing ones start at zero. None: that
                of the arrays.
        """
        rest = arrays["sh_rest"]
        degree = math.isqrt(rest.shape[1] + 1) - 1
        if max_sh_degree is not None:
            room = (max_sh_degree + 1) ** 2 - 1
            given, rest = rest, np.zeros((len(rest), room, 3), np.float32)
            rest[:, : given.shape[1]] = given[:, :room]
            degree = min(degree, max_sh_degree)
        units = units.with_offset(offset_of(arrays))
        values = {**arrays, "sh_rest": rest}
        parameters = {name: torch.from_numpy(each).to(device, copy=True) for name, each in values.items()}
        model = cls(units.world_model(parameters), degree)
        model.units, model.antialiased, model.nested = units, is_antialiased(arrays), is_nested(arrays)
        return model

    def with_parameters(self, parameters: dict[str, Tensor]) -> GaussianModel:
        """A model of other parameters that is rendered like this one, without optimizer."""
        model = GaussianModel(parameters, self.sh_degree)
        model.antialiased, model.units = self.antialiased, self.units
        return model

    def drawn_parameters(self) -> dict[str, Tensor]:
        """The parameters that are rendered and saved: after the 3D smoothing filter, if there is one. With graph."""
        variance = self.per_gaussian.get(SMOOTHING)
        if variance is None:
            return dict(self.parameters)
        drawn = smoothed(self.parameters["log_scales"], self.parameters["opacity_logits"], variance)
        return {**self.parameters, **dict(zip(("log_scales", "opacity_logits"), drawn, strict=True))}

    def drawn(self) -> GaussianModel:
        """A model of the :meth:`drawn_parameters`; this one, if they are its own."""
        if SMOOTHING not in self.per_gaussian:
            return self
        return self.with_parameters({name: values.detach() for name, values in self.drawn_parameters().items()})

    def to_parameters(self, gradients: dict[str, Tensor]) -> None:
        """Make gradients for the :meth:`drawn_parameters`, by name, those for the parameters, in place."""
        if SMOOTHING not in self.per_gaussian:
            return
        names = ("log_scales", "opacity_logits")
        with torch.enable_grad():
            drawn = self.drawn_parameters()
        found = torch.autograd.grad(
            [drawn[name] for name in names], [self.parameters[name] for name in names], [gradients[n] for n in names]
        )
        for name, gradient in zip(names, found, strict=True):
            gradients[name].copy_(gradient)

    def file_parameters(self) -> dict[str, Tensor]:
        """The parameters in the coordinates of files, without graph; those that are equal share memory."""
        return self.units.file_model({name: values.detach() for name, values in self.drawn_parameters().items()})

    def save_ply(self, path: str | Path) -> None:
        """Write a 3DGS PLY in the coordinates of files.

        Raises:
            InputError: the file cannot be written.
        """
        ply.write(path, self.to_arrays())

    def to_arrays(self) -> SavedArrays:
        """The parameters in the coordinates of files, as float32 arrays with marks; they may share memory."""
        arrays = {name: values.cpu().numpy() for name, values in self.file_parameters().items()}
        offset = self.units.offset if self.units.is_offset else None
        return SavedArrays(arrays, self.antialiased, offset=offset, nested=self.nested)

    # ---- what the renderer reads ----

    @property
    def num_gaussians(self) -> int:
        """N, which only ``remap`` changes."""
        return len(self.parameters["means"])

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return self.parameters["means"].device

    @property
    def means(self) -> Tensor:
        """(N,3) world units."""
        return self.parameters["means"]

    @property
    def scales(self) -> Tensor:
        """(N,3) standard deviations along the Gaussian's own axes, world units."""
        return self.parameters["log_scales"].exp()

    @property
    def quats(self) -> Tensor:
        """(N,4) real part first, not normalised: the rasterizer does that."""
        return self.parameters["quats"]

    @property
    def opacities(self) -> Tensor:
        """(N,1) in (0,1)."""
        return self.parameters["opacity_logits"].sigmoid()

    @property
    def sh_dc(self) -> Tensor:
        """(N,1,3)."""
        return self.parameters["sh_dc"]

    @property
    def sh_rest(self) -> Tensor:
        """(N,K,3)."""
        return self.parameters["sh_rest"]

    # ---- optimisation ----

    def parameter_groups(self, rates: dict[str, float]) -> list[dict[str, Any]]:
        """One group per parameter, with its name and learning rate, for any optimizer of torch's interface."""
        return [{"params": [self.parameters[name]], "lr": rates[name], "name": name} for name in PARAMETER_NAMES]

    def start_training(self, rates: dict[str, float]) -> None:
        """Give the model a new Adam, with the learning rate of every parameter."""
        self.optimizer = Adam(self.parameter_groups(rates), eps=1e-15)

    def set_learning_rates(self, rates: dict[str, float], betas: dict[str, tuple[float, float]] | None = None) -> None:
        """Set learning rates and, if given, Adam's betas, of the optimizer's groups that bear a parameter's name."""
        for group in self.optimizer.param_groups:
            name = group.get("name")
            if name in rates:
                group["lr"] = rates[name]
                if betas is not None and "betas" in group:
                    group["betas"] = betas[name]

    def raise_sh_degree(self) -> None:
        """Render one more SH degree, if there is room."""
        self.sh_degree = min(self.sh_degree + 1, self.max_sh_degree)

    def update(self, names: tuple[str, ...] = PARAMETER_NAMES, visible: Tensor | None = None) -> None:
        """Let the optimizer update parameters by the gradients added up, and clear these gradients.

        Args:
            names: of the parameters to update. The gradients of the others stay.
            visible: (N,) bool, or int32 radii in px; Gaussians where it is 0 are not updated, their moments stay, and
                their gradients are cleared. Only for the Adam of :meth:`start_training`.
        """
        if not names:
            return
        waiting = {name: values.grad for name, values in self.parameters.items() if name not in names}
        for name in waiting:
            self.parameters[name].grad = None  # optimizers skip parameters without gradient
        self.optimizer.step() if visible is None else self.optimizer.step(visible)
        for group in self.optimizer.param_groups:
            for each in group["params"]:
                each.grad = None
        self.set_waiting_gradients(waiting)

    def waiting_gradients(self) -> dict[str, Tensor | None]:
        """The gradients that wait for an update, by parameter name."""
        return {name: values.grad for name, values in self.parameters.items()}

    def set_waiting_gradients(self, gradients: dict[str, Tensor | None]) -> None:
        """Replace the gradients of the parameters that are named."""
        for name, gradient in gradients.items():
            self.parameters[name].grad = None if gradient is None else gradient.to(self.device)

    # ---- edits of the set ----

    @torch.no_grad()
    def remap(self, source: Tensor, fresh: Tensor) -> None:
        """Rebuild the set as ``new[i] = old[source[i]]``; all that has one entry per Gaussian moves together.

        That is parameters, their gradients, ``per_gaussian``, and of the optimizer's state the tensors with one entry
        per Gaussian, for any optimizer and order of groups.

        Args:
            source: (M,) int64, indices into the current set.
            fresh: (M,) bool, new Gaussians: all but their parameters starts at zero.

        Raises:
            IndexError: ``source`` leaves ``[0, N)``.
        """
        if len(source):
            least, most = torch.stack(source.aminmax()).tolist()
            if not 0 <= least <= most < self.num_gaussians:
                raise IndexError(f"indices {least}..{most} of {self.num_gaussians} Gaussians")
        self._rebuild(source, fresh)

    def _rebuild(self, source: Tensor, fresh: Tensor) -> None:
        """``remap`` with indices that are right; nothing is read back from a GPU."""
        num = self.num_gaussians

        def moved(values: Tensor) -> Tensor:
            values = values[source]
            values[fresh] = 0
            return values

        def moved_state(values: Any) -> Any:
            return moved(values) if isinstance(values, Tensor) and values.ndim and len(values) == num else values

        renewed: dict[Tensor, nn.Parameter] = {}
        for name, old in self.parameters.items():
            # A new Parameter each time, not `.data =`: a live graph still holds the old one at its old shape.
            new = renewed[old] = self.parameters[name] = nn.Parameter(old[source])
            new.grad = None if old.grad is None else moved(old.grad)
        self.per_gaussian = {name: moved(values) for name, values in self.per_gaussian.items()}
        if self.optimizer is not None:
            self._replace_in_optimizer(renewed, moved_state)

    def _replace_in_optimizer(self, renewed: dict[Tensor, nn.Parameter], moved: Callable[[Any], Any]) -> None:
        """Put new parameters in the places of old ones, each with its state as ``moved`` gives it."""
        for group in self.optimizer.param_groups:
            group["params"] = [renewed.get(each, each) for each in group["params"]]
        for old, new in renewed.items():
            state = self.optimizer.state.pop(old, {})
            if state:
                self.optimizer.state[new] = {key: moved(values) for key, values in state.items()}

    def keep(self, survivors: Tensor) -> None:
        """Prune all other Gaussians.

        Args:
            survivors: (M,) int64 indices, or (N,) bool; nothing changes if all are true.
        """
        if survivors.dtype != torch.bool:
            self.remap(survivors, torch.zeros_like(survivors, dtype=torch.bool))
            return
        source = survivors.nonzero().squeeze(1)
        if len(source) < self.num_gaussians:
            self._rebuild(source, torch.zeros_like(source, dtype=torch.bool))

    @torch.no_grad()
    def duplicate(self, parents: Tensor) -> dict[str, Tensor]:
        """Replace each of some Gaussians by two that are equal to it, and new to the optimizer.

        Args:
            parents: (M,) int64, different indices.

        Returns:
            By name, the 2 M last rows of each parameter: the new Gaussians, those of a parent side by side.
        """
        survives = torch.ones(self.num_gaussians, dtype=torch.bool, device=self.device)
        survives[parents] = False
        survivors = survives.nonzero().squeeze(1)
        source = torch.cat([survivors, parents.repeat_interleave(2)])
        self._rebuild(source, torch.arange(len(source), device=self.device) >= len(survivors))
        return {name: values[len(survivors) :] for name, values in self.parameters.items()}

    @torch.no_grad()
    def cap_opacity(self, max_opacity: float) -> None:
        """Lower every opacity to at most ``max_opacity``, and zero the optimizer state of all opacities."""
        logits = self.parameters["opacity_logits"]
        logits.clamp_(max=math.log(max_opacity / (1 - max_opacity)))
        for values in self.optimizer.state.get(logits, {}).values():
            if isinstance(values, Tensor) and values.ndim:
                values.zero_()

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Parameters, optimizer and SH degree; the gradients that wait are :meth:`waiting_gradients`."""
        return {
            "parameters": {name: values.detach() for name, values in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "sh_degree": self.sh_degree,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, without gradients; the number of Gaussians becomes that of the state."""
        old = self.parameters
        self.parameters = {
            name: nn.Parameter(state["parameters"][name].to(self.device, copy=True)) for name in PARAMETER_NAMES
        }
        self.sh_degree = state["sh_degree"]
        if self.optimizer is None:
            self.start_training(dict.fromkeys(PARAMETER_NAMES, 0.0))  # the learning rates come with the state
        else:
            renewed: dict[Tensor, nn.Parameter] = {old[name]: self.parameters[name] for name in old}
            self._replace_in_optimizer(renewed, lambda values: values)
        self.optimizer.load_state_dict(state["optimizer"])
