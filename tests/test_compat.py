"""The names of other 3DGS rasterizers: GaussianRasterizer and SparseGaussianAdam against rasterize() and torch."""

import math

import pytest
import torch
from diff_gaussian_rasterization import (
    LIMITS,
    GaussianRasterizationSettings,
    GaussianRasterizer,
    SparseGaussianAdam,
    TamingResults,
    compat,
)
from rasterizer_cases import Case, Engine, make_case, projection, relative_error, run_reference
from simple_knn._C import distCUDA2
from torch import Tensor, nn


def settings_of(case: Case, **changes) -> GaussianRasterizationSettings:
    """The camera and options of a case, in float64 on the host; without ``antialiasing`` unless among the changes."""
    c = case.camera
    viewmatrix = c.world_to_camera.T
    values = dict(
        image_height=c.height, image_width=c.width, tanfovx=0.5 * c.width / c.fx, tanfovy=0.5 * c.height / c.fy,
        bg=c.background, scale_modifier=1.0, viewmatrix=viewmatrix,
        projmatrix=viewmatrix @ projection(c.width, c.height, c.fx, c.fy, c.cx, c.cy).T,
        sh_degree=case.sh_degree, campos=viewmatrix.inverse()[3, :3], prefiltered=False, debug=False,
    )  # fmt: skip
    return GaussianRasterizationSettings(**{**values, **changes})


def leaves_of(case: Case, engine: Engine) -> dict[str, Tensor]:
    return {k: v.to(engine.device, torch.float32).requires_grad_() for k, v in case.inputs.items()}


