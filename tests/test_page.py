"""view.py --html: pages that are one file. What is in them, and how a real browser draws them."""

import base64
import gzip
import hashlib
import json
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import browser
import firefox
import numpy as np
import pytest
import torch
from viewer_cases import HEIGHT, WIDTH, rows_of, write_run

from compact_splats import viewer
from compact_splats.commands import view
from compact_splats.compression import decode, encode
from compact_splats.compression.compact_streams import parts_of
from compact_splats.compression.formats import spz
from compact_splats.compression.ordering import first
from compact_splats.gaussian_renderer import render
from compact_splats.scene import ply
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.normalization import Units
from compact_splats.scene.parameters import SavedArrays
from compact_splats.scene.saved_cameras import read_cameras
from compact_splats.training.run_folder import RunFolder
from compact_splats.utils.errors import InputError
from compact_splats.utils.images import to_uint8

WEB = Path(viewer.__file__).parent / "web"
NODE = shutil.which("node")
needs_browser = pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not()))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("viewer") / "ball")


def write(run: Path, out: Path, *flags: str) -> str:
    view.main(["-m", str(run), "--html", str(out), "--device", "cpu", *flags])
    return out.read_text()


def part(text: str, name: str) -> str:
    """The content of one of the page's scripts that hold data."""
    return re.search(rf'id="{name}">(.*?)</script>', text, re.S)[1]


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page") / "out.html"
    write(run, out, "--quiet")
    return out


# ---- what is in a page ----


def test_a_page_holds_the_whole_model(page, run, tmp_path):
    path = tmp_path / "model.spz"
    path.write_bytes(base64.b64decode(part(page.read_text(), "model")))
    rows, given = spz.read(path), ply.read(RunFolder(run).find_ply()[0])
    assert rows["sh_rest"].shape == given["sh_rest"].shape
    _, units = read_cameras(run / "cameras.json")
    means = units.file_points(rows["means"])
    np.testing.assert_allclose(means.sum(0), given["means"].sum(0), atol=0.05)


def test_a_page_names_nothing_outside_of_itself(page):
    """Beside data and licences there is no address in it, and its policy lets the browser ask for none."""
    text = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.S)
    for name in ("model", "bundle", "about"):
        text = text.replace(part(text, name), "")
    assert "default-src 'none'" in text and "http:" not in text and "https:" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_most_important_gaussians_are_kept_and_the_rest_is_named(run, tmp_path, capsys):
    text = write(run, tmp_path / "few.html", "--max-gaussians", "100")
    assert "100 of 300 Gaussians" in text
    assert "100 of the 300 Gaussians" in capsys.readouterr().out
    (tmp_path / "few.spz").write_bytes(base64.b64decode(part(text, "model")))
    rows, every = spz.read(tmp_path / "few.spz"), ply.read(RunFolder(run).find_ply()[0])

    def importance(rows):
        top = np.sort(rows["log_scales"], axis=1)[:, 1:].mean(1)
        return np.exp(top) / (1 + np.exp(-rows["opacity_logits"][:, 0]))

    assert len(rows["means"]) == 100
    assert importance(rows).min() > 0.9 * np.sort(importance(every))[-100]  # .spz rounds scales to 1/16


def test_names_of_photos_cannot_end_the_script(run, tmp_path):
    folder = write_run(tmp_path / "hostile", num=5)
    entries = json.loads((folder / "cameras.json").read_text())
    entries[0]["img_name"] = "</script><script>alert(1)</script>"
    (folder / "cameras.json").write_text(json.dumps(entries))
    text = write(folder, tmp_path / "out.html")
    assert "alert(1)</script>" not in text
    assert entries[0]["img_name"] in [camera["name"] for camera in json.loads(part(text, "about"))["cameras"]]


def test_the_bundle_was_built_from_these_sources():
    """``make viewer-bundle`` has been run since they have changed; NOTICES.txt has the licences of these versions."""
    sources = [WEB / "build.mjs", *sorted((WEB / "src").glob("*.js")), WEB / "package.json", WEB / "package-lock.json"]
    expected = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    bundle = gzip.decompress((WEB / "bundle.js.gz").read_bytes())
    assert bundle.startswith(f"// sources {expected}\n".encode())
    pinned = json.loads((WEB / "package.json").read_text())["dependencies"]
    notices = (WEB / "NOTICES.txt").read_text()
    for name, version in pinned.items():
        assert f"{name} {version}" in notices
    assert b"</script" not in bundle.lower() and "--" not in notices


