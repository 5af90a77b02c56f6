"""A ``GaussianModel`` of a file of any format, as a command's flags ask for it, and what a file has lost of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from compact_splats.arguments.edits import KeepConfig
from compact_splats.compression.arrays import Arrays
from compact_splats.compression.edits import edited
from compact_splats.compression.files import read_model
from compact_splats.gaussian_renderer import importance, render
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.normalization import Units
from compact_splats.utils.errors import InputError

MIN_WEIGHT = 0.1  # px: a Gaussian in plain view has its opacity times 1.9 px or more
_MAX_VIEWS, _MAX_SIDE = 8, 640  # cameras and px, enough for a figure of tenths of a dB


class ModelFlags(Protocol):
    """What :func:`load_model` needs of a config that is a ``MachineConfig`` and a ``SceneConfig``."""

    antialiasing: bool | None
    keep_nan: bool

    def say_notes(self, path: Path, notes: tuple[str, ...]) -> None:
        """Print notes about a file."""


def load_model(path: Path, config: ModelFlags, device: torch.device, units: Units | None) -> GaussianModel:
    """Read a model, to be rendered in world units, and say what was changed in it.

    ``antialiased`` is the flag or, without the flag, the mark of the file.

    Args:
        path: see :func:`read_model`.
        config: the flags.
        device: of the parameters.
        units: of the scene or its cameras; an offset that the file names comes first. None: those of the model alone.

    Raises:
        InputError: it can't be read, or has no Gaussians.
    """
    arrays = read_model(path, keep_nan=config.keep_nan)
    config.say_notes(path, arrays.notes)
    if not len(arrays["means"]):
        raise InputError(f"{path} has no Gaussians: give a trained model")
    if isinstance(config, KeepConfig):
        arrays = edited(arrays, config)
    model = GaussianModel.from_arrays(arrays, device, Units.of_points(arrays["means"]) if units is None else units)
    if config.antialiasing is not None:
        model.antialiased = config.antialiasing
    return model


@torch.no_grad()
def num_cameras_that_see(arrays: Arrays, cameras: Sequence[Camera], units: Units, device: torch.device) -> np.ndarray:
    """How many cameras see each Gaussian: its blending weights in the view add up to ``MIN_WEIGHT`` or more.

    Args:
        arrays: of the model, in the coordinates of files.
        cameras: in world units.
        units: of the cameras.
        device: that draws them.

    Returns:
        (N,) int64.
    """
    model = GaussianModel.from_arrays(arrays, device, units)
    seen = torch.zeros(model.num_gaussians, dtype=torch.int64, device=device)
    for camera in cameras:
        ones = torch.ones(camera.height, camera.width, device=device)
        seen += importance(camera, model, ones).total >= MIN_WEIGHT
    return seen.cpu().numpy()


def psnr_of_copy(
    arrays: Arrays,
    copy: Arrays,
    cameras: Sequence[Camera],
    units: Units,
    antialiased: bool,
    device: torch.device,
) -> list[str]:
    """A sentence with the PSNR of a copy of a model against the model, from at most ``_MAX_VIEWS`` of its cameras.

    Args:
        arrays: of the model.
        copy: of what a file holds of it, in any order.
        cameras: of the model; without any there is no sentence.
        units: of the cameras.
        antialiased: how both are drawn.
        device: that draws them.
    """
    if not cameras:
        return []
    step = max(1, math.ceil(len(cameras) / _MAX_VIEWS))
    models = [GaussianModel.from_arrays(dict(each), device, units) for each in (arrays, copy)]
    errors = []
    for camera in cameras[::step]:
        small = replace(camera, photo=None).smaller(max(1.0, max(camera.width, camera.height) / _MAX_SIDE))
        with torch.no_grad():
            for model in models:
                model.antialiased = antialiased
            one, other = (render(small, model, torch.zeros(3)).image.clamp(0, 1) for model in models)
        errors.append(float((one - other).square().mean()))
    error = sum(errors) / len(errors)
    found = f"{-10 * math.log10(error):.1f} dB" if error > 1e-10 else "more than 100 dB"
    return [f"the file against the model, from {len(errors)} of its cameras: {found}"]
