"""Rendered views with their photos, both in 8 bits, and their quality."""

from collections.abc import Sequence

import torch
from diff_gaussian_rasterization import photometric_loss
from torch import Tensor

from compact_splats.gaussian_renderer import render
from compact_splats.scene import Scene
from compact_splats.scene.cameras import Camera, in_turn
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.photo_cache import Planes
from compact_splats.utils.device_copies import on_device
from compact_splats.utils.images import to_uint8
from compact_splats.utils.losses import color_corrected, psnr

NUM_TRAIN_VIEWS = 5  # measured in addition to the test views

Scores = dict[str, dict[str, float | None]]  # [split][metric]


def ground_truth(camera: Camera, device: torch.device, background: Tensor) -> tuple[Tensor, Tensor | None]:
    """A camera's photo over a background, and its mask.

    Args:
        camera: with a photo.
        device: of the results.
        background: (3,) RGB in [0, 1], in main memory; only a photo with an alpha channel that is no mask shows it.

    Returns:
        (3,H,W) uint8 and, if there is a mask, (H,W) bool.
    """
    photo = camera.required_photo
    planes = Planes(*on_device(photo, device, photo.planes))
    return planes.over(background), planes.mask


def mask_of(camera: Camera, device: torch.device) -> Tensor | None:
    """The mask of a camera's photo, as of :func:`ground_truth`."""
    photo = camera.required_photo
    return Planes(*on_device(photo, device, photo.planes)).mask


@torch.no_grad()
def view_pair(camera: Camera, model: GaussianModel, background: Tensor) -> tuple[Tensor, Tensor]:
    """Render a view.

    Args:
        camera: with a photo.
        model: the Gaussians.
        background: (3,) RGB in [0, 1].

    Returns:
        Image and photo, each (3,H,W) uint8; both are black where the photo is masked.
    """
    image = to_uint8(render(camera, model, background).image)
    photo, mask = ground_truth(camera, image.device, background)
    return (image, photo) if mask is None else (image * mask, photo * mask)


def evaluate(
    cameras: Sequence[Camera],
    model: GaussianModel,
    background: Tensor = torch.zeros(3),  # noqa: B008
) -> dict[str, float | None]:
    """Mean PSNR (dB), SSIM, L1 and colour-corrected PSNR (dB) of views, equal to those of metrics.py.

    Args:
        cameras: with photos. Views of which a mask leaves no pixel are not measured.
        model: the Gaussians.
        background: (3,) RGB in [0, 1].

    Returns:
        ``psnr``, ``ssim``, ``l1``, and ``cc_psnr``, that of ``utils.losses.color_corrected`` images: means over finite
        values; None where there are none.
    """
    found: dict[str, list[float]] = {"psnr": [], "ssim": [], "l1": [], "cc_psnr": []}
    for camera in filter(has_pixels, in_turn(cameras, torch.device("cpu"))):  # of the masks
        pair = view_pair(camera, model, background)
        image, photo = (pixels.float() / 255 for pixels in pair)
        loss = photometric_loss(image, photo)  # needs far less memory than utils.losses
        corrected = psnr(color_corrected(image, photo), photo)
        for name, value in zip(found, (psnr(image, photo), loss.ssim, loss.l1, corrected), strict=True):
            found[name] += [value.item()] if value.isfinite() else []
    return {name: sum(values) / len(values) if values else None for name, values in found.items()}


def has_pixels(camera: Camera) -> bool:
    """Whether the mask of a camera's photo leaves any pixel."""
    mask = camera.required_photo.mask()
    return mask is None or bool(mask.any())


def measure(scene: Scene, model: GaussianModel, background: Tensor) -> Scores:
    """Quality of the test views, if any, and of ``NUM_TRAIN_VIEWS`` training views; of those that have pixels."""
    stride = max(1, len(scene.train) // NUM_TRAIN_VIEWS)
    splits = {"test": scene.test, "train": scene.train[::stride][:NUM_TRAIN_VIEWS]}
    return {name: evaluate(views, model, background) for name, views in splits.items() if any(map(has_pixels, views))}
