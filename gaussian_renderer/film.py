"""A model seen from one camera after the other, as a video."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from compact_splats.gaussian_renderer import render
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.images import pixels_of, to_uint8
from compact_splats.utils.video import true_rate, write_video


def film(
    path: Path, cameras: Sequence[Camera], fps: int, model: GaussianModel, background: Tensor, *, quiet: bool
) -> str:
    """Render and write a video.

    Args:
        path: .mp4 or .gif.
        cameras: one a frame, at least one, all of one size.
        fps: frames a second.
        model: the Gaussians.
        background: (3,) RGB in [0, 1].
        quiet: show no progress.

    Returns:
        What came out, for a reader.

    Raises:
        InputError: the file can't be written.
    """
    views = tqdm(cameras, desc="video", unit="frame", disable=quiet)
    write_video(path, frames(views, model, background), fps)
    size, megabytes = f"{cameras[0].width}x{cameras[0].height} px", path.stat().st_size / 1e6
    return f"{path}: {len(cameras)} frames of {size} at {true_rate(path, fps):.4g} a second, {megabytes:.2f} MB"


@torch.no_grad()
def frames(cameras: Sequence[Camera], model: GaussianModel, background: Tensor) -> Iterator[np.ndarray]:
    """Rendered views, (H,W,3) uint8 RGB."""
    for camera in cameras:
        yield pixels_of(to_uint8(render(camera, model, background).image))
