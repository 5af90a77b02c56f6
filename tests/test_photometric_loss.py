"""The fused L1 + SSIM loss and its gradient against plain torch with autograd."""

import pytest
import torch
import torch_reference as reference
from diff_gaussian_rasterization import photometric_loss
from rasterizer_cases import CPU, CUDA_ENGINES, Engine, relative_error

from compact_splats.utils import losses

SIZES = [(1, 1), (1, 13), (3, 5), (10, 10), (11, 11), (17, 33), (64, 48), (75, 130)]


def random_pair(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """An image (float32 values in float64) a little outside [0, 1] and a uint8 photo that resembles it."""
    g = torch.Generator().manual_seed(seed)
    smooth = torch.rand(3, height, width, generator=g, dtype=torch.float64).cumsum(2).sin() * 0.5 + 0.5
    photo = (smooth * 255).round().to(torch.uint8)
    image = smooth + 0.1 * torch.randn(3, height, width, generator=g, dtype=torch.float64)
    return image.float().double(), photo


def reference_result(image, photo, mask, weight):
    leaf = image.clone().requires_grad_()
    loss, l1, ssim = reference.photometric_loss(leaf, photo, mask, weight)
    (2.5 * loss).backward()
    return loss.detach(), l1.detach(), ssim.detach(), leaf.grad


def engine_result(engine: Engine, image, photo, mask, weight, *, dtype=torch.float32, threads=0):
    leaf = image.detach().to(engine.device, dtype).clone().requires_grad_()
    photo = photo.to(engine.device) if photo.dtype == torch.uint8 else photo.to(engine.device, dtype)
    mask = None if mask is None else mask.to(engine.device)
    with engine.active():
        out = photometric_loss(leaf, photo, mask=mask, ssim_weight=weight, threads=threads)
        (2.5 * out.loss).backward()
    assert out.loss.shape == out.l1.shape == out.ssim.shape == ()
    return [value.detach().cpu() for value in (out.loss, out.l1, out.ssim, leaf.grad)]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[1]}x{s[0]}")
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("as_bytes", [False, True], ids=["float photo", "uint8 photo"])
def test_loss_and_gradient_equal_plain_torch(engine, size, masked, as_bytes):
    """Loss, L1, SSIM and the gradient agree, in float and in double (CPU), also on images under the window's size."""
    image, photo = random_pair(*size)
    if not as_bytes:
        photo = (photo.double() / 255 + 0.003).float().double()
    mask = torch.rand(*size, generator=torch.Generator().manual_seed(1)) > 0.3 if masked else None
    expected = reference_result(image, photo, mask, 0.2)
    # Worst measured, values and gradient: 7e-15 in double, 9e-7 in float.
    for dtype in engine.dtypes:
        tolerance = {torch.float64: 1e-11, torch.float32: 2e-5}[dtype]
        actual = engine_result(engine, image, photo, mask, 0.2, dtype=dtype)
        for value, wanted in zip(actual[:3], expected[:3], strict=True):
            assert abs(value - wanted) < tolerance
        assert relative_error(actual[3], expected[3]) < 10 * tolerance
        if masked:
            assert not actual[3][:, ~mask].any()


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_any_ssim_weight_gives_the_right_mixture(engine, weight):
    """The weight moves between L1 alone and 1 - SSIM alone."""
    image, photo = random_pair(30, 21)
    expected = reference_result(image, photo, None, weight)
    actual = engine_result(engine, image, photo, None, weight)
    assert abs(actual[0] - expected[0]) < 1e-5
    assert relative_error(actual[3], expected[3]) < 2e-4


def test_ssim_agrees_with_the_metric(engine):
    """The SSIM of the loss is the SSIM that metrics.py reports."""
    image, photo = random_pair(37, 52)
    actual = engine_result(engine, image, photo, None, 0.2)
    assert abs(actual[2] - losses.ssim(image, photo.double() / 255)) < 1e-5


def test_gradient_equals_central_differences():
    """The analytic gradient is the derivative of the value, in double."""
    image, photo = random_pair(7, 9)
    mask = torch.ones(7, 9, dtype=torch.bool)
    mask[2:4, 3:6] = False
    analytic = engine_result(CPU, image, photo, mask, 0.2, dtype=torch.float64)[3]
    numeric, step = torch.zeros_like(image), 1e-6
    for i in range(image.numel()):
        ends = []
        for sign in (1, -1):
            moved = image.clone()
            moved.view(-1)[i] += sign * step
            ends.append(engine_result(CPU, moved, photo, mask, 0.2, dtype=torch.float64)[0])
        numeric.view(-1)[i] = 2.5 * (ends[0] - ends[1]) / (2 * step)
    assert relative_error(analytic, numeric) < 1e-6  # worst measured: 4e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
def test_threads_do_not_change_a_bit(dtype):
    """Values and gradient are the same bits on 1, 2, 3 and 8 threads."""
    image, photo = random_pair(123, 211)
    mask = torch.rand(123, 211, generator=torch.Generator().manual_seed(1)) > 0.1
    alone = engine_result(CPU, image, photo, mask, 0.2, dtype=dtype, threads=1)
    for threads in (2, 3, 8, 0):
        other = engine_result(CPU, image, photo, mask, 0.2, dtype=dtype, threads=threads)
        assert all(torch.equal(a, b) for a, b in zip(alone, other, strict=True)), threads


