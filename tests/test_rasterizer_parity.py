"""The CUDA engine against the CPU engine, in float: all outputs, gradients and sums, on images that take its kernels
through all their paths. test_planted_errors.py shows what these tests notice.
"""

from functools import cache

import pytest
import torch
from rasterizer_cases import (
    BAND,
    CPU,
    CUDA_ENGINES,
    OUTPUTS,
    Case,
    Engine,
    away_from_decisions,
    make_case,
    relative_error,
)
from torch import Tensor

pytestmark = pytest.mark.parametrize("engine", CUDA_ENGINES, indirect=True)


def faint(case: Case) -> Case:
    """The same with opacities that let hundreds of splats through, and not all of them in every pixel."""
    opacities = 0.004 + 0.012 * case.inputs["opacities"].clamp(0, 1)
    return case.but({"opacities": opacities.float().double()})


def behind(case: Case) -> Case:
    """The same seen by a camera that looks the other way."""
    turned = torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64)) @ case.camera.world_to_camera
    camera = type(case.camera)(**{**vars(case.camera), "world_to_camera": turned})
    return case.but(camera=camera)


def with_invisible(case: Case, first: int, end: int) -> Case:
    """The same with a range of Gaussians that no tile has."""
    opacities = case.inputs["opacities"].clone()
    opacities[first:end] = 0.001
    return case.but({"opacities": opacities})


def many_in_one_pixel(num: int) -> Case:
    """An image of one pixel in which each of `num` Gaussians shows."""
    case = make_case(21, num, 1, 1, in_front=True, size=30.0)
    return faint(case.but({"opacities": case.inputs["opacities"] + 0.2}))


CASES = {
    "several segments and batches": faint(make_case(22, 700, 33, 17, in_front=True, size=20.0)),
    "several segments, antialiased, covariances": faint(
        make_case(23, 500, 20, 19, in_front=True, size=20.0, antialiased=True, shape="covariances", color="colors")
    ),
    "no multiple of 16": make_case(24, 400, 67, 50),
    "dense, stops early": make_case(25, 600, 47, 33, in_front=True, size=4.0),
    "one pixel": make_case(26, 9, 1, 1),
    "one tile": make_case(27, 60, 16, 16),
    "one row of tiles": make_case(28, 100, 150, 7, color="sh1"),
    "no Gaussians": make_case(29, 0, 35, 20),
    "one Gaussian": make_case(30, 1, 35, 20, in_front=True),
    "all culled": behind(make_case(31, 50, 35, 20, in_front=True)),
    "most invisible": with_invisible(make_case(35, 300, 35, 20, in_front=True), 20, 280),
    "hundreds of tiles each": make_case(32, 12, 400, 330, in_front=True, size=25.0),
    "most tiles empty": make_case(36, 3, 200, 200, in_front=True, size=0.2),
    "more rows of tiles than lanes": make_case(33, 8, 70, 700, in_front=True, size=25.0, color="sh0"),
    "a thousand": make_case(34, 1000, 99, 70, size=0.5, color="sh2"),
} | {f"{num} in one pixel": many_in_one_pixel(num) for num in (127, 128, 129, 255, 256, 257, 513)}


def run(engine: Engine, case: Case) -> dict[str, Tensor]:
    """Outputs, gradients, statistics, importance, and removal errors where there is weight on the image."""
    num, on = case.num_gaussians, {"device": engine.device}
    stats = (torch.zeros(num, **on), torch.zeros(num, **on))
    camera = case.camera
    weights = torch.rand(camera.height, camera.width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = engine.run(case, torch.float32, stats=stats)
    values |= {"abs_grad_sum": stats[0].cpu().double(), "views": stats[1].cpu()}
    scores = engine.importance(case, weights, torch.float32)
    errors = engine.removal_error(case, case.weights["image"].abs(), case.weights["image"][0] != 0, torch.float32)
    values["removal_error"] = errors.cpu().double()
    return values | {name: value.cpu() for name, value in scores._asdict().items()}


@cache
def expected_of(name: str) -> tuple[Case, Tensor, dict[str, Tensor]]:
    """A case without weight in the band, which pixels are outside the band, and what the CPU engine says."""
    # With hundreds of splats in each pixel a band of the usual width would leave few pixels to compare.
    case, clear = away_from_decisions(CASES[name], BAND / 10 if "segments" in name else BAND)
    assert clear.double().mean() > 0.9, "the band must stay small"
    return case, clear, run(CPU, case)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", ["by atomics", "deterministic"])
def test_cuda_equals_the_cpu(engine, name, mode, request):
    """Away from decisions all agree to rounding; in the band, a pixel may gain or lose one splat at its limit."""
    case, clear, expected = expected_of(name)
    if mode == "deterministic":
        request.getfixturevalue("deterministic")
    actual = run(engine, case)
    assert actual.keys() == expected.keys()

    for output in OUTPUTS:
        # Worst measured: 2e-5.
        assert relative_error(actual[output] * clear, expected[output] * clear) < 2e-4, output
    assert (actual["image"] - expected["image"]).abs().max() < 5 / 255
    for gradient in [key for key in expected if key.startswith("d_")] + ["abs_grad_sum", "removal_error"]:
        # Worst measured: 7e-5 (rotations).
        assert relative_error(actual[gradient], expected[gradient]) < 1e-3, gradient

    assert torch.equal(actual["radii"] > 0, expected["radii"] > 0)
    assert (actual["radii"] - expected["radii"]).abs().sum() <= 1  # rounded up, from either side of an integer
    assert torch.equal(actual["views"], expected["views"])
    in_band = (~clear).sum()
    assert ((actual["num_pixels"] - expected["num_pixels"]).abs() <= in_band).all()
    assert torch.equal(actual["num_gaussians"] * clear, expected["num_gaussians"] * clear)
    for score in ("weighted", "total"):
        # Worst measured: 1e-6 of the largest.
        slack = 2e-5 * max(expected["total"].tolist(), default=0) + in_band / 255
        assert ((actual[score] - expected[score]).abs() <= slack).all(), score


def test_small_scratch_arrays_share_a_tensor_and_change_nothing(engine, monkeypatch):
    """Other tests have each array apart, so that a write beside one is noticed; training on a GPU does not."""
    if engine.name != "emulated":
        pytest.skip("the allocator of torch is not counted")
    case, queue, sizes = CASES["a thousand"], engine.module.Queue, []

    def run_with(chunk: int) -> dict[str, Tensor]:
        def counting_queue(**settings):
            def allocate(num_bytes: int) -> Tensor:
                sizes.append(num_bytes)
                return settings["allocate"](num_bytes)

            return queue(**{**settings, "allocate": allocate, "chunk": chunk})

        sizes.clear()
        monkeypatch.setattr(engine.module, "Queue", counting_queue)
        return engine.run(case, torch.float32)

    apart = run_with(0)
    num_apart = len(sizes)
    together = run_with(1 << 20)
    assert len(sizes) <= num_apart / 2
    assert torch.equal(apart["image"], together["image"])
    for name in ("d_means", "d_sh_rest"):
        assert relative_error(together[name], apart[name]) < 1e-5
