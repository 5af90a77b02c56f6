"""The drop-in names: GaussianRasterizer against rasterize(), and a small trainer written the way 3DGS code is."""

import math

import pytest
import torch
from diff_gaussian_rasterization import (
    LIMITS,
    GaussianRasterizationSettings,
    GaussianRasterizer,
    compat,
)
from rasterizer_cases import Case, Engine, make_case, relative_error
from simple_knn._C import distCUDA2
from torch import Tensor, nn

from compact_splats.scene import load_scene
from compact_splats.utils.images import to_uint8
from compact_splats.utils.losses import psnr


def projection(width: int, height: int, fx: float, fy: float, cx: float, cy: float) -> Tensor:
    """(4, 4) from camera to clip coordinates, float64, not transposed; depth from 0.01 to 100."""
    near, far = 0.01, 100.0
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[0, 0], matrix[0, 2] = 2 * fx / width, 2 * cx / width - 1
    matrix[1, 1], matrix[1, 2] = 2 * fy / height, 2 * cy / height - 1
    matrix[2, 2], matrix[2, 3] = far / (far - near), -far * near / (far - near)
    matrix[3, 2] = 1
    return matrix


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
    "no size": (lambda s: {"image_width": 0}, "size"),
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


# A trainer as forks of 3DGS have it.


class FixedCamera:
    """What such code knows of a view."""

    def __init__(self, camera, device: str):
        self.image_width, self.image_height = camera.width, camera.height
        self.FoVx = 2 * math.atan(camera.width / (2 * camera.fx))
        self.FoVy = 2 * math.atan(camera.height / (2 * camera.fy))
        intrinsics = (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
        self.world_view_transform = camera.world_to_camera.transpose(0, 1).to(device)
        self.projection_matrix = projection(*intrinsics).float().transpose(0, 1).to(device)
        self.full_proj_transform = self.world_view_transform @ self.projection_matrix
        self.camera_center = self.world_view_transform.inverse()[3, :3]
        self.original_image = (camera.photo.pixels().float() / 255).to(device)


class Splats:
    """Parameters before activation, and the optimizer."""

    def __init__(self, xyz: Tensor, rgb: Tensor):
        log_scales = torch.sqrt(distCUDA2(xyz).clamp_min(1e-7)).log()[:, None].repeat(1, 3)
        rotations = torch.zeros(len(xyz), 4, device=xyz.device)
        rotations[:, 0] = 1
        features = torch.zeros(len(xyz), 16, 3, device=xyz.device)
        features[:, 0] = (rgb - 0.5) / 0.28209479177387814
        opacities = torch.full((len(xyz), 1), -2.0, device=xyz.device)
        self.set(xyz=xyz, features=features, opacities=opacities, log_scales=log_scales, rotations=rotations)

    def set(self, **tensors: Tensor) -> None:
        rates = {"xyz": 2e-3, "features": 1e-2, "opacities": 5e-2, "log_scales": 1e-2, "rotations": 5e-3}
        self.parameters = {name: nn.Parameter(tensor) for name, tensor in tensors.items()}
        groups = [{"params": [row], "lr": rates[name], "name": name} for name, row in self.parameters.items()]
        self.optimizer = torch.optim.Adam(groups, eps=1e-15)
        self.gradient_sum = torch.zeros(len(self.parameters["xyz"]), 1, device=tensors["xyz"].device)
        self.denominator = torch.zeros_like(self.gradient_sum)


def render(camera: FixedCamera, splats: Splats, background: Tensor, sh_degree: int) -> dict[str, Tensor]:
    rows = splats.parameters
    screenspace_points = torch.zeros_like(rows["xyz"], requires_grad=True, device=rows["xyz"].device) + 0
    if screenspace_points.requires_grad:
        screenspace_points.retain_grad()
    settings = GaussianRasterizationSettings(
        image_height=int(camera.image_height), image_width=int(camera.image_width),
        tanfovx=math.tan(camera.FoVx * 0.5), tanfovy=math.tan(camera.FoVy * 0.5), bg=background, scale_modifier=1.0,
        viewmatrix=camera.world_view_transform, projmatrix=camera.full_proj_transform, sh_degree=sh_degree,
        campos=camera.camera_center, prefiltered=False, debug=False,
    )  # fmt: skip
    rendered_image, radii = GaussianRasterizer(raster_settings=settings)(
        means3D=rows["xyz"], means2D=screenspace_points, shs=rows["features"], colors_precomp=None,
        opacities=torch.sigmoid(rows["opacities"]), scales=torch.exp(rows["log_scales"]),
        rotations=nn.functional.normalize(rows["rotations"]), cov3D_precomp=None,
    )  # fmt: skip
    return {"render": rendered_image, "viewspace_points": screenspace_points, "radii": radii}


def densify(splats: Splats) -> None:
    """Clone the tenth with the largest mean screen-space gradient, and forget the faint."""
    mean_gradient = (splats.gradient_sum / splats.denominator.clamp_min(1)).squeeze(1)
    chosen = mean_gradient >= mean_gradient.quantile(0.9)
    kept = torch.sigmoid(splats.parameters["opacities"]).squeeze(1) > 0.005
    splats.set(**{name: torch.cat([row[kept], row[chosen]]).detach() for name, row in splats.parameters.items()})


def test_a_trainer_in_the_style_of_3dgs_learns_a_scene(engine, tiny_scene_dir):
    """Fits views with retained screen-space gradients, growth and Adam; the PSNR of the views rises clearly."""
    scene = load_scene(tiny_scene_dir, resolution=2)
    cameras = [FixedCamera(camera, engine.device) for camera in scene.train]
    xyz, rgb = (torch.as_tensor(each)[::3].to(engine.device) for each in (scene.points.xyz, scene.points.rgb))
    splats = Splats(xyz.float(), rgb.float() / 255)
    background = torch.zeros(3, device=engine.device)

    def mean_psnr() -> float:
        with torch.no_grad():
            pairs = [(render(c, splats, background, 3)["render"], c.original_image) for c in cameras]
        return sum(psnr(to_uint8(a).float() / 255, b).item() for a, b in pairs) / len(pairs)

    before, num_before = mean_psnr(), len(splats.parameters["xyz"])
    for step in range(1, 121):
        camera = cameras[step % len(cameras)]
        package = render(camera, splats, background, min(3, step // 30))
        (package["render"] - camera.original_image).abs().mean().backward()
        with torch.no_grad():
            visible = package["radii"] > 0
            gradient = package["viewspace_points"].grad
            splats.gradient_sum[visible] += gradient[visible, :2].norm(dim=-1, keepdim=True)
            splats.denominator[visible] += 1
            if step == 60:
                densify(splats)
            else:
                splats.optimizer.step()
                splats.optimizer.zero_grad(set_to_none=True)
    assert len(splats.parameters["xyz"]) > num_before
    assert mean_psnr() > before + 5  # measured: from 15.6 to 22.9 dB