@pytest.mark.skipif(NODE is None, reason="node is not found")
@pytest.mark.parametrize("sh_degree", [0, 3])
def test_the_worker_sorts_as_numpy_and_reads_spz_as_python(sh_degree, tmp_path):
    """From far to near, the first of equals first, without what is negative or not finite; every value of the file."""
    depths = np.random.default_rng(0).uniform(0, 1e3, 5000).astype(np.float32)
    depths[:9] = [7, np.inf, 7, np.nan, -1, 0, 1e-40, -np.inf, 3e38]
    depths[100:200] = depths[300:400]
    spz.write(tmp_path / "model.spz", rows_of(400, sh_degree))
    (tmp_path / "depths").write_bytes(depths.tobytes())
    script = Path(__file__).parent / "page_worker.mjs"
    command = [NODE, script, WEB / "src" / "worker.js", tmp_path / "depths", tmp_path / "model.spz"]
    order, model, error = map(json.loads, subprocess.check_output(command, text=True).splitlines())
    far_first = np.argsort(-depths, kind="stable")
    assert order == [i for i in far_first.tolist() if 0 <= depths[i] < np.inf]
    assert error == "the file is no .gsz"
    for name, row in spz.read(tmp_path / "model.spz").items():
        camel = re.sub("_(.)", lambda found: found[1].upper(), name)
        np.testing.assert_allclose(np.reshape(model[camel] or [], row.shape), row, rtol=2e-7, atol=1e-7)


# ---- the model as .gsz ----


@pytest.fixture(scope="module")
def compressed(run) -> Path:
    """A .gsz in the folder of the run, where ``compress.py`` writes it."""
    path = run / "compressed" / "compact.gsz"
    path.parent.mkdir()
    path.write_bytes(encode(ply.read(RunFolder(run).find_ply()[0])))
    return path


