"""The flags of train.py, and those that all commands share, as frozen dataclasses. Holds no step numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compact_splats.arguments.device import DEVICES
from compact_splats.arguments.interval import Interval
from compact_splats.arguments.options import build, check, from_json, given, option, read_json
from compact_splats.arguments.schedule import FAST, FULL, QUICK, DensificationRound, Schedule
from compact_splats.utils.errors import InputError

SCHEDULES = {"full": FULL, "fast": FAST, "quick": QUICK}
SELECTIONS = ("natural", "cutoff", "none")


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """How photos are read and rendered: what renders of a model must share with its training."""

    source_path: Path = option(
        type=Path, short="-s", may_change=True, help="folder of the scene: photos and poses (required)"
    )
    images: str = option("images", short="-i", help="subfolder of the photos, such as images_4")
    resolution: int = option(
        -1, type=int, short="-r", saves_memory=True,
        help="divide the size of the photos by 1, 2, 4 or 8, or scale them to this width; "
        "-1: as they are, but at most 1600 px wide"
    )  # fmt: skip
    white_background: bool = option(False, type=bool, short="-w", help="white instead of black background")
    eval: bool = option(False, type=bool, help="keep every 8th photo out of training, as test view")
    antialiasing: bool = option(False, type=bool, help="compensate the opacity of splats that are widened to a pixel")


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """What to compute on."""

    device: str = option("auto", choices=DEVICES, may_change=True, help="auto: the GPU where there is one")
    threads: int = option(0, type=int, may_change=True, help="CPU threads; 0: all cores")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(MachineConfig, SceneConfig):
    """All of a training. A config that exists is valid as far as that can be said without the scene.

    Raises:
        InputError: a value is of the wrong type or out of its range.
    """

    model_path: Path | None = option(
        None, type=Path, short="-m", may_change=True,
        help="folder of the results (default: a new one, output/SCENE-SCHEDULE-BUDGET)"
    )  # fmt: skip
    all_photos: bool = option(
        False, type=bool, may_change=True, help="refuse a scene of which photos are missing; without, the others do"
    )
    final_budget: int = option(type=int, saves_memory=True, help="number of Gaussians at the end (required)")
    schedule: str = option(
        "full", choices=tuple(SCHEDULES), help="full: best quality; fast: half the steps, many cheaper; quick: a tenth of the steps, for a CPU"
    )
    iterations: int | None = option(
        None, type=int, help="stretch or shrink the schedule to this number of steps; of one process: K of them "
        "(torchrun) take 1/K as many and see the same number of views"
    )  # fmt: skip
    test_iterations: tuple[int, ...] = option(
        (), type=int, many=True, may_change=True, help="measure also after these steps"
    )
    save_iterations: tuple[int, ...] = option(
        (), type=int, many=True, may_change=True, help="save also after these steps"
    )
    sh_degree: int = option(3, type=int, saves_memory=True, help="highest degree of the spherical harmonics, 0 to 3")
    seed: int = option(0, type=int, help="start of all random draws")
    deterministic: bool = option(False, type=bool, help="same bits from every run on a GPU, too, which is slower")
    random_background: bool = option(False, type=bool, help="train on a new random background at every step")
    selection: str = option(
        "natural", choices=SELECTIONS,
        help="how the set shrinks to the budget; cutoff: by lowest opacity in one go, for comparison; none: not at "
        "all, so that up to three budgets are left, for compress.py"
    )  # fmt: skip
    sh_rest_lr: float = option(
        0.005, type=float, help="learning rate of SH degrees 1 to 3, before division by 20; fast schedule: 0.005 "
        "outdoors, 0.02 indoors"
    )  # fmt: skip
    densify_grad_threshold: float = option(
        DensificationRound.gradient_threshold, type=float, help="screen-space gradient at which Gaussians split"
    )
    lambda_dssim: float = option(0.2, type=float, help="weight of the SSIM part of the loss, 0 to 1")
    init_ply: Path | None = option(
        None, type=Path, help="start from the Gaussians of this 3DGS PLY instead of the scene's points"
    )
    checkpoint_every: str = option(
        "auto", may_change=True, help="write a checkpoint after so many steps (2000) or minutes (10m); auto: every 5 "
        "minutes, or less often where that would take more than 1 %% of the time; 0: only on Ctrl-C and SIGTERM"
    )  # fmt: skip
    resume: bool = option(
        False, type=bool, may_change=True,
        help="continue the run in -m from its newest checkpoint, with its flags where none are given; begin where "
        "there is none"
    )  # fmt: skip
    tensorboard: bool = option(
        True, type=bool, may_change=True, help="write TensorBoard events where the package is installed"
    )
    viewer: int | None = option(
        None, type=int, may_change=True, alone=8080,
        help="show the training in a browser, live, with a button to pause it; the port on this machine is 8080 unless "
        "one is given"
    )  # fmt: skip
    quiet: bool = option(False, type=bool, may_change=True, help="print nothing but errors")

    def __post_init__(self) -> None:
        check(self)
        if self.viewer is not None:
            in_range(0, 65535, "--viewer", self.viewer)
        at_least(0, "--threads", self.threads)
        at_least(1, "--final-budget", self.final_budget)
        Interval.parse(self.checkpoint_every)
        if self.resume and self.model_path is None:
            raise InputError("--resume", "the folder of the run to continue", "none", "name it with -m")
        if self.iterations is not None:
            at_least(1, "--iterations", self.iterations)
        in_range(0, 3, "--sh-degree", self.sh_degree)
        in_range(0, 1, "--lambda-dssim", self.lambda_dssim)
        at_least(0, "--seed", self.seed)
        at_least(0, "--sh-rest-lr", self.sh_rest_lr)
        at_least(0, "--densify-grad-threshold", self.densify_grad_threshold)
        check_resolution(self.resolution)
        last = self.make_schedule().iterations
        for name, steps in (("--test-iterations", self.test_iterations), ("--save-iterations", self.save_iterations)):
            for step in steps:
                if not 1 <= step <= last:
                    raise InputError(name, f"steps from 1 to {last}", str(step), "leave it out or see --iterations")

    def make_schedule(self) -> Schedule:
        """The schedule that the flags ask for."""
        schedule = SCHEDULES[self.schedule]
        if self.iterations is not None:
            schedule = schedule.scaled(self.iterations / schedule.iterations)
        ratio = self.densify_grad_threshold / DensificationRound.gradient_threshold
        rounds = (
            replace(old, gradient_threshold=old.gradient_threshold * ratio, late_threshold=old.late_threshold * ratio)
            for old in schedule.densification_rounds
        )
        return replace(schedule, densification_rounds=tuple(rounds)).with_sh_rest_lr(self.sh_rest_lr)

    @classmethod
    def from_command_line(cls, argv: Sequence[str]) -> "TrainConfig":
        """Read the flags of train.py; with ``--resume``, those not given come from the run's ``config.json``.

        Raises:
            InputError: a flag is unknown, missing or has a value it can't have.
        """
        flags = given(cls, argv, "Train Gaussians on posed photos, down to a given number of them.")
        return build(cls, {**flags_to_continue(cls, flags), **flags})

    @classmethod
    def from_folder(cls, model_path: Path) -> "TrainConfig":
        """Read the ``config.json`` of a run.

        Raises:
            InputError: there is none, or it does not hold a config.
        """
        path = model_path / "config.json"
        return build(cls, from_json(cls, read_json(path), path))


def scene_of_run(folder: Path | None) -> dict[str, Any]:
    """What the ``config.json`` of a run says about its scene; nothing where there is none.

    Raises:
        InputError: it can't be read.
    """
    path = None if folder is None else folder / "config.json"
    return from_json(SceneConfig, read_json(path), path) if path is not None and path.exists() else {}


def flags_to_continue(cls: type, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of the run that ``--resume`` and ``-m`` name; nothing where there is none, or none is wanted."""
    path = flags["model_path"] / "config.json" if "model_path" in flags else None
    if not flags.get("resume") or path is None or not path.exists():
        return {}
    saved = from_json(cls, read_json(path), path)
    return {name: value for name, value in saved.items() if name not in ("resume", "viewer")}


def at_least(low: float, name: str, value: float) -> None:
    """Refuse a flag's value that is less than ``low``."""
    if value < low:
        raise InputError(name, f"{low} or more", str(value), "give a larger number")


def in_range(low: float, high: float, name: str, value: float) -> None:
    """Refuse a flag's value outside of ``low`` to ``high``."""
    if not low <= value <= high:
        raise InputError(name, f"a number from {low} to {high}", str(value), "give one of these")


def check_resolution(resolution: int) -> None:
    """Refuse a value that ``--resolution`` can't have."""
    if resolution != -1 and resolution < 1:
        raise InputError("--resolution", "-1, a divisor or a width in px", str(resolution), "give one of these")
