"""Fixtures that several test files share. Fixtures of one file stay in that file."""

import os
from pathlib import Path

import pytest

# Before any test imports torch, whose idle OpenMP threads would otherwise spin on the cores that the rasterizer needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with ``scenes/`` (real captures) and ``reference/`` (an independent render), from ``TEST_DATA``."""
    folder = os.environ.get("TEST_DATA")
    if not folder:
        pytest.skip("TEST_DATA is not set: no real captures to test on")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"TEST_DATA={folder}: no such folder")
    return path


@pytest.fixture(scope="session")
def tiny_scene_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo scene, small: 12 views of 96x64 pixels in COLMAP layout. Read only."""
    from utils.demo_scene import write_demo_scene

    out = tmp_path_factory.mktemp("demo") / "scene"
    write_demo_scene(out, width=96, height=64, num_views=12, num_points=1500)
    return out