@pytest.fixture(scope="module")
def gsz_page(compressed, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page") / "gsz.html"
    write(compressed, out, "--quiet")
    return out


def test_a_page_of_a_gsz_holds_the_file_itself(gsz_page, compressed):
    assert base64.b64decode(part(gsz_page.read_text(), "model")) == compressed.read_bytes()


@pytest.mark.parametrize(
    "flags", [["--max-gaussians", "100"], ["--sh-degree", "1"], ["--format", "spz"]], ids=lambda flags: flags[0]
)
def test_a_page_of_a_part_of_a_gsz_holds_a_spz(flags, compressed, tmp_path, capsys):
    text = write(compressed, tmp_path / "out.html", *flags)
    (tmp_path / "model.spz").write_bytes(base64.b64decode(part(text, "model")))
    rest = spz.read(tmp_path / "model.spz")["sh_rest"]
    assert rest.shape == (100 if "100" in flags else 300, 3 if "1" in flags else 15, 3)
    assert "model as .spz" in capsys.readouterr().out


def test_a_page_of_a_ply_is_a_gsz_only_where_asked_for(run, compressed, tmp_path, capsys):
    write(run, tmp_path / "spz.html")
    assert f"view.py {compressed} --html" in capsys.readouterr().out
    text = write(run, tmp_path / "gsz.html", "--format", "gsz")
    said = capsys.readouterr()
    assert "not fine-tuned" in said.out + said.err and " dB" in said.out + said.err
    given, held = ply.read(RunFolder(run).find_ply()[0]), decode(base64.b64decode(part(text, "model")))
    _, units = read_cameras(run / "cameras.json")
    np.testing.assert_allclose(units.file_points(held["means"]).mean(0), given["means"].mean(0), atol=1e-3)


def test_a_format_without_a_page_is_refused(run):
    with pytest.raises(InputError, match="--html"):
        view.main(["-m", str(run), "--format", "gsz"])


@needs_browser
@pytest.mark.parametrize("made", ["from its file", "from a PLY"])
def test_a_browser_draws_a_gsz_as_we_render_it(made, gsz_page, compressed, run, tmp_path, chromium):
    page, model = gsz_page, compressed
    if made == "from a PLY":
        page, model = tmp_path / "out.html", tmp_path / "model.gsz"
        model.write_bytes(base64.b64decode(part(write(run, page, "--quiet", "--format", "gsz"), "model")))
    with browser.visit(chromium, page.as_uri(), WIDTH, HEIGHT, is_offline=True) as visit:
        settle(visit)
        visit.page.add_style_tag(content=".bar { opacity: 0; pointer-events: none }")
        cameras, units = read_cameras(run / "cameras.json")
        units = units if made == "from its file" else Units()  # in the page a model that is made for it has world units
        drawn = GaussianModel.from_arrays(decode(model.read_bytes()), "cpu", units)
        for index in (0, 2):
            go_to(visit, index)
            assert browser.likeness(visit.picture(), ours(run, index, model=drawn)) > 44
        assert not visit.complaints


def test_the_example_page_holds_a_model_that_we_read():
    page = Path(__file__).parent.parent / "docs" / "example.html"
    assert page.stat().st_size < 1e6
    assert decode(base64.b64decode(part(page.read_text(), "model")))["means"].shape == (20_000, 3)


# ---- nested models ----


@pytest.fixture(scope="module")
def nested_run(run, tmp_path_factory) -> Path:
    """The run with its Gaussians in random order, marked as nested."""
    folder = write_run(tmp_path_factory.mktemp("viewer") / "nested")
    path = RunFolder(folder).find_ply()[0]
    order = np.random.default_rng(0).permutation(300)
    arrays = {name: rows[order] for name, rows in ply.read(path).items()}
    ply.write(path, SavedArrays(arrays, nested=True))
    return folder


def test_a_page_keeps_the_order_of_a_nested_model_and_takes_its_first_gaussians(nested_run, run, tmp_path, capsys):
    text = write(nested_run, tmp_path / "out.html", "--max-gaussians", "200")
    (tmp_path / "model.spz").write_bytes(base64.b64decode(part(text, "model")))
    _, units = read_cameras(nested_run / "cameras.json")
    means = units.file_points(spz.read(tmp_path / "model.spz")["means"])
    given = ply.read(RunFolder(nested_run).find_ply()[0])["means"]
    assert np.abs(means - given[:200]).max() < 0.01 < np.abs(means - given[100:]).max()
    assert json.loads(part(text, "about"))["nested"]
    assert not json.loads(part(write(run, tmp_path / "plain.html"), "about"))["nested"]
    assert "200 of the 300 Gaussians, the first ones" in capsys.readouterr().out


def test_a_page_of_a_nested_gsz_holds_its_levels_one_after_the_other(nested_run, tmp_path):
    text = write(nested_run, tmp_path / "out.html", "--quiet", "--format", "gsz")
    parts = [base64.b64decode(part(text, name)) for name in ("model", "model-1", "model-2", "model-3")]
    assert json.loads(part(text, "about"))["parts"] == 4 and 'id="model-4"' not in text
    assert parts == parts_of(b"".join(parts)) and decode(b"".join(parts)).nested
    assert text.index('id="bundle"') < text.index('id="model"')


@needs_browser
def test_the_slider_draws_the_first_gaussians(nested_run, page, tmp_path, chromium):
    write(nested_run, tmp_path / "out.html", "--quiet")
    units = read_cameras(nested_run / "cameras.json")[1]
    model = GaussianModel.load_ply(RunFolder(nested_run).find_ply()[0], "cpu", units=units)
    with browser.visit(chromium, (tmp_path / "out.html").as_uri(), WIDTH, HEIGHT, is_offline=True) as visit:
        settle(visit)
        assert visit.page.inner_text("#number") == "300 Gaussians"
        assert visit.page.is_visible("#prefix")
        visit.page.add_style_tag(content=".bar { opacity: 0 }")
        for share in (10, 50, 100):
            visit.page.fill("#share", str(share))
            settle(visit)
            expected = ours(nested_run, 0, model=first(model, 3 * share))
            assert browser.likeness(visit.picture(), expected) > 42
        visit.page.press("#share", "ArrowLeft")  # moves the slider, not the camera
        assert visit.page.inner_text("#number") == "297 Gaussians"
        assert visit.page.get_attribute("body", "data-camera") == "0"
    with browser.visit(chromium, page.as_uri(), WIDTH, HEIGHT, is_offline=True) as visit:
        settle(visit)
        assert not visit.page.is_visible("#prefix")


@contextmanager
def in_parts(
    text: str, between: str = r'(?<=id="model-\d">)', policy: str = ""
) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """The address of a page that arrives part by part, what sends the next one, and what breaks the connection off.

    A part ends where `between` matches: as that of the model begins that follows, and with the first of them comes all
    that is before it.
    """
    parts = re.split(between, text)
    allowed: queue.Queue[bool] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            for each in parts:
                if not allowed.get(timeout=60):
                    return
                self.wfile.write(each.encode())

        def log_message(self, *args) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", lambda: allowed.put(True), lambda: allowed.put(False)
    finally:
        server.shutdown()
        server.server_close()


@needs_browser
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "broken off"])
def test_a_page_shows_each_level_before_the_next_one_arrives(is_whole, nested_run, tmp_path, chromium):
    """The first picture has the first level, the last one all; the slider goes as far as the levels, or stays."""
    text = write(nested_run, tmp_path / "out.html", "--quiet", "--format", "gsz")
    held = b"".join(base64.b64decode(part(text, f"model{end}")) for end in ("", "-1", "-2", "-3"))
    model = GaussianModel.from_arrays(decode(held), "cpu")

    def shows(count: int) -> bool:
        """A frame or two later."""
        expected = ours(nested_run, 0, model=first(model, count))
        return any(browser.likeness(visit.picture(), expected) > 42 for _ in range(20))

    def says(words: str) -> None:
        visit.page.locator("#number", has_text=words).wait_for()

    with in_parts(text) as (address, send, break_off):
        send()
        with browser.visit(chromium, address, WIDTH, HEIGHT, is_offline=False, until="commit") as visit:
            says("30 of 300 Gaussians, loading")
            visit.page.add_style_tag(content=".bar { opacity: 0 }")
            assert shows(30) and visit.page.get_attribute("body", "data-state") == "moving"
            assert visit.page.evaluate("[share.max, share.value]") == ["10", "10"]
            send()
            says("75 of 300 Gaussians, loading")
            assert shows(75)
            if not is_whole:
                break_off()
                says("75 of 300 Gaussians, the others can't be read (the end of the file is missing)")
                settle(visit)
                assert shows(75)
                return
            visit.page.fill("#share", "20")
            says("60 of 300 Gaussians, loading")
            send()
            visit.page.wait_for_selector("#share[max='50']")
            assert shows(60)
            send()
            settle(visit)
            assert visit.page.inner_text("#number") == "60 Gaussians"
            visit.page.fill("#share", "100")
            settle(visit)
            assert shows(300) and not visit.complaints


