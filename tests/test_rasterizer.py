"""The rasterizer against the torch reference: outputs, gradients, importance and screen-space sums, all options."""

from dataclasses import replace

import pytest
import torch
from rasterizer_cases import (
    BAND,
    CPU,
    OUTPUTS,
    Case,
    Engine,
    away_from_decisions,
    make_case,
    relative_error,
    run_reference,
)

CASES = {
    "sh0": {"color": "sh0"},
    "sh1": {"color": "sh1"},
    "sh2": {"color": "sh2"},
    "sh3": {"color": "sh3"},
    "precomputed colors": {"color": "colors"},
    "covariances": {"shape": "covariances"},
    "covariances, colors, antialiased": {"shape": "covariances", "color": "colors", "antialiased": True},
    "antialiased": {"antialiased": True},
    "before activation": {"activated": False},
    "before activation, antialiased, colors": {"activated": False, "antialiased": True, "color": "colors"},
    "centred": {"centred": True},
    "identity camera": {"identity": True},
    "1x1": {"width": 1, "height": 1, "num": 9},
    "1x40": {"width": 1, "height": 40},
    "40x1": {"width": 40, "height": 1},
    "16x16": {"width": 16, "height": 16},
    "17x33": {"width": 17, "height": 33},
    "48x32": {"width": 48, "height": 32},
    "67x50": {"width": 67, "height": 50, "num": 150},
    "dense, stops early": {"num": 200, "size": 4.0, "in_front": True},
    "one": {"num": 1, "in_front": True},
    "tiny": {"size": 0.02, "num": 100},
    "tiny, antialiased": {"size": 0.02, "num": 100, "antialiased": True},
}


@pytest.fixture
def cpu() -> Engine:
    return CPU


