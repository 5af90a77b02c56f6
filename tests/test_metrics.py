"""metrics.py and LPIPS: from PNG pairs to results.json, and errors for bad folders."""

import functools
import hashlib
import http.server
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from compact_splats.commands import metrics
from compact_splats.gaussian_renderer import lpips
from compact_splats.gaussian_renderer.lpips import Lpips
from compact_splats.suite.comparison import comparison
from compact_splats.suite.pairs import find_pairs
from compact_splats.utils.errors import InputError
from compact_splats.utils.losses import color_corrected, psnr, ssim

needs_linear_weights = pytest.mark.skipif(
    importlib.util.find_spec("lpips") is None, reason="the lpips package, whose weights LPIPS reads, is not installed"
)


def vgg16() -> nn.Sequential:
    """The convolutional part of VGG16 as torchvision lays it out, with random weights that keep activations alive."""
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"):
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)
        channels = width
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A file with the names of torchvision's vgg16 checkpoint, with one entry of the classifier."""
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    state = {f"features.{name}": value for name, value in vgg16().state_dict().items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, path)
    return path


@pytest.fixture
def model(tmp_path) -> Path:
    """A model folder with two rendered test views of 33x40 pixels."""
    rng = np.random.default_rng(5)
    for kind in ("renders", "gt"):
        folder = tmp_path / "model" / "test" / "ours_700" / kind
        folder.mkdir(parents=True)
        for i in range(2):
            cv2.imwrite(str(folder / f"{i:05d}.png"), rng.integers(0, 256, (33, 40, 3), dtype=np.uint8))
    return tmp_path / "model"


def read(path: Path) -> torch.Tensor:
    return torch.from_numpy(cv2.imread(str(path))[:, :, ::-1] / 255.0).permute(2, 0, 1)


@needs_linear_weights
def test_lpips_follows_its_definition(checkpoint):
    """Layer by layer in double, with the relu outputs taken by position from a plain VGG16."""
    generator = torch.Generator().manual_seed(4)
    image, photo = torch.rand(2, 3, 37, 50, generator=generator)
    weights = Path(importlib.util.find_spec("lpips").origin).parent / "weights" / "v0.1" / "vgg.pth"
    linear = list(torch.load(weights, map_location="cpu", weights_only=True).values())
    network = vgg16().double()
    shift = torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450]).double()[:, None, None]

    def features(x):
        x, taken = (x.double() - shift) / scale, []
        for i, layer in enumerate(network):
            x = layer(x)
            if i in (3, 8, 15, 22, 29):  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
                taken.append(x)
        return taken

    expected = 0.0
    with torch.no_grad():
        for a, b, weight in zip(features(image), features(photo), linear, strict=True):
            a, b = (f / f.square().sum(0).sqrt() for f in (a, b))
            expected += ((a - b).square() * weight[0].double()).sum(0).mean().item()
    assert expected > 0.01
    # Worst measured: 1.1e-7 relative.
    assert Lpips(checkpoint)(image, photo).item() == pytest.approx(expected, rel=1e-5)


@needs_linear_weights
def test_lpips_of_an_image_with_itself_is_zero(checkpoint):
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(4))
    assert Lpips(checkpoint)(image, image).item() == 0


