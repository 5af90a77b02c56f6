"""The Gaussians and their optimizer, kept in step through every change of the set.

Holds rows and moments only: when to grow, prune or step is decided elsewhere (``arguments/schedule.py``).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diff_gaussian_rasterization.optimizer import Adam
from simple_knn import mean_squared_distance
from torch import Tensor, nn

from compact_splats.scene import ply
from compact_splats.scene.points import Points

SH_C0 = 0.28209479177387814  # the constant basis function
INITIAL_OPACITY = 0.1
MIN_SQUARED_DISTANCE = 1e-7  # of the initial scale, world units squared: coincident points get a size too
ROW_NAMES = ("means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest")


class GaussianModel:
    """N Gaussians as six rows of parameters before activation, with Adam's moments beside them.

    Attributes:
        rows: float32 parameters; ``means`` (N,3) world units, ``log_scales`` (N,3), ``quats`` (N,4) real part first,
            any length, ``opacity_logits`` (N,1), ``sh_dc`` (N,1,3), ``sh_rest`` (N,K,3), K = (max degree + 1)^2 - 1.
            Every ``remap`` makes new ones: do not keep them across steps.
        optimizer: Adam, one group per row; None until ``start_training``.
        sh_degree: degree that is rendered now.
        max_sh_degree: degree that ``sh_rest`` has room for.
    """

    def __init__(self, rows: dict[str, Tensor], sh_degree: int) -> None:
        assert set(rows) == set(ROW_NAMES), f"rows {sorted(rows)}"
        assert len({len(row) for row in rows.values()}) == 1, "rows of different lengths"
        self.rows = {name: nn.Parameter(rows[name].contiguous()) for name in ROW_NAMES}
        self.optimizer: Adam | None = None
        self.sh_degree = sh_degree
        self.max_sh_degree = math.isqrt(rows["sh_rest"].shape[1] + 1) - 1

    # ---- creation, reading, writing ----

    @classmethod
    def from_points(cls, points: Points, max_sh_degree: int, device: torch.device | str) -> GaussianModel:
        """One faint ball per point, in its colour, as large as its neighbours are far [3DGS, arXiv:2308.04079].

        Args:
            points: xyz (P,3) world units, rgb (P,3) uint8.
            max_sh_degree: 0 to 3; training starts at degree 0.
            device: where the rows live.
        """
        xyz = points.xyz.float()
        num = len(xyz)
        squared = mean_squared_distance(xyz).float().clamp_min(MIN_SQUARED_DISTANCE)
        rows = {
            "means": xyz,
            "log_scales": squared.sqrt().log()[:, None].repeat(1, 3),
            "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(num, 1),
            "opacity_logits": torch.full((num, 1), INITIAL_OPACITY).logit(),
            "sh_dc": (points.rgb.float()[:, None] / 255 - 0.5) / SH_C0,
            "sh_rest": torch.zeros(num, (max_sh_degree + 1) ** 2 - 1, 3),
        }
        return cls({name: row.to(device, copy=True) for name, row in rows.items()}, sh_degree=0)

    @classmethod
    def load_ply(cls, path: str | Path, device: torch.device | str, max_sh_degree: int | None = None) -> GaussianModel:
        """Read a 3DGS PLY of any SH degree from 0 to 3; the degree it has is rendered in full.

        Args:
            path: of the file.
            device: where the rows live.
            max_sh_degree: have room for this degree: higher ones are left out, missing ones start at zero. None: as the
                file has it.

        Raises:
            InputError: not a 3DGS PLY, see ``scene.ply.read``.
        """
        rows = ply.read(path)
        if max_sh_degree is None:
            return cls.from_rows(rows, device)
        read = rows["sh_rest"]
        room = (max_sh_degree + 1) ** 2 - 1
        rows["sh_rest"] = np.zeros((len(read), room, 3), np.float32)
        rows["sh_rest"][:, : read.shape[1]] = read[:, :room]
        model = cls.from_rows(rows, device)
        model.sh_degree = min(max_sh_degree, math.isqrt(read.shape[1] + 1) - 1)
        return model

    @classmethod
    def from_rows(cls, rows: dict[str, np.ndarray], device: torch.device | str) -> GaussianModel:
        """Take a trained model's arrays, wherever they were read; the degree they have is rendered in full.

        Args:
            rows: float32, by ``ROW_NAMES``, in the shapes of the attribute ``rows``; they are copied.
            device: where the rows live.
        """
        model = cls({name: torch.from_numpy(row).to(device, copy=True) for name, row in rows.items()}, sh_degree=0)
        model.sh_degree = model.max_sh_degree
        return model

    def save_ply(self, path: str | Path) -> None:
        """Write the rows as they are, before activation, to a 3DGS PLY.

        Raises:
            InputError: the file cannot be written.
        """
        ply.write(path, {name: row.detach().cpu().numpy() for name, row in self.rows.items()})

    # ---- what the renderer reads ----

    @property
    def num_gaussians(self) -> int:
        """N, which only ``remap`` changes."""
        return len(self.rows["means"])

    @property
    def device(self) -> torch.device:
        """Where the rows live."""
        return self.rows["means"].device

    @property
    def means(self) -> Tensor:
        """(N,3) world units."""
        return self.rows["means"]

    @property
    def scales(self) -> Tensor:
        """(N,3) standard deviations along the Gaussian's own axes, world units."""
        return self.rows["log_scales"].exp()

    @property
    def quats(self) -> Tensor:
        """(N,4) real part first, not normalised: the rasterizer does that."""
        return self.rows["quats"]

    @property
    def opacities(self) -> Tensor:
        """(N,1) in (0,1)."""
        return self.rows["opacity_logits"].sigmoid()

    @property
    def sh_dc(self) -> Tensor:
        """(N,1,3)."""
        return self.rows["sh_dc"]

    @property
    def sh_rest(self) -> Tensor:
        """(N,K,3)."""
        return self.rows["sh_rest"]

    # ---- optimisation ----

    def start_training(self, rates: dict[str, float]) -> None:
        """Give the model a fresh Adam.

        Args:
            rates: learning rate of every row, see ``Schedule.learning_rates``.
        """
        groups = [{"params": [self.rows[name]], "lr": rates[name], "name": name} for name in ROW_NAMES]
        self.optimizer = Adam(groups, eps=1e-15)

    def set_learning_rates(self, rates: dict[str, float], betas: dict[str, tuple[float, float]] | None = None) -> None:
        """Set the rate of every row and, if given, its two decay rates."""
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["name"]]
            if betas is not None:
                group["betas"] = betas[group["name"]]

    def raise_sh_degree(self) -> None:
        """Render one more SH degree, if there is room."""
        self.sh_degree = min(self.sh_degree + 1, self.max_sh_degree)

    def step(self, names: tuple[str, ...] | None = None, visible: Tensor | None = None) -> None:
        """Update rows by the gradients that have added up, and clear these gradients.

        Args:
            names: the rows to update; None: all. The gradients of the others stay.
            visible: (N,) bool, or int32 radii in px; Gaussians where it is 0 stay as they are, moments included, and
                their gradients go. None: all take the step.
        """
        names = ROW_NAMES if names is None else names
        if not names:
            return
        waiting = {name: row.grad for name, row in self.rows.items() if name not in names}
        for name in waiting:
            self.rows[name].grad = None  # Adam passes over parameters without gradient
        self.optimizer.step(visible)
        self.optimizer.zero_grad(set_to_none=True)
        for name, gradient in waiting.items():
            self.rows[name].grad = gradient

    # ---- edits of the set ----

    @torch.no_grad()
    def remap(self, source: Tensor, fresh: Tensor) -> None:
        """Rebuild the set as ``new[i] = old[source[i]]``; parameters, moments and pending gradients move together.

        Args:
            source: (M,) int64, rows of the current set.
            fresh: (M,) bool, rows that are new Gaussians: moments and gradient start at zero.

        Raises:
            IndexError: ``source`` leaves ``[0, N)``.
        """
        if len(source) and not 0 <= int(source.min()) <= int(source.max()) < self.num_gaussians:
            raise IndexError(f"source rows {int(source.min())}..{int(source.max())} of {self.num_gaussians} Gaussians")

        def moved(per_row: Tensor) -> Tensor:
            per_row = per_row[source]
            per_row[fresh] = 0
            return per_row

        for index, name in enumerate(ROW_NAMES):
            old = self.rows[name]
            # A new Parameter each time, not `.data =`: a live graph still holds the old one at its old shape.
            new = self.rows[name] = nn.Parameter(old[source])
            new.grad = None if old.grad is None else moved(old.grad)
            if self.optimizer is None:
                continue
            self.optimizer.param_groups[index]["params"] = [new]
            state = self.optimizer.state.pop(old, {})
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in state:
                    state[moment] = moved(state[moment])
            if state:
                self.optimizer.state[new] = state

    def keep(self, rows: Tensor) -> None:
        """Remove all other Gaussians.

        Args:
            rows: (M,) int64 indices, or (N,) bool.
        """
        source = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        self.remap(source, torch.zeros_like(source, dtype=torch.bool))

    @torch.no_grad()
    def cap_opacity(self, max_opacity: float) -> None:
        """Lower every opacity to at most ``max_opacity``, and forget the moments of all opacities."""
        row = self.rows["opacity_logits"]
        row.clamp_(max=math.log(max_opacity / (1 - max_opacity)))
        state = self.optimizer.state.get(row, {})
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in state:
                state[moment].zero_()

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes: rows, pending gradients, optimizer and SH degree."""
        return {
            "rows": {name: row.detach() for name, row in self.rows.items()},
            "gradients": {name: row.grad for name, row in self.rows.items()},
            "optimizer": self.optimizer.state_dict(),
            "sh_degree": self.sh_degree,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``; the number of Gaussians becomes that of the state."""
        self.rows = {name: nn.Parameter(state["rows"][name].to(self.device, copy=True)) for name in ROW_NAMES}
        for name, row in self.rows.items():
            gradient = state["gradients"][name]
            row.grad = None if gradient is None else gradient.to(self.device, copy=True)
        self.sh_degree = state["sh_degree"]
        self.start_training(dict.fromkeys(ROW_NAMES, 0.0))  # the rates come with the state
        self.optimizer.load_state_dict(state["optimizer"])
