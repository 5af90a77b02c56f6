"""The flags of train.py, and those that several commands share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compact_splats.arguments.cfg_args import read_cfg_args
from compact_splats.arguments.device import DEVICES
from compact_splats.arguments.interval import Interval
from compact_splats.arguments.options import Command, build, check, from_json, option, read_json
from compact_splats.arguments.schedule import (
    FAST,
    FEWEST_PHOTOS,
    FULL,
    MOST_STEPS_PER_PHOTO,
    QUICK,
    DensificationRound,
    Schedule,
)
from compact_splats.arguments.sizes import memory_size
from compact_splats.utils.errors import InputError, note

SCHEDULES = {"full": FULL, "fast": FAST, "quick": QUICK}
ALPHAS = ("auto", "mask", "composite")
SELECTIONS = ("auto", "natural", "error", "cutoff", "none")
SWITCHES = ("auto", "on", "off")


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """How photos are read and rendered. Rendering a model takes these from its training."""

    source_path: Path = option(
        type=Path, short="-s", positional="SCENE", group="basic", may_change=True,
        help="folder of the scene: photos and poses (required)"
    )  # fmt: skip
    images: str = option("images", short="-i", group="basic", help="subfolder of the photos, such as images_4")
    resolution: int = option(
        -1, type=int, short="-r", group="basic", saves_memory=True,
        help="1, 2, 4 or 8 divides the size of the photos, any other number is their width in px; "
        "-1: full size, but at most 1600 px wide"
    )  # fmt: skip
    photo_memory: str = option(
        "auto", saves_memory=True, may_change=True, help="memory for decoded photos, such as 4GB or 800MB; those that "
        "do not fit are decoded again or read from a temporary file; auto: half of the free memory"
    )  # fmt: skip
    white_background: bool = option(False, type=bool, short="-w", help="white instead of black background")
    alpha: str = option(
        "auto", choices=ALPHAS, help="alpha channel of a photo; mask: transparent pixels do not count; composite: the "
        "photo is composited over the background, and they stay empty; auto: composite in Blender scenes and with "
        "--random-background, else mask"
    )  # fmt: skip
    sparse: int | None = option(
        None, type=int, help="number of the COLMAP model in the folder sparse (default: the one with the most photos)"
    )
    eval: bool = option(
        False, type=bool, group="basic", help="hold out test views: those that the scene lists (test.txt, "
        "test_filenames), else every 8th photo"
    )  # fmt: skip
    antialiasing: bool | None = option(
        None, type=bool, help="reduce the opacity of splats that are widened to a pixel (default: as the model is "
        "marked)"
    )  # fmt: skip
    keep_nan: bool = option(
        False, type=bool, may_change=True, help="refuse a model with values that are not finite, instead of leaving "
        "out these Gaussians"
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Device, threads, and what is printed."""

    device: str = option("auto", choices=DEVICES, may_change=True, help="auto: the GPU, if there is one")
    threads: int = option(0, type=int, low=0, may_change=True, help="CPU threads; 0: all that this process may use")
    quiet: bool = option(False, type=bool, group="output", may_change=True, help="print nothing but errors")

    def say(self, text: str) -> None:
        """Print a line for the user."""
        if not self.quiet:
            print(text, flush=True)

    def say_notes(self, path: Path, notes: Sequence[str]) -> None:
        """Print notes about a file."""
        if not self.quiet:
            for text in notes:
                note(f"{path}: {text}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Command, MachineConfig, SceneConfig):
    """The flags of a training."""

    about = (
        "Train a 3D Gaussian Splatting model with an exact number of Gaussians on photos with poses (COLMAP, "
        "Blender, nerfstudio or instant-ngp)."
    )
    examples = (
        "my_scene --final-budget 50000 --minutes 10",
        "my_scene -m output/my_scene --eval --schedule fast --final-budget 300000",
    )

    model_path: Path | None = option(
        None, type=Path, short="-m", group="output", may_change=True,
        help="folder of the results (default: a new one, output/SCENE-SCHEDULE-BUDGET)"
    )  # fmt: skip
    all_photos: bool = option(
        False, type=bool, may_change=True, help="fail if a photo of the scene is missing, instead of leaving it out"
    )
    final_budget: int = option(
        type=int, low=1, group="basic", saves_memory=True, help="number of Gaussians at the end (required)"
    )
    schedule: str = option(
        "full", group="basic", choices=tuple(SCHEDULES), help="full: 30,000 steps; fast: 15,000, most of them "
        "cheap; quick: 3,000, for a CPU, and with --iterations 10000 as good as full"
    )  # fmt: skip
    iterations: int | None = option(
        None, type=int, low=1, help="scale the schedule to this number of steps; with K processes (torchrun) each "
        "takes 1/K of them"
    )  # fmt: skip
    minutes: float | None = option(
        None, type=float, group="basic", help="train for this long: as many steps as fit on this machine, at most "
        "30000, by the quick schedule unless --schedule is given"
    )  # fmt: skip
    test_iterations: tuple[int, ...] = option(
        (), type=int, many=True, group="output", may_change=True, help="evaluate also after these steps"
    )
    save_iterations: tuple[int, ...] = option(
        (), type=int, many=True, group="output", may_change=True, help="save the model also after these steps"
    )
    sh_degree: int = option(
        3, type=int, low=0, high=3, saves_memory=True, help="highest degree of the spherical harmonics, 0 to 3"
    )
    seed: int = option(0, type=int, low=0, help="random seed")
    deterministic: bool = option(False, type=bool, help="same bits in every run, also on a GPU; slower")
    random_background: bool = option(False, type=bool, help="a new random background in every step")
    exposure: str = option(
        "off", choices=SWITCHES, help="learn exposure and white balance of each training photo; auto: where photos of "
        "the same points clearly differ in brightness"
    )  # fmt: skip
    smoothing_3d: bool = option(
        False, type=bool, help="make no Gaussian finer than the photos can show, for views from nearer or with more "
        "pixels; saved models contain it"
    )  # fmt: skip
    refine_poses: bool = option(
        False, type=bool, help="learn the pose of each training photo with the model; the poses go to cameras.json "
        "and, as a COLMAP model, to refined/sparse/0 in the folder of the results; test views keep theirs"
    )  # fmt: skip
    depth_loss: str = option(
        "auto", choices=SWITCHES, help="hold the rendered depth at the points that each photo observes, as a COLMAP "
        "model with tracks says; auto: with at most 12 training photos"
    )  # fmt: skip
    robust: bool = option(
        False, type=bool, help="leave out, in every step, the patches of the photo that differ much from the model: "
        "against people and cars that moved between the photos"
    )  # fmt: skip
    selection: str = option(
        "auto", choices=SELECTIONS,
        help="how the budget is reached; natural: natural selection; error: prune what changes the images least; "
        "cutoff: prune the lowest opacities at once, for comparison; none: not at all, which leaves up to three times "
        f"the budget, for compress.py; auto: error by the quick schedule with at least {FEWEST_PHOTOS} training photos "
        f"and at most {MOST_STEPS_PER_PHOTO} steps for each (--minutes counts as {QUICK.iterations} steps), otherwise "
        "natural"
    )  # fmt: skip
    sh_rest_lr: float = option(
        0.005, type=float, low=0, help="learning rate of SH degrees 1 to 3, before division by 20; fast schedule: "
        "0.005 outdoors, 0.02 indoors"
    )  # fmt: skip
    densify_grad_threshold: float = option(
        DensificationRound.gradient_threshold, type=float, low=0, help="screen-space gradient above which Gaussians "
        "split"
    )  # fmt: skip
    lambda_dssim: float = option(0.2, type=float, low=0, high=1, help="weight of the SSIM part of the loss, 0 to 1")
    init_ply: Path | None = option(
        None, type=Path, help="start from the Gaussians of this model of any format instead of the scene's points"
    )
    checkpoint_every: str = option(
        "auto", may_change=True, help="checkpoint interval in steps (2000) or minutes (10m); auto: 5 minutes, or more "
        "if writing would take over 1 %% of the time; 0: only on Ctrl-C and SIGTERM"
    )  # fmt: skip
    resume: bool = option(
        False, type=bool, group="basic", may_change=True,
        help="continue the run in -m from its newest checkpoint, with the flags of the run unless given anew; without "
        "a checkpoint, start from the beginning"
    )  # fmt: skip
    tensorboard: bool = option(
        True, type=bool, group="output", may_change=True, help="write TensorBoard events, if the package is installed"
    )
    viewer: int | None = option(
        None, type=int, low=0, high=65535, group="output", may_change=True, alone=8080,
        help="show the training live in a browser, with a pause button, on this port (8080 if none is given)"
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        memory_size(self.photo_memory)
        if self.random_background and self.alpha == "auto":
            object.__setattr__(self, "alpha", "composite")  # config.json says it, which render.py and others read
        Interval.parse(self.checkpoint_every)
        if self.resume and self.model_path is None:
            raise InputError("--resume needs the folder of the run to continue: name it with -m")
        if self.minutes is not None:
            self._check_minutes(self.minutes)
        check_resolution(self.resolution)
        last = self.make_schedule().iterations
        for name, steps in (("--test-iterations", self.test_iterations), ("--save-iterations", self.save_iterations)):
            for step in steps:
                if not 1 <= step <= last:
                    raise InputError(f"{name} must be steps from 1 to {last}, not {step} (see --iterations)")

    def _check_minutes(self, minutes: float) -> None:
        if not 0 < minutes < float("inf"):
            raise InputError(f"--minutes must be more than 0, not {minutes:g}")
        for name, value in (
            ("--iterations", self.iterations),
            ("--test-iterations", self.test_iterations),
            ("--save-iterations", self.save_iterations),
        ):
            if value:
                raise InputError(f"{name} can't be given with --minutes, which chooses the number of steps")

    def make_schedule(self) -> Schedule:
        """The schedule, scaled to ``iterations`` and with the learning rate and threshold of the flags."""
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
    def completed(cls, flags: dict[str, Any]) -> dict[str, Any]:
        """With ``--resume``, flags that are not given come from the run's ``config.json``."""
        if "minutes" in flags and "schedule" not in flags:
            flags["schedule"] = "quick"
        return {**_flags_to_continue(flags), **flags}

    @classmethod
    def from_folder(cls, model_path: Path) -> "TrainConfig":
        """Read the ``config.json`` of a run.

        Raises:
            InputError: the file does not exist or is not a config.
        """
        path = model_path / "config.json"
        return build(cls, from_json(cls, read_json(path), path))


def scene_of_run(folder: Path | None) -> dict[str, Any]:
    """The fields of :class:`SceneConfig` that a run was trained with; empty without ``config.json`` and ``cfg_args``.

    ``antialiasing`` is among them only where it was on: models without a mark may be older than the mark.
    ``photo_memory`` is not: it is a matter of the machine.

    Raises:
        InputError: the file can't be read.
    """
    for name, read in (("config.json", read_json), ("cfg_args", read_cfg_args)):
        path = None if folder is None else folder / name
        if path is not None and path.exists():
            values = from_json(SceneConfig, read(path), path)
            unset = [key for key in ("antialiasing", "keep_nan") if not values.get(key)]
            return {key: value for key, value in values.items() if key not in (*unset, "photo_memory")}
    return {}


def run_folder(model: Path) -> Path | None:
    """The run folder of a model: the folder itself, or one of the three folders above a file; None if not a run."""
    near = [model] if model.is_dir() else model.absolute().parents[:3]
    names = ("config.json", "cfg_args", "cameras.json")  # 3DGS writes the last two
    return next((folder for folder in near if any((folder / name).is_file() for name in names)), None)


def of_run(file: Path) -> dict[str, Any]:
    """The run folder and the step, as flags, of a model that train.py saved; empty for any other file."""
    run, step = run_folder(file), file.absolute().parent.name.removeprefix("iteration_")
    is_saved = run is not None and step.isdecimal() and file.absolute().parents[2] == run.absolute()
    return {"model_path": run, "iteration": int(step)} if is_saved and file.name == "point_cloud.ply" else {}


def _flags_to_continue(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of the run in ``-m``, with ``--resume``; empty without ``--resume`` or without a run."""
    path = flags["model_path"] / "config.json" if "model_path" in flags else None
    if not flags.get("resume") or path is None or not path.exists():
        return {}
    saved = from_json(TrainConfig, read_json(path), path)
    return {name: value for name, value in saved.items() if name not in ("resume", "viewer")}


def check_resolution(resolution: int) -> None:
    """Refuse values of ``--resolution`` that are not valid."""
    if resolution != -1 and resolution < 1:
        raise InputError(f"--resolution must be 1, 2, 4, 8, a width in px, or -1, not {resolution}")
