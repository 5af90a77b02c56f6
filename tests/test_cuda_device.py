"""What only a GPU shows: streams, memory, large scenes, and a second GPU. gpu-check runs these; they skip elsewhere.

The order of work in streams is also tested without a GPU: test_smoke.py, test_planted_errors.py.
"""

import pytest
import torch
from rasterizer_cases import CPU, OUTPUTS, Case, Engine, make_case, relative_error
from torch import Tensor

HAS_CUDA = "cuda" in CPU.module.DEVICES and torch.cuda.is_available()
NUM_DEVICES = torch.cuda.device_count() if HAS_CUDA else 0
pytestmark = pytest.mark.skipif(not HAS_CUDA, reason="needs a GPU and an engine that is built for it")

CUDA = Engine("cuda", "cuda", False, CPU.module)


@pytest.fixture(scope="module")
def crowd() -> Case:
    return make_case(3, 3000, 150, 99, size=0.5)


@pytest.fixture(scope="module")
def expected(crowd: Case) -> dict[str, Tensor]:
    """On the default stream."""
    return CUDA.run(crowd, torch.float32)


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Pictures are the same bits; gradients are added up by atomics, in any order."""
    for name in (*OUTPUTS, "radii"):
        assert torch.equal(actual[name], expected[name]), name
    for name in (key for key in expected if key.startswith("d_")):
        assert relative_error(actual[name], expected[name]) < 1e-4, name


def wait_a_while() -> None:
    """Keeps the current stream busy, so that what waits for nothing comes too early."""
    torch.cuda._sleep(50_000_000)


def leaves_of(case: Case, device: str = "cuda") -> dict[str, Tensor]:
    return {name: value.to(device, torch.float32).requires_grad_() for name, value in case.inputs.items()}


def test_cuda_work_on_a_side_stream_is_in_the_order_of_that_stream(crowd, expected):
    """The inputs are made on the side stream, late; nothing waits for the whole device."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        wait_a_while()
        actual = CUDA.run(crowd, torch.float32)
    assert_close(actual, expected)


def test_cuda_backward_on_another_stream_waits_for_forward(crowd):
    """Autograd runs backward on the stream of forward, whatever stream is current when it is called."""
    rows, side = leaves_of(crowd), torch.cuda.Stream()
    weight = crowd.weights["image"].to("cuda", torch.float32)

    def gradients(stream: torch.cuda.Stream) -> dict[str, Tensor]:
        for row in rows.values():
            row.grad = None
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            wait_a_while()
            image = CUDA.rasterize(crowd, rows, torch.float32).image
        torch.cuda.current_stream().wait_stream(stream)
        (image * weight).sum().backward()
        torch.cuda.synchronize()
        return {name: row.grad.clone() for name, row in rows.items()}

    alone, other = gradients(torch.cuda.current_stream()), gradients(side)
    for name in alone:
        assert relative_error(other[name], alone[name]) < 1e-4, name


def test_cuda_memory_freed_on_one_stream_is_not_taken_by_another(crowd, expected):
    """Scratch memory is freed while its kernels still wait; what the main stream writes must not land there."""
    side, results = torch.cuda.Stream(), []
    for _ in range(5):
        with torch.cuda.stream(side):
            wait_a_while()
            rows = leaves_of(crowd)
            results.append(CUDA.rasterize(crowd, rows, torch.float32).image.detach())
        for size in (1 << 12, 1 << 16, 1 << 20, 1 << 24):
            torch.full((size,), float("nan"), device="cuda")
    side.synchronize()
    assert all(torch.equal(image.cpu().double(), expected["image"]) for image in results)


def test_cuda_goes_on_after_it_ran_out_of_memory(crowd, expected):
    """The error is torch's own, and the next call on a smaller scene is right."""
    torch.cuda.empty_cache()
    before, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (before + (64 << 20)) / total))
    try:
        big = make_case(5, 200_000, 900, 600)
        with pytest.raises((torch.cuda.OutOfMemoryError, RuntimeError), match="(?i)out of memory"):
            CUDA.run(big, torch.float32)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert_close(CUDA.run(crowd, torch.float32), expected)


def test_cuda_gradients_by_atomics_equal_the_deterministic_ones_at_a_million_gaussians(request):
    """Sums of thousands of terms in another order; the 64-bit indices of the large arrays."""
    from benchmarks.rasterizer import random_scene, trainable_model
    from compact_splats.gaussian_renderer import render

    camera, photo, points = random_scene(1_000_000, 1600, 1060, torch.Generator().manual_seed(0))
    model = trainable_model(points, torch.device("cuda"))
    toward = photo.cuda() / 255 - 0.5

    def gradients() -> dict[str, Tensor]:
        for row in model.parameters.values():
            row.grad = None
        (render(camera, model).image * toward).sum().backward()
        return {name: row.grad.clone() for name, row in model.parameters.items()}

    by_atomics = gradients()
    request.getfixturevalue("deterministic")
    fixed, again = gradients(), gradients()
    for name in fixed:
        assert torch.equal(fixed[name], again[name]), name
        assert relative_error(by_atomics[name], fixed[name]) < 1e-3, name


@pytest.mark.skipif(NUM_DEVICES < 2, reason="needs a second GPU")
def test_cuda_works_on_a_second_gpu_while_the_first_is_current(crowd, expected):
    second = Engine("cuda", "cuda:1", False, CPU.module)
    with torch.cuda.device(0):
        actual = second.run(crowd, torch.float32)
    assert torch.cuda.current_device() == 0
    assert_close(actual, expected)
