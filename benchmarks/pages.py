"""How like our own renders the pages of view.py --html are, in headless Chromium without a GPU, and how large.

``python -m benchmarks.pages -m output/demo/model --views 5`` compares test views at the size of their photos, and
says what the page and the renderer reach against the photos. With ``-m output/demo/model/compressed/compact.gsz`` the
page holds that file.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from compact_splats.arguments.view import ViewConfig
from compact_splats.commands import view
from compact_splats.compression import read_model
from compact_splats.compression.files import kind_of, model_file
from compact_splats.compression.formats import spz
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.errors import run_script
from compact_splats.utils.images import pixels_of
from compact_splats.utils.usage import MB
from compact_splats.viewer.images import rendered

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import browser  # noqa: E402


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, required=True, help="run whose scene is there, or a .gsz in it")
    parser.add_argument("--views", type=int, default=5)
    args = parser.parse_args()
    config = ViewConfig.from_command_line(["-m", str(args.model)])
    path = model_file(args.model)
    rows, background = read_model(path), torch.full((3,), float(config.white_background))
    splits, units = view.find_cameras(config)
    cameras = [camera for views in splits.values() for camera in views][: -args.views - 1 : -1]
    ours = [rendered(camera, GaussianModel.from_arrays(rows, "cpu", units), background) for camera in cameras]
    photos = [pixels_of(camera.photo.pixels()) for camera in cameras]
    with tempfile.TemporaryDirectory() as folder:
        held = path
        if kind_of(path) != ".gsz":
            held = Path(folder) / "model.spz"
            spz.write(held, rows)
        packed = GaussianModel.from_arrays(read_model(held), "cpu", units)
        as_packed = [rendered(camera, packed, background) for camera in cameras]
        out = Path(folder) / "page.html"
        view.main(["-m", str(args.model), "--html", str(out), "--quiet"])
        sizes = {"model": path, "file in the page": held, "page": out}
        print(
            {name: f"{file.stat().st_size / MB:.2f} MB" for name, file in sizes.items()},
            len(rows["means"]),
            "Gaussians",
        )
        shown, seconds = pictures_of(out, len(cameras), *ours[0].shape[1::-1])
    for name, one, other in (
        ("page against our renders", shown, ours),
        ("the file in it, rendered by us, against our renders", as_packed, ours),
        ("page against photos", shown, photos),
        ("our renders against photos", ours, photos),
    ):
        each = [browser.likeness(*pair) for pair in zip(one, other, strict=True)]
        print(f"{name}: PSNR {np.mean(each):.2f} dB, {json.dumps([round(value, 2) for value in each])}")
    print(f"first picture after {seconds:.1f} s")


def pictures_of(page: Path, num: int, width: int, height: int) -> tuple[list[np.ndarray], float]:
    """What a browser shows from a page's last cameras, from the end on, and the seconds until its first picture."""
    with browser.browser() as chromium:
        start = time.perf_counter()
        with browser.visit(chromium, page.as_uri(), width, height, is_offline=True) as visit:
            visit.page.wait_for_selector("body[data-state=still]")
            seconds = time.perf_counter() - start
            visit.page.add_style_tag(content=".bar { opacity: 0 }")
            shown = []
            for _ in range(num):
                visit.page.keyboard.press("ArrowLeft")
                visit.page.wait_for_selector("body[data-state=still]")
                shown.append(visit.picture())
            return shown, seconds


if __name__ == "__main__":
    run_script(main)
