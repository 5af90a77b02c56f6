"""The live page of view.py and of train.py --viewer, in a real browser; ports; what its colours and pictures are."""

import contextlib
import importlib.util
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import browser
import numpy as np
import pytest
import torch
from viewer_cases import cameras, rows_of, write_run

from compact_splats.arguments import TrainConfig
from compact_splats.arguments.config import run_folder
from compact_splats.arguments.view import ViewConfig
from compact_splats.commands import view
from compact_splats.gaussian_renderer import render
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.saved_cameras import read_cameras
from compact_splats.training.processes import SINGLE_PROCESS
from compact_splats.training.run import train
from compact_splats.utils.errors import InputError
from compact_splats.viewer import ports, splats, training
from compact_splats.viewer.images import Filter, containing_fov, overlay_photo, rendered, window_camera
from compact_splats.viewer.ranking import most_important, sizes
from compact_splats.viewer.training import viewer_of
from compact_splats.viewer.views import find_views, up_of

ROOT = Path(view.__file__).parent
BLACK = torch.zeros(3)
# Of viser itself, whatever it shows.
KNOWN = ("THREE.Clock: This module has been deprecated", "THREE.BufferGeometry.computeBoundingSphere()", "GPU stall")


@pytest.fixture(scope="module")
def model() -> GaussianModel:
    return GaussianModel.from_arrays(rows_of(300, 3), "cpu")


# ---- what is shown ----


def test_colours_of_splats_are_those_of_the_renderer(model):
    """From any place and in any degree: a Gaussian that fills the picture has the colour that was evaluated here."""
    camera = cameras()[1]
    for row in (0, 7, 100):
        for degree in (0, 1, 2, 3):
            alone = {name: values[row : row + 1].detach().clone() for name, values in model.parameters.items()}
            place = camera.centre + 2 * camera.world_to_camera[2, :3] + torch.tensor([0.1, 0.05, 0.0])
            big = {"means": place[None], "log_scales": torch.ones(1, 3), "opacity_logits": torch.full((1, 1), 20.0)}
            one = GaussianModel({**alone, **big}, degree)
            (color,) = splats.arrays(one, torch.tensor([0]), camera.centre, degree)["rgbs"]
            with torch.no_grad():
                image = render(camera, one, BLACK).image.amax((1, 2)).numpy()
            np.testing.assert_allclose(np.minimum(image, 0.99), 0.99 * color, atol=2e-3)


def test_covariances_have_the_axes_of_the_gaussians(model):
    arrays = splats.arrays(model, torch.arange(300), torch.zeros(3), 0)
    variances = np.linalg.eigvalsh(arrays["covariances"])
    expected = np.sort(model.scales.detach().numpy() ** 2, axis=1)
    np.testing.assert_allclose(variances, expected, rtol=2e-3, atol=1e-7)


def test_hidden_gaussians_are_not_rendered_and_the_model_stays_as_it_is(model):
    before = {name: row.detach().clone() for name, row in model.parameters.items()}
    chosen = Filter(2, 0.6, (10.0, 80.0))
    kept = chosen.mask(model)
    assert 0 < kept.sum() < 300
    rest = GaussianModel({name: row.detach()[kept] for name, row in model.parameters.items()}, 2)
    camera = cameras()[0]
    hidden = rendered(camera, chosen.applied(model), BLACK)
    np.testing.assert_array_equal(hidden, rendered(camera, rest, BLACK))
    assert all(torch.equal(before[name], row) for name, row in model.parameters.items())
    assert Filter(3).mask(model) is None


def test_the_most_important_are_chosen_among_those_that_are_shown(model):
    shown = model.opacities.squeeze(1) > 0.5
    importance = model.opacities.squeeze(1) * sizes(model)
    chosen = most_important(model, 20, shown)
    assert len(chosen) == 20 and shown[chosen].all()
    assert importance[chosen].min() >= importance[shown].sort(descending=True).values[19]


def test_a_photo_lies_on_the_picture_to_the_pixel(model):
    """A photo that is the render itself changes nothing where the window has the photo's lens."""
    camera = cameras()[0]
    image = rendered(camera, model, BLACK)
    wide = replace(camera, width=200, height=140, cx=camera.cx + 20, cy=camera.cy + 10)
    around = rendered(wide, model, BLACK)
    np.testing.assert_array_equal(overlay_photo(around, wide, camera, image, 1.0), around)
    half = overlay_photo(around, wide, camera, 255 - image, 0.5)
    assert (half[10:130, 20:100] == 255 - image[:, :80]).all() and (half[:, 100:] == around[:, 100:]).all()


