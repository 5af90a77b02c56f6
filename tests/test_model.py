"""The model: what it starts from, and that parameters, moments and waiting gradients stay aligned."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from compact_splats.arguments.schedule import FULL
from compact_splats.scene.gaussian_model import PARAMETER_NAMES, GaussianModel
from compact_splats.scene.points import Points

ROOT = Path(__file__).parent.parent
RATES = FULL.learning_rates_at(0, extent=1.0)


def random_points(num: int, seed: int = 0) -> Points:
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (num, 3), generator=generator, dtype=torch.uint8)
    return Points(torch.randn(num, 3, generator=generator), rgb)


def random_model(num: int, seed: int = 0) -> GaussianModel:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (1,), "sh_dc": (1, 3)}
    rows = {name: torch.randn(num, *shape, generator=generator) for name, shape in shapes.items()}
    rows["sh_rest"] = torch.randn(num, 15, 3, generator=generator)
    model = GaussianModel(rows, sh_degree=0)
    model.start_training(RATES)
    return model


def add_gradients(model: GaussianModel, seed: int) -> None:
    """One backward pass whose gradients differ from row to row."""
    generator = torch.Generator().manual_seed(seed)
    loss = sum((row * torch.randn(row.shape, generator=generator)).sum() for row in model.parameters.values())
    loss.backward()


def everything_per_gaussian(model: GaussianModel) -> dict[str, torch.Tensor]:
    """Copies of all that belongs to single Gaussians."""
    found = {}
    for name, row in model.parameters.items():
        state = model.optimizer.state.get(row, {})
        found[name] = row.detach().clone()
        found[name, "exp_avg"] = state.get("exp_avg", torch.zeros_like(row)).clone()
        found[name, "exp_avg_sq"] = state.get("exp_avg_sq", torch.zeros_like(row)).clone()
        found[name, "gradient"] = (torch.zeros_like(row) if row.grad is None else row.grad).clone()
    return found


def test_initial_rows_against_numpy():
    points = random_points(50)
    model = GaussianModel.from_points(points, max_sh_degree=3, device="cpu")
    xyz = points.xyz.numpy().astype(np.float64)
    squared = np.sort(((xyz[:, None] - xyz[None]) ** 2).sum(-1), axis=1)[:, 1:4].mean(1)
    # Worst measured: 7e-8 for the logarithms, 1.4e-7 for the colours: float32 rounding.
    np.testing.assert_allclose(
        model.parameters["log_scales"].detach(), 0.5 * np.log(squared)[:, None].repeat(3, 1), atol=2e-6
    )
    colours = (points.rgb.numpy() / 255 - 0.5) / 0.28209479177387814
    np.testing.assert_allclose(model.parameters["sh_dc"].detach()[:, 0], colours, atol=1e-6)
    np.testing.assert_allclose(model.parameters["opacity_logits"].detach(), np.log(0.1 / 0.9), rtol=1e-6)
    assert torch.equal(model.means, points.xyz)
    assert torch.equal(model.quats, torch.tensor([[1.0, 0, 0, 0]]).expand(50, 4))
    assert torch.equal(model.sh_rest, torch.zeros(50, 15, 3))
    assert model.sh_degree == 0 and model.max_sh_degree == 3
    assert all(row.dtype == torch.float32 for row in model.parameters.values())


def test_coincident_points_get_the_smallest_size_and_leave_the_input_alone():
    points = Points(torch.ones(5, 3), torch.zeros(5, 3, dtype=torch.uint8))
    model = GaussianModel.from_points(points, max_sh_degree=0, device="cpu")
    np.testing.assert_allclose(model.scales.detach(), np.full((5, 3), 1e-7**0.5), rtol=1e-5)
    model.start_training(RATES)
    add_gradients(model, seed=1)
    model.update()
    assert torch.equal(points.xyz, torch.ones(5, 3))


def test_initial_sizes_have_the_same_bits_in_every_process():
    """MKL sets up its vector functions in their first call. Without care two threads make that call at once."""
    code = f"""if True:
        import sys; sys.path.insert(0, {str(ROOT)!r})
        import hashlib, numpy, torch
        from compact_splats.scene import Points
        from compact_splats.scene.gaussian_model import GaussianModel
        torch.set_num_threads(2)
        xyz = torch.from_numpy(numpy.random.default_rng(0).normal(size=(20_000, 3)))
        model = GaussianModel.from_points(Points(xyz, torch.zeros(20_000, 3, dtype=torch.uint8)), 0, "cpu")
        print(hashlib.sha256(model.parameters["log_scales"].detach().numpy().tobytes()).hexdigest())
    """
    # Without the first call by one thread, about half of the processes differ.
    done = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(4)]
    assert len({each.stdout for each in done}) == 1


@pytest.mark.parametrize("degree, num_rest", [(0, 0), (1, 3), (2, 8), (3, 15)])
def test_sh_degree_rises_to_its_maximum_and_stays(degree, num_rest):
    model = GaussianModel.from_points(random_points(4), max_sh_degree=degree, device="cpu")
    assert model.sh_rest.shape == (4, num_rest, 3) and model.max_sh_degree == degree
    seen = []
    for _ in range(5):
        model.raise_sh_degree()
        seen.append(model.sh_degree)
    assert seen == [min(i, degree) for i in range(1, 6)]


@pytest.mark.parametrize("seed", range(8))
def test_parameters_moments_and_gradients_stay_aligned_through_random_edits(seed):
    """Whatever the order of steps and edits, new[i] is old[source[i]] in all it owns; fresh rows own nothing."""
    rng = np.random.default_rng(seed)
    model = random_model(12, seed)
    for turn in range(12):
        add_gradients(model, seed=100 * seed + turn)
        if rng.random() < 0.6:
            some = tuple(rng.choice(PARAMETER_NAMES, 3, replace=False))
            model.update(PARAMETER_NAMES if rng.random() < 0.5 else some)
        num = model.num_gaussians
        source = torch.from_numpy(rng.integers(0, num, rng.integers(1, 20)))
        fresh = torch.from_numpy(rng.random(len(source)) < 0.3)
        before = everything_per_gaussian(model)
        model.remap(source, fresh)
        after = everything_per_gaussian(model)
        assert model.num_gaussians == len(source)
        for key, old in before.items():
            expected = old[source]
            if isinstance(key, tuple):
                expected[fresh] = 0
            assert torch.equal(after[key], expected), key
    assert len(model.optimizer.state) <= 6, "moments of rows that are gone"
    groups = [group["params"] for group in model.optimizer.param_groups]
    assert groups == [[model.parameters[name]] for name in PARAMETER_NAMES]


def test_an_edit_does_not_drop_pending_gradients():
    """Survivors of an edit between two backward passes take the very step they would have taken without it."""
    plain, edited = random_model(10), random_model(10)
    survivors = torch.tensor([0, 3, 4, 8, 9])
    for model in (plain, edited):
        add_gradients(model, seed=1)
        model.update()
        add_gradients(model, seed=2)
    edited.keep(survivors)
    for model in (plain, edited):
        model.update()
    for name in PARAMETER_NAMES:
        assert torch.equal(edited.parameters[name], plain.parameters[name][survivors]), name
        assert edited.parameters[name].grad is None


def test_a_graph_that_is_alive_keeps_the_old_rows():
    model = random_model(6)
    loss = model.opacities.sum()
    old = model.parameters["opacity_logits"]
    model.keep(torch.tensor([1, 2]))
    loss.backward()
    assert old.grad.shape == (6, 1) and model.parameters["opacity_logits"].grad is None


def test_keep_by_mask_is_keep_by_index_and_everything_may_go():
    by_mask, by_index = random_model(6), random_model(6)
    by_mask.keep(torch.tensor([True, False, False, True, True, False]))
    by_index.keep(torch.tensor([0, 3, 4]))
    assert all(torch.equal(by_mask.parameters[name], by_index.parameters[name]) for name in PARAMETER_NAMES)
    by_mask.keep(torch.zeros(3, dtype=torch.bool))
    assert by_mask.num_gaussians == 0


@pytest.mark.parametrize("source", [[0, 6], [-1, 2]])
def test_remap_refuses_rows_that_are_not_there(source):
    model = random_model(6)
    with pytest.raises(IndexError, match="of 6 Gaussians"):
        model.remap(torch.tensor(source), torch.zeros(2, dtype=torch.bool))
    assert model.num_gaussians == 6


def test_step_moves_only_the_rows_named_and_the_others_wait():
    model, reference = random_model(5), random_model(5)
    start = everything_per_gaussian(model)
    add_gradients(model, seed=1)
    model.update(("means", "quats"))
    for name in PARAMETER_NAMES:
        moved = not torch.equal(model.parameters[name], start[name])
        assert moved == (name in ("means", "quats")), name
        assert (model.parameters[name].grad is None) == moved
    add_gradients(model, seed=2)
    model.update(())
    assert all(row.grad is not None for row in model.parameters.values())
    model.update(("sh_rest",))
    for seed in (1, 2):
        add_gradients(reference, seed)
    reference.update(("sh_rest",))  # the gradients of two views have added up
    assert torch.equal(model.parameters["sh_rest"], reference.parameters["sh_rest"])


def test_gaussians_out_of_sight_stay_with_their_moments():
    model, reference = random_model(6), random_model(6)
    visible = torch.tensor([True, False, True, True, False, False])
    for each in (model, reference):
        add_gradients(each, seed=1)
        each.update()
        add_gradients(each, seed=2)
    before = everything_per_gaussian(model)
    model.update(visible=visible)
    reference.update()
    moved = everything_per_gaussian(reference)
    for key, now in everything_per_gaussian(model).items():
        if "gradient" not in key:
            assert torch.equal(now[visible], moved[key][visible]), key
            assert torch.equal(now[~visible], before[key][~visible]), key
        else:
            assert not now.any()


def sgd(model: GaussianModel) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameter_groups(RATES), momentum=0.9)


def reversed_adam(model: GaussianModel) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameter_groups(RATES)[::-1])


def adam_of_one_group(model: GaussianModel) -> torch.optim.Optimizer:
    return torch.optim.Adam([model.parameters[name] for name in sorted(PARAMETER_NAMES)], lr=1e-3, amsgrad=True)


@pytest.mark.parametrize("make", [sgd, reversed_adam, adam_of_one_group])
def test_an_edit_keeps_any_optimizer_aligned(make):
    """Every state tensor with one entry per Gaussian follows its parameter, whatever the order of the groups."""
    model = random_model(9)
    model.optimizer = make(model)
    for seed in (1, 2):
        add_gradients(model, seed)
        model.update()
    before = {
        name: {key: value.clone() for key, value in model.optimizer.state[values].items() if value is not None}
        for name, values in model.parameters.items()
    }
    source, fresh = torch.tensor([8, 0, 3, 3, 5]), torch.tensor([False, False, False, True, True])
    model.remap(source, fresh)
    grouped = [each for group in model.optimizer.param_groups for each in group["params"]]
    assert {id(each) for each in grouped} == {id(each) for each in model.parameters.values()}
    moved = 0
    for name, state in before.items():
        after = model.optimizer.state[model.parameters[name]]
        for key, old in state.items():
            if old.ndim:
                expected = old[source]
                expected[fresh] = 0
                assert torch.equal(after[key], expected), (name, key)
                moved += 1
            else:
                assert torch.equal(after[key], old), (name, key)
    assert moved >= len(PARAMETER_NAMES)
    add_gradients(model, 3)
    kept = {name: values.detach().clone() for name, values in model.parameters.items()}
    model.update()
    assert all(not torch.equal(model.parameters[name], kept[name]) for name in PARAMETER_NAMES)


def test_learning_rates_reach_named_groups_in_any_order():
    model = random_model(3)
    model.optimizer = reversed_adam(model)
    model.set_learning_rates({name: float(i) for i, name in enumerate(PARAMETER_NAMES)})
    assert [group["lr"] for group in model.optimizer.param_groups] == [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def test_adam_is_the_published_one():
    """Two steps of Adam, one group per row, against the formula in float64."""
    model = random_model(7)
    value = {name: row.detach().double() for name, row in model.parameters.items()}
    first = {name: torch.zeros_like(row) for name, row in value.items()}
    second = {name: torch.zeros_like(row) for name, row in value.items()}
    for t in (1, 2):
        add_gradients(model, seed=t)
        for name, row in model.parameters.items():
            gradient = row.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            root = (second[name] / (1 - 0.999**t)).sqrt() + 1e-15
            value[name] -= RATES[name] * first[name] / (1 - 0.9**t) / root
        model.update()
    for name in PARAMETER_NAMES:
        # Worst measured: 1.8e-7 of values up to 4: float32 rounding.
        np.testing.assert_allclose(model.parameters[name].detach(), value[name], atol=2e-6, err_msg=name)


def test_learning_rates_reach_their_rows():
    model = random_model(3)
    model.set_learning_rates({name: float(i) for i, name in enumerate(PARAMETER_NAMES)})
    assert {group["name"]: group["lr"] for group in model.optimizer.param_groups} == {
        name: float(i) for i, name in enumerate(PARAMETER_NAMES)
    }
    model.remap(torch.tensor([0, 0]), torch.tensor([False, True]))
    assert [group["lr"] for group in model.optimizer.param_groups] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_capping_lowers_only_what_is_above_and_forgets_the_moments_of_opacity():
    model = random_model(200)
    with torch.no_grad():
        model.parameters["opacity_logits"] -= 2
    add_gradients(model, seed=1)
    model.update()
    before = everything_per_gaussian(model)
    model.cap_opacity(0.05)
    after = everything_per_gaussian(model)
    np.testing.assert_allclose(model.opacities.detach(), before["opacity_logits"].sigmoid().clamp_max(0.05), rtol=1e-5)
    assert 0 < (before["opacity_logits"].sigmoid() > 0.05).sum() < 200
    for key, old in before.items():
        if key in (("opacity_logits", "exp_avg"), ("opacity_logits", "exp_avg_sq")):
            assert not after[key].any()
        elif key != "opacity_logits":
            assert torch.equal(after[key], old), key


def test_a_model_continues_from_its_state_as_if_nothing_had_happened():
    model = random_model(9)
    add_gradients(model, seed=1)
    model.update()
    model.raise_sh_degree()
    add_gradients(model, seed=2)  # pending
    file = io.BytesIO()
    torch.save((model.state_dict(), model.waiting_gradients()), file)
    file.seek(0)
    resumed = random_model(4, seed=5)
    state, gradients = torch.load(file, weights_only=True)
    resumed.load_state_dict(state)
    resumed.set_waiting_gradients(gradients)
    for each in (model, resumed):
        add_gradients(each, seed=3)
        each.update()
        each.keep(torch.tensor([1, 2, 7]))
        add_gradients(each, seed=4)
        each.update()
    assert resumed.sh_degree == 1
    assert all(torch.equal(resumed.parameters[name], model.parameters[name]) for name in PARAMETER_NAMES)
