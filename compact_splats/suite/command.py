"""What test.py and test-fast.py do: plan the sweep, run it, and print the table."""

import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from compact_splats.arguments.suite import SuiteConfig
from compact_splats.suite.entries import shown
from compact_splats.suite.execute import execute
from compact_splats.suite.plan import Plan, make_plan
from compact_splats.suite.stages import unfinished_stages
from compact_splats.suite.suite_file import SuiteFile
from compact_splats.utils.errors import InputError
from compact_splats.utils.lock import FolderLock

SCRIPTS = {"full": "test.py", "fast": "test-fast.py"}
ALL_DONE, SOMETHING_FAILED, INTERRUPTED = 0, 1, 130


def run_suite(argv: Sequence[str], schedule: str) -> int:
    """Train, render, measure and time the scenes of a table.

    Args:
        argv: the command line.
        schedule: "full" or "fast".

    Returns:
        The exit code: 0 if all is done; 1 if a run failed, or a scene that ``--scenes`` names is missing; 130 if the
        user stopped it.

    Raises:
        InputError: the command line or the table is wrong, none of the scenes is there, or another sweep is at work.
    """
    config = SuiteConfig.from_command_line(argv, f"Train and measure the scenes of a table, schedule {schedule}.")
    plan = make_plan(config, schedule)
    for scene in plan.missing:
        _say(config, f"{scene.scene} is not there; {scene.dataset} can be had from {scene.where}")
    if not plan.jobs:
        names = ", ".join(scene.scene for scene in plan.missing)
        raise InputError(config.data, "a scene of the table", f"none of {names}", "get one of the data sets")
    if config.dry_run:
        print(describe(plan))
        code = ALL_DONE
    else:
        with FolderLock(plan.output), _ended_by_signals():
            code = _run(config, schedule, plan, shlex.join(["python", SCRIPTS[schedule], *argv]))
    return SOMETHING_FAILED if code == ALL_DONE and config.scenes and plan.missing else code


def describe(plan: Plan) -> str:
    """The runs of a plan, and the commands of what is not finished yet."""
    lines = []
    for job in plan.jobs:
        unfinished = unfinished_stages(job)
        state = f"{len(unfinished)} stages to run" if unfinished else "finished"
        lines.append(f"{job.name}: {job.budget:,} Gaussians, {state}")
        lines += [f"    {shown(stage.command)}" for stage in unfinished]
    return "\n".join(lines)


def _run(config: SuiteConfig, schedule: str, plan: Plan, command: str) -> int:
    """Run the plan; the caller holds the lock."""
    heading = {
        "command": command,
        "protocol": config.protocol,
        "schedule": schedule,
        "iterations": config.iterations,
        "jobs": config.jobs,
    }
    file = SuiteFile(plan.output, [job.name for job in plan.jobs], heading, plan.missing)
    file.write()
    code = ALL_DONE
    try:
        with closing(execute(plan.jobs, config)) as entries:
            for number, entry in enumerate(entries, 1):
                file.note(entry)
                if entry["state"] == "failed":
                    code = SOMETHING_FAILED
                _tell(config, entry, f"{len(plan.jobs) - number} to go")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    from compact_splats.suite.report import (
        write_report,  # plots take a while to load, and a run that stops early needs none
    )

    table = write_report(plan.output)
    _say(config, f"\n{table}")
    return code


def _tell(config: SuiteConfig, entry: dict[str, Any], rest: str) -> None:
    """A line for a run that has ended; for one that failed also where nothing else is printed."""
    if entry["state"] == "failed":
        print(f"error: {entry['folder']}: {entry['error']} ({rest})", file=sys.stderr, flush=True)
        return
    psnr = entry["quality"]["PSNR"]
    shown_psnr = "-" if psnr is None else f"{psnr:.2f} dB"
    size = f"{entry['gaussians']:,} Gaussians"
    _say(config, f"{entry['folder']}: {shown_psnr}, {size}, {entry['minutes']:.1f} min ({rest})")


def _say(config: SuiteConfig, text: str) -> None:
    if not config.quiet:
        print(text, flush=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within the block, a request to end (SIGTERM) is the same as Ctrl-C."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
