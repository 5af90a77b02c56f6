"""The stages of a run, each a script of this project: their commands, which are finished, and running the others."""

import shutil
from dataclasses import dataclass, replace
from typing import Any

from compact_splats.arguments.config import SCHEDULES
from compact_splats.suite.entries import COMPRESSED, SHEET, done_entry, failed_entry, shown
from compact_splats.suite.plan import Job
from compact_splats.suite.process import ROOT, run_python
from compact_splats.suite.records import Record, digest, is_same, make_record, read_records, scene_digest, write_records
from compact_splats.utils.errors import InputError
from compact_splats.utils.machine import machine_info

LOG = "suite.log"


@dataclass(frozen=True)
class Stage:
    """A script with its arguments, and the files that it writes.

    Attributes:
        words: the command without "python"; paths are absolute.
        outputs: files and folders in the folder of the run; folders are removed before the stage.
        needs: names of the stages whose files it reads.
        given: digests of everything else that its result depends on.
        machine: words of the command that change its speed and what it prints, but not its result.
    """

    name: str
    words: tuple[str, ...]
    outputs: tuple[str, ...]
    needs: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()

    @property
    def command(self) -> tuple[str, ...]:
        """The whole command without "python"."""
        return self.words + self.machine


def stages_of(job: Job) -> tuple[Stage, ...]:
    """The stages of a run in their order."""
    model, photos = ("-m", str(job.folder)), ("-s", str(job.source))
    device = () if job.device == "auto" else ("--device", job.device)
    machine = ("--threads", str(job.threads)) if job.threads else ()
    ply = f"point_cloud/iteration_{job.last_step}/point_cloud.ply"
    train = (
        *_script("train.py"), *photos, *model, "-i", job.images, "-r", str(job.resolution), "--eval", "--all-photos",
        "--schedule", job.schedule, "--final-budget", str(job.budget), "--seed", str(job.seed),
        *_given("--iterations", job.iterations), *_given("--sh-rest-lr", job.sh_rest_lr), *device,
    )  # fmt: skip
    render = (*_script("render.py"), *photos, *model, "--skip-train", *device)
    gsz = f"compressed/{COMPRESSED}.gsz"
    share = job.last_step / SCHEDULES[job.schedule].iterations
    compress = (*_script("compress.py"), *photos, *model, "--no-prune", "--steps", f"{share:g}", *device)
    compressed = (
        Stage("compress", compress, (gsz, f"compressed/{COMPRESSED}.json"), ("train",), machine=machine),
        Stage(
            "render compressed", (*render, "--model", str(job.folder / gsz)), (f"test/{COMPRESSED}",), ("compress",),
            machine=machine,
        ),
    )  # fmt: skip
    measured = ("render", "render compressed") if job.compress else ("render",)
    sheet = ("-m", "compact_splats.suite.comparison", *model, "--out", str(job.folder / SHEET))
    return (
        Stage(
            "train", train, (ply, "config.json", "summary.json", "log.jsonl"),
            given=(scene_digest(job.source, job.images),), machine=(*machine, "--no-tensorboard"),
        ),
        Stage("render", render, (f"test/ours_{job.last_step}",), ("train",), machine=machine),
        *(compressed if job.compress else ()),
        Stage(
            "metrics", (*_script("metrics.py"), *model, *device), ("results.json", "per_view.json"), measured,
            given=("with LPIPS",) if _has_lpips() else (),
        ),
        Stage("timing", (*render, "--time"), ("timing.json",), ("train",), machine=machine),
        Stage("sheet", sheet, (SHEET,), ("render",)),
    )  # fmt: skip


def run_job(job: Job, gpu: str | None = None) -> dict[str, Any]:
    """Run the unfinished stages of a run, up to the first that fails.

    Args:
        job: the run.
        gpu: value of CUDA_VISIBLE_DEVICES; None: leave it as it is.

    Returns:
        The run's entry in suite.json.

    Raises:
        Stopped: the sweep was stopped.
    """
    try:
        failure = _run_stages(job, gpu)
        if failure:
            return failed_entry(job, failure)
        return done_entry(job, _made_by(job))
    except (InputError, OSError) as error:  # the folder was removed, the disk is full, ...
        return failed_entry(job, str(error))