# ---- bad and small input ----


@pytest.mark.parametrize("num, sh_degree", [(1, 3), (300, 0)], ids=["one Gaussian", "no SH"])
def test_small_models_make_pages(num, sh_degree, tmp_path):
    path = tmp_path / "model.ply"
    ply.write(path, rows_of(num, sh_degree))
    about = json.loads(part(write(path, tmp_path / "out.html"), "about"))
    assert [camera["name"] for camera in about["cameras"]] == ["default view"]
    assert np.isfinite(about["cameras"][0]["pose"]).all()


def none(folder):
    ply.write(folder / "m.ply", {name: row[:0] for name, row in rows_of(1, 3).items()})
    return folder / "m.ply", "has no Gaussians"


def not_finite(folder):
    rows = rows_of(3, 3)
    rows["means"][:, 0] = np.nan
    ply.write(folder / "m.ply", rows)
    return folder / "m.ply", "finite"


def missing(folder):
    return folder / "nothing.ply", "nothing.ply"


def empty_run(folder):
    return folder, "saved Gaussians"


def broken_cameras(folder):
    write_run(folder / "run", num=3)
    (folder / "run" / "cameras.json").write_text("[{}]")
    return folder / "run", "cameras.json"


@pytest.mark.parametrize("make", [none, not_finite, missing, empty_run, broken_cameras], ids=lambda make: make.__name__)
def test_models_that_cannot_be_shown_are_refused(make, tmp_path):
    model, said = make(tmp_path)
    out = tmp_path / "out.html"
    with pytest.raises(InputError, match=re.escape(said)):
        view.main(["-m", str(model), "--html", str(out), "--quiet"])
    assert not out.exists()


def test_a_scene_that_is_asked_for_and_not_there_is_refused(run, tmp_path):
    """Not so the scene of a run that has moved: then the cameras do that the run has noted."""
    with pytest.raises(InputError, match="nowhere"):
        view.main(["-m", str(run), "-s", str(tmp_path / "nowhere"), "--html", str(tmp_path / "out.html"), "--quiet"])
    moved = write_run(tmp_path / "moved", num=3)
    (moved / "config.json").write_text(json.dumps({"source_path": str(tmp_path / "nowhere"), "final_budget": 3}))
    assert len(json.loads(part(write(moved, tmp_path / "out.html"), "about"))["cameras"]) == 3


