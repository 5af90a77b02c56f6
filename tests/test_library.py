"""The package as a notebook imports it: its names, the examples of docs/library.md, and an installed wheel."""

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import compact_splats
from compact_splats import (
    FAST,
    GaussianModel,
    Scene,
    Strategy,
    Training,
    load_scene,
    photometric_loss,
    standard_strategies,
)
from compact_splats.training.densification import split_long_axis

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "docs" / "site"))

from commands import fences  # noqa: E402


@pytest.fixture(scope="module")
def scene(tiny_scene_dir) -> Scene:
    return load_scene(tiny_scene_dir)


def python_of(page: Path, folder: Path) -> Path:
    """The Python of a page as one script."""
    script = folder / f"{page.stem}.py"
    script.write_text("\n".join(body for language, _, body in fences(page) if language == "python"))
    return script


@pytest.fixture(scope="module")
def examples(tiny_scene_dir, tmp_path_factory) -> dict[str, Any]:
    """The names that the examples of docs/library.md leave behind, and ``folder``, in which they were run."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "my_scene").symlink_to(tiny_scene_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return {**runpy.run_path(str(python_of(ROOT / "docs" / "library.md", folder))), "folder": folder}


# ---- the package ----


@pytest.mark.parametrize("name", compact_splats.__all__)
def test_every_public_name_imports(name):
    assert getattr(compact_splats, name) is not None
    assert name in dir(compact_splats)


def test_the_package_alone_loads_no_torch():
    code = "import sys, compact_splats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        compact_splats.trainer  # noqa: B018


# ---- the loss of a step ----


class Pull(Strategy):
    """Adds a term to the loss."""

    def loss_term(self, training: Training) -> torch.Tensor:
        return 0.1 * training.model.opacities.mean()


def trained(scene: Scene, loss: Callable[..., torch.Tensor], strategies: tuple[Strategy, ...]) -> dict:
    model = GaussianModel.from_points(scene.points, max_sh_degree=1, device="cpu")
    losses = [step.loss for step in Training(scene, model, FAST.scaled(4 / FAST.iterations), strategies, loss=loss)]
    return {**model.parameters, "losses": torch.stack(losses)}


def test_a_loss_of_ones_own_and_a_term_have_the_bits_of_the_built_in_loss_and_autograd(scene):
    def own(image: torch.Tensor, photo: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return photometric_loss(image, photo, mask)

    plain, same = trained(scene, photometric_loss, ()), trained(scene, own, ())
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    pulled, again = trained(scene, photometric_loss, (Pull(),)), trained(scene, own, (Pull(),))
    assert all(torch.equal(pulled[name], again[name]) for name in pulled)
    assert pulled["opacity_logits"].sigmoid().mean() < plain["opacity_logits"].sigmoid().mean()


# ---- docs/library.md and README.md ----


def test_training_ends_with_the_budget_and_a_ply(examples):
    assert examples["model"].num_gaussians == 2000
    saved = GaussianModel.load_ply(examples["folder"] / "my_scene.ply", "cpu", units=examples["scene"].units)
    # Worst measured: 4.8e-7, the rounding to float32 in the scene's coordinates.
    torch.testing.assert_close(saved.means, examples["model"].means, rtol=1e-6, atol=2e-6)


def test_the_readme_runs(tiny_scene_dir, tmp_path, monkeypatch):
    (tmp_path / "my_scene").symlink_to(tiny_scene_dir)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(python_of(ROOT / "README.md", tmp_path)))
    assert names["model"].num_gaussians == 2000


def test_the_strategy_splits_and_prunes_what_it_says(examples, scene):
    """Every 100 steps the 50 of largest mean gradient become two, at 0.6 of the opacity; below 0.01 none is left."""
    counts = []

    class Watched(examples["SplitLargest"]):
        def after_step(self, training: Training) -> None:
            before, opacities = training.model.num_gaussians, training.model.opacities.detach().flatten()
            if training.step % 100 == 0:
                split = torch.zeros(before, dtype=torch.bool)
                split[self.stats.mean().topk(50).indices] = True
                opacities = torch.cat([opacities[~split], 0.6 * opacities[split].repeat(2)])
                opacities = opacities[opacities >= 0.01]
                counts.append(len(opacities))
            super().after_step(training)
            assert training.model.num_gaussians == len(opacities)

    model = GaussianModel.from_points(scene.points, 3, "cpu")
    for _ in Training(scene, model, examples["schedule"], [Watched()]):
        pass
    assert len(counts) == 3 and counts[-1] == examples["split_model"].num_gaussians
    assert counts[0] == 1550 and counts[-1] != counts[0]


def test_the_own_loss_is_the_one_that_falls(examples, scene):
    first = GaussianModel.from_points(scene.points, 3, "cpu")
    errors = []
    for model in (first, examples["l2_model"]):
        assert model.num_gaussians == first.num_gaussians
        camera = scene.train[0]
        image = compact_splats.render(camera, model).image.detach()
        errors.append(float(examples["squared_error"](image, camera.photo.pixels(), None)))
    assert errors[1] < 0.5 * errors[0]


def test_a_checkpoint_continues_with_the_same_bits(examples):
    first, second = examples["first"].model, examples["second"].model
    assert all(torch.equal(first.parameters[name], second.parameters[name]) for name in first.parameters)
    assert examples["second"].step == examples["schedule"].iterations


def test_a_decoded_model_has_all_gaussians_in_fewer_bytes(examples):
    assert examples["small_model"].num_gaussians == examples["model"].num_gaussians
    assert len(examples["data"]) < 60 * examples["model"].num_gaussians


# ---- any optimizer through any edit ----


def sgd(model: GaussianModel, rates: dict[str, float]) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameter_groups(rates), lr=1e-3, momentum=0.9)


def reordered_adam(model: GaussianModel, rates: dict[str, float]) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameter_groups(rates)[::-1], eps=1e-15)


@pytest.mark.parametrize("make", [sgd, reordered_adam])
def test_optimizer_state_follows_its_gaussian_through_split_and_prune(
    make: Callable[[GaussianModel, dict[str, float]], torch.optim.Optimizer], scene
):
    """Every tensor of the state with one entry per Gaussian is the old one gathered by hand, zero for new Gaussians."""
    model = GaussianModel.from_points(scene.points, 3, "cpu")
    model.optimizer = make(model, FAST.learning_rates_at(0, scene.extent))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for values in model.parameters.values():
            values.grad = torch.randn(values.shape, generator=generator)
        model.update()
    num = model.num_gaussians
    before = {name: dict(model.optimizer.state[values]) for name, values in model.parameters.items()}

    split = torch.randperm(num, generator=generator)[:100].sort().values
    split_long_axis(model, split)
    pruned = torch.rand(model.num_gaussians, generator=generator) < 0.3
    model.keep(~pruned)

    is_split = torch.isin(torch.arange(num), split)
    origin = torch.cat([torch.arange(num)[~is_split], split.repeat_interleave(2)])[~pruned]
    fresh = (torch.arange(num + 100) >= num - 100)[~pruned]
    num_checked = 0
    for name, values in model.parameters.items():
        after = model.optimizer.state[values]
        assert after.keys() == before[name].keys()
        for key, old in before[name].items():
            if isinstance(old, torch.Tensor) and old.ndim:
                expected = old[origin]
                expected[fresh] = 0
                assert torch.equal(after[key], expected), f"{key} of {name}"
                num_checked += 1
    assert num_checked == (6 if make is sgd else 12)
    held = [id(each) for group in model.optimizer.param_groups for each in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters.values())), "the optimizer updates the new parameters"
    assert len(model.optimizer.state) == 6


@pytest.mark.parametrize("make", [sgd, reordered_adam])
def test_another_optimizer_stops_and_continues_with_the_same_bits(make, scene, tmp_path):
    schedule = FAST.scaled(0.004)
    results = []
    for stop_at in (0, 25):
        training = None
        for last in filter(None, (stop_at, schedule.iterations)):
            model = GaussianModel.from_points(scene.points, 3, "cpu")
            model.optimizer = make(model, schedule.learning_rates_at(0, scene.extent))
            training = Training(scene, model, schedule, standard_strategies(scene, schedule, budget=1000))
            if (tmp_path / "state.pt").exists():
                training.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
            while training.step < last:
                next(training)
            if last == stop_at:
                torch.save(training.state_dict(), tmp_path / "state.pt")
        results.append(training.model.parameters)
    uninterrupted, continued = results
    assert all(torch.equal(uninterrupted[name], continued[name]) for name in uninterrupted)


# ---- the wheel ----

NOTEBOOK = """
import sys
from pathlib import Path
from compact_splats import FAST, GaussianModel, Training, load_scene, standard_strategies

