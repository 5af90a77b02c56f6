"""Fixtures that several test files share. Fixtures of one file stay in that file."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Before anything imports torch, whose idle OpenMP threads would otherwise spin on the cores that the rasterizer needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A cache of torch hub that can't be written, so that no test downloads the weights of LPIPS.
NO_CACHE = tempfile.TemporaryDirectory()
os.environ["TORCH_HOME"] = NO_CACHE.name
(Path(NO_CACHE.name) / "hub").touch()

import browser  # noqa: E402
import emulated_engine  # noqa: E402
import ptx_engine  # noqa: E402
import torch  # noqa: E402
from emulated_engine import GuardedMemory  # noqa: E402
from rasterizer_cases import CPU, CUDA_ENGINES, Engine  # noqa: E402


@pytest.fixture(scope="session")
def emulated_engine_and_memory() -> tuple[Engine, GuardedMemory]:
    """The CUDA engine whose kernels run on the CPU, built when its sources have changed, and its device memory.

    The environment variable EMULATED_ENGINE names another file to load, a build with an error in it for example.
    """
    if path := os.environ.get("EMULATED_ENGINE"):
        module = Path(path)
    elif reason := emulated_engine.why_not():
        pytest.skip(reason)
    else:
        module = emulated_engine.build_engine()
    memory = GuardedMemory()
    return Engine("emulated", "cpu", False, emulated_engine.load(module, memory)), memory


@pytest.fixture(scope="session")
def engine_on_ptx() -> Engine:
    """The CUDA engine as nvcc compiles it to PTX, which runs on the CPU; built when its sources have changed.

    The environment variable PTX_ENGINE names another file to load, a build with an error in it for example.
    """
    if path := os.environ.get("PTX_ENGINE"):
        module = Path(path)
    elif reason := ptx_engine.why_not():
        pytest.skip(reason)
    else:
        module = ptx_engine.build_engine()
    return Engine("ptx", "cpu", False, ptx_engine.load(module))


@pytest.fixture(params=["cpu", *CUDA_ENGINES])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine that can run here, in use by all of diff_gaussian_rasterization for the length of the test."""
    if request.param == "emulated":
        chosen, memory = request.getfixturevalue("emulated_engine_and_memory")
        print(f"CUDA_EMULATION_SEED={emulated_engine.SEED}")  # pytest shows it where a test fails
        with chosen.active():
            yield chosen
        memory.check()
        return
    if request.param == "ptx":
        with request.getfixturevalue("engine_on_ptx").active() as chosen:
            yield chosen
        return
    with (CPU if request.param == "cpu" else Engine("cuda", "cuda", False, CPU.module)).active() as chosen:
        yield chosen


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Within the test, reruns give the same bits on a GPU, too; by default its gradients are added up in any order."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], Path]]:
    """Makes a folder read-only for this process, also for root: writes by Python code raise ``PermissionError``."""
    if not _hooked:
        sys.addaudithook(_refuse_writes)
        _hooked.append(True)

    def protect(folder: Path) -> Path:
        _read_only_folders.append(folder.resolve())
        return folder

    yield protect
    _read_only_folders.clear()


_hooked: list[bool] = []
_read_only_folders: list[Path] = []
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _refuse_writes(event: str, arguments: tuple) -> None:
    is_write = event in ("os.mkdir", "os.remove", "os.rename") or event == "open" and arguments[2] & _WRITES
    if not (_read_only_folders and is_write) or isinstance(arguments[0], int):
        return
    path = Path(os.fsdecode(arguments[0])).absolute()
    if any(path.is_relative_to(folder) for folder in _read_only_folders):
        raise PermissionError(f"[Errno 13] Permission denied: '{path}'")


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
    from compact_splats.demo.scene import write_demo_scene

    out = tmp_path_factory.mktemp("demo") / "scene"
    write_demo_scene(out, width=96, height=64, num_views=12, num_points=1500)
    return out


@pytest.fixture(scope="session")
def short_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scene of tests/kill_runs.py: 14 views of 48x32 pixels. Read only."""
    from kill_runs import SCENE

    from compact_splats.demo.scene import write_demo_scene

    out = tmp_path_factory.mktemp("short") / "scene"
    write_demo_scene(out, **SCENE)
    return out


@pytest.fixture(scope="module")
def short_schedules_in_use() -> Iterator[None]:
    """For the tests of a module the schedules have 60 steps, and gradients wait as in the whole ones."""
    from kill_runs import short_schedules

    from compact_splats.arguments.config import SCHEDULES

    with pytest.MonkeyPatch.context() as patch:
        for name, schedule in short_schedules().items():
            patch.setitem(SCHEDULES, name, schedule)
        yield


@pytest.fixture(scope="session")
def suite_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two of the three scenes of the tests' table, at different depths. Read only."""
    from suite_cases import write_scenes

    return write_scenes(tmp_path_factory.mktemp("suite") / "data")


@pytest.fixture
def data_dir(suite_scenes: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return shutil.copytree(suite_scenes, tmp_path / "data")


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window."""
    if reason := browser.why_not():
        pytest.skip(reason)
    with browser.browser() as found:
        yield found