def test_a_page_of_a_read_only_run_is_written_elsewhere(tmp_path, read_only):
    folder = read_only(write_run(tmp_path / "run", num=3))
    assert "</html>" in write(folder, tmp_path / "out.html", "--quiet")


def test_a_page_that_cannot_be_written_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can.t be written"):
        view.main(["-m", str(run), "--html", str(tmp_path / "file" / "out.html"), "--quiet"])


# ---- in a browser ----


def ours(
    run: Path, index: int, background: float = 0.0, camera: Camera | None = None, model: GaussianModel | None = None
) -> np.ndarray:
    """Our render of a camera of the run, or of another, and of its model, or of another, (H,W,3) uint8."""
    cameras, units = read_cameras(run / "cameras.json")
    model = model or GaussianModel.load_ply(RunFolder(run).find_ply()[0], "cpu", units=units)
    camera = camera or cameras[index]
    with torch.no_grad():
        image = render(camera, model, torch.full((3,), background)).image
    return to_uint8(image).permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def shown(page, chromium):
    with browser.visit(chromium, page.as_uri(), WIDTH, HEIGHT, is_offline=True) as visit:
        settle(visit)
        visit.page.add_style_tag(content=".bar { opacity: 0; pointer-events: none }")
        yield visit


def settle(visit: browser.Visit) -> None:
    visit.page.wait_for_selector("body[data-state=still]")


def go_to(visit: browser.Visit, index: int) -> None:
    for _ in range(3):
        if visit.page.get_attribute("body", "data-camera") != str(index):
            visit.page.keyboard.press("ArrowRight")
            settle(visit)
    assert visit.page.get_attribute("body", "data-camera") == str(index)


def test_a_browser_draws_what_we_render(shown, run):
    """From the first camera, and after a jump from another, with lenses off centre, pixel for pixel."""
    for index in (0, 2):
        go_to(shown, index)
        picture = shown.picture()
        assert picture.std() > 20  # more than a background
        alike = browser.likeness(picture, ours(run, index))
        assert alike > 44  # measured: 49.8 dB; 37.9 with the harmonics as Spark writes them
        assert browser.likeness(np.roll(picture, 1, axis=1), ours(run, index)) < 36  # measured: 33.4 dB


@pytest.mark.skipif(firefox.why_not() is not None, reason=str(firefox.why_not()))
def test_firefox_draws_what_we_render(page, run):
    with firefox.firefox(WIDTH, HEIGHT) as tab:
        tab.go(page.as_uri())
        end = time.monotonic() + 60
        while tab.value("document.body.dataset.state") != "still" and time.monotonic() < end:
            time.sleep(0.1)
        tab.value("for (const bar of document.querySelectorAll('.bar')) bar.style.opacity = 0")
        assert browser.likeness(tab.picture(), ours(run, 0)) > 44  # measured: 48.6 dB
        assert tab.said == []


def test_nothing_is_asked_for_and_nothing_complains(shown):
    assert not shown.complaints
    assert [each for each in shown.requests if not each.startswith(("file:", "blob:", "data:"))] == []


def test_the_background_can_be_chosen(shown, run):
    go_to(shown, 0)
    shown.page.locator("#background").fill("#ffffff")
    settle(shown)
    picture = shown.picture()
    shown.page.locator("#background").fill("#000000")  # the next tests share the page
    assert (picture[0, 0] == 255).all()
    assert browser.likeness(picture, ours(run, 0, background=1.0)) > 44


@pytest.mark.parametrize("move", ["drag", "wheel", "fly", "roll"])
def test_the_user_moves_the_camera(shown, move):
    go_to(shown, 1)
    go_to(shown, 0)
    before, mouse, keys = shown.picture(), shown.page.mouse, shown.page.keyboard
    mouse.move(WIDTH / 2, HEIGHT / 2)
    if move == "drag":
        mouse.down()
        mouse.move(WIDTH / 2 + 30, HEIGHT / 2 + 10, steps=2)
        mouse.up()
    elif move == "wheel":
        mouse.wheel(0, -300)
    else:
        key = {"fly": "KeyD", "roll": "KeyX"}[move]
        keys.down(key)
        shown.page.wait_for_timeout(300)
        keys.up(key)
    shown.page.wait_for_timeout(300)  # a wheel's turn is on its way for a while
    settle(shown)
    assert browser.likeness(before, shown.picture()) < 25
    keys.press("r")
    settle(shown)
    assert browser.likeness(before, shown.picture()) > 45