scene = load_scene(sys.argv[1])
schedule = FAST.scaled(50 / 15000)
model = GaussianModel.from_points(scene.points, max_sh_degree=3, device="cpu")
for step in Training(scene, model, schedule, standard_strategies(scene, schedule, budget=1000)):
    pass
assert step.number == 50
model.save_ply(sys.argv[2])
files = [Path(each.__file__) for name, each in sys.modules.items() if name.split(".")[0] == "compact_splats"]
outside = [str(file) for file in files if Path(sys.argv[3]) not in file.resolve().parents]
assert len(files) > 20 and not outside, outside
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel of this checkout installed in it, without its dependencies."""
    for module in ("pip", "setuptools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: no wheel can be built")
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "installed"))
    for name in ("arguments", "compact_splats", "gaussian_renderer", "scene", "utils"):  # the build writes beside them
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (
        *ROOT.glob("*.py"),
        *(ROOT / name for name in ("pyproject.toml", "budget.txt", "README.md", "LICENSE")),
    ):
        shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels), str(source)]
    subprocess.run(build, check=True, timeout=240)
    wheel = next(wheels.glob("compact_splats-*.whl"))
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", str(target), str(wheel)], check=True
    )
    return target


@pytest.fixture
def foreign_folder(tmp_path) -> Path:
    """A folder with a notebook, and packages of common names that are not this project's."""
    for name in ("utils", "scene", "compression", "arguments", "training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('the {name} of another project')")
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    return tmp_path


def test_the_wheel_trains_beside_foreign_packages_as_the_checkout_does(installed, foreign_folder, tiny_scene_dir):
    """Every module comes from the folder of the wheel, and the model has the same bytes."""
    models = []
    for where in (installed, ROOT):
        ply = foreign_folder / f"{len(models)}.ply"
        command = [sys.executable, "notebook.py", str(tiny_scene_dir), str(ply), str(where.resolve())]
        environment = {**os.environ, "PYTHONPATH": str(where)}
        done = subprocess.run(command, cwd=foreign_folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        models.append(ply.read_bytes())
    assert models[0] == models[1]


def test_the_installed_console_lists_and_runs_the_commands(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "compact_splats", "train", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "--final-budget" in done.stdout, done.stderr
    assert (installed / "compact_splats" / "commands" / "budget.txt").is_file()
