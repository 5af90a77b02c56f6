"""What levels of a nested model cost in a .gsz, how good its first Gaussians are, and when a page shows them.

``python -m benchmarks.nested nested.ply -s my_scene --eval --gsz nested.gsz``: bytes with and without levels; PSNR of
the first Gaussians of the PLY, of its .gsz without fine-tuning, and of another file. ``--mbit 10`` loads the page of
the last of them, with and without levels, from a server that sends so many megabits a second, in headless Chromium
without a GPU.
"""

import argparse
import math
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from compact_splats.commands import view
from compact_splats.compression import ColorBasis, decode, encode, read_model
from compact_splats.compression.compact_streams import parts_of
from compact_splats.compression.ordering import first
from compact_splats.gaussian_renderer.evaluation import evaluate
from compact_splats.scene import load_scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.parameters import SavedArrays
from compact_splats.utils.errors import run_script

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import browser  # noqa: E402

SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
TICK = 0.05  # s


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a nested PLY or .gsz")
    parser.add_argument("-s", "--scene", type=Path)
    parser.add_argument("--eval", action="store_true")
    parser.add_argument("--gsz", type=Path, help="a .gsz that compress.py has made of it")
    parser.add_argument("--mbit", type=float, help="megabits that a page gets in a second")
    args = parser.parse_args()
    rows = read_model(args.model)
    assert rows.nested, "the model is not nested"
    scene = args.scene and load_scene(args.scene, eval=args.eval)
    basis = scene and ColorBasis.of_cameras(scene.train, scene.units)
    files = {"with levels": encode(rows, color_basis=basis), "without": encode(SavedArrays(rows), color_basis=basis)}
    whole = len(files["without"])
    for name, data in files.items():
        print(f"{name}: {len(data):,} bytes, {100 * (len(data) / whole - 1):+.1f} %, {[*map(len, parts_of(data))]}")
    if args.gsz:
        files["with levels"] = args.gsz.read_bytes()
        files["without"] = encode(SavedArrays(read_model(args.gsz)), color_basis=basis)
    if scene:
        models = {"PLY": rows, ".gsz": decode(encode(rows, color_basis=basis))}
        models |= {args.gsz.name: read_model(args.gsz)} if args.gsz else {}
        print("of the first", *(f"{share:.0%}" for share in SHARES))
        for name, arrays in models.items():
            model = GaussianModel.from_arrays(arrays, "cpu", scene.units)
            counts = [math.ceil(share * model.num_gaussians) for share in SHARES]
            print(name, *(f"{evaluate(scene.test, first(model, count))['psnr']:.2f}" for count in counts))
    for name, data in files.items() if args.mbit else ():
        print(f"page {name}: {loaded(data, args.mbit * 125_000)}")


def loaded(data: bytes, rate: float) -> str:
    """When the page of a file shows its first and its last picture.

    Args:
        data: the .gsz.
        rate: bytes per second.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, page = Path(folder) / "model.gsz", Path(folder) / "page.html"
        file.write_bytes(data)
        view.main(["-m", str(file), "--html", str(page), "--quiet"])
        text = page.read_bytes()

    class Slowly(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            start = time.perf_counter()
            for at in range(0, len(text), size := int(rate * TICK)):
                time.sleep(max(0, start + at / rate - time.perf_counter()))
                self.wfile.write(text[at : at + size])

        def log_message(self, *args) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slowly)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    with browser.browser() as chromium:
        start = time.perf_counter()
        with browser.visit(chromium, address, 640, 480, is_offline=False, until="commit") as visit:
            visit.page.wait_for_selector("body[data-state=moving], body[data-state=still]")
            first_shown, count = time.perf_counter() - start, visit.page.text_content("#number")
            visit.page.wait_for_selector("body[data-state=still]")
            last_shown = time.perf_counter() - start
    server.shutdown()
    return f"{len(text) / 1e6:.2f} MB; {count} after {first_shown:.1f} s; all of it, at rest, after {last_shown:.1f} s"


if __name__ == "__main__":
    run_script(main)
