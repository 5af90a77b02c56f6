"""The post-hoc stage on the demo scene: exact counts, goals, and a file that holds what was measured."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
import torch_reference as reference
from plain_quantizer import PlainQuantizer, decode

from compact_splats import compression
from compact_splats.arguments import TrainConfig
from compact_splats.arguments.compress import FineTuneRates, Phase, PostHocSchedule
from compact_splats.compression.compact import CompactQuantizer
from compact_splats.compression.finetune import Photos, as_stored, between, fine_tune, squares_loss
from compact_splats.compression.posthoc import Goals, PostHoc, Result, Stage
from compact_splats.compression.scores import gradient_scores, removal_scores
from compact_splats.compression.seed import SeedQuantizer
from compact_splats.gaussian_renderer import render
from compact_splats.gaussian_renderer.evaluation import evaluate, ground_truth
from compact_splats.scene import Scene, load_scene
from compact_splats.scene.gaussian_model import PARAMETER_NAMES, GaussianModel
from compact_splats.training.exposure import Exposure
from compact_splats.training.progress import Progress
from compact_splats.training.run import train
from compact_splats.training.view_sampler import ViewSampler

BLACK = torch.zeros(3)
NUM = 400
SHORT = PostHocSchedule(
    round=Phase(steps=6, refit_every=3, frozen_from=7),
    last=Phase(steps=20, refit_every=5, frozen_from=12, last_factor=0.05),
    only=Phase(steps=20, refit_every=5, frozen_from=12, last_factor=0.05),
    trim=Phase(steps=3, refit_every=3, frozen_from=1),
)


@pytest.fixture(scope="module")
def scene(tiny_scene_dir) -> Scene:
    return load_scene(tiny_scene_dir, eval=True)


@pytest.fixture(scope="module")
def trained(scene, tiny_scene_dir, tmp_path_factory) -> GaussianModel:
    """400 Gaussians after 300 steps. Read only."""
    out = tmp_path_factory.mktemp("run") / "model"
    config = TrainConfig(
        source_path=tiny_scene_dir, model_path=out, final_budget=NUM, iterations=300, eval=True, quiet=True,
        tensorboard=False, threads=1,
    )  # fmt: skip
    return GaussianModel.load_ply(train(config)["point_cloud"], "cpu", units=scene.units)


def photos_of(scene: Scene, seed: int = 0) -> Photos:
    views = ViewSampler(len(scene.train), torch.Generator().manual_seed(seed))
    return Photos(scene, views, BLACK, 0.2)


@pytest.fixture
def stage(scene, trained):
    """Make a post-hoc stage of a copy of the trained model."""

    def make(schedule: PostHocSchedule = SHORT, quantizer: object = None, decode=decode, **settings) -> PostHoc:
        model = copy.deepcopy(trained)
        quantizer = quantizer or PlainQuantizer()
        return PostHoc(model, quantizer, decode, photos_of(scene), schedule, quiet=True, **settings)

    return make


def counts(result: Result) -> list[int]:
    return [each.gaussians for each in result.course]


# ---- scores ----


def test_a_score_is_the_sum_over_rows_of_the_norm_of_the_gradient_of_all_views(scene, trained):
    model = copy.deepcopy(trained)
    scores = gradient_scores(model, scene.train, BLACK, ssim_weight=0.0)
    total = torch.zeros(())
    for camera in scene.train:
        image = render(camera, model, BLACK).image
        total = total + (image - camera.photo.pixels() / 255).abs().mean()
    total.backward()
    expected = sum(model.parameters[name].grad.reshape(NUM, -1).square().sum(1).sqrt() for name in PARAMETER_NAMES)
    # Sums of gradients over 10 views in another order, and L1 computed by torch.
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-6)


def test_a_gaussian_that_no_view_sees_has_score_zero(scene, trained, stage):
    work = stage()
    with torch.no_grad():
        work.model.parameters["means"][7] += 1e4
        work.model.parameters["opacity_logits"][11] = -20.0
    scores = gradient_scores(work.model, scene.train, BLACK, ssim_weight=0.2)
    assert scores[7] == scores[11] == 0 and (scores > 0).sum() > 300
    scores = removal_scores(work.model, scene.train, BLACK)
    assert scores[7] == scores[11] == 0 and (scores > 0).sum() > 300
    assert all(row.grad is None for row in work.model.parameters.values())


def test_a_removal_score_is_the_mean_squared_change_of_the_images(scene, trained):
    scores = removal_scores(trained, scene.train, BLACK)

    def images(model: GaussianModel) -> torch.Tensor:
        return torch.stack([render(camera, model, BLACK).image for camera in scene.train]).double()

    with torch.no_grad():
        whole = images(trained)
        for i in (*scores.topk(3).indices.tolist(), scores.argsort()[NUM // 2].item()):
            others = torch.arange(NUM) != i
            rest = trained.with_parameters({name: row[others] for name, row in trained.parameters.items()})
            expected = (images(rest) - whole).square().mean().item()
            assert scores[i].item() == pytest.approx(expected, rel=1e-2) and expected > 0  # early termination, rounding


# ---- fine-tuning ----


def test_what_is_rendered_is_what_is_stored_and_its_gradient_moves_the_floats(scene, trained):
    """One step of SGD-like Adam: the rows move against the gradient at the stored values."""
    model, quantizer = copy.deepcopy(trained), PlainQuantizer(63)
    model.start_training(dict.fromkeys(PARAMETER_NAMES, 0.0))
    before = {name: row.detach().clone() for name, row in model.parameters.items()}
    photos = photos_of(scene)
    quantizer.fit(model.file_parameters())
    stored = as_stored(model, quantizer)
    camera = scene.train[copy.deepcopy(photos.views).draw()]
    photo = camera.photo.pixels()
    image = render(camera, stored, BLACK).image
    squares_loss(image, photo, None, 0.2).backward()
    phase = Phase(steps=1, refit_every=1, frozen_from=1)
    fine_tune(model, quantizer, photos, phase, FineTuneRates(), Progress(1, quiet=True))
    for name in PARAMETER_NAMES:
        gradient, moved = stored.parameters[name].grad, model.parameters[name].detach() - before[name]
        sure = gradient.abs() > 1e-9
        assert torch.equal(moved[sure].sign(), -gradient[sure].sign()), name
        assert torch.equal(moved[gradient == 0], torch.zeros_like(moved[gradient == 0])), name
    assert sure.any()


@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_is_squares_and_ssim(masked):
    draws = torch.Generator().manual_seed(0)
    image, photo = torch.rand(3, 20, 30, generator=draws), torch.randint(0, 256, (3, 20, 30), generator=draws)
    photo, mask = photo.to(torch.uint8), torch.rand(20, 30, generator=draws) > 0.4
    found = squares_loss(image, photo, mask if masked else None, 0.3)
    keep = mask if masked else torch.ones_like(mask)
    squares = ((image - photo / 255) * keep).square().mean()
    _, _, ssim = reference.photometric_loss(image, photo / 255, keep, 0.3)
    assert float(found) == pytest.approx(float(0.7 * 20 * squares + 0.3 * (1 - ssim)), rel=1e-5)


def test_the_mean_of_the_last_steps_is_left(scene, trained, monkeypatch):
    seen = []
    model, photos = copy.deepcopy(trained), photos_of(scene)
    model.start_training(dict.fromkeys(PARAMETER_NAMES, 0.0))
    update = model.update
    floats = lambda: copy.deepcopy(model.state_dict()["parameters"])  # noqa: E731
    monkeypatch.setattr(model, "update", lambda names: (update(names), seen.append(floats())))
    phase = Phase(steps=6, refit_every=9, frozen_from=1, mean_from=4)
    fine_tune(model, PlainQuantizer(), photos, phase, FineTuneRates(), Progress(6, quiet=True))
    assert len(seen) == 6
    for name, row in model.state_dict()["parameters"].items():
        mean = torch.stack([each[name].double() for each in seen[3:]]).mean(0)
        assert torch.allclose(row.double(), mean, rtol=1e-5, atol=1e-7), name
        assert not torch.equal(row, seen[-1][name]), name


def test_fine_tuning_wins_back_what_storing_lost(stage):
    schedule = dataclasses.replace(SHORT, only=Phase(steps=150, refit_every=20, frozen_from=120, last_factor=0.05))
    fast = FineTuneRates(log_scales=5e-3, quats=1e-3, opacity_logits=2.5e-2, sh_dc=2.5e-3, sh_rest=2.5e-4)
    given, stored, tuned = stage(schedule, PlainQuantizer(31), rates=fast).run(None, 0).course
    # Measured: 20.36 dB, 19.12 and 19.65.
    assert stored.train_psnr < given.train_psnr - 1
    assert tuned.train_psnr > stored.train_psnr + 0.3


def test_the_target_without_pruning_lies_between_photo_and_render(scene, trained):
    """As the first step of `--no-prune` sees it, also in the exposure that the training has found for the photo."""
    camera = scene.train[1]
    photo, image = (
        ground_truth(camera, torch.device("cpu"), BLACK)[0] / 255,
        render(camera, trained, BLACK).image.detach(),
    )
    transforms = torch.eye(3, 4).repeat(len(scene.train), 1, 1)
    transforms[1, :, 3] = 0.2
    exposure = Exposure(len(scene.train), "cpu", transforms)
    plain, exposed = (dataclasses.replace(photos_of(scene), exposure=each) for each in (None, exposure))
    for photos, shown in ((plain, image), (exposed, image + 0.2)):
        target, mask = between(trained, photos)(camera, BLACK)
        assert mask is None and (target / 255 - ((photo + shown) / 2).clamp(0, 1)).abs().max() <= 0.51 / 255


def test_the_quantizer_is_fitted_when_due_and_not_in_the_frozen_part(scene, trained):
    class Watched(PlainQuantizer):
        def __init__(self):
            super().__init__()
            self.calls = []

        def fit(self, rows):
            self.calls.append("fit")
            super().fit(rows)

        def quantized(self, rows):
            self.calls.append("render")
            return super().quantized(rows)

    model, quantizer = copy.deepcopy(trained), Watched()
    model.start_training(dict.fromkeys(PARAMETER_NAMES, 0.0))
    phase = Phase(steps=10, refit_every=3, frozen_from=7)
    fine_tune(model, quantizer, photos_of(scene), phase, FineTuneRates(), Progress(10, quiet=True))
    f, r = ["fit"], ["render"]
    assert quantizer.calls == f + 3 * r + f + 7 * r


def test_a_penalty_of_the_quantizer_joins_the_loss(scene, trained):
    class Penalised(PlainQuantizer):
        def penalty(self, rows):
            return 1e3 * rows["sh_rest"].square().sum()

    sizes = []
    for quantizer in (PlainQuantizer(), Penalised()):
        model = copy.deepcopy(trained)
        model.start_training(dict.fromkeys(PARAMETER_NAMES, 0.0))
        phase = Phase(steps=15, refit_every=5, frozen_from=16)
        fine_tune(model, quantizer, photos_of(scene), phase, FineTuneRates(), Progress(15, quiet=True))
        sizes.append(float(model.sh_rest.detach().abs().sum()))
    assert sizes[1] < sizes[0]


def test_rates_fall_from_first_to_last_factor_and_scale_with_the_extent():
    phase = Phase(steps=101, refit_every=10, frozen_from=80, first_factor=2.0, last_factor=0.02)
    assert phase.factor(1) == pytest.approx(2.0) and phase.factor(101) == pytest.approx(0.02)
    assert phase.factor(51) == pytest.approx(0.2)
    rates = FineTuneRates()
    assert rates.at(0.5, 3.0)["means"] == pytest.approx(1.5 * rates.means)
    assert rates.at(0.5, 3.0)["quats"] == pytest.approx(0.5 * rates.quats)


@pytest.mark.parametrize(("factor", "steps"), [(1, (1000, 5000)), (0.1, (100, 500)), (1e-9, (1, 1)), (0, (0, 0))])
def test_steps_scale_and_nought_means_none(factor, steps):
    schedule = PostHocSchedule().scaled(factor)
    assert (schedule.round.steps, schedule.last.steps) == steps
    assert schedule.pruned_share == 0.05
    if factor == 1:
        assert schedule == PostHocSchedule()


# ---- rounds and goals ----


@pytest.mark.parametrize("target", [350, 399, 361, 1])
def test_the_number_asked_for_is_left_exactly(stage, target):
    schedule = SHORT if target > 1 else dataclasses.replace(SHORT.scaled(0), pruned_share=0.6)
    result = stage(schedule).run(Goals(num_gaussians=target), 0)
    assert counts(result)[-1] == target and len(decode(result.data)["means"]) == target
    assert result.stopped_by == f"{target:,} Gaussians" and result.missed == []


def test_each_round_removes_a_twentieth(stage):
    result = stage().run(Goals(rounds=3), 0)
    assert counts(result) == [400, 400, 380, 361, 343, 343]
    assert [each.name for each in result.course] == [
        "as given", "stored", "round 1", "round 2", "round 3", "last steps",
    ]  # fmt: skip
    assert result.stopped_by == "3 rounds"


def test_the_file_is_no_larger_than_asked_for(stage):
    whole = len(stage(SHORT.scaled(0)).run(None, 0).data)
    for share in (0.97, 0.8):
        result = stage().run(Goals(num_bytes=int(share * whole)), 0)
        assert 0.97 * share * whole < len(result.data) <= share * whole
        assert result.stopped_by == f"{int(share * whole) / 1e6:g} MB" and result.missed == []


def test_a_file_that_grows_in_the_last_steps_is_trimmed(stage, monkeypatch):
    class Growing(PlainQuantizer):
        grown = False

        def encode(self, rows):
            data = super().encode(rows)
            return data + bytes(len(data) // 25 * self.grown)

    work = stage(SHORT.scaled(0), Growing())
    whole = len(stage(SHORT.scaled(0)).run(None, 0).data)
    tuned = work._fine_tune

    def fine_tuned(name, phase, given=None):
        work.quantizer.grown = not name.startswith("round")
        tuned(name, phase, given)

    monkeypatch.setattr(work, "_fine_tune", fine_tuned)
    result = work.run(Goals(num_bytes=int(0.92 * whole)), 0)
    assert result.course[-1].name == "trimmed" and len(result.data) <= 0.92 * whole
    assert result.missed == []


def test_a_round_that_loses_too_much_is_undone(stage):
    quantizer = PlainQuantizer(4095)
    result = stage(quantizer=quantizer).run(Goals(psnr_drop=0.3), 0)
    given, undone, final = result.course[0], result.course[-2], result.course[-1]
    assert undone.train_psnr < given.train_psnr - 0.3
    assert final.gaussians == result.course[-3].gaussians > undone.gaussians
    assert final.train_psnr >= given.train_psnr - 0.3
    assert result.stopped_by.startswith("0.3 dB: round")


@pytest.mark.parametrize(
    ("goals", "stopped_by", "missed"),
    [
        (Goals(num_gaussians=390, rounds=2), "390 Gaussians", []),
        (Goals(num_gaussians=100, rounds=1), "1 round", ["100 Gaussians"]),
        (Goals(num_gaussians=100, num_bytes=10**9), "1000 MB", ["100 Gaussians"]),
        (Goals(num_bytes=10, rounds=0), "0 rounds", ["1e-05 MB"]),
        (Goals(num_gaussians=500), "500 Gaussians", []),
    ],
)
def test_of_several_goals_the_first_reached_counts(stage, goals, stopped_by, missed):
    work = stage(SHORT.scaled(0))
    if "1e-05 MB" in missed:  # it is trimmed to a single Gaussian, which is still more
        work.schedule = dataclasses.replace(work.schedule, pruned_share=0.9)
    result = work.run(goals, 0)
    assert (result.stopped_by, result.missed) == (stopped_by, missed)


def test_without_goals_all_gaussians_stay(stage):
    result = stage().run(None, 0)
    assert counts(result) == [NUM, NUM, NUM] and result.stopped_by is None and result.missed == []


# ---- the result ----


@pytest.mark.parametrize(
    ("quantizer", "decode"),
    [(PlainQuantizer, decode), (CompactQuantizer, compression.decode), (SeedQuantizer, compression.decode)],
)
def test_the_file_decodes_to_what_was_rendered_and_measured(stage, scene, quantizer, decode):
    work = stage(quantizer=quantizer(), decode=decode)
    result = work.run(Goals(rounds=1), 0)
    decoded = decode(result.data)
    stored = {name: each.numpy() for name, each in work.quantizer.quantized(work.model.file_parameters()).items()}
    flat = [np.concatenate([rows[name].reshape(380, -1) for name in PARAMETER_NAMES], 1) for rows in (decoded, stored)]
    assert np.array_equal(*(table[np.lexsort(table.T)] for table in flat))

    model = GaussianModel.from_arrays(decoded, "cpu", scene.units)
    assert evaluate(scene.train, model, BLACK)["psnr"] == result.course[-1].train_psnr
    assert evaluate(scene.test, model, BLACK)["ssim"] == result.course[-1].test_ssim
    assert result.course[-1].bytes == len(result.data)


def test_a_fine_store_and_few_removed_lose_little(stage):
    """With the Gaussians that matter least gone, fine-tuning holds the quality of the training views."""
    schedule = dataclasses.replace(SHORT, round=Phase(30, 10, 31), last=Phase(60, 10, 40, last_factor=0.05))
    result = stage(schedule, PlainQuantizer(4095)).run(Goals(rounds=2), 0)
    assert result.course[-1].train_psnr > result.course[0].train_psnr - 0.1


@pytest.mark.parametrize("score", [removal_scores, partial(gradient_scores, ssim_weight=0.2)])
def test_removing_by_score_loses_less_than_removing_the_others(score, trained, scene):
    psnr = []
    for largest in (True, False):
        model = copy.deepcopy(trained)
        scores = score(model, scene.train, BLACK)
        model.keep(scores.topk(300, largest=largest).indices.sort().values)
        psnr.append(evaluate(scene.train, model, BLACK)["psnr"])
    assert psnr[0] > psnr[1] + 0.5


def test_the_stage_prunes_by_the_score_that_it_is_told(stage, trained, monkeypatch):
    order = torch.arange(NUM)
    monkeypatch.setattr("compact_splats.compression.posthoc.removal_scores", lambda *args, **settings: order)
    monkeypatch.setattr("compact_splats.compression.posthoc.gradient_scores", lambda *args, **settings: -order)
    for prune_by, kept in (("error", order[20:]), ("gradient", order[:380])):
        work = stage(SHORT.scaled(0), prune_by=prune_by)
        work.run(Goals(rounds=1), 0)
        assert torch.equal(work.model.parameters["means"].detach(), trained.parameters["means"].detach()[kept])


def test_the_same_seed_gives_the_same_file(stage):
    one, two = (stage().run(Goals(rounds=1), 0).data for _ in range(2))
    assert one == two


def test_stages_are_reported_as_they_come(stage):
    seen: list[Stage] = []
    result = stage(report=seen.append).run(Goals(rounds=1), 12345)
    assert seen == result.course and seen[0].bytes == 12345


def test_a_scene_without_test_views_and_a_model_without_sh_rest(scene, trained):
    rows = {name: row.detach().clone() for name, row in trained.parameters.items()}
    rows["sh_rest"] = rows["sh_rest"][:, :0]
    photos = photos_of(dataclasses.replace(scene, test=()))
    work = PostHoc(GaussianModel(rows, 0), PlainQuantizer(), decode, photos, SHORT, quiet=True)
    result = work.run(Goals(rounds=1), 0)
    assert counts(result)[-1] == 380 and result.course[-1].test_psnr is None


def test_the_form_that_is_stored_is_taken_before_the_first_step(stage):
    class Flipping(PlainQuantizer):
        def prepared(self, rows):
            return rows | {"quats": -rows["quats"]}

    plain, flipped = stage(SHORT.scaled(0)), stage(SHORT.scaled(0), Flipping())
    results = [work.run(None, 0) for work in (plain, flipped)]
    assert torch.equal(flipped.model.parameters["quats"], -plain.model.parameters["quats"])
    assert results[1].course[-1].train_psnr == pytest.approx(results[0].course[-1].train_psnr, abs=0.05)
