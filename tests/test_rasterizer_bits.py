"""What must not change the result at all: reruns, threads, the order of Gaussians, the frame of the world."""

from dataclasses import replace

import pytest
import torch
import torch_reference as reference
import usable_processors
from diff_gaussian_rasterization import RenderPass, photometric_loss
from diff_gaussian_rasterization.optimizer import Adam
from rasterizer_cases import CPU, OUTPUTS, Case, make_case, random_rotation, relative_error


@pytest.fixture(scope="module")
def crowd() -> Case:
    """Enough Gaussians and tiles to keep eight threads busy."""
    return make_case(3, 3000, 150, 99, size=0.5)


def assert_same_bits(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), f"{name}: {(a[name] != b[name]).sum().item()} of {a[name].numel()} differ"


@pytest.mark.usefixtures("deterministic")
def test_reruns_give_the_same_bits(engine, crowd):
    """Outputs, all gradients and the statistics of two runs on the same input are equal bit for bit."""

    def everything() -> dict:
        on = {"device": engine.device}
        stats = (torch.zeros(crowd.num_gaussians, **on), torch.zeros(crowd.num_gaussians, **on))
        return engine.run(crowd, torch.float32, stats=stats) | {"abs_grad_sum": stats[0], "views": stats[1]}

    first = everything()
    for _ in range(3):
        assert_same_bits(everything(), first)