def arguments_of(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs of ``rasterize`` by the names of GaussianRasterizer, spherical harmonics in one tensor."""
    names = {"means": "means3D", "opacities": "opacities", "scales": "scales", "quats": "rotations",
             "colors": "colors_precomp", "covariances": "cov3D_precomp"}  # fmt: skip
    result = {names[k]: v for k, v in leaves.items() if k in names}
    if "sh_dc" in leaves:
        result["shs"] = torch.cat([leaves[k] for k in ("sh_dc", "sh_rest") if k in leaves], dim=1)
    return result


def screen_means(num: int, columns: int, engine: Engine) -> Tensor:
    """As 3DGS code makes them: no leaf, but keeping their gradient."""
    means = torch.zeros(num, columns, device=engine.device, requires_grad=True) + 0
    means.retain_grad()
    return means


def assert_close(actual: Tensor, expected: Tensor) -> None:
    # Measured: 0, on the CPU and emulated. On a GPU sums by atomics may differ from one call to the next.
    assert relative_error(actual, expected) <= 1e-4


CASES = [
    ("sh3", "scales", None),
    ("sh3", "scales", True),
    ("sh1", "covariances", False),
    ("sh0", "scales", None),
    ("colors", "scales", False),
    ("colors", "covariances", None),
]


@pytest.mark.parametrize(("color", "shape", "antialiasing"), CASES)
def test_results_and_gradients_are_those_of_rasterize(engine, color, shape, antialiasing):
    """Each choice of colour and shape, the principal point off centre; three results where anti-aliasing is named."""
    case = make_case(21, 40, 33, 22, color=color, shape=shape, antialiased=bool(antialiasing))
    weights = {name: value.float().to(engine.device) for name, value in case.weights.items()}

    leaves = leaves_of(case, engine)
    means2D = screen_means(40, 4, engine)
    settings = settings_of(case, **({} if antialiasing is None else {"antialiasing": antialiasing}))
    results = GaussianRasterizer(raster_settings=settings)(means2D=means2D, **arguments_of(leaves))
    loss = (results[0] * weights["image"]).sum()
    if antialiasing is not None:
        assert results[2].shape == (1, 22, 33)
        loss = loss + (results[2][0] * weights["inverse_depth"]).sum()
    loss.backward()

    plain = leaves_of(case, engine)
    means = torch.zeros(40, 4, device=engine.device, requires_grad=True)
    out = engine.rasterize(case, plain, torch.float32, inverse_depth=antialiasing is not None, screen_means=means)
    loss = (out.image * weights["image"]).sum()
    if antialiasing is not None:
        loss = loss + (out.inverse_depth * weights["inverse_depth"]).sum()
    loss.backward()

    assert len(results) == (2 if antialiasing is None else 3)
    assert torch.equal(results[0], out.image) and torch.equal(results[1], out.radii)
    assert results[1].dtype == torch.int32 and (results[1] > 0).any() and not results[1].requires_grad
    if antialiasing is not None:
        assert torch.equal(results[2][0], out.inverse_depth)
    for name, leaf in leaves.items():
        assert leaf.grad.any(), name
        assert_close(leaf.grad, plain[name].grad)
    assert_close(means2D.grad, means.grad)


def test_screen_means_of_two_three_and_four_columns(engine):
    """The signed pair first, in NDC units; a third column alone gets zero; of four, two are the absolute sums."""
    case = make_case(22, 30, 33, 22)
    gradients = {}
    for columns in (2, 3, 4):
        means2D = screen_means(30, columns, engine)
        rasterizer = GaussianRasterizer(settings_of(case))
        image, _ = rasterizer(means2D=means2D, **arguments_of(leaves_of(case, engine)))
        (image * case.weights["image"].to(image)).sum().backward()
        gradients[columns] = means2D.grad
        assert means2D.grad.shape == (30, columns)
    assert not gradients[3][:, 2].any()
    for columns in (2, 3):
        assert_close(gradients[columns][:, :2], gradients[4][:, :2])
    # The absolute sums bound the signed ones, up to rounding.
    assert (gradients[4][:, 2:] * (1 + 1e-5) >= gradients[4][:, :2].abs()).all() and gradients[4].any()
    image, _ = rasterizer(means2D=None, **arguments_of(leaves_of(case, engine)))
    image.sum().backward()


def test_ndc_units_are_pixels_times_half_the_size(engine):
    """Moving a splat by a px moves its NDC coordinates by 2 / size; on a ramp its light changes by the ramp's slope."""
    case = make_case(23, 1, 40, 30, color="colors", in_front=True, centred=True, identity=True).but(
        {
            "means": torch.tensor([[0.05, -0.1, 2.0]]).double(),
            "scales": torch.full((1, 3), 0.15).double(),
            "opacities": torch.full((1, 1), 0.95).double(),
        }
    )
    means2D = screen_means(1, 2, engine)
    ramp = torch.arange(40, device=engine.device) + 2.0 * torch.arange(30, device=engine.device)[:, None]
    arguments = arguments_of(leaves_of(case, engine))
    black = settings_of(case, bg=torch.zeros(3))
    mass = GaussianRasterizer(black)(means2D=None, **arguments)[0].sum()
    (GaussianRasterizer(black)(means2D=means2D, **arguments)[0] * ramp).sum().backward()
    expected = torch.tensor([[0.5 * 40 * 1.0, 0.5 * 30 * 2.0]], device=engine.device) * mass
    # Worst measured: 2 %: alpha ends at 1/255, and what moves with that edge is no part of a gradient.
    torch.testing.assert_close(means2D.grad, expected, rtol=4e-2, atol=0)


def test_degree_zero_may_come_apart_from_the_rest(engine):
    case = make_case(24, 30, 33, 22)
    leaves = leaves_of(case, engine)
    together = arguments_of(leaves)
    apart = {**together, "shs": leaves["sh_rest"], "dc": leaves["sh_dc"]}
    rasterizer = GaussianRasterizer(settings_of(case))
    assert torch.equal(rasterizer(means2D=None, **together)[0], rasterizer(means2D=None, **apart)[0])
    only_dc = {**apart, "shs": None}
    with pytest.raises(ValueError, match="sh_rest"):
        rasterizer(means2D=None, **only_dc)
    GaussianRasterizer(settings_of(case, sh_degree=0))(means2D=None, **only_dc)


def test_the_degree_in_use_may_be_below_that_of_the_coefficients(engine):
    """What is beyond the degree has zero gradient, and one coefficient is degree zero."""
    case = make_case(25, 30, 33, 22)
    leaves = leaves_of(case, engine)
    shs = arguments_of(leaves)["shs"].detach().requires_grad_()
    arguments = {**arguments_of(leaves), "shs": shs}
    image, _ = GaussianRasterizer(settings_of(case, sh_degree=1))(means2D=None, **arguments)
    image.sum().backward()
    assert shs.grad[:, :4].any() and not shs.grad[:, 4:].any()
    flat = GaussianRasterizer(settings_of(case, sh_degree=0))
    whole, first = (flat(means2D=None, **{**arguments, "shs": each})[0] for each in (shs, shs[:, :1]))
    assert torch.equal(whole, first)


def test_the_scale_modifier_multiplies_scales(engine):
    case = make_case(26, 30, 33, 22)
    leaves = leaves_of(case, engine)
    bigger = {**leaves, "scales": 1.5 * leaves["scales"]}
    a = GaussianRasterizer(settings_of(case, scale_modifier=1.5))(means2D=None, **arguments_of(leaves))
    b = GaussianRasterizer(settings_of(case))(means2D=None, **arguments_of(bigger))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_flags_without_effect_have_none(engine):
    case = make_case(27, 30, 33, 22)
    arguments = arguments_of(leaves_of(case, engine))
    plain = GaussianRasterizer(settings_of(case))(means2D=None, **arguments)
    flags = settings_of(case, prefiltered=True, debug=True, tanfovx=9.0, image_height=22.0)
    assert torch.equal(plain[0], GaussianRasterizer(flags)(means2D=None, **arguments)[0])


def test_the_camera_may_lie_on_the_device(engine):
    """Matrices and background beside the Gaussians give the same bits as on the host."""
    case = make_case(28, 30, 33, 22)
    arguments = arguments_of(leaves_of(case, engine))
    on_host = settings_of(case)
    there = {name: getattr(on_host, name).to(engine.device) for name in ("bg", "viewmatrix", "projmatrix", "campos")}
    a, b = (GaussianRasterizer(s)(means2D=None, **arguments) for s in (on_host, on_host._replace(**there)))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@pytest.mark.parametrize("distance", [3.0, 3e4])
def test_matrices_in_single_precision_are_as_good(engine, distance):
    """float32 matrices, multiplied in float32, recover the intrinsics, and far from the origin, too."""
    case = make_case(29, 1, 640, 360)
    c = case.camera
    viewmatrix = c.world_to_camera.T.clone()
    viewmatrix[3, :3] = distance * torch.tensor([1.0, -2.0, 0.5])
    viewmatrix = viewmatrix.float()
    projmatrix = viewmatrix @ projection(c.width, c.height, c.fx, c.fy, c.cx, c.cy).T.float()
    settings = settings_of(case, viewmatrix=viewmatrix, projmatrix=projmatrix, campos=viewmatrix.inverse()[3, :3])
    view = compat._view(settings, direction_matters=True)
    assert torch.equal(view.world_to_camera.float(), viewmatrix.T)
    for name in ("fx", "fy", "cx", "cy"):
        # Worst measured: 3e-5 px.
        assert getattr(view, name) == pytest.approx(getattr(c, name), abs=1e-3), name


def test_points_land_where_the_projection_matrix_says(engine):
    """A tiny Gaussian lights the pixel that its mean is projected to: ((ndc + 1) size - 1) / 2, off centre as well."""
    width, height = 31, 23
    case = make_case(30, 1, width, height, color="colors")
    for target in ((4, 5), (27, 20), (15, 11)):
        ndc = torch.tensor([(2 * pixel + 1) / size - 1 for pixel, size in zip(target, (width, height), strict=True)])
        settings = settings_of(case, bg=torch.zeros(3))
        clip = torch.tensor([ndc[0] * 2, ndc[1] * 2, 0, 2.0]).double()  # at depth 2, whatever its third entry
        clip[2] = 2 * (100 / 99.99) - 100 * 0.01 / 99.99
        world = torch.linalg.solve(settings.projmatrix.T, clip)
        image, _ = GaussianRasterizer(settings)(
            means3D=(world[:3] / world[3])[None].float().to(engine.device), means2D=None,
            opacities=torch.ones(1, 1, device=engine.device), colors_precomp=torch.ones(1, 3, device=engine.device),
            scales=torch.full((1, 3), 1e-4, device=engine.device),
            rotations=torch.tensor([[1.0, 0, 0, 0]], device=engine.device),
        )  # fmt: skip
        brightest = image[0].argmax().item()
        assert (brightest % width, brightest // width) == target


def test_mark_visible_is_the_near_plane(engine):
    """True where z in camera coordinates exceeds 0.2; every Gaussian with a radius is among these."""
    case = make_case(31, 200, 33, 22)
    means = case.inputs["means"].float().to(engine.device)
    visible = GaussianRasterizer(settings_of(case)).markVisible(means)
    z = (case.inputs["means"] @ case.camera.world_to_camera[:3, :3].T + case.camera.world_to_camera[:3, 3])[:, 2]
    assert visible.dtype == torch.bool and visible.device == means.device
    clear = (z - LIMITS["near"]).abs() > 1e-5
    assert torch.equal(visible.cpu()[clear], (z > 0.2)[clear]) and 0 < visible.sum() < 200
    _, radii = GaussianRasterizer(settings_of(case))(means2D=None, **arguments_of(leaves_of(case, engine)))
    assert not (radii[~visible] > 0).any()


def test_no_gaussians_give_the_background(engine):
    case = make_case(32, 0, 33, 22)
    image, radii, depth = GaussianRasterizer(settings_of(case, antialiasing=False))(
        means2D=screen_means(0, 3, engine), **arguments_of(leaves_of(case, engine))
    )
    assert torch.equal(image.cpu(), case.camera.background.float()[:, None, None].expand(3, 22, 33))
    assert radii.shape == (0,) and not depth.any()
    image.sum().backward()


def without_colors(case: Case, engine: Engine) -> dict[str, Tensor]:
    names = ("means3D", "opacities", "scales", "rotations", "cov3D_precomp")
    return {k: v for k, v in arguments_of(leaves_of(case, engine)).items() if k in names}


def edges(case: Case) -> Tensor:
    """(H, W) weights of pixels, many of them 0."""
    weights = torch.rand(case.camera.height, case.camera.width, generator=torch.Generator().manual_seed(3))
    return torch.where(weights < 0.4, 0, weights)


def test_pixel_weights_choose_the_13_results_of_taming_3dgs(engine):
    """Sums against the torch reference; means and depths against the projection; only the image has a gradient."""
    case = make_case(40, 40, 33, 22, antialiased=True)
    weights = edges(case)
    expected = run_reference(case, weights.double())
    arguments = arguments_of(leaves_of(case, engine))
    settings = settings_of(case, antialiasing=True, pixel_weights=weights.to(engine.device))
    results = GaussianRasterizer(settings)(means2D=screen_means(40, 4, engine), **arguments)
    plain = GaussianRasterizer(settings_of(case, antialiasing=True))(means2D=None, **arguments)
    assert len(results) == 13 and torch.equal(results[0], plain[0]) and torch.equal(results[1], plain[1])
    assert [i for i, each in enumerate(results) if each is None] == [2, 3, 4, 5]
    assert results[0].requires_grad and not any(each.requires_grad for each in results[6:])
    for i, name in ((9, "weighted"), (11, "total"), (12, "distance")):
        assert relative_error(results[i].cpu(), expected[name]) < 2e-5, name  # worst measured: 1e-6
    assert torch.equal(results[10].cpu().long(), expected["num_pixels"]) and results[10].dtype == torch.int32
    c, visible = case.camera, results[1].cpu() > 0
    in_camera = case.inputs["means"] @ c.world_to_camera[:3, :3].T + c.world_to_camera[:3, 3]
    x, y, z = in_camera.unbind(1)
    means_px = torch.stack([c.fx * x / z + c.cx - 0.5, c.fy * y / z + c.cy - 0.5], 1)  # top-left centre at 0
    torch.testing.assert_close(results[6].cpu().double()[visible], means_px[visible], rtol=1e-4, atol=1e-3)
    assert visible.any() and not results[6].cpu()[~visible].any()
    torch.testing.assert_close(results[7].cpu().double(), z, rtol=1e-5, atol=1e-5)
    assert torch.equal(results[8], results[1].float())


def test_without_weights_the_13_results_are_an_image_and_radii(engine):
    case = make_case(41, 30, 33, 22)
    arguments = arguments_of(leaves_of(case, engine))
    results = GaussianRasterizer(settings_of(case, pixel_weights=None))(means2D=None, **arguments)
    image, radii = GaussianRasterizer(settings_of(case))(means2D=None, **arguments)
    assert isinstance(results, TamingResults) and len(results) == 13
    assert torch.equal(results.rendered_image, image) and torch.equal(results.radii, radii)
    assert all(each is None for each in results[2:])


@pytest.mark.parametrize("shape", ["scales", "covariances"])
def test_importance_from_settings_is_that_of_the_engine(engine, shape):
    """Also with a modified scale, weights of another shape, dtype or device, and spherical harmonics left out."""
    case = make_case(42, 30, 33, 22, shape=shape, antialiased=True)
    weights = edges(case)
    expected = engine.importance(case, weights, torch.float32)
    rasterizer = GaussianRasterizer(settings_of(case, antialiasing=True))
    for given in (weights, weights[None].to(engine.device), weights.double().reshape(-1)):
        actual = rasterizer.importance(given, **without_colors(case, engine))
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b) or relative_error(a, b) < 1e-6
    if shape == "scales":
        half = without_colors(case, engine)
        half["scales"] = half["scales"] / 2
        twice = GaussianRasterizer(settings_of(case, antialiasing=True, scale_modifier=2.0))
        assert torch.equal(twice.importance(weights, **half).num_pixels, expected.num_pixels)


def test_a_metric_map_counts_its_pixels(engine):
    """The third result as FastGS calls it: contributing pixels that are not 0 in the map; None without get_flag."""
    case = make_case(43, 30, 33, 22)
    wanted = (edges(case) > 0.7).int()
    arguments = arguments_of(leaves_of(case, engine))
    settings = settings_of(case, get_flag=True, metric_map=wanted, mult=0.5)
    image, radii, counts = GaussianRasterizer(settings)(means2D=None, **arguments)
    plain = GaussianRasterizer(settings_of(case))(means2D=None, **arguments)
    assert torch.equal(image, plain[0]) and torch.equal(radii, plain[1])
    assert torch.equal(counts.cpu().long(), run_reference(case, wanted.double())["num_weighted"]) and counts.any()
    everything = settings._replace(metric_map=torch.ones(22 * 33))
    assert (GaussianRasterizer(everything)(means2D=None, **arguments)[2] >= counts).all()
    assert GaussianRasterizer(settings._replace(get_flag=False))(means2D=None, **arguments)[2] is None


def test_settings_by_position_are_those_by_name(engine):
    """In the order of the original: height, width, ..., debug, antialiasing."""
    case = make_case(44, 30, 33, 22)
    named = settings_of(case, antialiasing=False)
    s = named._asdict()
    by_position = GaussianRasterizationSettings(
        22, 33, s["tanfovx"], s["tanfovy"], s["bg"], 1.0, s["viewmatrix"], s["projmatrix"], case.sh_degree, s["campos"],
        False, False, False,
    )  # fmt: skip
    arguments = arguments_of(leaves_of(case, engine))
    a, b = (GaussianRasterizer(each)(means2D=None, **arguments) for each in (named, by_position))
    assert len(a) == len(b) == 3 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_other_degrees_may_be_no_coefficients(engine):
    """As trainers without view-dependent colour pass them: shs (N, 0, 3) beside dc."""
    case = make_case(45, 30, 33, 22, color="sh0")
    leaves = leaves_of(case, engine)
    arguments = {k: v for k, v in arguments_of(leaves).items() if k != "shs"}
    rasterizer = GaussianRasterizer(settings_of(case))
    apart = rasterizer(means2D=None, dc=leaves["sh_dc"], shs=leaves["sh_dc"][:, :0], **arguments)
    assert torch.equal(apart[0], rasterizer(means2D=None, shs=leaves["sh_dc"], **arguments)[0])


@pytest.mark.parametrize("as_radii", [False, True])
def test_sparse_adam_is_adam_of_the_visible_rows(engine, as_radii):
    """Against Adam written down in double: other rows and their moments stay as they are, to the bit."""
    g = torch.Generator().manual_seed(0)
    shapes = {"xyz": (50, 3), "dc": (50, 1, 3), "opacity": (50, 1)}
    wanted = {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    rows = {name: nn.Parameter(value.float().to(engine.device)) for name, value in wanted.items()}
    moments = {name: (torch.zeros(shape).double(), torch.zeros(shape).double()) for name, shape in shapes.items()}
    groups = [{"params": [row], "lr": 0.01 * i, "name": name} for i, (name, row) in enumerate(rows.items(), 1)]
    optimizer = SparseGaussianAdam(groups, lr=0.0, eps=1e-15)
    for step in range(1, 8):
        visible = torch.rand(50, generator=g) < 0.5
        before = {name: row.detach().clone() for name, row in rows.items()}
        for i, (name, row) in enumerate(rows.items(), 1):
            gradient = torch.randn(row.shape, generator=g)
            row.grad = gradient.to(engine.device)
            first, second = moments[name]
            first[visible] = 0.9 * first[visible] + 0.1 * gradient[visible].double()
            second[visible] = 0.999 * second[visible] + 0.001 * gradient[visible].double() ** 2
            mean, root = first / (1 - 0.9**step), (second / (1 - 0.999**step)).sqrt()
            wanted[name][visible] -= (0.01 * i * mean / (root + 1e-15))[visible]
        seen = visible.to(engine.device)
        optimizer.step(7 * seen.int() if as_radii else seen, 50)
        for name, row in rows.items():
            assert torch.equal(row[~seen], before[name][~seen])
            assert relative_error(row.detach().cpu(), wanted[name]) < 1e-6  # worst measured: 8e-8
    assert all(len(optimizer.state[row]["exp_avg"]) == 50 for row in rows.values())


def test_sparse_adam_refuses_other_numbers_of_rows():
    row = nn.Parameter(torch.zeros(4, 3))
    row.grad = torch.ones(4, 3)
    optimizer = SparseGaussianAdam([{"params": [row], "lr": 0.1}], lr=0.0, eps=1e-15)
    for visible, num, words in ((torch.ones(4), 5, "visibility"), (torch.ones(5, dtype=torch.bool), 5, "visible")):
        with pytest.raises(ValueError, match=words):
            optimizer.step(visible, num)
    assert not row.any()


# (what changes in the call, words of the message)
WRONG_CALLS = [
    (lambda a: a | {"colors_precomp": torch.rand(20, 3)}, "colours: expected either shs or colors_precomp"),
    (lambda a: a | {"shs": None}, "colours: expected either shs or colors_precomp"),
    (lambda a: a | {"cov3D_precomp": torch.rand(20, 6)}, "shapes: expected either scales and rotations"),
    (lambda a: a | {"scales": None}, "shapes: expected either scales and rotations"),
    (lambda a: a | {"scales": None, "rotations": None}, "shapes: expected either scales and rotations"),
    (lambda a: a | {"shs": torch.rand(20, 48)}, r"shs: expected shape \(N, K, 3\)"),
    (lambda a: a | {"means2D": torch.zeros(20, 5)}, r"means2D: .*\(20, 5\)"),
    (lambda a: a | {"means2D": torch.zeros(19, 4)}, r"\(20, 4\).*\(19, 4\)"),
    (lambda a: a | {"opacities": torch.zeros(19, 1)}, "opacities.*20.*19"),
]


@pytest.mark.parametrize(("change", "words"), WRONG_CALLS, ids=[str(i) for i in range(len(WRONG_CALLS))])
def test_a_wrong_call_is_named(change, words):
    case = make_case(33, 20, 33, 22)
    arguments = {"means2D": None} | arguments_of({k: v.float() for k, v in case.inputs.items()})
    with pytest.raises(ValueError, match=words) as error:
        GaussianRasterizer(settings_of(case))(**change(arguments))
    assert "\n" not in str(error.value)


def transposed(settings: GaussianRasterizationSettings) -> dict[str, Tensor]:
    return {"viewmatrix": settings.viewmatrix.T, "projmatrix": settings.projmatrix.T}


WRONG_CAMERAS = {
    "not transposed": (transposed, "viewmatrix: expected the transpose"),
    "not rigid": (lambda s: {"viewmatrix": 2 * s.viewmatrix}, "viewmatrix: expected"),
    "not a number": (lambda s: {"viewmatrix": math.nan * s.viewmatrix}, "viewmatrix: expected"),
    "projection alone": (lambda s: {"projmatrix": s.viewmatrix.inverse() @ s.projmatrix}, "projmatrix: expected"),
    "of another camera": (lambda s: {"projmatrix": s.projmatrix.flip(0)}, "projmatrix: expected"),
    "zero": (lambda s: {"projmatrix": 0 * s.projmatrix}, "projmatrix: expected"),
    "centre elsewhere": (lambda s: {"campos": s.campos + 0.5}, "campos: expected"),
    "shape": (lambda s: {"viewmatrix": s.viewmatrix[:3]}, r"viewmatrix: expected shape \(4, 4\), got \(3, 4\)"),
    "background": (lambda s: {"bg": torch.zeros(1)}, r"bg: expected shape \(3,\), got \(1,\)"),
    "background as a list": (lambda s: {"bg": [0, 0, 0]}, r"bg: expected shape \(3,\), got list"),
    "no size": (lambda s: {"image_width": 0}, "size"),
    "weights": (lambda s: {"pixel_weights": torch.zeros(33, 22)}, r"pixel_weights: .*\(22, 33\) or .*, got \(33, 22\)"),
    "weights True": (lambda s: {"pixel_weights": True}, r"pixel_weights: .*got bool"),
    "no map": (lambda s: {"get_flag": True}, r"metric_map: .*got NoneType"),
}


@pytest.mark.parametrize("name", WRONG_CAMERAS)
def test_a_wrong_camera_is_named(name):
    change, words = WRONG_CAMERAS[name]
    case = make_case(34, 20, 33, 22)
    settings = settings_of(case)
    arguments = arguments_of({k: v.float() for k, v in case.inputs.items()})
    with pytest.raises(ValueError, match=words) as error:
        GaussianRasterizer(settings._replace(**change(settings)))(means2D=None, **arguments)
    assert "\n" not in str(error.value)


def test_a_camera_is_fetched_once_and_again_after_it_was_written_to(monkeypatch):
    """Host tensors stand for those on a GPU. One transfer for a camera, none for the next picture of it."""
    fetches = []
    fetch = compat._fetch
    monkeypatch.setattr(compat, "_is_on_host", lambda tensor: False)
    monkeypatch.setattr(compat, "_fetch", lambda tensors: (fetches.append(len(tensors)), fetch(tensors))[1])
    host = compat._HostCopies()
    a, b, background = torch.rand(4, 4), torch.rand(4, 4), torch.rand(3)

    def read(*tensors: Tensor) -> int:
        """Read tensors, check them, and tell how many were fetched."""
        fetches.clear()
        for copy, tensor in zip(host.of(list(tensors)), tensors, strict=True):
            assert torch.equal(torch.from_numpy(copy), tensor.detach().double())
        assert len(fetches) == 1
        return fetches[0]

    assert read(a, b, background) == 3
    assert read(a, b, background) == 0
    assert read(a, a.clone(), background) == 1  # equal values are another tensor
    a[0, 3] = 7
    assert read(a, b, background) == 1
    with torch.inference_mode():
        unversioned = torch.rand(4, 4)
    assert read(unversioned) == 1 and read(unversioned) == 1
    assert read(nn.Parameter(b)) == 1
    remembered = len(host._known)
    del b
    assert len(host._known) == remembered - 1  # the others of the test died before


def test_dist_cuda2_is_the_mean_squared_distance_on_the_device_of_the_points(engine):
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).to(engine.device)
    squared = torch.cdist(points.double(), points.double()).square().fill_diagonal_(math.inf)
    result = distCUDA2(points)
    assert result.device == points.device and result.dtype == torch.float32
    # Worst measured: 1e-7 relative.
    torch.testing.assert_close(result.double(), squared.sort(dim=1).values[:, :3].mean(dim=1), rtol=1e-6, atol=0)
