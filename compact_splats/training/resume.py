"""Decides whether a training is new, continues the run in its folder, or has nothing left to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_splats.arguments import TrainConfig
from compact_splats.arguments.options import flag, read_json, to_json
from compact_splats.training.checkpoint import Checkpoints
from compact_splats.training.processes import SingleProcess
from compact_splats.training.run_folder import Run
from compact_splats.utils.errors import InputError


@dataclass(frozen=True)
class Start:
    """How a training starts. At most one of the two is given; without both it is new.

    Attributes:
        summary: of the finished run that is in the folder; there is nothing left to do.
        about: what the checkpoint to continue says about its run.
    """

    summary: dict[str, Any] | None = None
    about: dict[str, Any] | None = None


def decide_start(config: TrainConfig, run: Run, checkpoints: Checkpoints, processes: SingleProcess) -> Start:
    """Decide how the training of ``config`` starts, and say so.

    Raises:
        InputError: flags differ from those of the run to continue, or its checkpoints can't be used.
    """
    if not config.resume:
        if processes.is_first and (run.folder / "config.json").exists():
            config.say(f"{run.folder} holds an earlier run; its files are replaced as new ones are ready")
        return Start()
    if summary := processes.share(_finished(config, run) if processes.is_first else None):
        return Start(summary=summary)
    about = checkpoints.find(config.say)
    if about is None:
        config.say(f"{run.folder} holds no checkpoint to continue from; the training begins")
        return Start()
    _check_same_flags(config, about["config"], checkpoints.folder)
    if about["processes"] != processes.count:
        fix = f"start {about['processes']}, or leave out --resume to begin anew"
        began = f"{about['processes']} processes, as the run began with"
        raise InputError("--resume", began, f"{processes.count}", fix)
    config.say(f"{run.folder} continues after step {about['step']:,}")
    return Start(about=about)


def check_same_poses(about: dict[str, Any], poses: int, config: TrainConfig) -> None:
    """Refuse to continue a run on other training views than those it was begun with.

    Args:
        about: what the checkpoint says about its run.
        poses: digest of the poses of the training views.
        config: names the scene.

    Raises:
        InputError: they are others.
    """
    if about["poses"] != poses:
        fix = "name the scene of the run, or leave out --resume to begin anew"
        raise InputError(config.source_path, "the training views that the run began with", "others", fix)


def _finished(config: TrainConfig, run: Run) -> dict[str, Any] | None:
    """The summary of the run in the folder, if it has ended with its model saved."""
    path = run.folder / "config.json"
    if not run.is_finished():
        return None
    _check_same_flags(config, read_json(path), path)
    summary = read_json(run.folder / "summary.json")
    if not run.ply_path(summary["iterations"]).exists():
        return None
    config.say(f"{run.folder} holds the finished run; there is nothing left to do")
    return summary


def _check_same_flags(config: TrainConfig, saved: Mapping[str, Any], origin: Path) -> None:
    """Refuse flags that would make another model than those that the run was begun with."""
    given = to_json(config)
    fields = [field for field in dataclasses.fields(config) if not field.metadata["may_change"]]
    changed = [field for field in fields if field.name in saved and saved[field.name] != given[field.name]]
    if changed:
        began, now = (
            ", ".join(f"{flag(field)} {values[field.name]}" for field in changed) for values in (saved, given)
        )
        fix = "leave these flags out to continue it, or leave out --resume to begin anew"
        raise InputError(origin, f"a run with {now}", f"one with {began}", fix)
