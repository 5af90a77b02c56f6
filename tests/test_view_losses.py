"""The views that a training names at its end because their loss stands out."""

import math
import shutil

import cv2
import numpy as np
import pytest
import torch

from compact_splats.arguments import TrainConfig
from compact_splats.training.run import train
from compact_splats.training.summary import describe
from compact_splats.training.view_losses import ViewLosses


def losses_of(values) -> ViewLosses:
    losses = ViewLosses()
    for i, value in enumerate(values):
        losses.note(f"{i}", torch.tensor(value))
    return losses


@pytest.mark.parametrize(
    "values, worst",
    [
        ([0.1 + 0.001 * i for i in range(20)], []),
        ([0.1 + 0.001 * i for i in range(19)] + [0.5], ["19"]),
        ([0.1] * 18 + [0.4, 0.5], ["19", "18"]),
        ([0.1] * 19 + [0.12], []),  # above all others, and yet not bad
        ([0.1] * 10 + [0.5] * 10, []),  # half of the scene
        ([0.1] * 4 + [0.5], []),  # too few to tell
        ([0.1] * 19 + [math.nan], []),
    ],
)
def test_what_stands_out(values, worst):
    losses = losses_of(values)
    assert losses.worst() == worst
    again = ViewLosses()
    again.load_state_dict(losses.state_dict())
    assert again.worst() == worst


def test_only_the_last_loss_of_a_view_counts():
    losses = losses_of([0.1] * 19 + [0.5])
    losses.note("19", torch.tensor(0.1))
    assert losses.worst() == []


@pytest.mark.usefixtures("short_schedules_in_use")
def test_a_training_names_the_photo_that_fits_no_other(short_scene, tmp_path, capsys):
    scene = shutil.copytree(short_scene, tmp_path / "scene")
    photos = sorted((scene / "images").iterdir())
    noise = np.random.default_rng(0).integers(0, 256, cv2.imread(str(photos[6])).shape, dtype=np.uint8)
    cv2.imwrite(str(photos[6]), noise)
    config = TrainConfig(
        source_path=scene, model_path=tmp_path / "run", final_budget=300, schedule="quick", tensorboard=False
    )
    summary = train(config)
    assert summary["worst_views"] == [photos[6].name]
    assert f"worst fit    {photos[6].name}" in capsys.readouterr().out
    assert "worst fit" not in describe({**summary, "worst_views": []}, 300, tmp_path)
