"""Exposure and white balance of the training photos: a colour transform for each, learnt with the Gaussians.

The rendered colour c is compared with the photo as A c + b, with A (3,3) and b (3,) of the photo [as in Hierarchical 3D
Gaussians, arXiv:2406.12080]. The mean over the photos is held at A = 1, b = 0, so that the model keeps the colours of
the scene. Models are saved and test views are rendered without transforms.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from diff_gaussian_rasterization import RenderPass
from torch import Tensor

from compact_splats.arguments.options import read_json
from compact_splats.scene.cameras import Camera, in_turn
from compact_splats.scene.dataset import Scene
from compact_splats.scene.tracks import in_view
from compact_splats.training.loss import Loss, with_gradient
from compact_splats.training.photo_adam import adam_change
from compact_splats.training.processes import SINGLE_PROCESS, SingleProcess
from compact_splats.utils.errors import InputError

RATES = 0.01, 0.0005  # Adam's learning rate in the first and the last step, log-linear in between
BETAS = 0.9, 0.99
PRIOR = 0.1  # its gradient per change of A and b; holds what the photos do not tell
LARGEST = 0.9  # of every entry of A - 1 and b, so that no photo becomes black or white
DIFFERENT = 0.08  # standard deviation of the log-gains above which photos are taken to differ in exposure
FILE = "exposure.json"  # in a run folder
_NUM_PHOTOS, _NUM_POINTS = 16, 3000  # at most, for the comparison of photos
_FEWEST = 50  # points in view of a photo that is compared
# Times the scatter within photos; measured on six captures: 1.7 to 1.9 where exposure differs, else 0.2 to 1.1.
_CLEAR = 1.4
_DARK, _BRIGHT = 15, 240  # uint8; colours beyond may be clipped


class Exposure:
    """The transforms of all training photos and their Adam.

    Args:
        num_views: number of training photos.
        device: of the model.
        transforms: (V,3,4), each A and b side by side, that stay as they are; None: learnt, from A = 1, b = 0 on.
    """

    def __init__(self, num_views: int, device: torch.device | str = "cpu", transforms: Tensor | None = None) -> None:
        self._is_fixed = transforms is not None
        self._identity = torch.eye(3, 4, device=device)
        self._change = torch.zeros(num_views, 3, 4, device=device)
        if transforms is not None:
            self._change += transforms.to(device) - self._identity
        self._moments = torch.zeros(2, num_views, 3, 4, device=device)
        self._counts = torch.zeros(num_views, device=device)

    @property
    def transforms(self) -> Tensor:
        """(V,3,4) float32 on the device: A and b of each photo side by side."""
        return self._identity + self._change

    def applied(self, index: int, image: Tensor) -> Tensor:
        """A c + b of every pixel.

        Args:
            index: of the training photo.
            image: (3,H,W) float32.
        """
        transform = self._identity + self._change[index]
        return torch.addmm(transform[:, 3:], transform[:, :3], image.reshape(3, -1)).view_as(image)

    def measure(
        self, index: int, view: RenderPass, loss: Loss, photo: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``training.loss.measure``, for the transformed image.

        Args:
            index: of the training photo.
            view: after its forward pass; its ``v_image`` is filled.
            loss: of image, photo and mask.
            photo: (3,H,W) uint8.
            mask: (H,W) bool or None.

        Returns:
            The loss (), the transformed image (3,H,W), and the gradient (3,4) for the transform.
        """
        image = self.applied(index, view.image)
        value, v_applied = with_gradient(loss, image, photo, mask)
        v_image, gradient = self.gradients(index, view.image, v_applied)
        view.v_image.copy_(v_image)
        return value, image, gradient

    def gradients(self, index: int, image: Tensor, v_applied: Tensor) -> tuple[Tensor, Tensor]:
        """Of a loss, from that for the result of :meth:`applied`.

        Args:
            index: as there.
            image: as there.
            v_applied: (3,H,W) gradient for the result.

        Returns:
            Gradients for the image (3,H,W) and for the transform (3,4).
        """
        transform, v = self._identity + self._change[index], v_applied.reshape(3, -1)
        v_image = (transform[:, :3].T @ v).view_as(image)
        return v_image, torch.cat([v @ image.reshape(3, -1).T, v.sum(dim=1, keepdim=True)], dim=1)

    def update(
        self, progress: float, index: int, gradient: Tensor, usable: Tensor, processes: SingleProcess = SINGLE_PROCESS
    ) -> None:
        """Adam for the photo of the step, and the mean over all photos held.

        Args:
            progress: share of the training that is over, 0 to 1.
            index: of this process's photo.
            gradient: (3,4).
            usable: () bool; without it the gradient counts as zero.
            processes: those that train together, each with a photo of its own.
        """
        if self._is_fixed:
            return
        gradients, seen = torch.zeros_like(self._change), torch.zeros_like(self._counts)
        gradients[index] = torch.where(usable, gradient + PRIOR * self._change[index], 0)
        seen[index] = 1
        processes.sum(gradients, seen)
        rows = seen.nonzero().flatten() if processes.count > 1 else torch.tensor([index], device=seen.device)
        gradients = gradients[rows] / seen[rows, None, None]
        first, last = RATES
        rate = first * (last / first) ** progress
        self._change[rows] -= adam_change(self._moments, self._counts, rows, gradients, rate, BETAS, 1e-12)
        self._change -= self._change.mean(dim=0)
        self._change.clamp_(-LARGEST, LARGEST)

    def diverged(self) -> list[int]:
        """The photos whose transforms have reached their limits."""
        return (self._change.abs().amax(dim=(1, 2)) >= LARGEST).nonzero().flatten().tolist()

    def by_name(self, cameras: Sequence[Camera]) -> dict[str, list[list[float]]]:
        """The content of ``exposure.json``: A and b side by side, three rows, by the name of the photo."""
        return dict(zip((camera.name for camera in cameras), self.transforms.cpu().tolist(), strict=True))

    @classmethod
    def read(cls, path: Path, cameras: Sequence[Camera], device: torch.device) -> Exposure | None:
        """The transforms that a training has left in ``exposure.json``, as they are; None: there is no such file.

        Raises:
            InputError: the file has no transform for one of the photos, or is not of this kind.
        """
        if not path.exists():
            return None
        values = read_json(path)
        try:
            transforms = torch.tensor([values[camera.name] for camera in cameras], dtype=torch.float32)
            usable = transforms.shape == (len(cameras), 3, 4) and bool(transforms.isfinite().all())
        except (KeyError, TypeError, ValueError):
            usable = False
        if not usable:
            raise InputError(f"{path} has no 3x4 numbers for each training photo: train again, or remove the file")
        return cls(len(cameras), device, transforms)

    def state_dict(self) -> dict[str, Any]:
        """Transforms and moments."""
        return {"change": self._change, "moments": self._moments, "counts": self._counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self._change, self._moments, self._counts = (
            state[name].to(self._change.device) for name in ("change", "moments", "counts")
        )


def difference_of_exposures(scene: Scene) -> float:
    """Standard deviation of the log-gains of training photos that see the same points; 0 where it can't be told.

    The log-gain of a photo is the median, over the points in view, of the log of its grey value over the median of the
    photos. It can't be told where the values of a photo scatter about its gain nearly as much as the gains differ:
    then points are hidden by others, or the light changes with the direction.

    Args:
        scene: points that all have one colour are no measured ones; up to 16 photos and 3,000 points are compared.
    """
    if (scene.points.rgb == scene.points.rgb[0]).all():
        return 0.0
    chosen = torch.randperm(len(scene.points.xyz), generator=torch.Generator().manual_seed(0))[:_NUM_POINTS]
    xyz = scene.points.xyz[chosen].double()
    stride = max(1, len(scene.train) // _NUM_PHOTOS)
    cameras = in_turn(scene.train[::stride][:_NUM_PHOTOS], torch.device("cpu"))
    found = []
    for camera in cameras:
        with suppress(InputError):  # a broken photo, which is said where it is trained on
            found.append(_log_grey(camera, xyz))
    if not found:
        return 0.0
    logs = torch.stack(found)
    shared = (~logs.isnan()).sum(dim=0) >= 2
    logs = logs[:, shared] - logs[:, shared].nanmedian(dim=0).values
    logs = logs[(~logs.isnan()).sum(dim=1) >= _FEWEST]
    if len(logs) < 2:
        return 0.0
    gains = logs.nanmedian(dim=1).values
    scatter = 1.4826 * (logs - gains[:, None]).abs().nanmedian(dim=1).values.median()
    return float(gains.std()) if gains.std() > _CLEAR * scatter else 0.0


def _log_grey(camera: Camera, xyz: Tensor) -> Tensor:
    """(P,) float64 log of the grey value where each point falls; NaN: nowhere, or on a pixel that may be clipped."""
    rows, columns, _, seen = in_view(camera, xyz)
    planes = camera.required_photo.planes()
    pixels = planes.rgb[:, rows, columns]
    seen &= ((pixels >= _DARK) & (pixels <= _BRIGHT)).all(dim=0)
    if planes.mask is not None:
        seen &= planes.mask[rows, columns]
    return torch.where(seen, pixels.double().mean(dim=0).log(), torch.nan)
