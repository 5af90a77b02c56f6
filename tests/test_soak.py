"""Memory does not grow from training to training in one process. benchmarks/soak.py trains more often."""

import pytest

from benchmarks.soak import growth, memory_after_trainings
from compact_splats.arguments import TrainConfig


def test_growth_is_the_slope_after_the_warm_up():
    assert growth([900, 100, 110, 120, 130], 1) == pytest.approx(10)
    assert growth([0, 50, 60, 50, 60, 50], 1) == pytest.approx(0, abs=1e-9)


def test_trainings_in_a_row_leave_no_memory_behind(tiny_scene_dir, tmp_path):
    """Five of them: after the first two, a training leaves less than 1 MB; slack is for the allocator."""
    config = TrainConfig(
        source_path=tiny_scene_dir, model_path=tmp_path / "run", eval=True, final_budget=300, iterations=60,
        device="cpu", quiet=True, tensorboard=False,
    )  # fmt: skip
    resident = list(memory_after_trainings(config, 5))
    assert growth(resident, 2) < 1e6, [f"{each / 1e6:.1f} MB" for each in resident]