@pytest.mark.parametrize("num", [0, 1, 2])
def test_any_number_of_cameras_gives_a_place_to_look_from(model, num):
    means = model.means.detach().numpy()
    around = find_views({"test": (), "train": tuple(cameras(num))}, means)
    assert len(around.cameras) == max(1, num) and around.extent > 0
    np.testing.assert_allclose(around.up, [0, -1, 0], atol=1e-6)
    camera = around.cameras[0]
    depth = (camera.world_to_camera[:3, :3] @ torch.from_numpy(around.centre).float() + camera.world_to_camera[:3, 3])[
        2
    ]
    assert depth > 0
    assert rendered(camera, model, BLACK).std() > 5


@pytest.mark.parametrize("up", [None, (0, 0, 1), (0, 1, 0), (-2, 0, 0), (0.1, -1, 0.3)])
def test_a_model_without_cameras_is_seen_upright(up):
    """From a camera that is held level and looks at its middle; y points down where nothing is known."""
    found = find_views({}, rows_of(50, 0)["means"], up)
    expected = np.array((0, -1, 0) if up is None else up) / np.linalg.norm(up or 1)
    pose = found.cameras[0].world_to_camera.numpy()
    np.testing.assert_allclose(found.up, expected, atol=1e-9)
    np.testing.assert_allclose(pose[:3, :3] @ expected, [0, -1, 0], atol=1e-6)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
    assert np.linalg.det(pose) == pytest.approx(1)
    centre = pose[:3, :3] @ found.centre + pose[:3, 3]
    np.testing.assert_allclose(centre[:2], 0, atol=1e-6)
    assert centre[2] > 1


def level_poses(up: np.ndarray, degrees: float, pitch: float) -> np.ndarray:
    """World to camera of nine cameras on an arc, which are held level and look down by ``pitch``, degrees."""
    first = np.cross(up, [0.6, 0, 0.8])
    first /= np.linalg.norm(first)
    second, down = np.cross(up, first), np.radians(pitch)
    poses = np.tile(np.eye(4), (9, 1, 1))
    for pose, angle in zip(poses, np.radians(np.linspace(0, degrees, 9)), strict=True):
        ahead = np.cos(down) * (np.cos(angle) * first + np.sin(angle) * second) - np.sin(down) * up
        right = np.cross(ahead, up) / np.cos(down)
        pose[:3, :3] = right, np.cross(ahead, right), ahead
    return poses


@pytest.mark.parametrize(("degrees", "pitch"), [(60, 45), (340, 30), (180, -20), (90, 0)])
def test_up_is_found_from_cameras_that_are_held_level(degrees, pitch):
    """Exactly, wherever they look, also where all look down from one side; nearly, with a roll of some degrees."""
    up = np.array([0.1, -0.9, 0.3]) / np.linalg.norm([0.1, -0.9, 0.3])
    poses = level_poses(up, degrees, pitch)
    np.testing.assert_allclose(up_of(poses), up, atol=1e-9)
    rolls = np.radians(np.random.default_rng(0).normal(0, 2, 9))
    for pose, roll in zip(poses, rolls, strict=True):
        turn = [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
        pose[:3, :3] = turn @ pose[:3, :3]
    assert up_of(poses) @ up > np.cos(np.radians(6))


def test_up_is_that_of_the_cameras_where_they_do_not_tell_more():
    """One camera, several of one direction, and cameras that are rolled by quarters."""
    poses = level_poses(np.array([0.0, -1, 0]), 0, 30)
    np.testing.assert_allclose(up_of(poses), -poses[0, 1, :3], atol=1e-9)
    np.testing.assert_allclose(up_of(poses[:1]), -poses[0, 1, :3], atol=1e-9)
    upside_down = np.diag([-1.0, -1, 1, 1]) @ poses[0]
    np.testing.assert_allclose(up_of(np.stack([poses[0], upside_down])), -poses[0, 1, :3], atol=1e-9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("z", (0, 0, 1)), ("-y", (0, -1, 0)), ("-X", (-1, 0, 0)), ("-1,2,0", (-1, 2, 0)), ("0,-1,0.2", (0, -1, 0.2))],
)
def test_up_is_a_flag(text, expected):
    assert ViewConfig.from_command_line(["-m", "a.ply", "--up", text]).up_direction == expected


@pytest.mark.parametrize("text", ["0,0,0", "w", "1,2", "nan,0,1", ""])
def test_an_up_that_is_no_direction_is_refused(text):
    with pytest.raises(InputError, match="--up must be x, y, z"):
        ViewConfig.from_command_line(["-m", "a.ply", f"--up={text}"])


