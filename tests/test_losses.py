"""The image metrics against direct computations in float64."""

import math

import numpy as np
import pytest
import torch

from compact_splats.utils import losses
from compact_splats.utils.losses import color_corrected, l1, psnr, ssim


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    photo = torch.rand(3, 19, 27, generator=generator)
    return (photo + 0.1 * torch.randn(photo.shape, generator=generator)).clamp(0, 1), photo


def ssim_by_definition(image: np.ndarray, photo: np.ndarray) -> float:
    """SSIM from the weighted moments of each zero-padded 11x11 window, in float64, one window at a time."""
    offset = np.arange(11) - 5
    weights = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for channel in range(3):
        x, y = (np.pad(i[channel].astype(np.float64), 5) for i in (image, photo))
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                a, b = (p[row : row + 11, column : column + 11] for p in (x, y))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
                cov = (weights * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + 0.01**2)
                    * (2 * cov + 0.03**2)
                    / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))
                )
    return float(np.mean(values))


def test_ssim_follows_its_definition(images):
    expected = ssim_by_definition(*(i.numpy() for i in images))
    # Worst measured: 2.3e-16 in double, 7.4e-8 in float.
    assert ssim(*(i.double() for i in images)).item() == pytest.approx(expected, abs=1e-12)
    assert ssim(*images).item() == pytest.approx(expected, abs=1e-5)


def test_ssim_of_an_image_with_itself_is_one(images):
    assert ssim(images[1], images[1]).item() == pytest.approx(1, abs=1e-6)


def test_ssim_refuses_different_shapes(images):
    with pytest.raises(ValueError, match=r"\(3, 19, 27\) and \(3, 19, 26\)"):
        ssim(images[0], images[1][..., 1:])


def test_psnr_and_l1_of_a_known_difference():
    photo = torch.full((3, 4, 5), 0.5, dtype=torch.float64)
    assert psnr(photo + 0.1, photo).item() == pytest.approx(20, abs=1e-12)
    assert l1(photo - 0.1, photo).item() == pytest.approx(0.1, abs=1e-12)
    assert psnr(photo, photo).item() == math.inf


def test_color_correction_undoes_exposure_and_white_balance(images):
    mix = torch.tensor([[0.7, 0.1, 0.0], [0.05, 0.8, 0.0], [0.0, 0.1, 0.6]])
    photo = images[1]
    image = (mix @ photo.flatten(1) + 0.05).view_as(photo)
    assert psnr(image, photo) < 20
    assert psnr(color_corrected(image, photo), photo) > 100


def test_color_correction_is_the_least_squares_fit_and_never_costs_psnr(images, monkeypatch):
    monkeypatch.setattr(losses, "_CHUNK", 100)  # px: several parts, the last one shorter
    image, photo = images
    columns = np.vstack([image.flatten(1).double(), np.ones((1, image[0].numel()))])
    matrix = np.linalg.lstsq(columns.T, photo.flatten(1).double().numpy().T, rcond=None)[0]
    corrected = color_corrected(image, photo)
    expected = (columns.T @ matrix).T.clip(0, 1).reshape(image.shape)
    assert np.abs(corrected.numpy() - expected).max() < 1e-6
    assert psnr(corrected, photo) > psnr(image, photo)


def test_color_correction_leaves_masked_pixels_out(images):
    mask = torch.ones(images[0].shape[1:])
    mask[:, :9] = 0
    corrected = color_corrected(*(each * mask for each in images))
    alone = color_corrected(*(each[:, :, 9:] for each in images))
    assert (corrected[:, :, 9:] - alone).abs().max() < 1e-6
    assert not corrected[:, :, :9].any()


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_color_correction_of_one_grey_value_is_the_mean_of_the_photo(images, value):
    corrected = color_corrected(torch.full_like(images[1], value), images[1])
    assert (corrected - images[1].mean((1, 2), keepdim=True)).abs().max() < 1e-5
