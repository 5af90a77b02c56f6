"""The entry of a run in suite.json, from the files of its stages."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compact_splats.suite.plan import Job
from compact_splats.suite.process import ROOT
from compact_splats.utils.errors import one_line
from compact_splats.utils.usage import MB

COMPRESSED = "compact"  # the profile of compress.py, and the name of its renders
SHEET = "views.png"
CURVES = ("loss", "psnr", "gaussians", "goal", "regularisation_weight", "budget_opacity")


def done_entry(job: Job, made_by: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The entry of a finished run.

    Args:
        job: the run.
        made_by: for each stage its command and :func:`utils.machine.machine_info`.
    """
    summary, timing = (_read(job.folder / name) for name in ("summary.json", "timing.json"))
    results = _read(job.folder / "results.json")
    return {
        **_heading(job),
        "state": "done",
        "error": None,
        "quality": results[f"ours_{job.last_step}"],
        "gaussians": summary["num_gaussians"],
        "mb": summary["ply_mb"],
        "minutes": summary["training_minutes"],
        "fps": timing["frames_per_second"],
        "fps_size": [timing["width"], timing["height"]],
        "device": timing["device"],
        "steps_per_second": summary["steps_per_second"],
        "peak_mb": summary["peak_rss_mb"],
        "peak_device_mb": summary.get("peak_device_mb"),
        "compressed": _compressed(job, results) if job.compress else None,
        "curves": _curves(job.folder / "log.jsonl"),
        "views": {"sheet": f"{job.name}/{SHEET}"},
        "commands": {name: stage["command"] for name, stage in made_by.items()},
        "commit": made_by["train"]["commit"] or None,
        "machine": machine_of(made_by["train"]),
    }


def failed_entry(job: Job, error: str) -> dict[str, Any]:
    """The entry of a run that failed; the error becomes one line."""
    return {**_heading(job), "state": "failed", "error": one_line(error)}


def machine_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """The machine as reports show it."""
    return {
        "cpu": info["processor"],
        "cores": info["cores"],
        "gpu": info["accelerator"] or None,
        "torch": info["torch"],
    }


def shown(words: Sequence[str]) -> str:
    """A command as text, with scripts relative to the project."""
    prefix = f"{ROOT}/"
    return "python " + shlex.join(word.removeprefix(prefix) for word in words)


def _heading(job: Job) -> dict[str, Any]:
    names = ("scene", "dataset", "schedule", "budget_name", "budget", "seed")
    return {**{name: getattr(job, name) for name in names}, "folder": job.name}


def _compressed(job: Job, results: dict[str, Any]) -> dict[str, Any]:
    file = f"compressed/{COMPRESSED}.gsz"
    size = (job.folder / file).stat().st_size
    return {"file": f"{job.name}/{file}", "mb": size / MB, **results[COMPRESSED]}


def _curves(log: Path) -> dict[str, list[float | None]]:
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    steps = [line for line in lines if line["event"] == "step"]
    return {name: [step.get(name) for step in steps] for name in ("iteration", *CURVES)}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
