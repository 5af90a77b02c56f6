"""Edits of a model: what stays, and that a moved model looks the same to a camera that has moved with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from viewer_cases import write_run

from compact_splats.arguments.compress import CompressConfig
from compact_splats.arguments.edits import EditConfig
from compact_splats.arguments.view import ViewConfig
from compact_splats.compression.edits import axes_matrix, edited, merged, similarity, transformed
from compact_splats.compression.export import export
from compact_splats.compression.files import read_model
from compact_splats.compression.load import load_model
from compact_splats.gaussian_renderer import render
from compact_splats.scene import ply
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.normalization import Units
from compact_splats.scene.parameters import SavedArrays
from compact_splats.utils.errors import InputError

NAMES = ("means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest")

NO_TURN, ORIGIN = np.eye(3), np.zeros(3)


def random_model(num: int = 60, coefficients: int = 15, seed: int = 0) -> SavedArrays:
    draw = np.random.default_rng(seed)
    shapes = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (1,), "sh_dc": (1, 3)}
    model = {name: draw.normal(size=(num, *shape)).astype(np.float32) for name, shape in shapes.items()}
    model["log_scales"] -= 2
    model["sh_rest"] = 0.3 * draw.normal(size=(num, coefficients, 3)).astype(np.float32)
    return SavedArrays(model)


def picture(arrays: dict[str, np.ndarray], rotation=NO_TURN, scale=1.0, translation=ORIGIN) -> torch.Tensor:
    """The view of a camera that moves with the model: it looks from (0, 0, -4) before."""
    motion = np.eye(4)
    motion[:3, :3] = rotation.T  # world to camera
    motion[:3, 3] = -rotation.T @ translation + scale * np.array([0, 0, 4.0])
    camera = Camera("a", 80, 60, 70.0, 70.0, 40.0, 30.0, torch.from_numpy(motion).float(), None)
    return render(camera, GaussianModel.from_arrays(arrays, torch.device("cpu"))).image.detach()


def assert_same_picture(a: torch.Tensor, b: torch.Tensor) -> None:
    """Up to rounding, which may take a pixel to the other side of alpha = 1/255."""
    assert (a - b).abs().mean() < 1e-5
    assert (a - b).abs().max() < 1 / 255


@pytest.mark.parametrize("coefficients", [0, 3, 8, 15])
def test_a_model_that_moves_with_its_camera_looks_the_same(coefficients):
    model = random_model(coefficients=coefficients)
    rotation = Rotation.from_euler("xyz", [20, 130, -75], degrees=True).as_matrix()
    translation = np.array([3.0, -2.0, 5.0])
    moved = edited(model, EditConfig(rotate="20,130,-75", scale=2.5, translate="3,-2,5"))
    before, after = picture(model), picture(moved, rotation, 2.5, translation)
    assert (before - picture(random_model(coefficients=coefficients, seed=1))).abs().max() > 0.1
    assert_same_picture(before, after)


@pytest.mark.parametrize("axes", ["LDF", "RUF", "RDB", "LUB"])
def test_mirrored_models_look_mirrored(axes):
    """A mirrored Gaussian has the mirrored picture: a flip of x or y is one of the image."""
    model = random_model()
    turned = edited(model, EditConfig(axes=axes))
    flips = [row for row, letter in enumerate(axes) if letter not in "RDF"]
    expected = picture(model)
    for row in flips:
        if row < 2:
            expected = expected.flip(2 - row)
    if 2 in flips:  # seen from the other side
        turned = transformed(turned, np.diag([1.0, 1.0, -1.0, 1.0]))
    assert_same_picture(picture(turned), expected)


def test_axes_are_where_the_letters_say():
    right, up, front = np.array([1, 0, 0]), np.array([0, -1, 0]), np.array([0, 0, 1])
    for axes in ("y-up", "RUB"):
        matrix = axes_matrix(EditConfig(axes=axes).target_axes)
        np.testing.assert_array_equal(matrix @ np.stack([right, up, -front], 1), np.eye(3))
    np.testing.assert_array_equal(axes_matrix(EditConfig(axes="z-up").target_axes) @ up, [0, 0, 1])
    np.testing.assert_array_equal(axes_matrix("RFU") @ front, [0, 1, 0])


def test_a_turn_and_its_inverse_give_the_model_back():
    model = random_model()
    there = edited(model, EditConfig(rotate="90,0,0", scale=4.0, translate="1,2,3"))
    back = edited(edited(there, EditConfig(translate="-1,-2,-3")), EditConfig(rotate="-90,0,0", scale=0.25))
    for name in NAMES:
        np.testing.assert_allclose(back[name], model[name], atol=2e-6, rtol=1e-5)


def test_without_edits_nothing_changes():
    model = random_model()
    assert all(edited(model, EditConfig())[name] is model[name] for name in NAMES)


def test_the_crop_keeps_what_is_inside():
    model = random_model(500)
    box = edited(model, EditConfig(crop="-1,-0.5,0,1,0.5,2"))["means"]
    inside = (np.abs(model["means"][:, 0]) <= 1) & (np.abs(model["means"][:, 1]) <= 0.5)
    inside &= (model["means"][:, 2] >= 0) & (model["means"][:, 2] <= 2)
    np.testing.assert_array_equal(box, model["means"][inside])
    ball = edited(model, EditConfig(crop="1,0,0,1.5"))["means"]
    np.testing.assert_array_equal(ball, model["means"][np.linalg.norm(model["means"] - [1, 0, 0], axis=1) <= 1.5])
    assert 0 < len(ball) < 500


def test_opacity_and_number():
    """At most so many, those with the largest opacity times size, in the order of the file."""
    model = random_model(500)
    opacities = 1 / (1 + np.exp(-model["opacity_logits"][:, 0].astype(np.float64)))
    least = edited(model, EditConfig(min_opacity=0.5))
    np.testing.assert_array_equal(least["opacity_logits"], model["opacity_logits"][opacities >= 0.5])
    score = opacities * np.exp(np.sort(model["log_scales"], 1)[:, 1:].mean(1))
    best = np.sort(np.argsort(-score)[:37])
    np.testing.assert_array_equal(edited(model, EditConfig(max_gaussians=37))["means"], model["means"][best])


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_sh_degree_is_cut(degree):
    rest = edited(random_model(), EditConfig(sh_degree=degree))["sh_rest"]
    np.testing.assert_array_equal(rest, random_model()["sh_rest"][:, : (degree + 1) ** 2 - 1])
    assert edited(random_model(coefficients=3), EditConfig(sh_degree=degree))["sh_rest"].shape[1] <= 3


def test_merged_models_hold_both():
    """One after the other; SH of the lower degree are filled with zeros."""
    a, b = random_model(30), random_model(40, coefficients=3, seed=1)
    both = merged([a, b])
    assert both["sh_rest"].shape == (70, 15, 3)
    np.testing.assert_array_equal(both["means"], np.concatenate([a["means"], b["means"]]))
    assert (both["sh_rest"][30:, 3:] == 0).all()
    assert torch.allclose(picture({name: both[name][30:] for name in NAMES}), picture(b), atol=1e-6)


def test_marks_stay_and_must_agree_in_a_merged_model():
    model = SavedArrays(random_model(), antialiased=True, offset=(1e6, 0.0, 0.0))
    assert edited(model, EditConfig(min_opacity=0.5)).antialiased
    assert merged([model, model]).offset == model.offset
    with pytest.raises(ValueError, match="some are anti-aliased"):
        merged([model, random_model()])


def placed(model):
    """(N,3) float64: where the Gaussians are."""
    return model["means"].astype(np.float64) + (model.offset or (0.0, 0.0, 0.0))


def test_an_offset_moves_along_with_the_model():
    model = SavedArrays(random_model(), offset=(4e6, -5e5, 7.0))
    config = EditConfig(axes="y-up", scale=2.0, rotate="10,20,30", translate="1,2,3")
    matrix = similarity(config)
    moved = edited(model, config)
    np.testing.assert_allclose(placed(moved), placed(model) @ matrix[:3, :3].T + matrix[:3, 3], rtol=0, atol=1e-5)
    back = edited(model, EditConfig(translate="-4e6,5e5,-7"))
    assert back.offset is None
    np.testing.assert_allclose(back["means"], model["means"], rtol=0, atol=1e-6)
    far = edited(SavedArrays(random_model()), EditConfig(translate="0,6e6,0"))
    assert far.offset == (0.0, 6e6, 0.0)
    np.testing.assert_array_equal(far["means"], random_model()["means"])


def test_turning_a_far_model_gives_it_no_offset():
    """Its coordinates are in float32 already: nothing was subtracted, and nothing is said to be."""
    model = random_model()
    model["means"] += np.float32(3e6)
    turned = edited(model, EditConfig(rotate="0,0,90", scale=2.0))
    assert turned.offset is None
    x, y, z = model["means"].T
    np.testing.assert_array_equal(turned["means"], np.stack([-2 * y, 2 * x, 2 * z], axis=1))


def test_merged_models_with_different_offsets_are_where_each_was():
    models = [SavedArrays(random_model(seed=i), offset=each) for i, each in enumerate((None, (9.0, 0, 0), (0, 5.0, 0)))]
    both = merged(models)
    assert both.offset == (9.0, 0, 0)
    np.testing.assert_allclose(placed(both), np.concatenate([placed(each) for each in models]), atol=1e-5)


def test_no_gaussian_left_is_an_error():
    with pytest.raises(InputError, match="no Gaussian is left"):
        edited(random_model(), EditConfig(crop="100,100,100,1"))


def test_rotations_are_about_fixed_axes_in_order():
    expected = Rotation.from_euler("xyz", [20, 130, -75], degrees=True).as_matrix()
    np.testing.assert_allclose(similarity(EditConfig(rotate="20,130,-75"))[:3, :3], expected, atol=1e-15)
    with pytest.raises(ValueError, match="uniform scale"):
        transformed(random_model(), np.diag([1.0, 2.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"crop": "1,2,3"}, "--crop must be a box x0,y0,z0,x1,y1,z1 or a sphere x,y,z,radius, not 1,2,3"),
        ({"crop": "1,0,0,0,1,1"}, "--crop 1,0,0,0,1,1 is an empty box: give the lower corner first"),
        ({"crop": "0,0,0,-1"}, "--crop 0,0,0,-1 is an empty sphere: give a radius above 0"),
        ({"crop": "a,b,c,d"}, "--crop must be a box"),
        ({"axes": "RUU"}, "--axes must be y-up, z-up, or three letters"),
        ({"axes": "up"}, "--axes must be y-up, z-up, or three letters"),
        ({"rotate": "90"}, "--rotate must be three angles x,y,z in degrees, not 90"),
        ({"translate": "0,0,inf"}, "--translate must be three numbers x,y,z, not 0,0,inf"),
        ({"scale": 0.0}, "--scale must be more than 0, not 0"),
        ({"min_opacity": 1.5}, "--min-opacity must be a number from 0 to 1, not 1.5"),
        ({"max_gaussians": 0}, "--max-gaussians must be 1 or more, not 0"),
        ({"sh_degree": 4}, "--sh-degree must be a number from 0 to 3, not 4"),
    ],
)
def test_wrong_values_are_refused(flags, message):
    with pytest.raises(InputError) as error:
        replace(EditConfig(), **flags).check_edits()
    assert message in str(error.value)


# ---- compress.py export ----


def exported(tmp_path, *words: str) -> SavedArrays:
    out = tmp_path / "new.ply"
    export([*words, "--format", "ply", "-o", str(out)])
    return read_model(out)


def test_export_edits_and_merges(tmp_path, capsys):
    ply.write(tmp_path / "a.ply", random_model())
    ply.write(tmp_path / "b.ply", random_model(30, 3, seed=1))
    files = [str(tmp_path / "a.ply"), str(tmp_path / "b.ply")]
    both = exported(tmp_path, *files)
    assert both["means"].shape == (90, 3) and both["sh_rest"].shape == (90, 15, 3)
    moved = exported(tmp_path, files[0], "--translate", "-1,0,2.5", "--max-gaussians", "10", "--sh-degree", "1")
    kept = edited(random_model(), EditConfig(max_gaussians=10))["means"]
    np.testing.assert_allclose(moved["means"], kept + [-1, 0, 2.5], atol=1e-6)
    assert moved["sh_rest"].shape == (10, 3, 3)
    assert "10 of 60 Gaussians kept" in capsys.readouterr().out


def test_floaters_are_those_that_too_few_cameras_see(tmp_path, capsys):
    """One Gaussian behind all cameras goes; the PSNR against the whole model is said. Without cameras it is refused."""
    run = write_run(tmp_path / "run")
    path = run / "point_cloud" / "iteration_1" / "point_cloud.ply"
    model = ply.read(path)
    model["means"][7] = 1e4
    ply.write(path, model)
    left = exported(tmp_path, str(run), "--drop-floaters", "1")
    said = capsys.readouterr().err
    assert len(left["means"]) < len(model["means"]) and left["means"].max() < 1e4
    assert "Gaussians that fewer than 1 cameras see are left out" in said and "dB" in said
    with pytest.raises(InputError, match="leaves no Gaussian: the run has"):
        exported(tmp_path, str(run), "--drop-floaters", "1000")
    ply.write(tmp_path / "alone.ply", model)
    with pytest.raises(InputError, match="--drop-floaters needs cameras"):
        exported(tmp_path, str(tmp_path / "alone.ply"), "--drop-floaters", "1")


def test_view_and_compress_keep_the_same_gaussians(tmp_path):
    ply.write(tmp_path / "a.ply", random_model())
    words = ["--crop=-1,-1,-1,1,1,1", "--min-opacity", "0.4", "--sh-degree", "1"]
    expected = exported(tmp_path, str(tmp_path / "a.ply"), *words)
    for config in (
        ViewConfig.from_command_line(["-m", str(tmp_path / "a.ply"), *words]),
        CompressConfig.from_command_line(["--ply", str(tmp_path / "a.ply"), "-s", "scene", *words]),
    ):
        model = load_model(tmp_path / "a.ply", config, torch.device("cpu"), Units())
        assert model.max_sh_degree == 1
        np.testing.assert_array_equal(model.means.detach().numpy(), expected["means"])
