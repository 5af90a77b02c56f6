"""Short trainings killed (SIGKILL) at random moments and continued, until each has ended; compares what they leave.

``python -m tests.kill_runs --kills 200 --out kills.json`` exits with 1 unless every run ends with the bits of one that
was left in peace. Each training is a fork of this process, so that a kill costs no start of Python; ``--whole N`` adds
kills of train.py as a program of its own. Nobody stands for what power failures do: that takes a machine.
"""

import argparse
import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from compact_splats.arguments import TrainConfig
from compact_splats.arguments.config import SCHEDULES
from compact_splats.arguments.schedule import FAST, FULL, QUICK, OptimizerPhase, Schedule
from compact_splats.demo.scene import write_demo_scene
from compact_splats.scene import ply_file
from compact_splats.training import state_file
from compact_splats.training.run import train

ROOT = Path(__file__).parent.parent
STEPS = 60
SCENE = {"width": 48, "height": 32, "num_views": 14, "num_points": 400}  # growth looks at 10 of the 12 for training
BUDGET = 300  # to which the set shrinks after it has grown from 400 to about 800
# Short runs update at every step; these keep gradients waiting, as the schedules do in earnest.
WAITING = (OptimizerPhase(20, 1, 3), OptimizerPhase(44, 5, 5), OptimizerPhase(STEPS, 4, 8))
MOMENTS = ("any time", "checkpoint", "PLY", "file operation")
WEIGHTS = (4, 3, 2, 3)
PATIENCE = 300  # seconds


def short_schedules() -> dict[str, Schedule]:
    """All schedules in ``STEPS`` steps, by name."""
    full, fast, quick = (each.scaled(STEPS / each.iterations) for each in (FULL, FAST, QUICK))
    return {
        "full": replace(full, optimizer_phases=WAITING),
        "fast": replace(fast, optimizer_phases=WAITING),
        "quick": quick,
    }


def make_config(scene: Path, out: Path, schedule: str) -> TrainConfig:
    return TrainConfig(
        source_path=scene, model_path=out, schedule=schedule, final_budget=BUDGET, save_iterations=(30,), eval=True,
        threads=1, tensorboard=False, quiet=True, random_background=True, checkpoint_every="4", resume=True,
    )  # fmt: skip


# ---- one attempt: a child that trains, and its death ----