def test_reruns_give_the_same_bits(engine):
    """Values and gradient, without asking for it."""
    image, photo = random_pair(75, 130)
    first = engine_result(engine, image, photo, None, 0.2)
    for _ in range(4):
        again = engine_result(engine, image, photo, None, 0.2)
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


def test_equal_images_have_no_loss(engine):
    """L1 0, SSIM 1, and a gradient of rounding size: where nothing differs, L1 has none."""
    image = random_pair(24, 31)[0].clamp(0, 1)
    loss, l1, ssim, gradient = engine_result(engine, image, image, None, 0.2)
    assert l1 == 0 and abs(ssim - 1) < 1e-6 and abs(loss) < 1e-6
    assert gradient.abs().max() < 1e-8  # a hundredth of what one pixel's L1 would have


def test_an_empty_mask_is_no_loss(engine):
    """With every pixel masked, the loss is 0 and so is the gradient."""
    image, photo = random_pair(14, 15)
    mask = torch.zeros(14, 15, dtype=torch.bool)
    loss, _, _, gradient = engine_result(engine, image, photo, mask, 0.2)
    assert abs(loss) < 1e-6 and not gradient.any()


WRONG = [
    ({"image": torch.rand(4, 8, 9)}, ["photo", "(4, 8, 9)", "(3, 8, 9)"]),
    ({"image": torch.rand(8, 9)}, ["image", "(8, 9)"]),
    ({"image": torch.rand(3, 8, 9).half()}, ["image", "float16"]),
    ({"photo": torch.rand(3, 9, 8)}, ["photo", "(3, 8, 9)", "(3, 9, 8)"]),
    ({"photo": torch.rand(3, 8, 9).double()}, ["photo", "float32", "float64"]),
    ({"photo": torch.zeros(3, 8, 9, dtype=torch.int32)}, ["photo", "int32"]),
    ({"mask": torch.ones(9, 8, dtype=torch.bool)}, ["mask", "(8, 9)", "(9, 8)"]),
    ({"mask": torch.ones(8, 9)}, ["mask", "bool", "float32"]),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[f"{next(iter(w[0]))}-{i}" for i, w in enumerate(WRONG)])
def test_a_wrong_argument_is_named_with_what_was_expected_and_found(engine, change, words):
    arguments = {"image": torch.rand(3, 8, 9), "photo": torch.zeros(3, 8, 9, dtype=torch.uint8), "mask": None} | change
    arguments = {name: None if value is None else value.to(engine.device) for name, value in arguments.items()}
    with pytest.raises(ValueError) as error:
        photometric_loss(arguments["image"], arguments["photo"], mask=arguments["mask"])
    for word in words:
        assert word in str(error.value), f"{word!r} is not in {error.value}"


@pytest.mark.parametrize("engine", CUDA_ENGINES, indirect=True)
def test_cuda_takes_float_only_and_says_so(engine):
    image, photo = random_pair(8, 9)
    with pytest.raises(ValueError, match="image.*float32.*float64"):
        engine_result(engine, image, photo, None, 0.2, dtype=torch.float64)


def test_a_second_backward_pass_gives_the_same_gradient_again():
    """The gradient that the engine computed in the forward pass is not written to, also where dL/dloss is 1."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 12, 15, generator=generator).requires_grad_()
    loss = photometric_loss(image, torch.rand(3, 12, 15, generator=generator)).loss
    loss.backward(retain_graph=True)
    first = image.grad.clone()
    loss.backward(retain_graph=True)
    assert torch.equal(image.grad, 2 * first)
    image.grad = None
    (3 * loss).backward()
    assert torch.equal(image.grad, 3 * first)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_each_result_has_its_gradient(engine, masked):
    """Of L1 and SSIM alone, and of a sum of all three; the reference differentiates plain torch."""
    image, photo = random_pair(17, 33)
    mask = torch.rand(17, 33, generator=torch.Generator().manual_seed(1)) > 0.3 if masked else None
    for factors in ((0, 1.5, 0), (0, 0, -2.0), (0.7, 1.5, -2.0)):
        leaf = image.to(engine.device, torch.float32).clone().requires_grad_()
        wanted = image.clone().requires_grad_()
        on_device = {"photo": photo.to(engine.device), "mask": None if mask is None else mask.to(engine.device)}
        for results in (photometric_loss(leaf, **on_device), reference.photometric_loss(wanted, photo, mask, 0.2)):
            sum(f * each for f, each in zip(factors, results, strict=True) if f).backward()
        assert relative_error(leaf.grad.cpu(), wanted.grad) < 2e-4  # worst measured: 2e-6, on the CPU and emulated


def test_no_gradient_is_kept_where_none_is_wanted():
    image, photo = random_pair(17, 33)
    assert not any(each.requires_grad for each in photometric_loss(image, photo))
