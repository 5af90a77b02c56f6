"""Refinement of the training poses: each camera turns and moves with the Gaussians that are fitted to its photo.

A pose changes by a turn about the centre of its camera and by a shift of the centre, both in world axes [eq. 18 of
docs/math.md]. What all cameras have in common (a turn, a shift and a scale of the whole scene) is taken out of the
changes, so that the world, the model and the test views stay where they are. Test poses are not refined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compact_splats.arguments.options import read_json
from compact_splats.scene.cameras import Camera
from compact_splats.scene.dataset import Scene
from compact_splats.scene.normalization import EXTENT
from compact_splats.scene.saved_cameras import read_cameras
from compact_splats.training.photo_adam import adam_change
from compact_splats.training.processes import SINGLE_PROCESS, SingleProcess
from compact_splats.utils.errors import InputError
from compact_splats.utils.geometry import rotation_matrices_of_unit

START = 0.1  # share of the training after which poses change: then the Gaussians have found the rough shape
RATES = 4e-3, 1e-4  # Adam's at START and in the last step, log-linear in between: radians, and shares of the extent
BETAS = 0.7, 0.95
PRIOR = 200.0  # its gradient per change; holds what the photos do not tell, else right poses drift away from test poses
LARGEST = math.radians(10)  # of a turn; of a shift, as a share of the extent: what diverges stays within


class PoseRefinement:
    """The changes of all training poses and their Adam. It writes to ``world_to_camera`` of the cameras.

    Args:
        cameras: the training views; at least two, as one camera has no pose of its own beside the world's.
    """

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self._given = torch.stack([camera.world_to_camera for camera in cameras]).double()
        self._centres = -torch.einsum("vji,vj->vi", self._given[:, :3, :3], self._given[:, :3, 3])
        self._change = torch.zeros(len(cameras), 6, dtype=torch.float64)  # turn in radians, shift in extents
        self._moments = torch.zeros(2, len(cameras), 6, dtype=torch.float64)
        self._counts = torch.zeros(len(cameras), dtype=torch.float64)
        self._poses = self._given.float()
        for camera, pose in zip(cameras, self._poses, strict=True):
            camera.world_to_camera.set_(pose)  # one write for all; smaller copies of a camera share its tensor

    @property
    def change(self) -> tuple[Tensor, Tensor]:
        """Turns (V,3) in radians about the centres, and shifts (V,3) of the centres in world units; world axes."""
        return self._change[:, :3], EXTENT * self._change[:, 3:]

    def has_begun(self, progress: float) -> bool:
        """Whether poses change at this share of the training, 0 to 1."""
        return progress > START

    def gradient(self, index: int, v_matrix: Tensor) -> Tensor:
        """From the gradient (4,4) of a loss for ``world_to_camera`` to that for the change of the pose [eq. 18].

        Returns:
            (6,) float64.
        """
        v, pose = v_matrix.detach().cpu().double(), self._poses[index].double()
        rotation, v_translation = pose[:3, :3], v[:3, 3]
        centre = -rotation.T @ pose[:3, 3]
        b = rotation.T @ (v[:3, :3] - torch.outer(v_translation, centre))
        turn = torch.stack([b[1, 2] - b[2, 1], b[2, 0] - b[0, 2], b[0, 1] - b[1, 0]])
        return torch.cat([turn, -EXTENT * (rotation.T @ v_translation)])

    def update(
        self, progress: float, index: int, v_matrix: Tensor, usable: Tensor, processes: SingleProcess = SINGLE_PROCESS
    ) -> None:
        """Adam for the photo of the step; what all photos have in common is taken out.

        Args:
            progress: share of the training that is over, 0 to 1, after ``has_begun``.
            index: of this process's photo.
            v_matrix: (4,4) gradient for its ``world_to_camera``.
            usable: () bool; without it the gradient counts as zero.
            processes: those that train together, each with a photo of its own.
        """
        sums = torch.zeros(len(self._change), 7, dtype=torch.float64)  # gradient, and how many
        sums[index, :6] = self.gradient(index, v_matrix).nan_to_num(0, 0, 0) if usable else 0
        sums[index, 6] = 1
        if processes.count > 1:
            sums = sums.to(v_matrix.device)
            processes.sum(sums)
            sums = sums.cpu()
        rows = sums[:, 6].nonzero().flatten()
        gradients = sums[rows, :6] / sums[rows, 6:] + PRIOR * self._change[rows]
        first, last = RATES
        rate = first * (last / first) ** ((progress - START) / (1 - START))
        self._change[rows] -= adam_change(self._moments, self._counts, rows, gradients, rate, BETAS, 1e-15)
        self._take_out_common_motion()
        norms = self._change.view(-1, 2, 3).norm(dim=2, keepdim=True)
        self._change *= (LARGEST / norms.clamp_min(LARGEST)).expand(-1, 2, 3).reshape(-1, 6)
        self._write()

    def _take_out_common_motion(self) -> None:
        turns, shifts = without_common_motion(*self.change, self._centres)
        self._change = torch.cat([turns, shifts / EXTENT], dim=1)

    def _write(self) -> None:
        """To the cameras."""
        turns, shifts = self.change
        rotations = self._given[:, :3, :3] @ _turned(turns).mT
        self._poses[:, :3, :3] = rotations
        self._poses[:, :3, 3] = -torch.einsum("vij,vj->vi", rotations, self._centres + shifts)

    def diverged(self) -> list[int]:
        """The photos whose poses have reached the limit."""
        norms = self._change.view(-1, 2, 3).norm(dim=2).amax(dim=1)
        return (norms >= 0.999 * LARGEST).nonzero().flatten().tolist()

    def describe(self) -> str:
        """By how much the poses have changed, for the user."""
        turns, shifts = (part.norm(dim=1) for part in self.change)
        degrees, percent = torch.rad2deg(turns), 100 / EXTENT * shifts
        return (
            f"poses refined by {degrees.median():.2f} degrees (at most {degrees.max():.2f}) and {percent.median():.2f} "
            f"% of the extent (at most {percent.max():.2f})"
        )

    def state_dict(self) -> dict[str, Any]:
        """Changes and moments."""
        return {"change": self._change, "moments": self._moments, "counts": self._counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, with cameras as they were given."""
        self._change, self._moments, self._counts = state["change"], state["moments"], state["counts"]
        if self._counts.any():
            self._write()


