"""Show a model in the browser, on a live page or as one HTML file."""

from compact_splats.arguments.options import run_command
from compact_splats.arguments.view import UPS, ViewConfig

if __name__ == "__main__":  # above the imports that load torch, for which --help does not wait
    run_command(ViewConfig, "view", "view")

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from typing import NoReturn

import numpy as np

from compact_splats.arguments.config import run_folder
from compact_splats.arguments.device import pick_device, use_threads
from compact_splats.compression.color_basis import ColorBasis
from compact_splats.compression.files import model_file
from compact_splats.compression.load import load_model
from compact_splats.gaussian_renderer import DEVICES
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.normalization import Units
from compact_splats.scene.saved_cameras import read_cameras
from compact_splats.training.loading import scene_of
from compact_splats.training.poses import take_refined_poses
from compact_splats.training.run_folder import RunFolder
from compact_splats.utils.files import check_writable
from compact_splats.utils.signals import StopRequest
from compact_splats.utils.usage import MB
from compact_splats.viewer import check_installed, open_page
from compact_splats.viewer.page import whole_gsz, write_page
from compact_splats.viewer.ports import check_port, how_to_open
from compact_splats.viewer.views import Views, find_views

POLL_SECONDS = 0.02


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    view(ViewConfig.from_command_line(sys.argv[1:] if argv is None else argv))


def view(config: ViewConfig) -> None:
    """Write the HTML file, or serve the live page until Ctrl-C.

    Raises:
        InputError: the model or the scene can't be read, or the page can't be written or served.
    """
    device = pick_device(config.device, DEVICES)
    use_threads(config.threads)
    if config.html is None:  # before the model, which takes a while to read
        check_installed()
        check_port(config.host, config.port)
    else:
        check_writable(config.html.parent)
    path = model_file(config.model, config.iteration)
    cameras, units = find_cameras(config)
    model = load_model(path, config, device, units)
    views = find_views(cameras, model.means.detach().cpu().numpy(), config.up_direction)
    num_cameras = sum(map(len, cameras.values()))
    config.say(f"{path}: {model.num_gaussians:,} Gaussians, SH degree {model.max_sh_degree}, {num_cameras} cameras")
    if config.up is None:
        origin = "from the cameras" if num_cameras else "a guess without cameras"
        config.say(f"up is {_as_flag(views.up)}, {origin}; --up changes it")
    if model.num_gaussians > config.max_gaussians:
        which = "the first ones" if model.nested else "those with the largest opacity times size"
        config.say(
            f"the browser gets {config.max_gaussians:,} of the {model.num_gaussians:,} Gaussians, {which}; "
            "--max-gaussians raises the limit"
        )
    name = config.model.absolute().name if config.model.is_dir() else path.name
    if config.html is None:
        serve(config, name, model, views)
    gsz = whole_gsz(path, model, config.max_gaussians)
    format = config.format or ("spz" if gsz is None else "gsz")
    compressed = config.model / "compressed" / "compact.gsz"
    if format == "spz" and compressed.is_file():
        config.say(f"{compressed} is there, too: view.py {compressed} --html FILE makes a smaller page, of that model")
    lost = write_page(
        config.html, name, model, views, background="#ffffff" if config.white_background else "#000000",
        max_gaussians=config.max_gaussians, format=format, gsz=gsz,
        color_basis=ColorBasis.of_cameras(list(chain(*cameras.values()))),
    )  # fmt: skip
    config.say_notes(config.html, lost)
    size = config.html.stat().st_size / MB
    config.say(f"{config.html}: {size:.1f} MB with the model as .{format}, opens in any current browser")


def _as_flag(up: np.ndarray) -> str:
    """A direction as ``--up`` takes it."""
    name = next((name for name, axis in UPS.items() if np.allclose(up, axis, atol=0.005)), None)
    return name or ",".join(f"{each:.2f}" for each in up)


def find_cameras(config: ViewConfig) -> tuple[dict[str, tuple[Camera, ...]], Units | None]:
    """The cameras by split: those of the scene, with photos, else those of the run's ``cameras.json``, without.

    Returns:
        The cameras, and the units of the model and them; None without cameras.

    Raises:
        InputError: the scene or ``cameras.json`` can't be read.
    """
    folder = run_folder(config.model)
    known = None if folder is None else RunFolder(folder).units()
    if config.source_path is not None:
        scene = scene_of(config, known)
        take_refined_poses(scene, folder)
        return {"train": scene.train, "test": scene.test}, known or scene.units.without_offset()
    if folder is None or not (folder / "cameras.json").exists():
        return {}, known
    cameras, units = read_cameras(folder / "cameras.json", known)
    return {"": cameras}, units


def serve(config: ViewConfig, name: str, model: GaussianModel, views: Views) -> NoReturn:
    """Serve the live page until Ctrl-C.

    Raises:
        InputError: it can't be served.
        Stopped: the user stopped it.
    """
    page = open_page(
        name, views, model.max_sh_degree, white_background=config.white_background,
        max_gaussians=config.max_gaussians, is_training=False, host=config.host, port=config.port,
    )  # fmt: skip
    config.say(how_to_open(config.host, page.port))
    with closing(page), StopRequest() as stop:
        while not stop:
            if not page.serve(model):
                time.sleep(POLL_SECONDS)
    raise stop.stopped("stopped")