def unfinished_stages(job: Job) -> list[Stage]:
    """The stages that :func:`run_job` would run."""
    records, stages = read_records(job.folder), stages_of(job)
    unfinished: list[Stage] = []
    for stage in stages:
        names = {each.name for each in unfinished}
        if names & set(stage.needs) or not _is_finished(job, stage, records):
            unfinished.append(stage)
    return unfinished


def _run_stages(job: Job, gpu: str | None) -> str | None:
    records = read_records(job.folder)
    environment = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    for stage in stages_of(job):
        if _is_finished(job, stage, records):
            continue
        _empty(job, stage)
        command = _continued(job, stage, records)
        if failure := run_python(command, job.folder / LOG, environment):
            return f"{stage.name}: {failure}"
        if missing := [name for name in stage.outputs if not (job.folder / name).exists()]:
            return f"{stage.name}: exit code 0, but {missing[0]} is missing"
        made_by = {**machine_info(), "command": shown(stage.command)}
        records[stage.name] = {**_record(job, stage, records), "made_by": made_by}
        write_records(job.folder, records)
    return None


def _continued(job: Job, stage: Stage, records: dict[str, Record]) -> tuple[str, ...]:
    """The command of a stage; a training that was interrupted continues from its newest checkpoint.

    A training that has begun has a record without files. What another run has left in the folder is removed first,
    as far as ``--resume`` would continue from it.
    """
    if stage.name != "train":
        return stage.command
    begun, noted = _record(job, replace(stage, outputs=()), records), records.get(stage.name)
    if isinstance(noted, dict) and digest(noted) == digest(begun):
        return (*stage.command, "--resume")
    if (job.folder / "checkpoints").exists():
        shutil.rmtree(job.folder / "checkpoints")
    (job.folder / "log.jsonl").unlink(missing_ok=True)  # says that the run has ended
    records[stage.name] = begun
    write_records(job.folder, records)
    return stage.command


def _is_finished(job: Job, stage: Stage, records: dict[str, Record]) -> bool:
    return stage.name in records and is_same(records[stage.name], _record(job, stage, records))


def _record(job: Job, stage: Stage, records: dict[str, Record]) -> Record:
    """The record of a stage with its files as they are now. The stages before it must be finished."""
    places = {str(job.folder): "RUN", str(job.source): "SCENE", str(ROOT): "PROJECT"}
    words = [_relative(word, places) for word in stage.words]
    return make_record(
        job.folder, words, [*stage.given, *(digest(records[name]) for name in stage.needs)], stage.outputs
    )


def _made_by(job: Job) -> dict[str, dict[str, Any]]:
    """For each stage of a finished run its command and machine."""
    records = read_records(job.folder)
    return {stage.name: records[stage.name]["made_by"] for stage in stages_of(job)}


def _relative(word: str, places: dict[str, str]) -> str:
    """A word of a command with names for folders, which may be moved."""
    for place, name in places.items():
        if word == place or word.startswith(place + "/"):
            return name + word[len(place) :]
    return word


def _empty(job: Job, stage: Stage) -> None:
    for name in stage.outputs:
        if (job.folder / name).is_dir():
            shutil.rmtree(job.folder / name)


def _script(name: str) -> tuple[str, ...]:
    return (str(ROOT / name),)


def _given(flag: str, value: float | None) -> tuple[str, ...]:
    return () if value is None else (flag, str(value))


def _has_lpips() -> bool:
    """Whether the VGG16 checkpoint of LPIPS is in the cache."""
    from compact_splats.gaussian_renderer.lpips import VGG, cache_path  # late, so that --help is fast

    return cache_path(VGG[1]).is_file()
