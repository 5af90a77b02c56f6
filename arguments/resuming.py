"""Which flags a continued run has, where those that are given differ from those that it was begun with."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compact_splats.arguments.config import TrainConfig
from compact_splats.arguments.options import build, flag, from_json, to_json
from compact_splats.utils.errors import InputError

# What the state of a run is made for: with another of these, there is nothing to continue.
FIXED = ("schedule", "iterations", "selection", "sh_degree", "seed", "init_ply")


def settled(config: TrainConfig, saved: Mapping[str, Any], origin: Path) -> TrainConfig | None:
    """Decide, as ``--resume-config`` says, between the flags given and those of the run to continue.

    Args:
        config: as given.
        saved: config of the run to continue, as JSON.
        origin: where that was read, for messages.

    Returns:
        The config to continue with, or None: the run is to begin anew.

    Raises:
        InputError: flags differ, and nobody has said which to take; or those given make another kind of run.
    """
    changed = differences(config, saved)
    if not changed:
        return config
    if config.resume_config == "anew":
        return None
    if config.resume_config == "saved":
        fields = from_json(TrainConfig, {name: saved[name] for name in changed}, origin)
        return build(TrainConfig, {**vars(config), **fields})
    refused = changed if config.resume_config == "same" else [name for name in changed if name in FIXED]
    if not refused:
        return config
    given = to_json(config)
    expected = ", ".join(f"{_flag(name)} {saved[name]}" for name in refused)
    found = ", ".join(f"{_flag(name)} {given[name]}" for name in refused)
    choices = "--resume-config saved, given or anew, or" if config.resume_config == "same" else ""
    raise InputError(
        origin, f"a run with {expected}", found, f"change the flags, choose with {choices} leave out --resume"
    )


def differences(config: TrainConfig, saved: Mapping[str, Any]) -> list[str]:
    """Names of the fields in which a run to continue is another, as far as the saved config knows them."""
    given = to_json(config)
    fixed = (field.name for field in dataclasses.fields(config) if not field.metadata["may_change"])
    return [name for name in fixed if name in saved and saved[name] != given[name]]


def _flag(name: str) -> str:
    return next(flag(field) for field in dataclasses.fields(TrainConfig) if field.name == name)
