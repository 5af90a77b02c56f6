"""What test_distributed.py starts as one of several processes: the training of train.py, watched or led astray."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

import scene.densification
from arguments import TrainConfig
from train import train
from utils.errors import run_script
from utils.ranks import OneRank, Ranks, digest, joined_ranks


def make_config(source: Path, out: Path, **changes) -> TrainConfig:
    values = {
        "source_path": source, "model_path": out, "final_budget": 1000, "iterations": 300, "eval": True, "quiet": True,
        "tensorboard": False, "threads": 1,
    }  # fmt: skip
    return TrainConfig(**{**values, **changes})


def watched(ranks: OneRank, source: Path, out: Path) -> None:
    """Three trainings, the last two alike; a report says which files were written and what the sets were."""
    digests, written, check_same = [], [], Ranks.check_same

    def noting(self: Ranks, what: str, tensors) -> None:
        tensors = list(tensors)
        digests.append([what, digest(tensors)])
        check_same(self, what, tensors)

    def note_files(event: str, args: tuple) -> None:
        if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR) and str(args[0]).startswith(str(out)):
            written.append(str(args[0]))

    Ranks.check_same = noting
    sys.addaudithook(note_files)
    train(make_config(source, out / "whole", save_iterations=(51,), test_iterations=(100,)), ranks)
    for name in ("short", "again"):
        train(make_config(source, out / name, iterations=41, final_budget=200, random_background=True), ranks)
    numbers = torch.zeros(5, requires_grad=True)
    numbers.grad = torch.arange(5.0) * (ranks.rank + 1)
    ranks.average_gradients([numbers])
    counts = torch.arange(3, dtype=torch.int32)
    ranks.sum(counts)
    files = sorted(set(written))
    report = {"digests": digests, "written": files, "mean": numbers.grad.tolist(), "sum": counts.tolist()}
    (out / f"rank{ranks.rank}.json").write_text(json.dumps(report))


def astray(ranks: OneRank, source: Path, out: Path) -> None:
    """The second process draws other parents than the first."""
    draw = scene.densification.draw_without_replacement
    if not ranks.is_first:
        scene.densification.draw_without_replacement = lambda weights, *rest: draw(weights.flip(0), *rest)
    train(make_config(source, out / "model", iterations=60), ranks)


def killed(ranks: OneRank, source: Path, out: Path) -> None:
    """The second process dies without a word at its first draw."""
    if not ranks.is_first:
        scene.densification.draw_without_replacement = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    train(make_config(source, out / "model", iterations=60), ranks)


def main() -> None:
    story, source, out = sys.argv[1:]
    with joined_ranks() as ranks:
        {"watched": watched, "astray": astray, "killed": killed}[story](ranks, Path(source), Path(out))


if __name__ == "__main__":
    run_script(main)