@needs_linear_weights
def test_lpips_imports_neither_torchvision_nor_the_lpips_package(checkpoint):
    code = (
        "import sys, pathlib; from compact_splats.gaussian_renderer.lpips import Lpips;"
        f"Lpips(pathlib.Path({str(checkpoint)!r}));"
        "sys.exit(bool({'torchvision', 'lpips'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


@needs_linear_weights
def test_results_have_the_3dgs_layout_and_come_from_the_files(model, checkpoint, capsys):
    metrics.main(["-m", str(model), "--vgg", str(checkpoint), "--device", "cpu"])
    results = json.loads((model / "results.json").read_text())
    per_view = json.loads((model / "per_view.json").read_text())
    assert list(results) == list(per_view) == ["ours_700"]
    assert set(results["ours_700"]) == {"SSIM", "PSNR", "LPIPS", "CC_PSNR"}
    method = model / "test" / "ours_700"
    for name in ("00000.png", "00001.png"):
        image, photo = read(method / "renders" / name), read(method / "gt" / name)
        expected = 10 * torch.log10(1 / (image - photo).square().mean())
        # float32 against double: 1e-7 relative, which is 5e-7 dB and 1e-7 of SSIM; with slack.
        assert per_view["ours_700"]["PSNR"][name] == pytest.approx(expected.item(), abs=1e-4)
        assert per_view["ours_700"]["SSIM"][name] == pytest.approx(ssim(image, photo).item(), abs=1e-5)
        corrected = psnr(color_corrected(image, photo), photo)
        assert per_view["ours_700"]["CC_PSNR"][name] == pytest.approx(corrected.item(), abs=1e-4)
    for metric, value in results["ours_700"].items():
        assert value == pytest.approx(sum(per_view["ours_700"][metric].values()) / 2)
    assert f"{results['ours_700']['PSNR']:.2f}" in capsys.readouterr().out


@pytest.fixture
def served(tmp_path, checkpoint, monkeypatch) -> Path:
    """A folder that a server on this machine has in place of the internet, with the checkpoint and linear weights."""
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(checkpoint, folder / "vgg16.pth")
    draw = torch.Generator().manual_seed(1)
    widths = enumerate((64, 128, 256, 512, 512))
    linear = {f"lin{k}.model.1.weight": torch.rand(1, width, 1, 1, generator=draw) for k, width in widths}
    torch.save(linear, folder / "linear.pth")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, file in (("VGG", "vgg16.pth"), ("LINEAR", "linear.pth")):
            digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()[:8]
            url = f"http://127.0.0.1:{server.server_port}/{file}"
            monkeypatch.setattr(lpips, name, (url, f"cached-{file}", digest))
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)  # the package lpips is not installed
        yield folder
        server.shutdown()


def test_weights_are_downloaded_once_and_kept(model, served, capfd):
    metrics.main(["-m", str(model), "--device", "cpu"])
    found = json.loads((model / "results.json").read_text())["ours_700"]["LPIPS"]
    out, progress = capfd.readouterr()
    assert found > 0 and out.count("downloading") == 2 and "100%" in progress
    cache = served.parent / "hub" / "checkpoints"
    assert sorted(path.name for path in cache.iterdir()) == ["cached-linear.pth", "cached-vgg16.pth"]
    for path in served.iterdir():
        path.unlink()
    metrics.main(["-m", str(model), "--device", "cpu"])
    assert json.loads((model / "results.json").read_text())["ours_700"]["LPIPS"] == found
    assert "downloading" not in capfd.readouterr().out


@pytest.mark.parametrize("fault", ["other content", "not there", "no answer"])
def test_a_download_that_fails_leaves_lpips_out_and_nothing_in_the_cache(fault, model, served, capsys, monkeypatch):
    if fault == "other content":
        (served / "vgg16.pth").write_bytes(b"a page of a hotel's network")
    elif fault == "not there":
        (served / "vgg16.pth").unlink()
    else:
        quiet = socket.create_server(("127.0.0.1", 0))
        monkeypatch.setattr(lpips, "NO_ANSWER", 0.2)
        monkeypatch.setattr(lpips, "VGG", (f"http://127.0.0.1:{quiet.getsockname()[1]}/a.pth", *lpips.VGG[1:]))
    metrics.main(["-m", str(model), "--device", "cpu"])
    results = json.loads((model / "results.json").read_text())["ours_700"]
    assert results["LPIPS"] is None and results["PSNR"] > 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("LPIPS is left out"))
    assert "--vgg" in line and str(served.parent / "hub" / "checkpoints" / "cached-vgg16.pth") in line
    assert not list((served.parent / "hub" / "checkpoints").iterdir())


def test_without_weights_lpips_is_null_with_a_reason_and_the_rest_is_reported(model, capsys):
    metrics.main(["-m", str(model), "--device", "cpu"])
    results = json.loads((model / "results.json").read_text())["ours_700"]
    assert results["LPIPS"] is None and results["PSNR"] > 0 and results["SSIM"] is not None
    reasons = [line for line in capsys.readouterr().out.splitlines() if line.startswith("LPIPS is left out")]
    assert len(reasons) == 1


def test_no_lpips_downloads_nothing(model, served, capsys):
    metrics.main(["-m", str(model), "--device", "cpu", "--no-lpips"])
    assert json.loads((model / "results.json").read_text())["ours_700"]["LPIPS"] is None
    assert "LPIPS:" not in capsys.readouterr().out
    with pytest.raises(InputError, match="--vgg and --no-lpips"):
        metrics.main(["-m", str(model), "--no-lpips", "--vgg", str(served / "vgg16.pth")])