def test_cameras_of_one_name_are_told_apart(model):
    twins = tuple(replace(camera, name="photo.png") for camera in cameras(3))
    assert len(set(find_views({"": twins}, model.means.detach().numpy()).labels)) == 3


# ---- ports and flags ----


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_refused_with_who_has_it_and_a_free_one(taken, tmp_path):
    with pytest.raises(InputError) as caught:
        view.main(["-m", str(write_run(tmp_path / "run", num=3)), "--port", str(taken), "--quiet"])
    said = str(caught.value)
    assert f"port {taken} is in use by" in said and "process" in said
    ports.check_port("127.0.0.1", int(re.search(r"use port (\d+)", said)[1]))


def test_what_cannot_be_served_or_written_is_refused_before_the_model_is_read(taken, tmp_path):
    for flags, said in ((["--port", str(taken)], f"port {taken}"), (["--html", "/proc/out.html"], "/proc")):
        with pytest.raises(InputError, match=said):
            view.main(["-m", str(tmp_path / "nothing.ply"), *flags, "--quiet"])


def test_a_training_whose_port_is_taken_writes_nothing(taken, tiny_scene_dir, tmp_path):
    config = TrainConfig(source_path=tiny_scene_dir, final_budget=10, model_path=tmp_path / "run", viewer=taken)
    with pytest.raises(InputError, match=f"port {taken}"):
        train(config, SINGLE_PROCESS, viewer_of(config, SINGLE_PROCESS))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "count, is_installed, said",
    [(2, True, "with one process"), (1, False, "pip install viser")],
    ids=["processes", "viser"],
)
def test_a_training_that_cannot_be_looked_at_is_refused_at_once(count, is_installed, said, monkeypatch):
    config = TrainConfig(source_path=Path("scene"), final_budget=10, viewer=0)
    if not is_installed:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=said):
        viewer_of(config, SimpleNamespace(count=count))


def test_a_host_that_is_not_this_machine_is_refused():
    with pytest.raises(InputError, match="--host"):
        ports.check_port("192.0.2.1", 0)


def test_ways_to_the_page_are_told():
    assert "ssh -L 8080:127.0.0.1:8080" in ports.how_to_open("127.0.0.1", 8080)
    assert "from the network" in ports.how_to_open("0.0.0.0", 8080)


def test_viewer_is_a_flag_with_and_without_a_port():
    flags = ["-s", "scene", "--final-budget", "10"]
    for extra, port in (([], None), (["--viewer"], 8080), (["--viewer", "9000"], 9000)):
        assert TrainConfig.from_command_line([*flags, *extra]).viewer == port


def test_the_run_of_a_model_is_found(tmp_path):
    run = write_run(tmp_path / "run", num=1)
    ply = next(run.glob("point_cloud/*/point_cloud.ply"))
    assert run_folder(run) == run_folder(ply) == run
    assert run_folder(tmp_path / "other.ply") is None


# ---- a training ----


class Onlooker:
    """In place of a page: somebody who looks at every step, and pauses the training after the third."""

    port, has_viewers, is_paused = 0, True, False

    def __init__(self) -> None:
        self.said = []

    def serve(self, model, step, about) -> bool:
        rendered(cameras()[0], Filter(3, 0.2).applied(model), BLACK)
        self.said.append(about)
        self.is_paused = step == 3 and self.said.count(about) < 3
        return True

    def close(self) -> None:
        self.said.append("closed")


def test_looking_changes_nothing_in_a_training(tiny_scene_dir, tmp_path, monkeypatch):
    """The same bits with and without somebody who looks at every step and pauses."""
    onlooker = Onlooker()
    monkeypatch.setattr(training, "open_page", lambda *args, **options: onlooker)
    monkeypatch.setattr(training, "MAX_TIME_FRACTION", 1.0)
    written = []
    for port in (None, 0):
        config = TrainConfig(
            source_path=tiny_scene_dir, model_path=tmp_path / str(port), final_budget=500, iterations=8,
            viewer=port, quiet=True, tensorboard=False,
        )  # fmt: skip
        train(config, SINGLE_PROCESS, viewer_of(config, SINGLE_PROCESS))
        written.append((config.model_path / "point_cloud" / "iteration_8" / "point_cloud.ply").read_bytes())
    assert written[0] == written[1]
    assert onlooker.said.count("paused after step 3: ") == 3 and onlooker.said[-1] == "closed"
    assert {f"step {step}: " for step in range(1, 8)} <= set(onlooker.said)  # the last step ends the training at once


