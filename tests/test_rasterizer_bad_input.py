"""Poison values must not crash the rasterizer or leak to healthy Gaussians; wrong arguments must be named."""

import math
from dataclasses import replace

import pytest
import torch
from diff_gaussian_rasterization import View, rasterize
from rasterizer_cases import CUDA_ENGINES, OUTPUTS, Case, make_case, relative_error
from torch.utils._pytree import tree_map_only


def assert_finite(result: dict) -> None:
    for name, value in result.items():
        assert torch.isfinite(value).all(), name


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", ["scales", "covariances"])
@pytest.mark.parametrize("color", ["sh3", "colors"])
def test_a_gaussian_with_a_non_finite_number_is_culled(engine, bad, shape, color):
    """It has no radius and no gradient, and the others render as if it were not there."""
    healthy = make_case(11, 30, 35, 20, shape=shape, color=color)
    for dtype in engine.dtypes:
        expected = engine.run(healthy, dtype)
        for name in healthy.inputs:
            row = 7
            poisoned = {}
            for other, rows in healthy.inputs.items():
                extra = rows[:1].clone()
                if other == name:
                    extra.view(-1)[extra.numel() // 2] = bad
                poisoned[other] = torch.cat([rows[:row], extra, rows[row:]])
            actual = engine.run(healthy.but(poisoned), dtype)
            for output in OUTPUTS:
                assert torch.equal(actual[output], expected[output]), f"{output} with {bad} in {name}"
            assert actual["radii"][row] == 0, name
            poses = actual.pop("d_world_to_camera"), expected["d_world_to_camera"]
            assert relative_error(*poses) < 1e-5, f"pose with {bad} in {name}"  # a sum over all Gaussians
            for gradient in (key for key in actual if key.startswith("d_")):
                rest = torch.cat([actual[gradient][:row], actual[gradient][row + 1 :]])
                assert torch.equal(rest, expected[gradient]), f"{gradient} with {bad} in {name}"
                assert not actual[gradient][row].any(), f"{gradient} of the culled, with {bad} in {name}"


EXTREMES = {
    "zero quaternion": {"quats": 0.0},
    "tiny quaternion": {"quats": 1e-30},
    "huge quaternion": {"quats": 1e30},
    "zero scales": {"scales": 0.0},
    "tiny scales": {"scales": 1e-30},
    "huge scales": {"scales": 1e6},
    "scales beyond float's squares": {"scales": 1e25},
    "negative scales": {"scales": -0.1},
    "zero opacity": {"opacities": 0.0},
    "opacity one": {"opacities": 1.0},
    "opacity exactly 1/255": {"opacities": 1 / 255},
    "negative opacity": {"opacities": -0.5},
    "opacity above one": {"opacities": 7.0},
    "far away": {"means": 1e20},
    "huge colours": {"sh_dc": 1e30},
}


@pytest.mark.parametrize("antialiased", [False, True], ids=["plain", "antialiased"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_values_leave_everything_finite(engine, name, antialiased):
    """Finite but absurd values on half of the Gaussians give finite outputs and gradients."""
    case = make_case(12, 30, 35, 20, antialiased=antialiased)
    ((key, value),) = EXTREMES[name].items()
    rows = case.inputs[key].clone()
    rows[::2] = value
    for dtype in engine.dtypes:
        result = engine.run(case.but({key: rows}), dtype)
        if name == "huge colours":  # float's largest number is not far: the outputs besides colour must stay sound
            result = {k: result[k] for k in ("transmittance", "inverse_depth", "d_sh_dc", "d_sh_rest")}
        assert_finite(result)


@pytest.mark.parametrize("antialiased", [False, True], ids=["plain", "antialiased"])
def test_needles_and_pancakes_leave_everything_finite(engine, antialiased):
    """Axis ratios of 1e8 with one axis huge give finite outputs and gradients."""
    case = make_case(13, 40, 35, 20, antialiased=antialiased)
    scales = case.inputs["scales"].clone()
    scales[0::3] = torch.tensor([1e2, 1e-6, 1e-6]).double()
    scales[1::3] = torch.tensor([1e2, 1e2, 1e-6]).double()
    for dtype in engine.dtypes:
        assert_finite(engine.run(case.but({"scales": scales}), dtype))


def test_needles_from_far_outside_do_not_make_light(engine):
    """Where a needle ends in the image and its mean lies 1000 to 100,000 units away, the exponent of alpha is all
    rounding; transmittance stays between 0 and 1.
    """
    num, g = 300, torch.Generator().manual_seed(350)
    case = make_case(0, num, 20, 16, color="colors", identity=True, centred=True)
    camera = replace(case.camera, fx=50.0, fy=50.0)
    angle, length = 6.283 * torch.rand(num, generator=g), 10 ** (3 + 2 * torch.rand(num, generator=g))
    z, thin, none = 0.3 + 3 * torch.rand(num, generator=g), torch.full((num,), 1e-3), torch.zeros(num)
    needles = {
        "means": torch.stack([length * angle.cos(), length * angle.sin(), z], 1),
        "quats": torch.stack([(angle / 2).cos(), none, none, (angle / 2).sin()], 1),
        "scales": torch.stack([length, thin, thin], 1),
        "opacities": torch.full((num, 1), 0.01),
    }
    for dtype in engine.dtypes:
        out = engine.run(case.but({name: rows.double() for name, rows in needles.items()}, camera=camera), dtype)
        assert ((out["transmittance"] >= 0) & (out["transmittance"] <= 1)).all()
        assert_finite(out)


def test_opacity_of_exactly_one_255th_touches_at_most_its_centre(engine):
    """Alpha reaches 1/255 only where the pixel is the mean; there it may count, elsewhere it must not."""
    case = on_axis_case(5.0).but({"opacities": torch.full((1, 1), 1 / 255, dtype=torch.float64)})
    for dtype in engine.dtypes:
        out = engine.run(case, dtype)
        changed = (out["image"] != case.camera.background[:, None, None].to(dtype).double()).any(0)
        assert changed.sum() <= 1
        assert not changed.any() or changed[4, 4]
        assert_finite(out)


def on_axis_case(depth: float) -> Case:
    """One Gaussian on the optical axis, its mean in the centre of pixel (4, 4) of a 9 x 9 image."""
    case = make_case(14, 1, 9, 9, identity=True, centred=True, color="colors")
    return case.but({
        "means": torch.tensor([[0.0, 0.0, depth]], dtype=torch.float64),
        "scales": torch.full((1, 3), 0.1 * depth, dtype=torch.float64),
        "opacities": torch.full((1, 1), 0.8, dtype=torch.float64),
    })  # fmt: skip


def test_the_near_plane_belongs_to_the_culled_side(engine):
    """A Gaussian at z = 0.2 exactly is not drawn; a little further it is."""
    for dtype in engine.dtypes:
        near = torch.tensor(0.2, dtype=dtype)
        at, beyond = float(near), float(torch.nextafter(near, torch.ones_like(near)))
        assert engine.run(on_axis_case(at), dtype)["radii"][0] == 0
        assert engine.run(on_axis_case(beyond), dtype)["radii"][0] > 0


@pytest.mark.parametrize("num", [0, 20])
def test_nothing_to_see_is_the_background(engine, num):
    """No Gaussians at all, or all behind the camera: background, full transmittance, zero gradients."""
    case = make_case(15, num, 19, 21, identity=True)
    behind = case.inputs["means"].clone()
    behind[:, 2] = -behind[:, 2].abs() - 0.1
    for dtype in engine.dtypes:
        out = engine.run(case.but({"means": behind}), dtype)
        assert torch.equal(out["image"], case.camera.background[:, None, None].expand(3, 21, 19))
        assert (out["transmittance"] == 1).all() and (out["inverse_depth"] == 0).all()
        assert out["radii"].shape == (num,) and not out["radii"].any()
        for name, value in out.items():
            if name.startswith("d_"):
                assert value.shape[0] == (4 if name == "d_world_to_camera" else num) and not value.any(), name
        scores = engine.importance(case.but({"means": behind}), torch.ones(21, 19), dtype)
        assert scores.weighted.shape == (num,) and not scores.weighted.any() and not scores.num_pixels.any()
        assert not scores.num_gaussians.any()


@pytest.mark.parametrize("name", ["log_scales", "opacity_logits"])
@pytest.mark.parametrize("value", [100.0, -100.0, 1e4, -1e4, 50.0, 12.0, -50.0, math.inf, -math.inf, math.nan])
def test_saturated_activations_are_those_of_torch(engine, name, value):
    """The same Gaussians are visible, with the same gradients; where torch has 0 times infinity, they are zero."""
    case = make_case(19, 30, 24, 18, in_front=True, activated=False)
    raw = case.inputs[name].clone()
    raw[::3] = value
    case = case.but({name: raw})
    for dtype in engine.dtypes:
        actual = engine.run(case, dtype)
        leaf = raw.to(dtype).requires_grad_()
        plain, activated = ("scales", leaf.exp()) if name == "log_scales" else ("opacities", leaf.sigmoid())
        inputs = {key: values for key, values in case.inputs.items() if key != name} | {plain: activated.detach()}
        expected = engine.run(replace(case, inputs=inputs), dtype)
        (gradient,) = torch.autograd.grad(activated, leaf, expected[f"d_{plain}"].to(dtype))
        assert torch.equal(actual["radii"] > 0, expected["radii"] > 0)
        assert relative_error(actual["image"], expected["image"]) < 1e-4
        assert relative_error(actual[f"d_{name}"], gradient.double().nan_to_num(0, 0, 0)) < 1e-3
        if name == "opacity_logits" and not abs(value) < 100:
            assert not actual[f"d_{name}"][::3].any()


def test_a_thousand_gaussians_at_one_place(engine):
    """Equal depths are blended in the order of the input, and the result is finite."""
    case = make_case(16, 1, 20, 20, in_front=True, color="colors")
    pile = {name: value.expand(1000, *value.shape[1:]).contiguous() for name, value in case.inputs.items()}
    for dtype in engine.dtypes:
        assert_finite(engine.run(case.but(pile), dtype))


# (argument, what it becomes, words that the message must hold)
WRONG = [
    ("means", lambda t: t[:, :2], ["means", "3", "(20, 2)"]),
    ("means", lambda t: t[None], ["means", "(1, 20, 3)"]),
    ("means", lambda t: t.half(), ["means", "float16"]),
    ("means", lambda t: t.long(), ["means", "int64"]),
    ("quats", lambda t: t[:, :3], ["quats", "4", "(20, 3)"]),
    ("quats", lambda t: t[:7], ["quats", "20", "(7, 4)"]),
    ("scales", lambda t: t[:, :1], ["scales", "3", "(20, 1)"]),
    ("scales", lambda t: t.double(), ["scales", "float32", "float64"]),
    ("opacities", lambda t: t[:-1], ["opacities", "20", "19"]),
    ("opacities", lambda t: t.expand(-1, 2), ["opacities", "(20, 2)"]),
    ("sh_dc", lambda t: t[:, 0], ["sh_dc", "(20, 3)"]),
    ("sh_dc", lambda t: None, ["sh_dc"]),
    ("sh_rest", lambda t: t[:, :4], ["sh_rest", "15", "4"]),
    ("sh_rest", lambda t: None, ["sh_rest"]),
    ("sh_rest", lambda t: t[:3], ["sh_rest", "20", "3"]),
    ("sh_degree", lambda t: 4, ["sh_degree", "3", "4"]),
    ("sh_degree", lambda t: -1, ["sh_degree", "-1"]),
    ("colors", lambda t: torch.rand(20, 3), ["colors", "sh_dc"]),
    ("covariances", lambda t: torch.rand(20, 6), ["covariances", "scales"]),
    ("log_scales", lambda t: torch.rand(20, 3), ["scales or log_scales"]),
    ("opacity_logits", lambda t: torch.rand(20, 1), ["opacities or opacity_logits", "both"]),
    ("opacities", lambda t: None, ["opacities or opacity_logits", "neither"]),
    ("screen_means", lambda t: torch.zeros(20, 2), ["screen_means", "4", "(20, 2)"]),
    ("stats", lambda t: (torch.zeros(19), torch.zeros(20)), ["abs_grad_sum", "20", "19"]),
    ("stats", lambda t: (torch.zeros(20), torch.zeros(20, dtype=torch.int32)), ["views", "float32", "int32"]),
    ("threads", lambda t: -1, ["threads", "-1"]),
    ("width", lambda t: 0, ["size", "0 x 21"]),
    ("height", lambda t: -5, ["size", "19 x -5"]),
    ("fx", lambda t: 0.0, ["fx", "0"]),
    ("fy", lambda t: math.nan, ["fy", "nan"]),
    ("world_to_camera", lambda t: torch.eye(3), ["world_to_camera", "(4, 4)", "(3, 3)"]),
    ("background", lambda t: torch.zeros(4), ["background", "3", "4"]),
]


@pytest.mark.parametrize(("name", "change", "words"), WRONG, ids=[f"{w[0]}-{i}" for i, w in enumerate(WRONG)])
def test_a_wrong_argument_is_named_with_what_was_expected_and_found(engine, name, change, words):
    """The ValueError's one line holds the argument's name, the expected and the actual shape or dtype."""
    case = make_case(17, 20, 19, 21)
    to = {"device": engine.device, "dtype": torch.float32}
    arguments = {key: value.to(**to) for key, value in case.inputs.items()} | {"sh_degree": 3}
    camera = dict(vars(case.camera)) | {
        "world_to_camera": case.camera.world_to_camera.to(**to),
        "background": case.camera.background.to(**to),
    }
    if name in camera:
        camera[name] = change(camera[name])
    else:
        changed = change(arguments.get(name))
        arguments[name] = tree_map_only(torch.Tensor, lambda t: t.to(engine.device), changed)
    with pytest.raises(ValueError) as error:
        rasterize(View(**camera), **arguments)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


@pytest.mark.parametrize("engine", CUDA_ENGINES, indirect=True)
def test_cuda_takes_float_only_and_says_so(engine):
    case = make_case(17, 20, 19, 21)
    with pytest.raises(ValueError, match="means: expected dtype float32, got float64"):
        engine.run(case, torch.float64)
    with pytest.raises(ValueError, match="means: expected dtype float32, got float64"):
        engine.importance(case, torch.ones(21, 19), torch.float64)
    engine.run(case, torch.float32)  # and goes on


def test_wrong_pixel_weights_are_named(engine):
    case = make_case(17, 20, 19, 21)
    with pytest.raises(ValueError, match=r"pixel_weights.*\(21, 19\).*\(19, 21\)"):
        engine.importance(case, torch.ones(19, 21), torch.float32)


def test_a_tensor_on_another_device_is_named(engine):
    """Meta tensors stand for any other device."""
    case = make_case(17, 20, 19, 21)
    inputs = {name: value.to(engine.device, torch.float32) for name, value in case.inputs.items()}
    with pytest.raises(ValueError, match="scales.*meta"):
        engine.rasterize(case, {**inputs, "scales": inputs["scales"].to("meta")}, torch.float32)
    with pytest.raises(ValueError, match="means.*meta"):
        engine.rasterize(case, {name: value.to("meta") for name, value in inputs.items()}, torch.float32)


def test_non_contiguous_inputs_are_as_good_as_contiguous_ones(engine):
    """Strided views give the same bits."""
    case = make_case(18, 30, 24, 18)
    strided = {}
    for name, value in case.inputs.items():
        wide = torch.zeros(*value.shape[:-1], 2 * value.shape[-1], device=engine.device)
        wide[..., ::2] = value
        strided[name] = wide[..., ::2]
        assert not strided[name].is_contiguous() or value.shape[-1] == 1
    plain = {name: value.float().to(engine.device) for name, value in case.inputs.items()}
    a, b = (engine.rasterize(case, inputs, torch.float32).image for inputs in (plain, strided))
    assert torch.equal(a, b)