def test_equal_images_give_valid_json(model):
    for image in (model / "test" / "ours_700" / "gt").iterdir():
        (model / "test" / "ours_700" / "renders" / image.name).write_bytes(image.read_bytes())
    metrics.main(["-m", str(model), "--device", "cpu"])
    text = (model / "results.json").read_text()
    assert json.loads(text)["ours_700"]["PSNR"] is None and "Infinity" not in text


@pytest.mark.parametrize("age", [-10, 10])
def test_pictures_that_are_older_than_the_model_are_said(model, age, capsys):
    """Another training into the folder has replaced the model, and its views were not rendered."""
    (method,) = (model / "test").iterdir()
    trained = model / "point_cloud" / method.name.replace("ours", "iteration") / "point_cloud.ply"
    trained.parent.mkdir(parents=True)
    trained.write_bytes(b"")
    time = (method / "renders/00000.png").stat().st_mtime - age
    os.utime(trained, (time, time))
    metrics.main(["-m", str(model), "--no-lpips"])
    assert ("are older than" in capsys.readouterr().err) == (age < 0)


def test_several_models_are_measured_in_one_call(model, capsys):
    metrics.main(["--model_paths", str(model), str(model), "--device", "cpu"])
    assert capsys.readouterr().out.count("ours_700") == 2


@pytest.mark.parametrize("num_views", [1, 2, 5])
def test_comparison_shows_worst_median_and_best_view(tmp_path, num_views):
    """Flat grey views, the error of the i-th is 10 (i + 1): the grey of each panel identifies its view."""
    for kind, step in (("renders", 10), ("gt", 0)):
        (tmp_path / kind).mkdir()
        for i in range(num_views):
            cv2.imwrite(str(tmp_path / kind / f"{i}.png"), np.full((20, 600, 3), 100 + step * (i + 1), np.uint8))
    picture = comparison(find_pairs(tmp_path))
    expected = {1: [0], 2: [1, 0], 5: [4, 2, 0]}[num_views]
    height = len(picture) // len(expected)
    middles = picture[height - 6 - 10 :: height, 6 + 300 :: 600 + 12][:, :2, 0]
    assert middles.tolist() == [[100, 100 + 10 * (i + 1)] for i in expected]


@pytest.mark.parametrize("size, panel", [((96, 64), (320, 213)), ((1600, 1000), (640, 400)), ((480, 320), (480, 320))])
def test_comparison_makes_panels_in_which_captions_can_be_read(tmp_path, size, panel):
    for kind in ("renders", "gt"):
        (tmp_path / kind).mkdir()
        cv2.imwrite(str(tmp_path / kind / "0.png"), np.full((*size[::-1], 3), 90, np.uint8))
    picture = comparison(find_pairs(tmp_path))
    caption = round(24 * panel[0] / 320)
    assert picture.shape == (caption + panel[1] + 6, 3 * (panel[0] + 12), 3)
    assert (picture[:caption, : panel[0]] < 128).any() and (picture[caption:-6, 6 : 6 + panel[0]] == 90).all()


def test_bad_folders_are_named(model, tmp_path):
    method = model / "test" / "ours_700"

    def refused(match: str, path: Path = model, *flags: str) -> None:
        with pytest.raises(InputError, match=match) as error:
            metrics.main(["-m", str(path), "--device", "cpu", *flags])
        assert "\n" not in str(error.value)
        assert not (model / "results.json").exists()

    refused("nowhere does not exist", tmp_path / "nowhere")
    refused("render.py -m", tmp_path)
    refused("nofile.pth does not exist", model, "--vgg", str(tmp_path / "nofile.pth"))
    (tmp_path / "bad.pth").write_bytes(b"not a checkpoint")
    refused("bad.pth is not a torch checkpoint", model, "--vgg", str(tmp_path / "bad.pth"))
    cv2.imwrite(str(method / "renders" / "00001.png"), np.zeros((33, 41, 3), np.uint8))
    refused("00001.png is 41x33 px, its photo 40x33 px")
    (method / "renders" / "00001.png").write_bytes(b"not a picture")
    refused("00001.png: expected a picture")
    (method / "renders" / "00001.png").unlink()
    refused("renders/00001.png is missing")
    for path in method.glob("*/*.png"):
        path.unlink()
    refused("ours_700 has no PNG files in renders and gt")