def test_another_axis_becomes_up(shown, page, run):
    """The first camera is turned around the centre, as -y is to z; after six the first axis is up again."""
    go_to(shown, 0)
    before, names = shown.picture(), []
    for _ in range(6):
        shown.page.keyboard.press("u")
        settle(shown)
        names.append(shown.page.inner_text("#camera"))
        if len(names) == 1:
            picture = shown.picture()
    assert names == [f"up: {axis}" for axis in ("z", "y", "-z", "x", "-x", "-y")]
    cameras, _ = read_cameras(run / "cameras.json")
    pose = cameras[0].world_to_camera.double().numpy()
    centre, ahead = np.array(json.loads(part(page.read_text(), "about"))["centre"]), pose[2, :3]
    centre = cameras[0].centre.numpy() + ahead * (ahead @ (centre - cameras[0].centre.numpy()))
    turned = pose.copy()
    turned[:3, :3] = pose[:3, :3] @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # z to -y
    turned[:3, 3] = pose[:3, :3] @ centre + pose[:3, 3] - turned[:3, :3] @ centre
    camera = replace(cameras[0], world_to_camera=torch.from_numpy(turned).float())
    assert browser.likeness(picture, ours(run, 0, camera=camera)) > 44
    shown.page.keyboard.press("r")
    settle(shown)
    assert browser.likeness(before, shown.picture()) > 45


def cut(text: str) -> str:
    return text[: len(text) // 2]


def damaged(name: str):
    """A page with some other letters in one of its parts."""

    def make(text: str) -> str:
        start = text.index(f'id="{name}">') + 3000
        return f"{text[:start]}AAAAAAAA{text[start + 8 :]}"

    return make


# What is wrong, the server's policy, what the browser runs first, and a word of what the page says.
TROUBLE = {
    "no scripts": (str, "default-src 'self'", "", "Content-Security-Policy"),
    "no workers": (str, "worker-src 'none'", "", "Content-Security-Policy: worker-src"),
    "no styles": (str, "style-src 'self'", "", "Content-Security-Policy: style-src"),
    "cut off": (cut, "", "", "end of this file is missing"),
    "damaged script": (damaged("bundle"), "", "", "script of this page can't be read"),
    "damaged model": (damaged("model"), "", "", "model in this page can't be shown"),
    "no WebGL": (str, "", "HTMLCanvasElement.prototype.getContext = () => null", "WebGL 2"),
    "an old browser": (str, "", "delete window.DecompressionStream", "too old"),
    "an error": (str, "", "delete window.Float32Array", "Float32Array"),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_a_page_that_cannot_be_shown_says_why_and_what_to_do(name, page, chromium):
    change, policy, first, said = TROUBLE[name]
    text = told(chromium, change(page.read_text()), policy, first, said)
    assert re.search("Load|Copy|[Ss]ave|Switch|needed", text)


def test_a_page_without_javascript_says_so(page, chromium):
    assert "JavaScript" in told(chromium, page.read_text(), "", "", "", java_script_enabled=False)


def told(chromium, text: str, policy: str, first: str, wanted: str, **options) -> str:
    """What is written on a page that a slow server sends with a policy; nothing else is on it."""
    context = chromium.new_context(**options)
    context.set_default_timeout(browser.SLOW)
    try:
        visited = context.new_page()
        visited.add_init_script(first)
        with in_parts(text, "(?<=</style>)", policy) as (address, send, _):
            send()
            visited.goto(address, wait_until="commit")
            visited.wait_for_timeout(100)  # what the browser has by then has had its events
            send()
            message = visited.locator("#message").filter(has_text=wanted)
            message.wait_for()
            assert not visited.locator("#view").is_visible()
            return message.inner_text()
    finally:
        context.close()


def test_a_page_that_loses_its_graphics_memory_says_so_and_stays_so(page, chromium):
    with browser.visit(chromium, page.as_uri(), WIDTH, HEIGHT, is_offline=True) as visit:
        settle(visit)
        visit.page.evaluate(
            "document.getElementById('view').getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()"
        )
        visit.page.get_by_text("graphics memory").wait_for()
        visit.page.wait_for_timeout(300)  # a frame would hide it again
        assert visit.page.get_by_text("graphics memory").is_visible() and not visit.page.locator("#view").is_visible()