def fork(work: Callable[[], None]) -> int:
    """Run ``work`` in a child that can't come back; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def training(config: TrainConfig, moment: str = "", die_at: int = 0) -> None:
    """In the child: train; die at the so-many-th operation on files of the run, or write slowly, to be caught at it."""
    operations = 0

    def count(event: str, args: tuple) -> None:
        nonlocal operations
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(config.model_path) in str(
            args[0]
        ):
            operations += 1
            if operations == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if die_at:
        sys.addaudithook(count)
    if moment == "checkpoint":
        state_file._HashingWriter.write = slow_state_write
    if moment == "PLY":
        ply_file._parts = slow_parts
    train(config)


def slow_state_write(self: Any, data: bytes, write=state_file._HashingWriter.write) -> int:
    """Checkpoints take some hundredths of a second to write, and are seen half-written meanwhile."""
    if len(data) > 5_000:
        time.sleep(0.01)
    return write(self, data)


def slow_parts(elements: dict, parts=ply_file._parts) -> Iterator[memoryview]:
    """PLYs, too."""
    for part in parts(elements):
        for start in range(0, len(part), 20_000):
            time.sleep(0.01)
            yield part[start : start + 20_000]


def ended(child: int, timeout: float = 0) -> int | None:
    """The exit code of a child (negative: the signal), or None: it is still running after so many seconds."""
    if timeout:
        its_end = os.pidfd_open(child)
        select.select([its_end], [], [], timeout)
        os.close(its_end)
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def temporaries(folder: Path) -> dict[str, int]:
    """How many half-written checkpoints and PLYs there are."""
    checkpoints, plys = folder.glob("checkpoints/.*"), folder.glob("point_cloud/*/.*")
    return {"checkpoint": len(list(checkpoints)), "PLY": len(list(plys))}


def wait_for_moment(child: int, folder: Path, moment: str, seconds: float, rng: random.Random) -> int | None:
    """Wait until a child is to be killed; its exit code if it ends before."""
    if moment == "any time":
        return ended(child, rng.uniform(0, seconds))
    if moment == "file operation":
        return ended(child, PATIENCE)  # it kills itself
    skipped = rng.randrange(8 if moment == "checkpoint" else 1)  # so many of them are let pass
    was_there = bool(temporaries(folder)[moment])  # left by an earlier kill; goes when the training begins
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if (code := ended(child)) is not None:
            return code
        is_there = bool(temporaries(folder)[moment])
        if is_there and not was_there:
            if not skipped:
                return ended(child, rng.uniform(0, 0.06))
            skipped -= 1
        was_there = is_there
        time.sleep(0.005)
    raise TimeoutError(f"no {moment} was written in {PATIENCE} s")


# ---- one run: attempts until it has ended ----


@dataclass
class Outcome:
    """What became of a run; ``problems`` is empty if all is as it should be."""

    schedule: str
    kills: list[str]
    problems: list[str]


def result_of(folder: Path) -> dict[str, bytes | str]:
    """The PLYs of a run, and its log without times."""
    plys = {path.parent.name: path.read_bytes() for path in folder.glob("point_cloud/*/point_cloud.ply")}
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    log = [{name: value for name, value in line.items() if name not in ("time", "seconds")} for line in lines]
    return {**plys, "log": json.dumps(log)}


def run_and_kill(
    config: TrainConfig, num_kills: int, seconds: float, reference: dict[str, bytes | str], rng: random.Random
) -> Outcome:
    """Train, be killed so many times, continue each time, and compare what is there in the end."""
    outcome = Outcome(config.schedule, [], [])
    while len(outcome.kills) < num_kills:
        (moment,) = rng.choices(MOMENTS, WEIGHTS)
        die_at = rng.randrange(1, 120) if moment == "file operation" else 0
        child = fork(lambda moment=moment, die_at=die_at: training(config, moment, die_at))
        code = wait_for_moment(child, config.model_path, moment, seconds, rng)
        if code is None:
            os.kill(child, signal.SIGKILL)
            code = ended(child, PATIENCE)
        if code == 0:
            break  # it was done before
        if code != -signal.SIGKILL:
            outcome.problems.append(f"ended with {code} after kills at {outcome.kills}")
            return outcome
        half_written = [name for name, number in temporaries(config.model_path).items() if number]
        outcome.kills.append(f"while writing a {half_written[0]}" if half_written else f"at {moment}")
    if code := ended(fork(lambda: training(config)), PATIENCE):
        outcome.problems.append(f"the last attempt ended with {code}")
        return outcome
    compare(config.model_path, reference, outcome)
    return outcome


def compare(folder: Path, reference: dict[str, bytes | str], outcome: Outcome) -> None:
    """Note whatever is not as in the run that was left in peace."""
    result = result_of(folder)
    names = reference.keys() | result.keys()
    outcome.problems += [f"another {name}" for name in names if reference.get(name) != result.get(name)]
    left = [path.name for path in folder.rglob(".*")]
    outcome.problems += [f"{name} is left" for name in left]
    outcome.problems += ["checkpoints are left"] if (folder / "checkpoints").exists() else []


def whole_program(scene: Path, folder: Path, num_kills: int, rng: random.Random) -> list[Outcome]:
    """Kill train.py itself, started from the command line, and compare in the same way."""

    def start(out: Path) -> subprocess.Popen:
        words = (
            f"--final-budget {BUDGET} --iterations 100 --eval --threads 1 --quiet --no-tensorboard --checkpoint-every 5"
        )
        program = [sys.executable, ROOT / "train.py", "-s", scene, "-m", out, "--resume", *words.split()]
        return subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    begun = time.monotonic()
    start(folder / "peace").communicate()
    seconds, reference, outcomes = time.monotonic() - begun, result_of(folder / "peace"), []
    while (missing := num_kills - sum(len(each.kills) for each in outcomes)) > 0:
        outcome, out = Outcome("full, train.py", [], []), folder / f"whole{len(outcomes)}"
        for _ in range(min(missing, rng.randint(1, 3))):
            begun, program = time.monotonic(), start(out)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(rng.uniform(0.3, 1) * seconds)
                seconds = min(seconds, time.monotonic() - begun)  # it has ended: the machine is faster than before
            program.kill()
            if program.wait() == -signal.SIGKILL:
                outcome.kills.append("of the program")
        program = start(out)
        said = program.communicate()[1]
        if program.returncode:
            outcome.problems.append(f"train.py ended with {program.returncode}: {said[-300:]}")
        else:
            compare(out, reference, outcome)
        outcomes.append(outcome)
    return outcomes


def report(outcomes: list[Outcome], seconds: float, seed: int) -> dict:
    kills = Counter(kill for outcome in outcomes for kill in outcome.kills)
    return {
        "kills": kills.total(),
        "runs": len(outcomes),
        "identical": sum(not outcome.problems for outcome in outcomes),
        "moments": dict(kills.most_common()),
        "runs_by_schedule": dict(Counter(outcome.schedule for outcome in outcomes)),
        "problems": [problem for outcome in outcomes for problem in outcome.problems],
        "seed": seed,
        "minutes": round(seconds / 60, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="of forks (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side")
    parser.add_argument("--whole", type=int, default=0, help="further kills, of train.py as a program")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs are, for their time (default: the system's)")
    parser.add_argument("--out", type=Path, help="write the report to this JSON file, too")
    args = parser.parse_args()
    begun = time.monotonic()
    SCHEDULES.update(short_schedules())
    torch.set_num_threads(1)  # no thread must run here, as forks don't get it
    torch.optim.Adam([torch.zeros(1)])  # what training would load later
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        outcomes = all_outcomes(args, Path(name))
    result = report(outcomes, time.monotonic() - begun, args.seed)
    print(text := json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(text + "\n")
    sys.exit(bool(result["problems"]))


def all_outcomes(args: argparse.Namespace, folder: Path) -> list[Outcome]:
    """What the command line asks for: forks by some workers, then whole programs."""
    assert ended(fork(lambda: write_demo_scene(folder / "scene", **SCENE)), PATIENCE) == 0
    references, seconds = {}, {}
    for schedule in SCHEDULES:
        config = replace(make_config(folder / "scene", folder / schedule, schedule), checkpoint_every="0")
        start = time.monotonic()
        assert ended(fork(lambda config=config: training(config)), PATIENCE) == 0
        references[schedule], seconds[schedule] = result_of(config.model_path), time.monotonic() - start

    def work(worker: int, num_kills: int) -> None:
        rng, outcomes = random.Random(f"{args.seed} {worker}"), []
        while (missing := num_kills - sum(len(each.kills) for each in outcomes)) > 0:
            schedule = ("full", "fast", "quick")[len(outcomes) % 3]
            config = make_config(folder / "scene", folder / f"run{worker}", schedule)
            kills = min(missing, rng.randint(1, 4))
            outcomes.append(run_and_kill(config, kills, 1.5 * seconds[schedule], references[schedule], rng))
            shutil.rmtree(config.model_path)
            print(f"worker {worker}: {num_kills - missing + kills} kills", *outcomes[-1].problems, file=sys.stderr)
        (folder / f"worker{worker}.json").write_text(json.dumps([asdict(each) for each in outcomes]))

    shares = [args.kills // args.at_once + (worker < args.kills % args.at_once) for worker in range(args.at_once)]
    workers = [fork(lambda each=each: work(*each)) for each in enumerate(shares)]
    assert [ended(worker, 1e6) for worker in workers] == [0] * len(workers), "a worker has failed"
    files = [json.loads((folder / f"worker{worker}.json").read_text()) for worker in range(len(workers))]
    outcomes = [Outcome(**each) for file in files for each in file]
    rng = random.Random(args.seed)
    return outcomes + (whole_program(folder / "scene", folder, args.whole, rng) if args.whole else [])


if __name__ == "__main__":
    main()
