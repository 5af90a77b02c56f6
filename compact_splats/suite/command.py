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

    Returns:
        The exit code: 0 if all runs are done; 1 if a run failed, or a scene of ``--scenes`` is missing; 130 if the
        user stopped the sweep.

    Raises:
        InputError: the command line or the table is wrong, no scene is found, or another sweep uses the output folder.
    """
    config = SuiteConfig.from_command_line(argv)
    plan = make_plan(config, schedule)
    for scene in plan.missing:
        config.say(f"scene {scene.scene} of {scene.dataset} is not in {config.data}; get it from {scene.where}")
    if not plan.jobs:
        names = ", ".join(scene.scene for scene in plan.missing)
        raise InputError(f"{config.data} has none of the scenes {names} (see --data)")
    if config.dry_run:
        print(describe(plan))
        code = ALL_DONE
    else:
        with FolderLock(plan.output), _interrupted_by_sigterm():
            code = _run(config, schedule, plan, shlex.join(["python", SCRIPTS[schedule], *argv]))
    return SOMETHING_FAILED if code == ALL_DONE and config.scenes and plan.missing else code


def describe(plan: Plan) -> str:
    """The runs of a plan, and the commands of their unfinished stages."""
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
                _print_run(config, entry, f"{len(plan.jobs) - number} to go")
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return INTERRUPTED
    from compact_splats.suite.report import write_report  # not above: matplotlib takes a while to load

    table = write_report(plan.output)
    config.say(f"\n{table}")
    return code


def _print_run(config: SuiteConfig, entry: dict[str, Any], rest: str) -> None:
    """Print a line for a run that has ended; with ``--quiet`` only if it failed."""
    if entry["state"] == "failed":
        print(f"error: {entry['folder']}: {entry['error']} ({rest})", file=sys.stderr, flush=True)
        return
    psnr = entry["quality"]["PSNR"]
    shown_psnr = "-" if psnr is None else f"{psnr:.2f} dB"
    size = f"{entry['gaussians']:,} Gaussians"
    config.say(f"{entry['folder']}: {shown_psnr}, {size}, {entry['minutes']:.1f} min ({rest})")


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Within the block, SIGTERM raises KeyboardInterrupt, as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
