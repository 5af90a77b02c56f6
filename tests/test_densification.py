"""Densification: who may split, who is drawn, what a split does, and that the set never outgrows its allowance."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from compact_splats.arguments.schedule import FAST, FULL
from compact_splats.gaussian_renderer.gradient_stats import GradientStats
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import PARAMETER_NAMES, GaussianModel
from compact_splats.scene.photo_cache import PhotoCache, Planes
from compact_splats.training.densification import Densification, draw_parents, lowest, split_long_axis
from compact_splats.training.importance import EdgeImportance, edge_map, normalised_by_mean
from compact_splats.training.sampling import draw_without_replacement
from compact_splats.utils.geometry import rotation_matrices

(ROUND,) = FULL.densification_rounds


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_model(num: int, opacity: float | torch.Tensor = 0.5, seed: int = 0) -> GaussianModel:
    generator = seeded(seed)
    rows = {
        "means": torch.randn(num, 3, generator=generator),
        "log_scales": torch.randn(num, 3, generator=generator) - 2,
        "quats": torch.randn(num, 4, generator=generator),
        "opacity_logits": (torch.zeros(num, 1) + opacity).logit(),
        "sh_dc": torch.randn(num, 1, 3, generator=generator),
        "sh_rest": torch.randn(num, 15, 3, generator=generator),
    }
    model = GaussianModel(rows, sh_degree=0)
    model.start_training(FULL.learning_rates_at(0, extent=1.0))
    return model


class Importance:
    """Constant scores, and a note of what was asked for."""

    def __init__(self, model: GaussianModel) -> None:
        self.model, self.asked = model, []

    def __call__(self, num_views: int | None) -> torch.Tensor:
        self.asked.append(num_views)
        return torch.ones(self.model.num_gaussians)


def unused(training, num_views):
    raise AssertionError("edit gets the importance")


def split_once(model, step, budget, mean_gradient, importance=None):
    densification = Densification((ROUND,), budget, seeded(), unused)
    stats = densification.interval_stats(step, model)
    stats.abs_grad_sum += 3 * mean_gradient
    stats.views += 3
    return densification.edit(step, model, importance or Importance(model))


# ---- weights ----


def test_edge_map_against_numpy():
    photo = torch.randint(0, 256, (3, 20, 31), generator=seeded(), dtype=torch.uint8)
    grey = np.rint(np.tensordot([0.299, 0.587, 0.114], photo.numpy().astype(float), 1))
    padded = np.pad(grey, 1, mode="reflect")
    window = sum(padded[i : i + 20, j : j + 31] for i in range(3) for j in range(3))
    expected = np.clip(9 * grey - window, 0, 255)
    difference = np.abs(edge_map(photo).astype(float) - expected)
    # The grey value is rounded: where OpenCV's fixed point and float64 disagree on a half, the kernel makes it up to 8.
    assert (difference <= 8).all() and (difference == 0).mean() > 0.9


class FakePhoto:
    def __init__(self, pixels, mask=None):
        self._pixels, self._mask, self.decoded, self.cache = pixels, mask, 0, PhotoCache()

    def pixels(self):
        self.decoded += 1
        return self._pixels

    def mask(self):
        return self._mask

    def planes(self):
        return Planes(self.pixels(), None, self.mask())


def camera_of(photo: FakePhoto) -> Camera:
    return Camera("a.jpg", 31, 20, 30.0, 30.0, 15.5, 10.0, torch.eye(4), photo)


def test_edge_weights_span_0_to_1_respect_the_mask_and_are_computed_once():
    pixels = torch.randint(0, 256, (3, 20, 31), generator=seeded(), dtype=torch.uint8)
    mask = torch.ones(20, 31, dtype=torch.bool)
    mask[:, 15:] = False
    camera, weights = camera_of(FakePhoto(pixels, mask)), EdgeImportance(views=None).edge_weights
    first, second = weights(camera), weights(camera)
    assert torch.equal(first, second) and camera.photo.decoded == 1
    assert first.dtype == torch.float32 and first.shape == (20, 31)
    assert first.min() == 0 and first.max() == 1 and not first[:, 14:].any()  # 14: the kernel sees the next pixel


def test_a_photo_without_edges_weighs_nothing():
    flat = FakePhoto(torch.full((3, 20, 31), 77, dtype=torch.uint8))
    assert not EdgeImportance(views=None).edge_weights(camera_of(flat)).any()


def test_view_scores_against_numpy():
    views = torch.rand(4, 30, generator=seeded()) * 10 ** torch.arange(4.0)[:, None]
    views[torch.rand(4, 30, generator=seeded(1)) < 0.4] = 0
    views[3] = 0  # sees nothing: adds nothing, but counts
    expected = np.zeros(30)
    for view in views.double().numpy()[:3]:
        expected += view / view[view > 0].mean() / 4
    # Worst measured: 1e-7 relative.
    np.testing.assert_allclose(sum(map(normalised_by_mean, views)) / 4, expected, rtol=2e-6)


# ---- draws ----


def test_single_draws_follow_the_weights():
    """Chi-square with 5 degrees of freedom, at a fixed seed; its 99.9 % quantile is 20.5."""
    weights = torch.tensor([1.0, 2.0, 0.0, 4.0, 0.5, 2.5, 10.0])
    generator, draws = seeded(3), 20_000
    counts = torch.zeros(7)
    for _ in range(draws):
        counts[draw_without_replacement(weights, 1, generator)] += 1
    expected = draws * weights / weights.sum()
    chosen = weights > 0
    assert counts[2] == 0
    assert ((counts - expected)[chosen] ** 2 / expected[chosen]).sum() < 20.5


def test_pairs_follow_the_law_of_draws_one_after_the_other():
    """P({i,j}) = w_i w_j (1/(1-w_i) + 1/(1-w_j)); chi-square with 5 degrees of freedom, 99.9 % quantile 20.5."""
    weights, generator, draws = torch.tensor([0.1, 0.2, 0.3, 0.4]), seeded(5), 20_000
    counts = torch.zeros(4, 4)
    for _ in range(draws):
        i, j = draw_without_replacement(weights, 2, generator)
        counts[i, j] += 1
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    assert counts.sum() == sum(counts[pair] for pair in pairs), "a row twice, or in descending order"
    w = weights.tolist()
    expected = [draws * w[i] * w[j] * (1 / (1 - w[i]) + 1 / (1 - w[j])) for i, j in pairs]
    assert sum((float(counts[pair]) - e) ** 2 / e for pair, e in zip(pairs, expected, strict=True)) < 20.5


def test_a_draw_takes_exactly_as_many_as_asked_and_weightless_rows_last():
    weights = torch.tensor([0.0, 1e-30, 0.0, 1e30, 0.0])
    assert draw_without_replacement(weights, 2, seeded()).tolist() == [1, 3]
    drawn = draw_without_replacement(weights, 4, seeded())
    assert len(set(drawn.tolist())) == 4 and {1, 3} < set(drawn.tolist())
    assert draw_without_replacement(weights, 0, seeded()).tolist() == []
    assert draw_without_replacement(weights, 5, seeded()).tolist() == [0, 1, 2, 3, 4]


def test_draws_work_beyond_the_limit_of_multinomial():
    num = 2**24 + 100
    weights = torch.full((num,), 1e-3)
    weights[-2:] = 1e9
    assert draw_without_replacement(weights, 2, seeded()).tolist() == [num - 2, num - 1]


def test_only_candidates_with_weight_are_drawn_and_no_more_than_there_is_room_for():
    candidates = torch.tensor([True, True, False, True, True])
    weights = torch.tensor([1.0, 0.0, 9.0, 1.0, 1.0])
    assert draw_parents(candidates, weights, 100, seeded()).tolist() == [0, 3, 4]
    assert len(draw_parents(candidates, weights, 2, seeded())) == 2


# ---- the split ----


def test_split_against_numpy():
    """Children lie 1.35 sigma off along the rotated longest axis, with the published sizes and opacity."""
    model = make_model(6, opacity=torch.linspace(0.05, 0.95, 6)[:, None])
    old = {name: row.detach().double().numpy() for name, row in model.parameters.items()}
    parents = torch.tensor([1, 4, 5])
    split_long_axis(model, parents)
    new = {name: row.detach().double().numpy() for name, row in model.parameters.items()}
    assert model.num_gaussians == 9
    for name in PARAMETER_NAMES:
        np.testing.assert_array_equal(new[name][:3], old[name][[0, 2, 3]])
    for k, parent in enumerate(parents.tolist()):
        pair = slice(3 + 2 * k, 5 + 2 * k)
        for name in ("quats", "sh_dc", "sh_rest"):
            np.testing.assert_array_equal(new[name][pair], old[name][[parent, parent]])
        w, x, y, z = old["quats"][parent] / np.linalg.norm(old["quats"][parent])
        axis = old["log_scales"][parent].argmax()
        unit = np.eye(3)[axis]
        # Rodrigues' form of the quaternion rotation, independent of the matrix under test.
        v = np.array([x, y, z])
        direction = unit + 2 * np.cross(v, np.cross(v, unit) + w * unit)
        sigma = np.exp(old["log_scales"][parent][axis])
        offset = 0.45 * 3 * sigma * direction
        # Worst measured over the three: 1.9e-7, float32 rounding.
        np.testing.assert_allclose(new["means"][pair], old["means"][parent] + [offset, -offset], atol=3e-6)
        factors = np.full(3, 0.8930285549745876)
        factors[axis] = 0.55
        np.testing.assert_allclose(
            np.exp(new["log_scales"][pair]), [np.exp(old["log_scales"][parent]) * factors] * 2, rtol=3e-6
        )
        opacity = 1 / (1 + np.exp(-old["opacity_logits"][parent]))
        np.testing.assert_allclose(1 / (1 + np.exp(-new["opacity_logits"][pair])), [0.6 * opacity] * 2, rtol=3e-6)


def test_covariance_of_a_split_pair():
    """Two equal children: across the long axis (1 - 0.45^2) sigma^2 is left, along it 0.55^2 + 1.35^2 = 2.125 of it."""
    model = make_model(1)
    with torch.no_grad():
        model.parameters["log_scales"].copy_(torch.tensor([[0.5, 0.2, 0.3]]).log())
        model.parameters["quats"].copy_(torch.tensor([[math.cos(0.4), 0.0, 0.0, math.sin(0.4)]]))
    centre = model.means.detach().clone()
    split_long_axis(model, torch.tensor([0]))
    rotation = rotation_matrices(model.quats.detach())
    own = rotation @ torch.diag_embed(model.scales.detach() ** 2) @ rotation.mT
    offset = model.means.detach() - centre
    total = (own + offset[:, :, None] * offset[:, None, :]).mean(0)
    in_parent_axes = rotation[0].T @ total @ rotation[0]
    expected = torch.diag(torch.tensor([2.125 * 0.5**2, 0.7975 * 0.2**2, 0.7975 * 0.3**2]))
    # Worst measured: 3e-8.
    np.testing.assert_allclose(in_parent_axes, expected, atol=1e-6)


def test_children_start_with_zero_optimizer_state_and_survivors_keep_theirs():
    model = make_model(5)
    sum((row**2).sum() for row in model.parameters.values()).backward()
    model.update()
    before = {name: model.optimizer.state[row]["exp_avg"].clone() for name, row in model.parameters.items()}
    split_long_axis(model, torch.tensor([2]))
    for name, row in model.parameters.items():
        after = model.optimizer.state[row]["exp_avg"]
        assert torch.equal(after[:4], before[name][[0, 1, 3, 4]]) and not after[4:].any()


# ---- the round ----


def test_candidates_are_those_whose_mean_gradient_reaches_the_threshold():
    model = make_model(4)
    means = model.means.detach().clone()
    gradient = torch.tensor([2.9e-4, 3.1e-4, 0.0, 9e-4])
    num_split, num_pruned = split_once(model, 600, budget=10_000, mean_gradient=gradient)
    assert (num_split, num_pruned, model.num_gaussians) == (2, 0, 6)
    assert torch.equal(model.means[:2], means[[0, 2]])


def test_late_rules_lower_the_threshold_and_draw_by_gradient():
    gradient = torch.tensor([1.9e-4, 2.1e-4, 2.9e-4, 9e-4])
    for step, expected in ((14_500, 1), (14_600, 3)):
        model = make_model(4)
        importance = Importance(model)
        assert split_once(model, step, 10_000, gradient, importance=importance)[0] == expected
        assert importance.asked == ([10] if step == 14_500 else [])
    counts = torch.zeros(2)
    for seed in range(300):  # one place, gradients 1 : 9
        model = make_model(2)
        densification = Densification((ROUND,), 1, seeded(seed), unused)
        densification.interval_stats(14_600, model).abs_grad_sum += torch.tensor([1e-3, 9e-3])
        assert densification.edit(14_600, model, importance) == (1, 0)
        counts[0 if model.num_gaussians == 3 and model.means[0, 0] != make_model(2).means[0, 0] else 1] += 1
    # Expected 30 of 300; standard deviation 5.2.
    assert 14 <= counts[0] <= 46


@pytest.mark.parametrize("step, num_views", [(600, 10), (3_400, None), (3_500, 10), (6_400, None)])
def test_importance_comes_from_10_views_and_at_two_steps_from_all(step, num_views):
    model = make_model(20)
    importance = Importance(model)
    split_once(model, step, 10_000, torch.full((20,), 1e-3), importance=importance)
    assert importance.asked == [num_views]


@pytest.mark.parametrize("schedule", [FULL, FAST], ids=["full", "fast"])
def test_never_over_the_allowance(schedule):
    """With every Gaussian a candidate at every event, the set follows the allowance and never passes it."""
    schedule, budget = schedule.scaled(0.1), 400
    model = make_model(30)
    densification = Densification(schedule.densification_rounds, budget, seeded(), unused)
    importance, rng, peak = Importance(model), seeded(1), 0
    for step in range(1, schedule.iterations + 1):
        stats = densification.interval_stats(step, model)
        assert (stats is not None) == any(each.accumulates(step) for each in schedule.densification_rounds)
        if stats is not None:
            stats.abs_grad_sum += torch.rand(model.num_gaussians, generator=rng)
            stats.views += 1
        num_before = model.num_gaussians
        num_split, num_pruned = densification.edit(step, model, importance)
        assert model.num_gaussians == num_before + num_split - num_pruned
        due = [each for each in schedule.densification_rounds if each.is_due(step)]
        assert num_split == 0 or model.num_gaussians <= due[0].allowance(step, budget)
        with torch.no_grad():  # what training would do
            model.parameters["opacity_logits"].clamp_(min=-2).add_(0.1)
        peak = max(peak, model.num_gaussians)
    assert peak == schedule.densification_rounds[0].allowance_factor * budget, "the allowance was never filled"


def test_no_split_above_the_allowance_nor_without_candidates():
    for num, gradient in ((200, 1e-3), (10, 1e-5)):
        model = make_model(num)
        importance = Importance(model)
        assert split_once(model, 600, 100, torch.full((num,), gradient), importance=importance) == (0, 0)
        assert importance.asked == []


def test_statistics_start_anew_after_a_split_and_follow_a_pruning_in_between():
    model = make_model(10)
    with torch.no_grad():
        model.parameters["opacity_logits"][:5] -= 1.0
    densification = Densification((replace(ROUND, prune_lowest_at=(650,)),), 100, seeded(), unused)
    stats = densification.interval_stats(650, model)
    stats.abs_grad_sum += torch.arange(10.0)
    stats.views += torch.arange(10, dtype=torch.int32)
    assert densification.edit(650, model, Importance(model)) == (0, 2)
    stats = densification.interval_stats(651, model)
    assert stats.abs_grad_sum.tolist() == stats.views.tolist() == list(range(2, 10))
    densification.edit(700, model, Importance(model))
    stats = densification.interval_stats(701, model)
    assert len(stats.views) == model.num_gaussians > 8 and not stats.views.any() and not stats.abs_grad_sum.any()
    assert densification.interval_stats(15_000, model) is None


def test_mean_gradient_is_over_the_views_that_saw_it():
    stats = GradientStats(torch.tensor([6.0, 0.0, 5.0]), torch.tensor([3, 0, 1], dtype=torch.int32))
    assert stats.mean().tolist() == [2.0, 0.0, 5.0]


@pytest.mark.parametrize("step, least", [(300, 0.02), (600, 0.005), (14_900, 0.005)])
def test_pruning_thresholds(step, least):
    opacity = torch.tensor([[0.001], [0.0049], [0.0051], [0.019], [0.021], [0.9]])
    model = make_model(6, opacity)
    densification = Densification((ROUND,), 100, seeded(), unused)
    densification.interval_stats(step, model)
    densification.edit(step, model, Importance(model))
    assert model.num_gaussians == int((opacity > least).sum())
    assert model.opacities.min() >= least


def test_pruning_the_lowest_takes_a_fifth_by_opacity_before_the_split():
    model = make_model(50, torch.linspace(0.1, 0.9, 50)[torch.randperm(50, generator=seeded())][:, None])
    expected = model.opacities.detach().flatten().sort().values[10:]
    num_split, num_pruned = split_once(model, 3_300, 10_000, torch.zeros(50))
    assert (num_split, num_pruned) == (0, 10)
    assert torch.equal(model.opacities.detach().flatten().sort().values, expected)
    assert lowest(torch.full((9, 1), 0.5), 0.2).tolist() == [True] + 8 * [False]


def test_the_opacity_cap_comes_after_the_split_of_its_step():
    model = make_model(10)
    assert split_once(model, 3_000, 10_000, torch.full((10,), 1e-3)) == (10, 0)
    np.testing.assert_allclose(model.opacities.detach(), 0.05, rtol=1e-5)


def test_state_continues_the_draws():
    one, two = (Densification((ROUND,), 100, seeded(seed), unused) for seed in (1, 2))
    torch.rand(7, generator=one.generator)
    two.load_state_dict(one.state_dict())
    assert torch.equal(torch.rand(3, generator=two.generator), torch.rand(3, generator=one.generator))


def test_statistics_follow_the_edits_of_other_strategies():
    """The statistics are the model's, and every remap moves them."""
    model, densification = make_model(6), Densification((ROUND,), 100, seeded(), unused)
    densification.interval_stats(550, model).abs_grad_sum += torch.arange(6.0)
    split_long_axis(model, torch.tensor([1]))
    model.keep(torch.tensor([0, 3, 4, 5]))
    assert densification.interval_stats(551, model).abs_grad_sum.tolist() == [0, 4, 5, 0]
