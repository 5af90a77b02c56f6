"""Size and loss of a model in the formats of other tools: the table of docs/formats.md.

python -m benchmarks.formats --model point_cloud.ply --scene SCENE
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from compact_splats.compression.arrays import Arrays
from compact_splats.compression.formats import compressed_ply, glb, sog, splat, spz
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.scene import load_scene, ply
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.errors import run_script
from compact_splats.utils.machine import machine_info


def write_zip(path: Path, arrays: Arrays) -> None:
    """The float PLY in a ZIP archive, at the highest compression level."""
    plain = path.with_name("model.ply")
    ply.write(plain, arrays)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.write(plain, plain.name)


def read_zip(path: Path) -> Arrays:
    """Undo :func:`write_zip`."""
    with zipfile.ZipFile(path) as archive:
        return ply.read(archive.extract("model.ply", path.parent / "unzipped"))


def cases(num: int) -> list[tuple[str, str, Callable, Callable, dict]]:
    """Name, suffix, writer, reader and options of each measurement, for a model of ``num`` Gaussians."""
    return [
        ("ply", "ply", ply.write, ply.read, {}),
        ("ply, zipped", "zip", write_zip, read_zip, {}),
        ("compressed.ply", "compressed.ply", compressed_ply.write, compressed_ply.read, {}),
        ("spz", "spz", spz.write, spz.read, {}),
        ("spz, sh_bits=(5, 4)", "spz", spz.write, spz.read, {"sh_bits": (5, 4)}),
        ("spz, version 4", "spz", spz.write, spz.read, {"version": 4}),
        ("glb", "glb", glb.write, glb.read, {}),
        ("splat", "splat", splat.write, splat.read, {}),
        *(
            (f"sog, palette=N/{part}", "sog", sog.write, sog.read, {"palette": max(1, min(1 << 16, num // part))})
            for part in (2, 4, 8, 16)
        ),
    ]


def main() -> None:
    """Write, read and render each format; print a line of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a 3DGS PLY")
    parser.add_argument("--scene", type=Path, required=True, help="folder of its scene")
    parser.add_argument("-i", "--images", default="images", help="its images folder")
    parser.add_argument("-r", "--resolution", type=int, default=-1, help="as for train.py")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    options = parser.parse_args()

    arrays = ply.read(options.model)
    num = len(arrays["means"])
    scene = load_scene(options.scene, options.images, options.resolution, True)
    print(machine_info())
    print("| format | bytes/Gaussian | PSNR (dB) | SSIM | write, read (s) |\n|---|---|---|---|---|")
    for name, ending, write, read, how in cases(num):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"file.{ending}"
            started = time.perf_counter()
            write(path, arrays, **how)
            written = time.perf_counter()
            again = read(path)
            seconds = f"{written - started:.2f}, {time.perf_counter() - written:.2f}"
            size = path.stat().st_size / num
        model = GaussianModel.from_arrays(again, "cpu", scene.units.without_offset())
        found = evaluate(scene.test, model)
        print(f"| {name} | {size:.2f} | {found['psnr']:.3f} | {found['ssim']:.4f} | {seconds} |", flush=True)


if __name__ == "__main__":
    run_script(main)
