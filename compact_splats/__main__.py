"""``compact-splats COMMAND ...`` and ``python -m compact_splats COMMAND ...`` run the scripts of the checkout."""

import difflib
import runpy
import sys

from compact_splats.utils.errors import InputError, run_script

COMMANDS = {
    "demo": ("demo", "see it work: make a scene, train, render, measure, compress"),
    "train": ("train", "train Gaussians on posed photos"),
    "render": ("render", "render the views of a model, a video, or depth maps"),
    "metrics": ("metrics", "measure rendered views: PSNR, SSIM, LPIPS"),
    "compress": ("compress", "prune, quantize and export a model"),
    "convert": ("convert", "make a scene of photos or a video"),
    "view": ("view", "show a model in the browser"),
    "suite": ("test", "train and measure the benchmark scenes"),
    "suite-fast": ("test-fast", "the same with the fast schedule"),
}


def main() -> None:
    """Run the script that the first word of the command line names.

    Raises:
        InputError: there is no such command.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: compact-splats COMMAND ...\n")
        print("\n".join(f"  {command:12}{text}" for command, (_, text) in COMMANDS.items()))
        print("\ncompact-splats COMMAND --help lists the flags of a command.")
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else "see compact-splats --help"
        raise InputError(f"there is no command '{name}'; {hint}")
    sys.argv[:2] = [f"compact-splats {name}"]
    room = "compact_splats" if name == "demo" else "compact_splats.commands"
    runpy.run_module(f"{room}.{COMMANDS[name][0]}", run_name="__main__", alter_sys=True)


def console() -> None:
    """Entry point of the console script."""
    run_script(main)


if __name__ == "__main__":
    console()
