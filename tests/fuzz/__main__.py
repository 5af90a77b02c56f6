"""Fuzz targets, each in a process of its own, one after another. A finding ends its target, and is kept as a file.

    python -m tests.fuzz [NAME ...] --seconds 60

A search begins with what long ones have reached before (tests/fuzz/corpora). What it reaches itself is kept under
output/fuzz/NAME, and the next run goes on from there; --keep puts that beside the tests.
"""

import argparse
import contextlib
import os
import random
import resource
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["compact_splats", "PIL", "zipfile", "gzip"]):
    from tests.fuzz import FINDINGS, json_mutator
    from tests.fuzz.run_target import is_read, keep_inputs, kept_inputs, write_inputs
    from tests.fuzz.targets import ROOT, TARGETS

OUTPUT = ROOT / "output" / "fuzz"
MAX_MEMORY = 2048  # MB, of the process; about 400 of them are torch
MAX_SECONDS = 120  # for one input, on a machine that does other things
MAX_INPUT = 1 << 15  # bytes
LAST_LINES = 40  # of the log, shown where a target fails


def main() -> None:
    """Read the command line and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"out of {', '.join(TARGETS)}; none: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the changes; 0: another one each time (default)")
    parser.add_argument("--keep", action="store_true", help="add what was reached to tests/fuzz/corpora")
    args = parser.parse_args()
    if unknown := set(args.names) - TARGETS.keys():
        parser.error(f"no target named {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    failed = [name for name in args.names or TARGETS if not fuzz(name, args.seconds, args.seed)]
    if args.keep:
        for name in args.names or TARGETS:
            keep_inputs(name, OUTPUT / name)
    sys.exit(f"findings: see {FINDINGS.relative_to(ROOT)} for {', '.join(failed)}" if failed else 0)


def fuzz(name: str, seconds: int, seed: int) -> bool:
    """Fuzz one target in a process of its own; whether nothing was found."""
    corpus, log = OUTPUT / name, OUTPUT / f"{name}.log"
    corpus.mkdir(parents=True, exist_ok=True)
    (FINDINGS / name).mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        pid = os.fork()
        if not pid:
            run(name, seconds, seed, corpus, log, Path(folder))
        _, status, usage = os.wait4(pid, 0)
    with contextlib.suppress(OSError):  # there are findings
        (FINDINGS / name).rmdir()
    lines = log.read_text(errors="replace").splitlines()
    runs = next((line.split()[-1] for line in lines if line.startswith("stat::number_of_executed_units")), "?")
    spent = usage.ru_utime + usage.ru_stime
    print(f"{name}: {runs} inputs in {spent:.0f} s of the processor, {usage.ru_maxrss >> 10} MB at most, "
          f"{sum(1 for _ in corpus.iterdir())} kept" + (f"; FAILED, see {log}" if status else ""))  # fmt: skip
    if status:
        print(*lines[-LAST_LINES:], sep="\n")
    return not status


def run(name: str, seconds: int, seed: int, corpus: Path, log: Path, folder: Path) -> None:
    """Fuzz in this process, which ends with it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seeds = folder / "seeds"
    seeds.mkdir()
    write_inputs(corpus, [*TARGETS[name].seeds(seeds), *kept_inputs(name)])
    write_inputs(corpus, [path.read_bytes() for path in (FINDINGS / name).iterdir()])
    work = folder / "work"
    work.mkdir()
    sys.stdout.flush()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    options = [
        f"-max_total_time={seconds}", f"-seed={seed}", f"-rss_limit_mb={MAX_MEMORY}", f"-timeout={MAX_SECONDS}",
        f"-max_len={MAX_INPUT}", f"-artifact_prefix={FINDINGS / name}/", "-print_final_stats=1",
    ]  # fmt: skip
    mutator = {"custom_mutator": mutate_json} if TARGETS[name].is_json else {}
    atheris.Setup([name, str(corpus), *options], lambda data: is_read(name, data, work) and None, **mutator)
    atheris.Fuzz()


def mutate_json(data: bytes, max_size: int, seed: int) -> bytes:
    """LibFuzzer's own mutation, or one that leaves JSON as JSON."""
    rng = random.Random(seed)
    changed = json_mutator.mutate(bytes(data), rng) if rng.random() < 0.8 else None
    return atheris.Mutate(data, max_size) if changed is None or len(changed) > max_size else changed


if __name__ == "__main__":
    main()