def test_reruns_give_the_same_pictures_without_asking(engine, crowd):
    """Pictures are always the same bits; gradients and importance, which a GPU adds up in any order, to rounding."""
    weights = torch.rand(99, 150, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, scores = engine.run(crowd, torch.float32), engine.importance(crowd, weights, torch.float32)
    for _ in range(3):
        again = engine.run(crowd, torch.float32)
        assert_same_bits({k: again[k] for k in (*OUTPUTS, "radii")}, {k: first[k] for k in (*OUTPUTS, "radii")})
        for name in (key for key in first if key.startswith("d_")):
            assert relative_error(again[name], first[name]) < 1e-4, name
        for name, values in engine.importance(crowd, weights, torch.float32)._asdict().items():
            assert relative_error(values.double(), getattr(scores, name).double()) < 1e-5, name


def test_importance_has_the_same_bits_where_they_are_asked_for(engine, crowd, deterministic):
    """And so have removal errors."""
    weights = torch.rand(99, 150, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def everything() -> dict:
        errors = engine.removal_error(crowd, weights.expand(3, -1, -1), weights, torch.float32)
        return engine.importance(crowd, weights, torch.float32)._asdict() | {"removal_error": errors}

    first = everything()
    for _ in range(3):
        assert_same_bits(everything(), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
def test_threads_do_not_change_a_bit(crowd, dtype):
    """Outputs, gradients, importance and removal errors are the same bits on 1, 2, 3 and 8 threads."""
    engine = CPU
    weights = torch.rand(99, 150, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def everything(threads: int) -> dict:
        stats = (torch.zeros(crowd.num_gaussians), torch.zeros(crowd.num_gaussians))
        out = engine.run(crowd, dtype, threads=threads, stats=stats)
        scores = engine.importance(crowd, weights, dtype, threads=threads)
        errors = engine.removal_error(crowd, weights.expand(3, -1, -1), weights, dtype, threads=threads)
        return out | {"abs_grad_sum": stats[0], "views": stats[1], "removal_error": errors} | scores._asdict()

    alone = everything(1)
    for threads in (2, 3, 8, 0):
        assert_same_bits(everything(threads), alone)


def test_without_a_number_of_threads_as_many_as_torch_are_used(monkeypatch):
    """Every function of the package, and GaussianRasterizer through ``rasterize``."""
    monkeypatch.setattr(usable_processors, "num_processors", lambda: 4)
    used = []

    class Recorder:
        def __getattr__(self, name: str):
            function = getattr(CPU.module, name)
            if name not in ("forward", "importance", "photometric_loss", "adam"):
                return function
            return lambda *args, **options: (used.append((name, options["threads"])), function(*args, **options))[1]

    case, before = make_case(0), torch.get_num_threads()
    rows = {name: value.clone().requires_grad_() for name, value in case.inputs.items()}
    row = torch.nn.Parameter(torch.ones(3))
    row.grad = torch.ones(3)
    torch.set_num_threads(3)
    try:
        with replace(CPU, module=Recorder()).active() as engine:
            drawn = engine.rasterize(case, rows, torch.float64)
            engine.importance(case, drawn.transmittance.detach())
            photometric_loss(drawn.image, torch.zeros_like(drawn.image))
            Adam([row]).step()
            engine.rasterize(case, rows, torch.float64, threads=2)
    finally:
        torch.set_num_threads(before)
    assert used == [("forward", 3), ("importance", 3), ("photometric_loss", 3), ("adam", 3), ("forward", 2)]


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(("frozen", "further"), [((), False), (("quats", "sh_rest"), True)])
def test_a_pass_without_autograd_gives_the_bits_of_autograd(engine, frozen, further):
    """Image, loss, gradients, sums, statistics, with a mask; rows that require no gradient have none.

    ``further``: with the inverse depth, and the gradient for the pose.
    """
    inverse_depth = pose = further
    case = make_case(5, 300, 70, 50)
    case.camera.world_to_camera.requires_grad_(pose)
    on = {"device": engine.device}
    photo = torch.randint(0, 256, (3, 50, 70), generator=torch.Generator().manual_seed(1), dtype=torch.uint8).to(**on)
    mask = (torch.rand(50, 70, generator=torch.Generator().manual_seed(2)) < 0.7).to(**on)
    rows = {name: value.to(**on, dtype=torch.float32).requires_grad_(name not in frozen)
            for name, value in case.inputs.items()}  # fmt: skip

    def new_stats() -> tuple:
        return torch.zeros(300, **on), torch.zeros(300, **on)

    by_autograd, direct, twice = new_stats(), new_stats(), new_stats()
    out = engine.rasterize(case, rows, torch.float32, stats=by_autograd, inverse_depth=inverse_depth)
    with engine.active():
        loss = photometric_loss(out.image, photo, mask=mask, ssim_weight=0.3).loss
        of_depth = mask.float()
        term = (of_depth * out.inverse_depth).sum() if inverse_depth else 0
        wanted = {name: row for name, row in rows.items() if name not in frozen}
        leaves = [*wanted.values(), *([case.camera.world_to_camera] if pose else [])]
        found = torch.autograd.grad(loss + term, leaves)
        expected = dict(zip(wanted, found, strict=not pose))
        waiting = torch.ones_like(rows["means"])
        view = RenderPass(engine.view(case, torch.float32), rows, {"means": waiting}, stats=[direct, twice],
                          sh_degree=case.sh_degree, antialiased=case.antialiased, inverse_depth=inverse_depth,
                          pose=pose)  # fmt: skip
        value = view.photometric_loss(photo, mask, 0.3)
        if inverse_depth:
            view.v_inverse_depth += of_depth
        view.backward()
        assert view.add_gradients(value, largest=1e30)
    assert not inverse_depth or torch.equal(view.inverse_depth, out.inverse_depth)
    assert torch.equal(view.image, out.image) and torch.equal(view.radii, out.radii) and torch.equal(value, loss)
    assert_same_bits(view.gradients, expected)
    assert torch.equal(view.v_world_to_camera.cpu(), found[-1].float()) if pose else view.v_world_to_camera is None
    assert torch.equal(waiting, 1 + expected["means"])
    assert all(map(torch.equal, direct + twice, by_autograd + by_autograd)) and direct[1].any()
    with engine.active():
        assert not view.add_gradients(value * float("nan"), largest=1e30)
    assert all(map(torch.equal, direct, by_autograd)) and torch.equal(waiting, 1 + expected["means"])
    assert not any(gradient.any() for name, gradient in view.gradients.items() if name != "means")


@pytest.mark.usefixtures("deterministic")
def test_permuting_the_gaussians_permutes_the_result(engine):
    """With distinct depths the image does not depend on the order of the input; gradients follow their Gaussian."""
    case = make_case(4, 300, 70, 50)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    a = engine.run(case, torch.float32)
    b = engine.run(case.but({name: value[order] for name, value in case.inputs.items()}), torch.float32)
    for name in OUTPUTS:
        assert torch.equal(a[name], b[name]), name
    assert torch.equal(a["radii"][order], b["radii"])
    assert relative_error(b.pop("d_world_to_camera"), a["d_world_to_camera"]) < 1e-5  # a sum over all Gaussians
    for name in (key for key in b if key.startswith("d_")):
        assert torch.equal(a[name][order], b[name]), name


def test_moving_world_and_camera_together_changes_nothing():
    """A rigid motion of everything leaves the image alone and rotates the gradients of the means."""
    engine, g = CPU, torch.Generator().manual_seed(2)
    case = make_case(6, 60, 40, 30, color="colors")
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3], motion[:3, 3] = random_rotation(g), torch.randn(3, generator=g, dtype=torch.float64)
    cov = reference.covariances_of(case.inputs["quats"], case.inputs["scales"])
    turned = motion[:3, :3] @ cov @ motion[:3, :3].T
    six = turned[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    inputs = {name: case.inputs[name] for name in ("opacities", "colors")}
    inputs |= {"means": case.inputs["means"] @ motion[:3, :3].T + motion[:3, 3], "covariances": six}
    pose = case.camera.world_to_camera @ torch.linalg.inv(motion)
    camera = reference.Pinhole(*[*vars(case.camera).values()][:6], pose, case.camera.background)
    a, b = engine.run(case), engine.run(Case(camera, inputs, weights=case.weights))
    for name in ("image", "transmittance", "inverse_depth", "d_opacities", "d_colors", "d_screen_means"):
        assert relative_error(b[name], a[name]) < 1e-10, name  # worst measured: 2e-14
    assert relative_error(b["d_means"] @ motion[:3, :3], a["d_means"]) < 1e-10


def test_scaling_world_and_camera_together_changes_nothing():
    """Twice the world is the same image: half the inverse depth and half the gradients of means and scales."""
    engine = CPU
    case = make_case(7, 60, 40, 30, in_front=True)
    pose = case.camera.world_to_camera.clone()
    pose[:3, 3] *= 2
    camera = reference.Pinhole(*[*vars(case.camera).values()][:6], pose, case.camera.background)
    inputs = {"means": 2 * case.inputs["means"], "scales": 2 * case.inputs["scales"]}
    weights = {"image": case.weights["image"]}
    a, b = engine.run(case.but(weights=weights)), engine.run(case.but(inputs, camera=camera, weights=weights))
    for name, factor in (("image", 1), ("transmittance", 1), ("inverse_depth", 2), ("d_means", 2), ("d_scales", 2),
                         ("d_quats", 1), ("d_opacities", 1), ("d_sh_rest", 1), ("d_screen_means", 1)):  # fmt: skip
        assert relative_error(factor * b[name], a[name]) < 1e-12, name  # worst measured: 0, a power of two


def test_the_size_of_a_quaternion_does_not_matter(engine):
    """Quaternions are normalised: k times as long gives the same image, and 1/k of the gradient."""
    case = make_case(8, 60, 40, 30)
    a = engine.run(case, torch.float32)
    b = engine.run(case.but({"quats": 4 * case.inputs["quats"]}), torch.float32)
    assert relative_error(b["image"], a["image"]) < 1e-6
    # Worst measured: 1.5e-5, in the emulation with fused multiply-adds.
    assert relative_error(4 * b["d_quats"], a["d_quats"]) < 5e-5
    along = (a["d_quats"] * case.inputs["quats"]).sum(1)
    assert along.abs().max() < 1e-5 * a["d_quats"].abs().max()
