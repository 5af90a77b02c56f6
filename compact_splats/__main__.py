"""``compact-splats COMMAND ...`` and ``python -m compact_splats COMMAND ...`` run the scripts of the checkout."""

import difflib
import runpy
import sys

from compact_splats.utils.errors import InputError, run_script

# In the order of use: by name, the module that a checkout has as a script, what to try, and what it does.
COMMANDS = {
    "demo": ("demo.run", "", "make a scene and run most of the commands on it, to see them work"),
    "convert": ("commands.convert", "my_photos -o my_scene", "make a scene of photos or a video"),
    "train": ("commands.train", "my_scene --final-budget 50000", "train Gaussians on posed photos"),
    "view": ("commands.view", "output/my_scene", "show a model in the browser"),
    "render": ("commands.render", "output/my_scene", "render the views of a model, a video, or depth maps"),
    "metrics": ("commands.metrics", "output/my_scene", "measure rendered views: PSNR, SSIM, LPIPS"),
    "compress": ("commands.compress", "output/my_scene", "prune, quantize and export a model"),
    "suite": ("commands.test", "data", "train and measure the benchmark scenes"),
    "suite-fast": ("commands.test-fast", "data", "the same with the fast schedule"),
}


def main() -> None:
    """Run the script that the first word of the command line names.

    Raises:
        InputError: there is no such command.
    """
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("-h", "--help"):
        print(
            "compact-splats COMMAND ...; compact-splats COMMAND --help lists the flags of a command. In order of use:"
        )
        for command, (_, example, text) in COMMANDS.items():
            print(f"  compact-splats {f'{command} {example}':36} {text}")
        return
    name = next((name for name, (module, *_) in COMMANDS.items() if word in (name, module.split(".")[1])), None)
    if name is None:
        close = difflib.get_close_matches(word, COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else "see compact-splats --help"
        raise InputError(f"there is no command '{word}'; {hint}")
    sys.argv[:2] = [f"compact-splats {name}"]
    runpy.run_module(f"compact_splats.{COMMANDS[name][0]}", run_name="__main__")


def console() -> None:
    """Entry point of the console script."""
    run_script(main)


if __name__ == "__main__":
    console()
