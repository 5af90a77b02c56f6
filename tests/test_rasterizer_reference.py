"""The torch reference and the rasterizer against a render by an independent implementation, with its gradients."""

import numpy as np
import pytest
import torch
import torch_reference as reference
from rasterizer_cases import BAND, Case


@pytest.fixture(scope="module")
def garden(test_data) -> dict[str, np.ndarray]:
    path = test_data / "reference" / "garden_10k_162x105.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return dict(np.load(path))


@pytest.fixture(scope="module")
def garden_case(garden) -> Case:
    k = garden["K"].astype(float)
    camera = reference.Pinhole(
        int(garden["W"]), int(garden["H"]), k[0, 0], k[1, 1], k[0, 2], k[1, 2],
        torch.tensor(garden["viewmat"]).double(), torch.tensor(garden["background"]).double(),
    )  # fmt: skip
    names = ("means", "quats", "scales", "opacities", "colors")
    inputs = {name: torch.tensor(garden[name]).double() for name in names}
    weights = {"image": torch.tensor(garden["weight"]).double().permute(2, 0, 1)}
    return Case(camera, inputs, weights=weights)


def test_torch_reference_equals_the_independent_render(garden, garden_case):
    """On every 37th pixel; all pixels agree to 3e-11 and all gradients to 4e-11, in two minutes."""
    camera, inputs = garden_case.camera, garden_case.inputs
    cov = reference.covariances_of(inputs["quats"], inputs["scales"])
    splats = reference.project(camera, inputs["means"], cov, inputs["opacities"], inputs["colors"], False)
    chosen = torch.arange(0, camera.width * camera.height, 37)
    pixels = torch.stack([chosen % camera.width, chosen // camera.width], 1).double() + 0.5
    probe, one = torch.zeros(len(splats.index), 4).double(), torch.ones(len(chosen)).double()
    out = reference.blend(splats, probe, camera.background, pixels, one[:2], one)
    image, alpha = garden["image"].reshape(-1, 3)[chosen], garden["alpha"].reshape(-1)[chosen]
    # Worst measured: 3e-11
    np.testing.assert_allclose(out[0], image, atol=1e-9)
    np.testing.assert_allclose(1 - out[1], alpha, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "float"])
def test_rasterizer_equals_the_independent_render(garden, garden_case, engine, dtype):
    """Image, alpha and every gradient agree: in double to its precision, in float to the noise of float."""
    if dtype not in engine.dtypes:
        pytest.skip("double is for the CPU")
    actual = engine.run(garden_case, dtype)
    double = dtype == torch.float64
    image, alpha = torch.tensor(garden["image"]).permute(2, 0, 1), torch.tensor(garden["alpha"])
    clear = torch.tensor(garden["margin"]) > BAND
    # Worst measured, double and float: 5e-11 and 5e-6
    tight = 1e-9 if double else 2e-5
    assert ((actual["image"] - image).abs() * clear).max() < tight
    assert ((1 - actual["transmittance"] - alpha).abs() * clear).max() < tight
    assert (actual["image"] - image).abs().max() < (tight if double else 5 / 255)

    gradients = {name: garden[f"g_{name}"] for name in garden_case.inputs}
    half_size = np.array([garden["W"] / 2, garden["H"] / 2])
    gradients["screen_means"] = garden["g_means2d"] * half_size
    actual["d_screen_means"] = actual["d_screen_means"][:, :2]
    for name, expected in gradients.items():
        difference = actual[f"d_{name}"].numpy() - expected
        # Relative L2. Worst measured: double 1.4e-11, float 5e-6; the independent implementation in float: 9e-6.
        assert np.linalg.norm(difference) < (1e-9 if double else 5e-5) * np.linalg.norm(expected), name
    seen = (garden["radii"] > 0).all(1) & (np.abs(garden["g_opacities"]) > 0)
    assert (actual["radii"].numpy()[seen] > 0).all()
