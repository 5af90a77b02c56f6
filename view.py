"""Show a model in the browser: on a live page, or as a page that is one file and needs neither server nor network.

``view.py -m output/my_scene`` serves the live page; ``view.py -m model.ply --html out.html`` writes the file.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing

# Before torch is imported: its idle OpenMP threads would otherwise spin on the cores that the rasterizer needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from compact_splats.arguments import pick_device
from compact_splats.arguments.device import use_threads
from compact_splats.arguments.options import flags_that_save_memory
from compact_splats.arguments.view import ViewConfig, run_folder
from compact_splats.compression import read_model
from compact_splats.gaussian_renderer import DEVICES
from compact_splats.scene import Camera, load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.saved_cameras import read_cameras
from compact_splats.training.run_folder import RunFolder
from compact_splats.utils.errors import InputError, run_script
from compact_splats.utils.signals import StopRequest
from compact_splats.utils.usage import MB
from compact_splats.viewer import open_page
from compact_splats.viewer.page import write_page
from compact_splats.viewer.ports import where_to_look
from compact_splats.viewer.surroundings import Surroundings, surroundings

LOOK_EVERY = 0.02  # seconds between two looks for something to do


def main(argv: Sequence[str] | None = None) -> None:
    """Show as the command line says."""
    view(ViewConfig.from_command_line(sys.argv[1:] if argv is None else argv))


def view(config: ViewConfig) -> None:
    """Write the page, or serve it until the user ends.

    Raises:
        InputError: the model or the scene can't be read, the page can't be written or served.
    """
    device = pick_device(config.device, DEVICES)
    use_threads(config.threads)
    path = RunFolder(config.model).find_ply(config.iteration)[0] if config.model.is_dir() else config.model
    rows = read_model(path)
    if not len(rows["means"]):
        raise InputError(path, "at least one Gaussian", "none", "give a trained model")
    around = surroundings(find_cameras(config), rows["means"])
    model = GaussianModel.from_arrays(rows, device)
    model.antialiased = config.antialiasing
    say = (lambda text: None) if config.quiet else (lambda text: print(text, flush=True))
    say(f"{path}: {model.num_gaussians:,} Gaussians, SH degree {model.max_sh_degree}, {len(around.cameras)} cameras")
    if model.num_gaussians > config.max_gaussians:
        say(
            f"left out of the browser's splats: {model.num_gaussians - config.max_gaussians:,} of them, those of least "
            "opacity times size; --max-gaussians raises the limit"
        )
    name = config.model.absolute().name if config.model.is_dir() else path.name
    if config.html is not None:
        write_html(config, name, model, around)
        say(f"{config.html}: {config.html.stat().st_size / MB:.1f} MB, opens in any current browser")
        return
    serve(config, name, model, around, say)


def find_cameras(config: ViewConfig) -> dict[str, tuple[Camera, ...]]:
    """The cameras to look from, by split: those of the scene, with photos, or those that a run has noted, without.

    Raises:
        InputError: the scene that was asked for, or the run's cameras, can't be read.
    """
    if config.source_path is not None:
        scene = load_scene(
            config.source_path, config.images, config.resolution, config.eval, config.white_background, seed=0
        )
        return {"train": scene.train, "test": scene.test}
    folder = run_folder(config.model)
    noted = None if folder is None else folder / "cameras.json"
    return {"": read_cameras(noted)} if noted is not None and noted.exists() else {}


def write_html(config: ViewConfig, name: str, model: GaussianModel, around: Surroundings) -> None:
    """Write the page that is one file."""
    write_page(
        config.html,
        name,
        model,
        around,
        background="#ffffff" if config.white_background else "#000000",
        max_gaussians=config.max_gaussians,
    )


def serve(
    config: ViewConfig, name: str, model: GaussianModel, around: Surroundings, say: Callable[[str], None]
) -> None:
    """Serve the live page until the user ends.

    Raises:
        InputError: it can't be served.
        Stopped: as the user has asked for.
    """
    page = open_page(
        name, around, model.max_sh_degree, white_background=config.white_background,
        max_gaussians=config.max_gaussians, is_training=False, host=config.host, port=config.port,
    )  # fmt: skip
    say(where_to_look(config.host, page.port))
    with closing(page), StopRequest() as stop:
        while not stop:
            if not page.serve(model):
                time.sleep(LOOK_EVERY)
    raise stop.stopped("stopped")


if __name__ == "__main__":
    run_script(main, less_memory=flags_that_save_memory(ViewConfig))
