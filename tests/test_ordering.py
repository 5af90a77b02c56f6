"""Nested models: compress.py order, the mark in files, and what keeps the order."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from viewer_cases import rows_of

from compact_splats.arguments import TrainConfig
from compact_splats.arguments.compress import ORDER_RATES, OrderConfig, OrderSchedule, Phase, PostHocSchedule
from compact_splats.arguments.schedule import QUICK
from compact_splats.commands import compress
from compact_splats.compression import decode, posthoc, read_model
from compact_splats.compression.compact import CompactQuantizer
from compact_splats.compression.finetune import Photos
from compact_splats.compression.ordering import _hidden_from, drawn_share, first, measured, nested
from compact_splats.compression.posthoc import PostHoc
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.scene import Scene, load_scene, ply
from compact_splats.scene.gaussian_model import PARAMETER_NAMES, GaussianModel
from compact_splats.scene.parameters import SavedArrays
from compact_splats.training.run import train
from compact_splats.training.training import Training
from compact_splats.training.view_sampler import ViewSampler
from compact_splats.utils.errors import InputError

NUM = 300
SHARES = (0.1, 0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def run(tiny_scene_dir, tmp_path_factory) -> Path:
    """A run folder with 300 Gaussians. Read only."""
    out = tmp_path_factory.mktemp("run") / "model"
    train(
        TrainConfig(
            source_path=tiny_scene_dir, model_path=out, final_budget=NUM, schedule="quick", iterations=200, eval=True,
            quiet=True, tensorboard=False, threads=1,
        )
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def scene(tiny_scene_dir) -> Scene:
    return load_scene(tiny_scene_dir, eval=True)


@pytest.fixture
def trained(run, scene) -> GaussianModel:
    return GaussianModel.load_ply(run / "point_cloud" / "iteration_200" / "point_cloud.ply", "cpu", units=scene.units)


def photos_of(scene: Scene) -> Photos:
    return Photos(scene, ViewSampler(len(scene.train), torch.Generator().manual_seed(0)), torch.zeros(3), 0.2)


def make(model: GaussianModel, scene: Scene, factor: float) -> GaussianModel:
    schedule = OrderSchedule().scaled(factor)
    return nested(model, photos_of(scene), schedule, ORDER_RATES, torch.Generator().manual_seed(0), quiet=True)


# ---- the order ----


def test_every_prefix_of_a_nested_model_is_better_than_the_most_important_gaussians(trained, scene):
    """Above all the short ones; the whole loses little. The numbers of Gaussians and of prefixes are exact."""
    photos = photos_of(scene)
    volume = trained.opacities[:, 0].detach() * trained.scales.detach().sort(1).values[:, 1:].prod(1)
    largest = first(trained, NUM)
    largest.keep(volume.argsort(descending=True))
    plain = measured(largest, photos, SHARES)
    model = make(trained, scene, 0.05)
    found = measured(model, photos, SHARES)
    assert [each.gaussians for each in found] == [30, 75, 150, 300] and model.num_gaussians == NUM
    gains = [each.psnr - other.psnr for each, other in zip(found, plain, strict=True)]
    assert min(gains[:3]) > 1 and gains[3] > -0.5
    assert [each.psnr for each in found] == sorted(each.psnr for each in found)


def test_without_steps_the_same_gaussians_are_in_another_order(trained, scene):
    given = {name: rows.detach().clone() for name, rows in trained.parameters.items()}
    model = make(trained, scene, 0)

    def rows(parameters) -> np.ndarray:
        table = torch.cat([parameters[name].detach().flatten(1) for name in PARAMETER_NAMES], 1).numpy()
        return table[np.lexsort(table.T)]

    np.testing.assert_array_equal(rows(model.parameters), rows(given))
    assert not torch.equal(model.means, given["means"])


def test_steps_render_the_whole_the_levels_and_lengths_between_as_often_as_the_schedule_says():
    generator, schedule = torch.Generator().manual_seed(0), OrderSchedule()
    drawn = [drawn_share(schedule, generator) for _ in range(4_000)]
    assert drawn.count(1.0) / 4_000 == pytest.approx(0.5, abs=0.03)
    assert drawn.count(0.5) / 4_000 == pytest.approx(0.4 / 3, abs=0.02)
    assert drawn.count(0.25) / 4_000 == pytest.approx(0.8 / 3, abs=0.02)
    others = [share for share in drawn if share not in SHARES]
    assert len(others) / 4_000 == pytest.approx(0.1, abs=0.02)
    assert 0.1 <= min(others) < 0.12 and 0.9 < max(others) < 1


def test_a_step_of_a_prefix_changes_no_gaussian_behind_it(trained, scene, monkeypatch):
    one_step = Phase(steps=1)
    schedule = replace(OrderSchedule().scaled(0), prefixes=one_step, whole_share=0.0, levels=(0.5,), any_share=0.0)
    gradients, update = [], GaussianModel.update

    def noted(model, names):
        gradients.append(torch.stack([row.grad.flatten(1).abs().sum(1) for row in model.parameters.values()]).sum(0))
        update(model, names)

    monkeypatch.setattr(GaussianModel, "update", noted)
    nested(trained, photos_of(scene), schedule, ORDER_RATES, torch.Generator().manual_seed(0), quiet=True)
    (gradient,) = gradients
    assert gradient[: NUM // 2].any() and not gradient[NUM // 2 :].any()


# ---- the mark ----


def test_the_mark_of_a_nested_model_is_kept_and_a_training_removes_it(tmp_path, scene):
    path = tmp_path / "model.ply"
    ply.write(path, SavedArrays(rows_of(50, 1), antialiased=True, nested=True))
    model = GaussianModel.load_ply(path, "cpu")
    model.save_ply(path)
    assert b"comment nested\n" in path.read_bytes()
    read = read_model(path)
    assert read.nested and read.antialiased and first(model, 3).num_gaussians == 3
    Training(scene, model, QUICK)
    model.save_ply(path)
    assert not read_model(path).nested


@pytest.mark.parametrize("name", ["ply", "spz", "splat", "glb", "sog", "compressed.ply"])
def test_an_export_keeps_the_order_or_says_that_it_is_lost(name, tmp_path, capsys):
    arrays = rows_of(300, 0)
    ply.write(tmp_path / "model.ply", SavedArrays(arrays, nested=True))
    out = tmp_path / f"out.{name}"
    compress.main(["export", str(tmp_path / "model.ply"), "--format", name, "--max-gaussians", "200", "-o", str(out)])
    shift = np.abs(read_model(out)["means"] - arrays["means"][:200]).max()
    said = capsys.readouterr()
    assert ("order of the nested model is lost" in said.out + said.err) == (shift > 0.1)
    assert (shift > 0.1) == (name in ("sog", "compressed.ply"))
    assert read_model(out).nested == (name == "ply")


def test_several_models_have_no_order(tmp_path, capsys):
    path, out = tmp_path / "model.ply", tmp_path / "out.ply"
    ply.write(path, SavedArrays(rows_of(5, 0), nested=True))
    compress.main(["export", str(path), str(path), "--format", "ply", "-o", str(out)])
    assert "order of a nested model is lost" in capsys.readouterr().err and not read_model(out).nested


def test_info_shows_the_mark(tmp_path, capsys):
    ply.write(tmp_path / "model.ply", SavedArrays(rows_of(5, 0), nested=True))
    compress.main(["info", str(tmp_path / "model.ply")])
    assert "not anti-aliased, nested" in capsys.readouterr().out


# ---- compression ----


def test_a_nested_model_is_compressed_to_one(run, tiny_scene_dir, scene, tmp_path, capsys):
    """After pruning, too; the levels are measured as the file has them. Profile seed says that it loses the order."""
    given = ply.read(run / "point_cloud" / "iteration_200" / "point_cloud.ply")
    ply.write(tmp_path / "nested.ply", SavedArrays(given, nested=True))
    out = tmp_path / "out.gsz"
    command = [str(tmp_path / "nested.ply"), "-s", str(tiny_scene_dir), "--eval", "--threads", "1", "-o", str(out)]
    compress.main([*command, "--target-gaussians", "290", "--steps", "0.01"])
    model = GaussianModel.from_arrays(read_model(out), "cpu", scene.units)
    prefixes = json.loads(out.with_suffix(".json").read_text())["prefixes"]
    assert model.nested and [each["gaussians"] for each in prefixes] == [29, 73, 145, 290]
    said = capsys.readouterr()
    assert "order" not in said.err
    for each in prefixes:
        again = evaluate(scene.test, first(model, each["gaussians"]))
        assert again["psnr"] == pytest.approx(each["psnr"], abs=0.02)
        assert f"first        {each['gaussians']:,}  PSNR {each['psnr']:.2f} dB" in said.out
    compress.main([*command, "--profile", "seed", "--no-prune", "--steps", "0"])
    assert "order of the nested model is lost" in capsys.readouterr().err and not read_model(out).nested


@pytest.mark.parametrize("stays", [True, False])
def test_a_step_of_compression_may_render_the_first_gaussians_only(stays, trained, scene, monkeypatch):
    """Then those behind do not move. A model that is always rendered whole is nested no more."""
    gradients, update = [], GaussianModel.update

    def noted(model, names):
        gradients.append(model.means.grad.abs().sum(1))
        update(model, names)

    def half(model, schedule, generator):
        return _hidden_from(model, NUM // 2) if gradients else model

    monkeypatch.setattr(GaussianModel, "update", noted)
    monkeypatch.setattr(posthoc, "drawn_prefix", half)
    schedule = replace(PostHocSchedule(), only=Phase(steps=2))
    trained.nested = True
    generator = torch.Generator() if stays else None
    stage = PostHoc(trained, CompactQuantizer(), decode, photos_of(scene), schedule, quiet=True, prefixes=generator)
    data = stage.run(None, 1).data
    whole, step = gradients
    assert whole[NUM // 2 :].any() and step[: NUM // 2].any() and step[NUM // 2 :].any() != stays
    assert trained.nested == decode(data).nested == stays


# ---- the command ----


def test_the_command_writes_a_nested_ply_and_measures_what_it_wrote(run, scene, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "model")
    compress.main(["order", str(folder), "--steps", "0.01", "--threads", "1"])
    out = folder / "nested" / "point_cloud.ply"
    summary = json.loads(out.with_suffix(".json").read_text())
    assert summary["views"] == "test" and [each["gaussians"] for each in summary["prefixes"]] == [30, 75, 150, 300]
    model = GaussianModel.load_ply(out, "cpu", units=scene.units)
    assert model.nested and model.num_gaussians == NUM
    said = capsys.readouterr().out
    for each in summary["prefixes"]:
        again = evaluate(scene.test, first(model, each["gaussians"]))
        assert again["psnr"] == pytest.approx(each["psnr"], abs=0.02)
        assert f"{each['gaussians']:,}  {each['psnr']:5.2f}" in said


def test_nothing_is_overwritten_without_overwrite(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "model")
    out = folder / "nested" / "point_cloud.ply"
    out.parent.mkdir()
    out.write_text("mine")
    for flags in ([], ["-o", str(out)]):
        with pytest.raises(InputError, match="give --overwrite"):
            compress.main(["order", str(folder), *flags])
    assert out.read_text() == "mine"
    compress.main(["order", str(folder), "--steps", "0", "--overwrite", "--quiet", "--threads", "1"])
    assert read_model(out).nested


def test_a_model_that_is_too_small_is_refused(run, tiny_scene_dir, tmp_path):
    given = ply.read(run / "point_cloud" / "iteration_200" / "point_cloud.ply")
    ply.write(tmp_path / "few.ply", {name: rows[:3] for name, rows in given.items()})
    with pytest.raises(InputError, match="3 Gaussians, too few"):
        compress.main(["order", str(tmp_path / "few.ply"), "-s", str(tiny_scene_dir), "--quiet"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.ply"]


@pytest.mark.parametrize(
    ("smallest", "levels"), [(0.25, (0.5, 0.25)), (0.1, (0.5, 0.25, 0.1)), (0.3, (0.5, 0.3)), (0.5, (0.5,))]
)
def test_levels_end_at_the_smallest_share(smallest, levels):
    config = OrderConfig.from_command_line(["-m", "model", "-s", "scene", "--smallest", str(smallest)])
    assert config.make_schedule().levels == levels


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "no model"),
        ("--ply model.ply", "no scene to fine-tune on"),
        ("-m model -s scene -o some.gsz", "must end in .ply"),
        ("-m model -s scene --steps -1", "--steps"),
        ("-m model -s scene --steps inf", "--steps"),
        ("-m model -s scene --smallest 0.6", "--smallest"),
        ("-m model -s scene --smallest 0", "--smallest"),
        ("-m model -s scene --profile seed", "--profile"),
    ],
)
def test_wrong_flags_are_refused(words, said):
    with pytest.raises(InputError, match=said):
        compress.main(["order", *words.split()])
