"""fused_ssim by the interface that 3DGS code expects: values and gradients against torch in double, and differences."""

import pytest
import torch
from fused_ssim import fused_ssim
from rasterizer_cases import CPU, relative_error
from torch import Tensor, nn

SHAPES = [(1, 3, 20, 31), (2, 4, 11, 64), (3, 1, 33, 11), (1, 2, 70, 45)]
PADDINGS = ["same", "valid"]


def plain_ssim(a: Tensor, b: Tensor, padding: str) -> Tensor:
    """Mean SSIM [Wang et al. 2004] with grouped convolutions of a full 2D window."""
    channels = a.shape[1]
    x = torch.arange(11, dtype=a.dtype) - 5
    window = torch.exp(-(x * x) / (2 * 1.5**2))
    window = (window[:, None] * window / window.sum() ** 2).expand(channels, 1, 11, 11)

    def mean(signal: Tensor) -> Tensor:
        return nn.functional.conv2d(signal, window, padding=5 if padding == "same" else 0, groups=channels)

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    upper = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (upper / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))).mean()


def random_pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth images in float64 that resemble each other."""
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(*shape, generator=g, dtype=torch.float64).cumsum(3).sin() * 0.5 + 0.5
    return a, (a + 0.1 * torch.randn(*shape, generator=g, dtype=torch.float64)).clamp(0, 1)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient_equal_plain_torch(engine, shape, padding):
    """Batches and any number of channels, down to 11 px; zeros around the image, or only whole windows."""
    a, b = random_pair(shape)
    wanted_leaf = a.clone().requires_grad_()
    wanted = plain_ssim(wanted_leaf, b, padding)
    (3 * wanted).backward()
    for dtype in engine.dtypes:
        leaf = a.to(engine.device, dtype).requires_grad_()
        actual = fused_ssim(leaf, b.to(engine.device, dtype), padding=padding)
        (3 * actual).backward()
        # Worst measured, values and gradients: 1e-14 in double, 3e-6 in float.
        tolerance = {torch.float64: 1e-11, torch.float32: 2e-5}[dtype]
        assert actual.shape == () and abs(actual.item() - wanted.item()) < tolerance
        assert relative_error(leaf.grad.cpu(), wanted_leaf.grad) < 10 * tolerance


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_gradient_is_the_derivative_of_the_value(padding):
    a, b = random_pair((1, 2, 12, 13))
    leaf = a.clone().requires_grad_()
    with CPU.active():
        assert torch.autograd.gradcheck(lambda x: fused_ssim(x, b, padding), leaf, eps=1e-6, atol=1e-9)


def test_only_the_first_image_has_a_gradient_and_only_in_training():
    a, b = (each.requires_grad_() for each in random_pair((1, 3, 20, 20)))
    fused_ssim(a, b).backward()
    assert a.grad.any() and b.grad is None
    assert not fused_ssim(a, b, train=False).requires_grad
    assert fused_ssim(a, b, train=False).item() == fused_ssim(a, b, "same", True).item()


def test_equal_images_have_similarity_one(engine):
    a = random_pair((2, 3, 24, 31))[0].float().to(engine.device)
    for padding in PADDINGS:
        assert abs(fused_ssim(a, a, padding).item() - 1) < 1e-6


WRONG = [
    (((1, 3, 12, 12), (1, 3, 12, 13)), {}, "img1 and img2: expected the same shape"),
    (((3, 12, 12), (3, 12, 12)), {}, r"img1 and img2: .*\(B, C, H, W\), got \(3, 12, 12\)"),
    (((1, 3, 12, 12), (1, 3, 12, 12)), {"padding": "zeros"}, "padding: expected one of .*'zeros'"),
    (((1, 3, 10, 12), (1, 3, 10, 12)), {"padding": "valid"}, r"at least 11 px"),
]


@pytest.mark.parametrize(("shapes", "options", "words"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_call_is_named(shapes, options, words):
    with pytest.raises(ValueError, match=words) as error:
        fused_ssim(*(torch.rand(shape) for shape in shapes), **options)
    assert "\n" not in str(error.value)
