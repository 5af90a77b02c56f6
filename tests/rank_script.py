"""What test_distributed.py starts as one of several processes: the training of train.py, watched or led astray."""

import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from diff_gaussian_rasterization import RenderPass

from compact_splats.arguments import TrainConfig
from compact_splats.arguments.config import SCHEDULES
from compact_splats.arguments.schedule import FULL, OptimizerPhase
from compact_splats.training import densification
from compact_splats.training.digest import digest
from compact_splats.training.distributed import Processes
from compact_splats.training.processes import SingleProcess, joined_processes
from compact_splats.training.progress import Progress
from compact_splats.training.run import train
from compact_splats.training.training import Step
from compact_splats.utils.errors import run_script

# Of two processes it takes 30 steps; at steps 10 and 20, where they meet, gradients wait and a growth interval runs.
WAITING = replace(
    FULL.scaled(60 / FULL.iterations), optimizer_phases=(OptimizerPhase(20, 1, 6), OptimizerPhase(60, 6, 14))
)


def make_config(source: Path, out: Path, **changes) -> TrainConfig:
    values = {
        "source_path": source, "model_path": out, "final_budget": 1000, "iterations": 300, "eval": True, "quiet": True,
        "tensorboard": False, "threads": 1,
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


def watched(processes: SingleProcess, source: Path, out: Path) -> None:
    """Trainings, the last two alike but for what happens to them; a report says what was written and what sets were."""
    digests, written, check_same = [], [], Processes.check_same

    def noting(self: Processes, what: str, tensors) -> None:
        tensors = list(tensors)
        digests.append([what, digest(tensors)])
        check_same(self, what, tensors)

    def note_files(event: str, args: tuple) -> None:
        if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR) and str(args[0]).startswith(str(out)):
            written.append(str(args[0]))

    Processes.check_same = noting
    sys.addaudithook(note_files)
    train(make_config(source, out / "whole", save_iterations=(51,), test_iterations=(100,)), processes)
    train(make_config(source, out / "short", iterations=41, final_budget=200, random_background=True), processes)
    ends = interrupted(processes, source, out)
    numbers = torch.zeros(5, requires_grad=True)
    numbers.grad = torch.arange(5.0) * (processes.rank + 1)
    processes.average_gradients([numbers])
    counts = torch.arange(3, dtype=torch.int32)
    processes.sum(counts)
    files = sorted(set(written))
    report = {"digests": digests, "written": files, "mean": numbers.grad.tolist(), "sum": counts.tolist()}
    report["ends"], report["poisoned"] = ends, poisoned(processes, source, out)
    (out / f"rank{processes.rank}.json").write_text(json.dumps(report))


def interrupted(processes: SingleProcess, source: Path, out: Path) -> list[str]:
    """The same training in one go and in three: one process is asked to stop, and then both break off."""
    SCHEDULES["full"] = WAITING
    config = make_config(source, out / "peace", iterations=None, final_budget=200, checkpoint_every="20")
    train(config, processes)
    config, ends = replace(config, model_path=out / "stopped"), []
    for actions in ({4: stop_second(processes)}, {25: break_off}, {}):
        with_actions(actions)
        try:
            train(config, processes)
        except Exception as error:
            ends.append(f"{type(error).__name__} {error}")
        if len(ends) == 1 and processes.is_first:
            shutil.copytree(out / "stopped", out / "half")
        config = replace(config, resume=True)
    return ends


def poisoned(processes: SingleProcess, source: Path, out: Path) -> str:
    """The second process sees nothing that is finite; how the training of both ends."""
    loss = RenderPass.photometric_loss
    if not processes.is_first:
        RenderPass.photometric_loss = lambda *args: loss(*args) * math.nan
    try:
        train(make_config(source, out / "poisoned", iterations=None, final_budget=200), processes)
    except Exception as error:
        return f"{type(error).__name__} {error}"
    finally:
        RenderPass.photometric_loss = loss


def with_actions(actions: dict[int, Callable[[], None]], update=Progress.update) -> None:
    """Have something happen at the end of the work of a step."""

    def update_and_act(self: Progress, step: Step, *args) -> None:
        update(self, step, *args)
        actions.get(step.number, lambda: None)()

    Progress.update = update_and_act


def stop_second(processes: SingleProcess) -> Callable[[], None]:
    return lambda: None if processes.is_first else os.kill(os.getpid(), signal.SIGTERM)


def break_off() -> None:
    raise ValueError("broken off")


def stopped(processes: SingleProcess, source: Path, out: Path) -> None:
    """The second process alone is asked to stop."""
    with_actions({4: stop_second(processes)})
    train(make_config(source, out / "model", iterations=60), processes)


def astray(processes: SingleProcess, source: Path, out: Path) -> None:
    """The second process draws other parents than the first."""
    draw = densification.draw_without_replacement
    if not processes.is_first:
        densification.draw_without_replacement = lambda weights, *rest: draw(weights.flip(0), *rest)
    train(make_config(source, out / "model", iterations=60), processes)


def killed(processes: SingleProcess, source: Path, out: Path) -> None:
    """The second process dies without a word at its first draw."""
    if not processes.is_first:
        densification.draw_without_replacement = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    train(make_config(source, out / "model", iterations=60), processes)


def main() -> None:
    story, source, out = sys.argv[1:]
    with joined_processes() as processes:
        {"watched": watched, "astray": astray, "killed": killed, "stopped": stopped}[story](
            processes, Path(source), Path(out)
        )


if __name__ == "__main__":
    run_script(main)
