"""Installs compact-splats from a folder of wheels as a stranger would, and runs the demo; ``make try-wheels``.

    python tests/try_wheels.py dist                          # the dependencies come from pip's index
    python tests/try_wheels.py dist --wheelhouse wheelhouse  # from that folder, where they are fetched to

The environment is new, PATH has no compiler, and the home folder can't be written. Prints the
figures of docs/install.md: seconds, MB and packages, seconds of import, and the demo with each level of the processor.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja", "make", "nvcc")
LEVELS = """
import diff_gaussian_rasterization as engine
print(*[name for name, is_supported in engine._C.LEVELS.items() if is_supported])
"""


def timed(command: list[str | Path], **options) -> str:
    """Run a command that must succeed; print it with its time and CPU time. Returns its output."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(list(map(str, command)), text=True, stdout=subprocess.PIPE, **options)
    seconds, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system  # 0 on Windows
    words = [Path(command[0]).name, *(" ".join(str(word).split()) for word in command[1:])]
    print(f"{seconds:7.1f} s, {cpu:6.1f} s of CPU: {' '.join(words)[:140]}", flush=True)
    if done.returncode != 0:
        sys.exit(f"{done.stdout[-4000:]}\nexit code {done.returncode}")
    return done.stdout


def main() -> None:
    """Install, measure, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="folder that make wheels wrote")
    parser.add_argument("--wheelhouse", type=Path, help="folder for the wheels of the dependencies")
    parser.add_argument("--iterations", type=int, default=300, help="of each demo (default: 300)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="try-wheels") as folder:
        try_wheels(Path(folder), options.dist.absolute(), options.wheelhouse, options.iterations)


def try_wheels(folder: Path, dist: Path, wheelhouse: Path | None, iterations: int) -> None:
    """All of it, in a folder."""
    environment, empty = folder / "environment", folder / "bin"
    timed([sys.executable, "-m", "venv", environment])
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    empty.mkdir()
    # Nothing but the environment's programs: no compiler, wherever the machine has one.
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CXX", "CC", "DGR_ISA")}
    clean |= {"PATH": os.pathsep.join(map(str, (programs, empty))), "HOME": f"{os.devnull}/home", "TMPDIR": str(folder)}
    assert not any(shutil.which(each, path=clean["PATH"]) for each in COMPILERS)
    pip = [programs / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    versions = ["--only-binary", ":all:", "--find-links", dist, "--constraint", ROOT / "requirements.txt"]
    sources = []
    if wheelhouse:
        wheelhouse.mkdir(exist_ok=True)
        timed([*pip, "download", *versions, "--dest", wheelhouse, "compact-splats"], env=clean)
        sources = ["--no-index", "--find-links", wheelhouse.absolute()]
    timed([*pip, "install", *sources, *versions, "compact-splats"], env=clean)
    packages = timed([*pip[:-1], "list", "--format", "freeze"], env=clean).split()
    library = next((environment / ("Lib" if os.name == "nt" else "lib")).glob("**/site-packages"))
    size = sum(file.stat().st_size for file in library.rglob("*") if file.is_file()) / 1e6
    torch = sum(file.stat().st_size for file in (library / "torch").rglob("*") if file.is_file()) / 1e6
    print(f"{len(packages)} packages, {size:.0f} MB, of which torch {torch:.0f} MB: {' '.join(packages)}")
    for module in ("compact_splats", "torch", "diff_gaussian_rasterization", "compact_splats.training.run"):
        timed([programs / "python", "-c", f"import {module}"], env=clean, cwd=folder)
    levels = timed([programs / "python", "-c", LEVELS], env=clean, cwd=folder).split()
    picture = folder / "demo" / "comparison.png"
    for level in levels or [""]:
        demo = ["demo", "--out", "demo", "--iterations", str(iterations), "--final-budget", "2000"]
        out = timed([programs / "compact-splats", *demo], env=clean | {"DGR_ISA": level}, cwd=folder)
        print(level, *[line for line in out.splitlines() if "PSNR" in line][-1:])
        assert picture.stat().st_size > 0
        picture.unlink()


if __name__ == "__main__":
    main()
