"""benchmarks.quality: changes of schedules, runs that are not made twice, and the table of differences."""

import math

import pytest
import torch

from benchmarks import quality
from compact_splats.arguments.schedule import QUICK
from compact_splats.utils.errors import InputError


def test_a_change_reaches_its_field_and_no_other():
    schedule, options = quality.schedule_of(
        "quick", "learning_rates.factor=3+densification_rounds.0.window.every=70+photo_divisors=[[9,2]]+selection=none"
    )
    assert options == {**quality.OPTIONS, "selection": "none"}
    assert schedule.learning_rates.factor == 3 and schedule.photo_divisors == ((9, 2),)
    assert schedule.densification_rounds[0].window.every == 70
    back = "learning_rates.factor=2.15+densification_rounds.0.window.every=50+photo_divisors=[[450,4],[1200,2]]"
    for change in back.split("+"):
        path, _, value = change.partition("=")
        schedule = quality.changed(schedule, path, quality._tuples(quality.json.loads(value)))
    assert schedule == QUICK


def test_a_change_is_of_the_full_length():
    assert quality.schedule_of("quick:300", "mean_from=2000")[0].mean_from == 200


@pytest.mark.parametrize(
    ("run", "changes", "message"),
    [
        ("quick", "learning_rates.fctor=1", "'fctor' is no field of LearningRates"),
        ("quick", "densification_rounds.1.num_views=1", "'1' is no field of tuple"),
        ("quick", "mean_from=late", "--with mean_from=late: write FIELD=VALUE"),
        ("quik", "", "--runs quik: write the name of a schedule"),
        ("quick:fast", "", "--runs quick:fast"),
    ],
)
def test_a_wrong_run_or_change_is_an_error(run, changes, message):
    with pytest.raises(InputError, match=message):
        quality.schedule_of(run, changes)


def result(scene, changes, seed, psnr, seconds=10):
    scores = {"psnr": psnr, "ssim": psnr / 40, "cc_psnr": psnr + 1}
    case = {"scene": scene, **quality.Setting()._asdict(), "run": "quick", "changes": changes, "seed": seed}
    return {**case, "gaussians": 20_000, "cpu_seconds": seconds, "test": scores, "train": scores, "course": []}


def test_the_table_compares_equal_scenes_and_seeds():
    results = [
        result("oak", "", 0, 30),
        result("oak", "", 1, 31),
        result("elm", "", 0, 20),
        result("oak", "a=1", 0, 30.5, 20),
        result("oak", "a=1", 1, 31.7, 20),
        result("elm", "a=1", 0, 19),
        result("elm", "a=1", 1, 90),  # without a partner
    ]
    plain, changes = quality.table(results).split("\n\n")
    assert "| oak, 20,000 | quick | 2 | 30.50 ± 0.71 |" in plain and "a=1" not in plain
    (row,) = [line for line in changes.splitlines() if "a=1" in line]
    assert row.startswith("| quick a=1 | -1.00 | +0.60 ± 0.14 | -0.20 ± 1.13 |") and row.endswith("| x 1.50 |")


def test_disturbed_poses_are_as_far_off_as_asked_and_test_poses_follow_a_common_motion(tiny_scene_dir):
    scene = quality.load_scene(tiny_scene_dir)
    exact = [camera.world_to_camera.clone() for camera in scene.train]
    quality.disturb_poses(scene, 0.5, seed=1)
    for camera, before in zip(scene.train, exact, strict=True):
        turn = camera.world_to_camera[:3, :3].double() @ before[:3, :3].double().T
        centre = -before[:3, :3].T @ before[:3, 3]
        assert math.degrees(math.acos((float(turn.trace()) - 1) / 2)) == pytest.approx(0.5, rel=1e-2)
        assert float((camera.centre - centre).norm()) == pytest.approx(0.01 * quality.EXTENT, rel=1e-3)
    motion = torch.eye(4)
    motion[:3, :3] = quality.rotation_matrices(torch.tensor([[1, 0.1, -0.2, 0.05]]))[0]
    motion[:3, 3] = torch.tensor([0.3, -0.1, 0.2])
    for camera, before in zip(scene.train, exact, strict=True):
        camera.world_to_camera.copy_(before @ motion)
    wanted = [camera.world_to_camera @ motion for camera in scene.test]
    quality.align_test_poses(scene, exact)
    for camera, pose in zip(scene.test, wanted, strict=True):
        assert torch.allclose(camera.world_to_camera, pose, atol=1e-4)
