"""The runs of a sweep: which scenes are there, and with which budgets and seeds they are trained. Runs nothing."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from usable_processors import default_threads

from compact_splats.arguments.config import SCHEDULES
from compact_splats.arguments.suite import SuiteConfig
from compact_splats.suite.budgets import SceneBudget, read_budgets
from compact_splats.suite.process import ROOT
from compact_splats.utils.errors import InputError, brief

_PLACES = ("{}", "*/{}", "*/*/{}")  # of a scene in --data, such as 360_v2/bicycle and tandt_db/db/playroom
_MARKS = ("sparse", "transforms.json", "transforms_train.json", "images*")  # a folder with one of them is a scene
_BUNDLE = "https://repo-sam.inria.fr/fungraph/3d-gaussian-splatting/ (Tanks & Temples and Deep Blending)"
SOURCES = {
    "mip-nerf-360": "https://jonbarron.info/mipnerf360/",
    "deep-blending": _BUNDLE,
    "tanks-and-temples": _BUNDLE,
}


@dataclass(frozen=True)
class Job:
    """One run: a scene, a budget and a seed, and how to train it. Can be pickled; paths are absolute.

    Attributes:
        source: folder of the scene.
        images: folder of the photos in it.
        resolution: ``--resolution`` of train.py.
        schedule: "full" or "fast".
        budget_name: "normal", "small", "fast", or for a share of the budget "x0.4".
        budget: Gaussians at the end.
        sh_rest_lr: of train.py, or None for the default.
        folder: of the run, ``OUTPUT/SCENE/SCHEDULE-BUDGET-seedK``.
        compress: whether compress.py runs after training.
        iterations: ``--iterations`` of train.py, or None.
        threads: of each stage; 0: all cores.
    """

    scene: str
    dataset: str
    source: Path
    images: str
    resolution: int
    schedule: str
    budget_name: str
    budget: int
    sh_rest_lr: float | None
    seed: int
    folder: Path
    compress: bool
    iterations: int | None
    device: str
    threads: int

    @property
    def name(self) -> str:
        """The run's folder below the sweep's."""
        return f"{self.scene}/{self.folder.name}"

    @property
    def last_step(self) -> int:
        """The step after which training ends."""
        return self.iterations or SCHEDULES[self.schedule].iterations


@dataclass(frozen=True)
class Missing:
    """A scene of the table that is not in the data folder, and where it can be downloaded."""

    scene: str
    dataset: str
    where: str


@dataclass(frozen=True)
class Plan:
    """A sweep. Every scene comes once before any scene comes again, so that tables are complete early."""

    output: Path
    jobs: tuple[Job, ...]
    missing: tuple[Missing, ...]


def make_plan(config: SuiteConfig, schedule: str) -> Plan:
    """Find the scenes, and list the runs.

    Raises:
        InputError: the table is wrong, a scene is not in it or is found twice, or a scene lacks the budget.
    """
    path = config.budget_file or ROOT / "budget.txt"
    lines = _chosen(config, read_budgets(path), path)
    if not config.data.is_dir():
        raise InputError(f"data folder {config.data} does not exist (see --data)")
    output = (config.output or Path("output") / f"suite-{schedule}").absolute()
    data = config.data.absolute()
    found = {line.scene: folder for line in lines if (folder := find_scene(data, line.scene))}
    jobs = (
        _job(config, schedule, line, found[line.scene], output, share, seed)
        for seed in range(config.repeats)
        for share in config.shares
        for line in lines
        if line.scene in found
    )
    missing = (
        Missing(line.scene, line.dataset, SOURCES.get(line.dataset, f"your own data: {config.data / line.scene}"))
        for line in lines
        if line.scene not in found
    )
    return Plan(output, tuple(jobs), tuple(missing))


def find_scene(data: Path, scene: str) -> Path | None:
    """The folder of a scene in the data folder or up to two folders down, or None.

    Raises:
        InputError: it is found twice.
    """
    candidates = {
        folder.resolve(): folder
        for place in _PLACES
        for folder in sorted(data.glob(place.format(scene)))
        if any(any(folder.glob(mark)) for mark in _MARKS)
    }
    if len(candidates) > 1:
        found = " and ".join(str(folder) for folder in list(candidates.values())[:2])
        raise InputError(f"scene {scene} is there twice: {found}: move one of them away (see --data)")
    return next(iter(candidates.values()), None)


def _chosen(config: SuiteConfig, table: dict[str, SceneBudget], path: Path) -> list[SceneBudget]:
    for scene in config.scenes:
        if scene not in table:
            close = difflib.get_close_matches(scene, table, 1)
            hint = f"did you mean {close[0]}?" if close else "add it there"
            raise InputError(f"scene {brief(scene)} is not in {path}: {hint} (see --scenes)")
    return [line for line in table.values() if not config.scenes or line.scene in config.scenes]


def _job(
    config: SuiteConfig, schedule: str, line: SceneBudget, source: Path, output: Path, share: float, seed: int
) -> Job:
    is_fast = schedule == "fast"
    column = "small" if config.small else "fast" if is_fast else "budget"
    budget = getattr(line, column)
    if budget is None:
        raise InputError(f"scene {line.scene} has no value in column '{column}' of the table: add it there")
    name = f"x{share:g}" if share != 1 else "normal" if column == "budget" else column
    is_resized = config.protocol == "resized"
    return Job(
        scene=line.scene,
        dataset=line.dataset,
        source=source,
        images="images" if is_resized else line.images,
        resolution=-1,  # at most 1600 px wide, as the photos of the canonical folders are
        schedule=schedule,
        budget_name=name,
        budget=max(1, round(share * budget)),
        sh_rest_lr=line.fast_sh_rate if is_fast else None,
        seed=seed,
        folder=output / line.scene / f"{schedule}-{name}-seed{seed}",
        compress=config.compress,
        iterations=config.iterations,
        device=config.device,
        threads=_threads(config),
    )


def _threads(config: SuiteConfig) -> int:
    """Threads of a run; 0, which means all cores, if it is the only run on its machine."""
    shares_machine = config.jobs > 1 or config.ray is not None
    return config.threads or (default_threads(config.jobs) if shares_machine else 0)
