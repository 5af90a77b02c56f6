"""Whether a training continues the run in its folder, has nothing left to do, or begins anew."""

from typing import Any

from compact_splats.arguments.config import TrainConfig
from compact_splats.arguments.options import read_json
from compact_splats.arguments.resuming import differences, settled
from compact_splats.training.checkpoint import Checkpoints
from compact_splats.training.processes import OneRank
from compact_splats.training.run_folder import Run, is_finished
from compact_splats.utils.errors import InputError


def finished(config: TrainConfig, run: Run) -> dict[str, Any] | None:
    """The summary of the run that ``--resume`` would continue, if it has come to its end; None: there is work to do.

    Raises:
        InputError: it has, with other flags.
    """
    path = run.folder / "config.json"
    if not config.resume or not is_finished(run.folder):
        return None
    wanted = settled(config, saved := read_json(path), path)
    if wanted is None or not run.ply_path(wanted.make_schedule().iterations).exists():
        return None
    if differences(wanted, saved):
        raise InputError(run.folder, "a run to continue", "one that is finished", "leave out --resume to train anew")
    run.say(f"{run.folder} holds the finished run; there is nothing left to do")
    return read_json(run.folder / "summary.json")


def settled_start(
    config: TrainConfig, run: Run, checkpoints: Checkpoints, ranks: OneRank
) -> tuple[TrainConfig, dict[str, Any] | None]:
    """Decide whether the training continues another, and with which flags.

    Returns:
        The config, and what the checkpoint to continue is about; None: the training begins.

    Raises:
        InputError: the checkpoints are damaged, or of a run that this config does not continue.
    """
    if not config.resume:
        if ranks.is_first and (run.folder / "config.json").exists():
            run.say(f"{run.folder} holds an earlier run; its files are replaced as new ones are ready")
        return config, None
    about = checkpoints.find(run.say)
    wanted = None if about is None else settled(config, about["config"], checkpoints.folder)
    if wanted is not None and (processes := about.get("processes", 1)) != ranks.count:
        fix = f"start {processes}, or leave out --resume to begin anew"
        raise InputError("--resume", f"{processes} processes, as the run began with", f"{ranks.count}", fix)
    if wanted is None:
        run.say(f"{run.folder} holds no checkpoint to continue from; the training begins")
        checkpoints.forget()
        return config, None
    run.say(f"{run.folder} continues after step {about['step']:,}")
    return wanted, about


def check_same_poses(begun: dict[str, Any], checkpoints: Checkpoints, config: TrainConfig) -> None:
    """Make sure that a run is continued on the scene on which it was begun.

    Raises:
        InputError: it isn't.
    """
    if begun["poses"] != checkpoints.about["poses"]:
        fix = "name the scene of the run, or leave out --resume to begin anew"
        raise InputError(config.source_path, "the training views that the run began with", "others", fix)