def case_of(name: str, seed: int = 0) -> Case:
    return make_case(seed, **CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_double_equals_the_reference(cpu, name):
    """In double, outputs and all gradients equal autograd through the plain O(N H W) renderer."""
    for seed in range(3):
        case, clear = away_from_decisions(case_of(name, seed), 1e-9)
        expected, actual = run_reference(case), cpu.run(case)
        for output in OUTPUTS:
            # Worst measured: 3e-14
            assert relative_error(actual[output] * clear, expected[output] * clear) < 1e-10, output
        for gradient in (key for key in expected if key.startswith("d_")):
            # Worst measured: 3e-13 (rotations)
            assert relative_error(actual[gradient], expected[gradient]) < 1e-8, gradient


@pytest.mark.parametrize("name", CASES)
def test_float_equals_the_reference_away_from_decisions(engine, name):
    """In float, pixels away from a decision agree to rounding, the few in the band to one splat's contribution."""
    for seed in range(3):
        case, clear = away_from_decisions(case_of(name, seed))
        assert clear.float().mean() > 0.95, "the band must stay small"
        expected, actual = run_reference(case), engine.run(case, torch.float32)
        for output in OUTPUTS:
            # Worst measured: 1e-5.
            assert relative_error(actual[output] * clear, expected[output] * clear) < 1e-4, output
        # A decision that falls otherwise adds or drops one splat of alpha 1/255 or transmittance 1e-4.
        assert (actual["image"] - expected["image"]).abs().max() < 5 / 255
        for gradient in (key for key in expected if key.startswith("d_")):
            # Worst measured: 9e-5 (rotations)
            assert relative_error(actual[gradient], expected[gradient]) < 1e-3, gradient


@pytest.mark.parametrize("antialiased", [False, True], ids=["plain", "antialiased"])
def test_needles_are_right_in_double_and_near_in_float(engine, antialiased):
    """Axis ratios of 250 on average: float loses digits in the determinant, but neither the image nor the direction."""
    for seed in range(5):
        case, clear = away_from_decisions(make_case(seed, 60, 50, 40, needles=True, antialiased=antialiased))
        expected = run_reference(case)
        gradients = [key for key in expected if key.startswith("d_")]
        if engine.has_double:
            actual = engine.run(case)
            # Worst measured: 7e-12.
            assert relative_error(actual["image"], expected["image"]) < 1e-9
            assert max(relative_error(actual[name], expected[name]) for name in gradients) < 1e-8
        actual = engine.run(case, torch.float32)
        # Worst measured: image 8e-4, gradients 6e-3, both antialiased.
        assert relative_error(actual["image"] * clear, expected["image"] * clear) < 1e-2
        assert max(relative_error(actual[name], expected[name]) for name in gradients) < 5e-2


@pytest.mark.parametrize("name", CASES)
def test_radii_are_positive_exactly_for_what_can_be_seen(engine, name):
    """A Gaussian has a radius if it is seen in a pixel, none if it can't be, and never less than its ellipse."""
    for dtype in engine.dtypes:
        case = case_of(name)
        expected, radii = run_reference(case), engine.run(case, dtype)["radii"]
        assert radii.dtype == torch.int32
        assert (radii[expected["num_pixels"] > 0] > 0).all()
        assert (radii[expected["radii"] == 0] == 0).all()
        shown = radii > 0
        assert (radii[shown] >= expected["radii"][shown] * (1 - 1e-5)).all()
        assert (radii[shown] <= expected["radii"][shown] * (1 + 1e-5) + 1).all()


@pytest.mark.parametrize(
    "name", ["sh3", "covariances", "antialiased", "before activation", "67x50", "dense, stops early", "1x1"]
)
def test_importance_equals_the_reference(engine, name):
    """Weighted sums, plain sums, and the counts of pixels and of Gaussians equal the reference's."""
    case = case_of(name)
    weights = torch.rand(case.camera.height, case.camera.width, dtype=torch.float64).float().double()
    weights[weights < 0.4] = 0
    expected = run_reference(case, weights)
    if engine.has_double:
        actual = engine.importance(case, weights)
        # Worst measured: 7e-15
        assert relative_error(actual.weighted, expected["weighted"]) < 1e-10
        assert relative_error(actual.total, expected["total"]) < 1e-10
        assert relative_error(actual.distance, expected["distance"]) < 1e-10
        assert torch.equal(actual.num_pixels.long(), expected["num_pixels"])
        assert torch.equal(actual.num_weighted.long(), expected["num_weighted"])
        assert torch.equal(actual.num_gaussians.long(), expected["num_gaussians"])
    actual = engine.importance(case, weights, torch.float32)
    assert actual.num_pixels.dtype == actual.num_gaussians.dtype == torch.int32
    assert actual.num_pixels.sum() == actual.num_gaussians.sum()
    clear = expected["margin"] >= BAND
    assert torch.equal(actual.num_gaussians.cpu().long()[clear], expected["num_gaussians"][clear])
    # Rounding may move a decision in the few pixels of the band. Worst measured: 3e-6, no count moved.
    in_band = (expected["margin"] < BAND).sum().item()
    slack = 2e-5 * expected["total"].max() + in_band / 255
    assert (actual.weighted.cpu() - expected["weighted"]).abs().max() <= slack
    assert (actual.total.cpu() - expected["total"]).abs().max() <= slack
    far = max(case.camera.width, case.camera.height) * 1.5  # px, more than any distance here
    assert (actual.distance.cpu() - expected["distance"]).abs().max() <= far * slack
    for count in ("num_pixels", "num_weighted"):
        assert (getattr(actual, count).cpu() - expected[count]).abs().max() <= in_band


def test_importance_ignores_what_the_image_ignores(engine):
    """With weight one, the sums over all Gaussians equal what the image's transmittance lost."""
    case = case_of("67x50")
    out = engine.importance(case, torch.ones(50, 67, dtype=torch.float64), torch.float32)
    lost = (1 - engine.run(case, torch.float32)["transmittance"]).sum()
    assert torch.equal(out.weighted, out.total)
    assert abs(out.total.double().sum().item() / lost.item() - 1) < 1e-5  # measured: 3e-8


def faint(case: Case) -> Case:
    """The case with a tenth of the opacities: many splats in a pixel, and no early termination."""
    return case.but({"opacities": case.inputs["opacities"] / 10})


@pytest.mark.parametrize(
    "case",
    [
        make_case(1),
        make_case(2, color="colors", antialiased=True),
        make_case(3, shape="covariances", color="sh1"),
        make_case(4, activated=False),
        faint(make_case(5, 300, 16, 16, in_front=True, size=4.0)),
    ],
    ids=["sh3", "colors, antialiased", "covariances", "before activation", "hundreds in a pixel"],
)
def test_the_removal_error_is_that_of_a_render_without_the_gaussian(engine, case):
    """For each Gaussian, where no pixel stops early with or without it."""
    full = CPU.run(case)
    photo = torch.rand(full["image"].shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    # If T stays above 1e-2, no single splat has brought it below 1e-4.
    weights = torch.rand(photo.shape[1:], dtype=torch.float64) * (full["transmittance"] > 0.0101)
    assert (weights > 0).double().mean() > 0.5

    def squared_error(image):
        return (weights * (image - photo) ** 2).sum()

    expected = torch.zeros(case.num_gaussians, dtype=torch.float64)
    for i in range(case.num_gaussians):
        rest = {name: torch.cat([rows[:i], rows[i + 1 :]]) for name, rows in case.inputs.items()}
        expected[i] = squared_error(CPU.rasterize(case, rest).image) - squared_error(full["image"])
    assert (expected < 0).any() and (expected > 0).any() and (expected == 0).any() == (full["radii"] == 0).any()
    if engine.has_double:
        # Worst measured: 2e-13.
        assert relative_error(engine.removal_error(case, photo, weights), expected) < 1e-10
    actual = engine.removal_error(case, photo, weights, torch.float32)
    assert actual.dtype == torch.float32
    assert relative_error(actual.cpu().double(), expected) < 1e-3


def test_a_removal_error_counts_all_pixels_unless_told(engine):
    case = case_of("sh3")
    photo = torch.zeros(3, case.camera.height, case.camera.width)
    everywhere = engine.removal_error(case, photo, torch.ones(photo.shape[1:]), torch.float32)
    assert relative_error(engine.removal_error(case, photo, None, torch.float32), everywhere) < 1e-6
    assert not engine.removal_error(case, photo, torch.zeros(photo.shape[1:]), torch.float32).any()
    with pytest.raises(ValueError, match=r"photo.*\(3, 17, 33\).*\(3, 33, 17\)"):
        engine.removal_error(case, photo.mT, None, torch.float32)


def test_stats_accumulate_the_norm_of_the_absolute_pair(engine):
    """Each backward pass adds |(sum |x|, sum |y|)| and one view to every visible Gaussian, and nothing to others."""
    views = [case_of("sh3", 1), case_of("sh3", 2)]
    num = views[0].num_gaussians
    stats = (torch.zeros(num, device=engine.device), torch.zeros(num, device=engine.device))
    expected_sum, expected_views = torch.zeros(num, dtype=torch.float64), torch.zeros(num, dtype=torch.int64)
    for case in views:
        out = engine.run(case, torch.float32, stats=stats)
        visible = out["radii"] > 0
        expected_sum += torch.where(visible, out["d_screen_means"][:, 2:].norm(dim=1), 0)
        expected_views += visible
    assert torch.equal(stats[1].cpu().long(), expected_views)
    assert 0 < (expected_views > 0).sum() < num
    torch.testing.assert_close(stats[0].cpu().double(), expected_sum, rtol=1e-6, atol=0)


def test_gradients_of_a_whole_render_equal_central_differences(cpu):
    """The chain from loss to each input number and to the camera is the derivative of the forward pass, in double."""
    front = {"seed": 5, "num": 4, "in_front": True}
    for options in (
        {**front, "antialiased": True},
        {**front, "shape": "covariances", "color": "colors"},
        {"seed": 11, "num": 9},  # some are culled
    ):
        case, _ = away_from_decisions(make_case(width=20, height=18, **options), 1e-2)
        analytic = cpu.run(case)

        def loss(inputs, case=case):
            inputs = dict(inputs)
            case = case.but(camera=replace(case.camera, world_to_camera=inputs.pop("world_to_camera")))
            out = cpu.rasterize(case, inputs, inverse_depth=True)
            return sum((getattr(out, name) * weight).sum() for name, weight in case.weights.items()).item()

        given = {**case.inputs, "world_to_camera": case.camera.world_to_camera}
        for name, value in given.items():
            step = 1e-5 * value.abs().max().item()
            numeric = torch.empty_like(value)
            for i in range(value.numel()):
                ends = []
                for sign in (1, -1):
                    moved = value.clone()
                    moved.view(-1)[i] += sign * step
                    ends.append(loss({**given, name: moved}))
                numeric.view(-1)[i] = (ends[0] - ends[1]) / (2 * step)
            # Worst measured: 9e-8 (a step of 1e-5)
            assert relative_error(analytic[f"d_{name}"], numeric) < 1e-6, name
            assert numeric.abs().max() > 0, name


def assert_same_gradient(engine, name: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The same bits on the CPU; on CUDA another kernel computes other outputs, and nvcc may round differently there."""
    if engine.name == "cpu":
        assert torch.equal(actual, expected), name
    else:
        assert relative_error(actual, expected) < 1e-5, name


@pytest.mark.usefixtures("deterministic")
def test_outputs_that_nobody_asked_for_cost_nothing_and_change_nothing(engine):
    """Without inverse depth and screen means the image and the other gradients are the same."""
    case = case_of("sh3").but(weights={"image": case_of("sh3").weights["image"]})
    full = engine.run(case, torch.float32)
    leaves = {name: value.to(engine.device, torch.float32).requires_grad_() for name, value in case.inputs.items()}
    out = engine.rasterize(case, leaves, torch.float32)
    assert out.inverse_depth is None
    (out.image * case.weights["image"].to(out.image)).sum().backward()
    assert torch.equal(out.image.detach().cpu().double(), full["image"])
    for name, leaf in leaves.items():
        assert_same_gradient(engine, name, leaf.grad.cpu().double(), full[f"d_{name}"])


@pytest.mark.usefixtures("deterministic")
def test_opacities_may_be_a_column_or_a_vector(engine):
    """(N, 1) and (N,) opacities give the same image and gradients of their own shape."""
    column = case_of("sh3")
    vector = column.but({"opacities": column.inputs["opacities"][:, 0]})
    a, b = engine.run(column, torch.float32), engine.run(vector, torch.float32)
    assert torch.equal(a["image"], b["image"])
    assert torch.equal(a["d_opacities"][:, 0], b["d_opacities"])


@pytest.mark.parametrize("output", OUTPUTS)
def test_one_output_alone_has_its_own_gradient(cpu, output):
    """A loss of a single output gives that output's gradients; those it does not depend on are zero."""
    case, _ = away_from_decisions(case_of("sh3"), 1e-9)
    case = case.but(weights={output: case.weights[output]})
    expected, actual = run_reference(case), cpu.run(case)
    for gradient in (key for key in expected if key.startswith("d_")):
        assert relative_error(actual[gradient], expected[gradient]) < 1e-8, gradient
    assert actual["d_sh_dc"].any() == (output == "image")


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("only", ["means", "quats", "scales", "opacities", "sh_dc", "sh_rest"])
def test_one_input_alone_gets_the_same_gradient(engine, only):
    """Asking for one gradient gives the same as asking for all, and none to the others."""
    case = case_of("sh3").but(weights={"image": case_of("sh3").weights["image"]})
    inputs = {name: value.to(engine.device, torch.float32) for name, value in case.inputs.items()}
    inputs[only].requires_grad_()
    out = engine.rasterize(case, inputs, torch.float32)
    (out.image * case.weights["image"].to(out.image)).sum().backward()
    expected = engine.run(case, torch.float32)[f"d_{only}"]
    assert_same_gradient(engine, only, inputs[only].grad.cpu().double(), expected)
    assert all(value.grad is None for name, value in inputs.items() if name != only)


@pytest.mark.usefixtures("deterministic")
def test_renders_do_not_share_state(engine):
    """Several renders may be open at once: the gradient of their sum is the sum of their gradients."""
    first, second = case_of("sh3", 1), case_of("67x50", 2)
    leaves = {name: value.to(engine.device, torch.float32).requires_grad_() for name, value in first.inputs.items()}
    second = second.but(first.inputs)
    outs = [engine.rasterize(case, leaves, torch.float32) for case in (first, second)]
    pairs = zip((first, second), outs, strict=True)
    sum((out.image * case.weights["image"].to(out.image)).sum() for case, out in pairs).backward()
    alone = [engine.run(c.but(weights={"image": c.weights["image"]}), torch.float32) for c in (first, second)]
    for name, leaf in leaves.items():
        expected = alone[0][f"d_{name}"] + alone[1][f"d_{name}"]
        assert relative_error(leaf.grad.cpu().double(), expected) < 5e-6, name


def test_rendering_without_gradient_gives_the_same_image(engine):
    case = case_of("sh3")
    inputs = {name: value.to(engine.device, torch.float32) for name, value in case.inputs.items()}
    image = engine.rasterize(case, inputs, torch.float32).image
    assert not image.requires_grad
    assert torch.equal(image.cpu().double(), engine.run(case, torch.float32)["image"])