# ---- in a browser ----


@contextlib.contextmanager
def script(*command: str):
    """A script in a process of its own, killed at the end; gives it, the address that it tells, and its errors."""
    with tempfile.TemporaryFile("w+") as errors:  # a pipe that nobody empties would stop it some day
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            lines = iter(process.stdout.readline, "")
            address = next((found[0] for line in lines if (found := re.search(r"http://127\S+", line))), None)
            errors.seek(0)
            assert address, errors.read()
            yield process, address, errors
        finally:
            process.kill()
            process.communicate()


def press(visit: browser.Visit, what: str) -> None:
    visit.page.locator("button", has_text=what).first.dispatch_event("click")


def best_likeness(visit: browser.Visit, expected: np.ndarray, wanted: float) -> float:
    """How like the picture is to what is expected, when it is enough, or after a long time."""
    end, best = time.monotonic() + 40, 0.0
    while best < wanted and time.monotonic() < end:
        visit.page.wait_for_timeout(200)
        best = max(best, browser.likeness(visit.picture(), expected))
    return best


def test_a_browser_shows_our_render_at_rest_and_splats_like_it(chromium, tmp_path):
    """At the first camera, after a step to the next, and then in the page's own splats."""
    run, size = write_run(tmp_path / "run"), (480, 320)
    cameras, units = read_cameras(run / "cameras.json")
    model = GaussianModel.load_ply(next(run.glob("point_cloud/*/*.ply")), "cpu", units=units)

    def expected(index: int) -> np.ndarray:
        camera = cameras[index]
        rotation = camera.world_to_camera[:3, :3].numpy().T
        window = window_camera(rotation, camera.centre.numpy(), containing_fov(camera, size[0] / size[1]), *size)
        return rendered(window, model, BLACK)

    with (
        script("view.py", "-m", run, "--port", "0", "--device", "cpu") as (process, address, _),
        browser.visit(chromium, address, *size, is_offline=False) as visit,
    ):
        visit.page.wait_for_selector("text=300 Gaussians")
        visit.page.add_style_tag(content="* { visibility: hidden } canvas { visibility: visible }")
        assert expected(0).std() > 20
        assert best_likeness(visit, expected(0), 60) > 60  # measured: equal
        press(visit, "next")
        assert best_likeness(visit, expected(1), 60) > 60  # measured: equal
        mine = visit.page.locator("input[type=checkbox]:not([id^=mantine])")  # the others are of viser's own menu
        mine.nth(1).dispatch_event("click")  # "exact at rest"
        visit.page.wait_for_timeout(1500)
        assert 38 < best_likeness(visit, expected(1), 38) < 60  # measured: 45.7 dB
        with browser.visit(chromium, address, 390, 844, is_offline=False) as phone:
            check_phone(phone.page)
        assert [each for each in visit.complaints if not each.startswith(KNOWN)] == []
        process.terminate()
        assert process.wait(20) == 143


def check_phone(page) -> None:
    """The controls are closed at first, and what is at the bottom of the page covers less than a seventh of it."""
    page.get_by_text("Controls").wait_for()
    page.wait_for_timeout(1000)  # the panel moves to its place
    assert page.get_by_text("run", exact=True).bounding_box()["y"] > 844 * 6 / 7
    sliders = page.get_by_text("SH degree")
    assert not sliders.is_visible()
    page.get_by_text("Controls").click()
    sliders.wait_for()


def test_a_training_is_paused_and_goes_on(chromium, tiny_scene_dir, tmp_path):
    flags = ("-s", tiny_scene_dir, "-m", tmp_path / "run", "--final-budget", "500", "--iterations", "20000")
    with (
        script("train.py", *flags, "--viewer", "0", "--device", "cpu", "--no-tensorboard") as (
            process,
            address,
            errors,
        ),
        browser.visit(chromium, address, 480, 320, is_offline=False) as visit,
    ):
        said = visit.page.get_by_text(re.compile(r"step [\d,]+:")).first
        said.wait_for()
        press(visit, "Pause")
        visit.page.wait_for_selector("text=paused after step")
        paused = re.search(r"step [\d,]+:", said.text_content())[0]
        visit.page.wait_for_timeout(500)
        assert paused in said.text_content()
        press(visit, "Resume")
        visit.page.wait_for_function("paused => !document.body.textContent.includes(paused)", arg=paused)
        process.terminate()
        assert process.wait(20) == 143
        errors.seek(0)
        assert "stopped after step" in errors.read()