def without_common_motion(turns: Tensor, shifts: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Changes of poses without the turn, shift and scale that all cameras have in common, to first order.

    Args:
        turns: (V,3) in radians about the centres.
        shifts: (V,3) of the centres, world units.
        centres: (V,3) of the cameras, world units.

    Returns:
        Turns and shifts.
    """
    common = turns.mean(dim=0)
    shifts = shifts - torch.linalg.cross(common.expand_as(centres), centres)
    shifts = shifts - shifts.mean(dim=0)
    around = centres - centres.mean(dim=0)
    shifts = shifts - (shifts * around).sum() / around.square().sum().clamp_min(1e-12) * around
    return turns - common, shifts


def _turned(turns: Tensor) -> Tensor:
    """(V,3,3) rotations by the rotation vectors (V,3)."""
    halves = turns.norm(dim=1, keepdim=True) / 2
    return rotation_matrices_of_unit(torch.cat([halves.cos(), torch.sinc(halves / math.pi) * turns / 2], dim=1))


def take_refined_poses(scene: Scene, folder: Path | None) -> None:
    """Give the training views of a scene the poses that a run with ``--refine-poses`` has found; of others nothing.

    Args:
        scene: of the run.
        folder: of the run; None: there is none.

    Raises:
        InputError: ``cameras.json`` of the run can't be read, or lacks one of the photos.
    """
    if folder is None or not (folder / "config.json").exists():
        return
    if not read_json(folder / "config.json").get("refine_poses"):
        return
    path = folder / "cameras.json"
    found = {camera.name: camera.world_to_camera for camera in read_cameras(path, scene.units)[0]}
    for camera in scene.train:
        if camera.name not in found:
            raise InputError(f"{path} lacks the refined pose of {camera.name}: train again")
        camera.world_to_camera.copy_(found[camera.name])
