"""See it work: make the demo scene, train, render, measure, compress, and write a page and a picture.

``compact-splats demo`` takes minutes on two cores and needs no data. Each step is a command, which is printed.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from compact_splats.utils.errors import InputError, run_script

MODULES = {"scene": "compact_splats.demo.scene", "comparison": "compact_splats.suite.comparison"}  # not in the command


def steps(out: Path, iterations: int, budget: int) -> list[list[str]]:
    """The words of each step: a command, or one of MODULES, and its arguments."""
    scene, model = str(out / "scene"), str(out / "model")
    making = [] if (out / "scene").exists() else [["scene", scene]]
    length = ["--schedule", "quick", "--iterations", str(iterations), "--final-budget", str(budget)]
    return making + [
        ["train", "-s", scene, "-m", model, "--eval", *length],
        ["render", "-m", model, "--skip-train"],
        ["metrics", "-m", model, "--no-lpips"],
        ["compress", "-m", model, "--no-prune", "--steps", "0.2"],
        ["view", "-m", model, "--html", str(out / "model.html")],
        ["comparison", "-m", model, "--out", str(out / "comparison.png")],
    ]


def main(argv: list[str] | None = None) -> None:
    """Run the steps, and say where the files are.

    Raises:
        InputError: a step failed; it has said why.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("output/demo"), help="folder of all files (default: output/demo)"
    )
    parser.add_argument("--iterations", type=int, default=2500, help="training steps (default: 2500)")
    parser.add_argument("--final-budget", type=int, default=20000, help="number of Gaussians (default: 20000)")
    args = parser.parse_args(argv)
    for name, *words in steps(args.out, args.iterations, args.final_budget):
        print(f"\n$ compact-splats {shlex.join([name, *words])}" if name not in MODULES else "", flush=True)
        module = [MODULES[name]] if name in MODULES else ["compact_splats", name]
        if subprocess.run([sys.executable, "-m", *module, *words]).returncode != 0:
            raise InputError(f"the demo ends here: {name} failed, for the reason above")
    model = args.out / "model"
    print(f"""
The scene:       {args.out / "scene"}
The Gaussians:   {model / f"point_cloud/iteration_{args.iterations}/point_cloud.ply"}  (opens in any 3DGS viewer)
Compressed:      {model / "compressed/compact.gsz"}  (compress export turns it into other formats)
The figures:     {model / "results.json"}
To walk about:   {args.out / "model.html"}  (opens in a browser)
The picture:     {args.out / "comparison.png"}""")


if __name__ == "__main__":
    run_script(main)
