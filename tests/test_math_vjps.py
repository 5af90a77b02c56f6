"""Each function of the engine's math.h: its VJP against central differences, its value against plain torch; double."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch_reference as reference
from diff_gaussian_rasterization import _C, LIMITS

Sample = Callable[[np.random.Generator], tuple[list[float], tuple]]


def rotation(rng: np.random.Generator) -> torch.Tensor:
    return reference.rotation_matrices(torch.tensor(rng.normal(size=(1, 4))))[0]


def camera(rng: np.random.Generator) -> list[float]:
    """Fx fy cx cy, rotation, translation, centre, lower and upper limits of x/z and y/z."""
    turn, shift = rotation(rng), torch.tensor(rng.normal(size=3))
    return [500.0, 450.0, 300.0, 270.0, *turn.flatten().tolist(), *shift.tolist(), *(-turn.T @ shift).tolist(),
            -0.7, -0.6, 0.8, 0.9]  # fmt: skip


def covariance(rng: np.random.Generator, size: int) -> list[float]:
    """The upper triangle of a positive definite matrix, row by row."""
    root = rng.normal(size=(size, size)) * np.exp(rng.normal(size=size))
    return (root @ root.T + 0.3 * np.eye(size))[np.triu_indices(size)].tolist()


def numbers(rng: np.random.Generator, count: int) -> list[float]:
    return rng.normal(size=count).tolist()


def in_view(rng: np.random.Generator) -> list[float]:
    """A point before the camera: its x/z and y/z are inside the limits as often as beyond one."""
    z = rng.uniform(0.3, 5)
    return [rng.uniform(-1.5, 1.5) * z, rng.uniform(-1.5, 1.5) * z, z]


def unit(rng: np.random.Generator) -> list[float]:
    v = rng.normal(size=3)
    return (v / np.linalg.norm(v)).tolist()


def window_means(rng: np.random.Generator) -> tuple[list[float], tuple]:
    """SSIM's moments of two windows of random pixels, those of the photo as constants."""
    x, y = rng.uniform(size=(2, 50))
    return [x.mean(), (x * x).mean(), (x * y).mean()], (y.mean(), (y * y).mean())


def splat_over_pixel(rng: np.random.Generator) -> tuple[list[float], tuple]:
    """A splat near a pixel, in some samples with a capped alpha; the pixel, the transmittance, and what is behind."""
    pixel = rng.uniform(0, 16, size=2)
    shape = [*covariance(rng, 2), *(pixel + 0.5 * rng.normal(size=2)), rng.uniform(-3, 1)]  # 1: beyond the cap
    return [*shape, *numbers(rng, 4)], (pixel.tolist(), rng.uniform(0.1, 1), numbers(rng, 5))


# How to draw (inputs, constants) of every function.
SAMPLES: dict[str, Sample] = {
    "scales_from_logs": lambda r: (numbers(r, 3), ()),
    "opacity_from_logit": lambda r: (numbers(r, 1), ()),
    "rotation_from_quat": lambda r: (numbers(r, 4), ()),
    "covariance_from_scale_rotation": lambda r: ([*np.exp(r.normal(size=3)), *rotation(r).flatten().tolist()], ()),
    "to_camera": lambda r: (numbers(r, 3), (camera(r),)),
    "camera_centre": lambda r: (numbers(r, 12), ()),
    "to_camera_of_pose": lambda r: (numbers(r, 12), (camera(r), numbers(r, 3))),
    "projection_jacobian_of_pose": lambda r: (numbers(r, 12), (camera(r), in_view(r))),
    "project_mean": lambda r: (in_view(r), (camera(r),)),
    "projection_jacobian": lambda r: (in_view(r), (camera(r),)),
    "project_covariance": lambda r: (numbers(r, 6) + covariance(r, 3), ()),
    "antialias_factor": lambda r: (covariance(r, 2), (0.3,)),
    "conic_from_cov": lambda r: (covariance(r, 2), ()),
    "normalized": lambda r: (numbers(r, 3), ()),
    "sh_basis": lambda r: (unit(r), (int(r.integers(0, 4)),)),
    "clamp_color": lambda r: (numbers(r, 3), ()),
    "blend": splat_over_pixel,
    "ssim": window_means,
    "loss_terms": lambda r: ([r.uniform()], (r.uniform(),)),
    "mixed_loss": lambda r: (r.uniform(size=2).tolist(), (r.uniform(),)),
}


def test_every_function_with_a_vjp_is_tested():
    """No formula slips past this file."""
    names = {name.removesuffix("_vjp") for name in dir(_C.math) if name.endswith("_vjp")}
    assert names == SAMPLES.keys()


@pytest.mark.parametrize("name", SAMPLES)
def test_the_vjp_is_the_derivative_of_the_function(name):
    """The analytic VJP equals a central difference of the forward on 50 random inputs."""
    function, vjp = getattr(_C.math, name), getattr(_C.math, f"{name}_vjp")
    rng = np.random.default_rng(0)
    for _ in range(50):
        inputs, constants = SAMPLES[name](rng)
        toward = rng.normal(size=len(function(inputs, *constants)))
        numeric = np.empty(len(inputs))
        for i, value in enumerate(inputs):
            step = 1e-5 * max(1e-2, abs(value))
            stencil = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}  # fourth order: near-singular matrices are curved
            values = {
                k: toward @ function([*inputs[:i], value + k * step, *inputs[i + 1 :]], *constants) for k in stencil
            }
            numeric[i] = sum(stencil[k] * values[k] for k in stencil) / step
        analytic = np.array(vjp(inputs, toward.tolist(), *constants))
        scale = max(1e-3, np.abs(numeric).max())
        # Worst measured: 3e-8 (where values cancel).
        np.testing.assert_allclose(analytic / scale, numeric / scale, rtol=0, atol=1e-6)


def test_activations_equal_those_of_torch_where_they_saturate_too():
    for value in (-1e3, -100.0, -3.0, 0.0, 0.7, 40.0, 100.0, 1e3, math.inf, -math.inf):
        inputs = torch.tensor([value], dtype=torch.float64, requires_grad=True)
        opacity = inputs.sigmoid()
        assert _C.math.opacity_from_logit([value])[0] == pytest.approx(opacity.item(), rel=1e-14, abs=1e-300)
        (expected,) = torch.autograd.grad(opacity, inputs)
        (gradient,) = _C.math.opacity_from_logit_vjp([value], [1.0])
        assert gradient == pytest.approx(expected.item(), rel=1e-13, abs=1e-300)
        assert _C.math.scales_from_logs([value] * 3) == [pytest.approx(inputs.exp().item(), rel=1e-14)] * 3
    assert math.isnan(_C.math.opacity_from_logit([math.nan])[0])


def test_rotation_and_covariance_equal_plain_torch():
    rng = np.random.default_rng(1)
    for _ in range(20):
        quat, scale = numbers(rng, 4), np.exp(rng.normal(size=3)).tolist()
        turn = reference.rotation_matrices(torch.tensor([quat], dtype=torch.float64))[0]
        np.testing.assert_allclose(_C.math.rotation_from_quat(quat), turn.flatten(), atol=1e-14)
        six = _C.math.covariance_from_scale_rotation([*scale, *turn.flatten().tolist()])
        expected = turn @ torch.diag(torch.tensor(scale, dtype=torch.float64)) ** 2 @ turn.T
        np.testing.assert_allclose(
            reference.symmetric_from_six(torch.tensor([six], dtype=torch.float64))[0], expected, rtol=1e-12, atol=1e-14
        )


def test_spherical_harmonics_equal_their_closed_forms():
    """The basis of each degree is the one computed from square roots of fractions of pi, first terms first."""
    rng = np.random.default_rng(2)
    for degree in range(4):
        direction = unit(rng)
        expected = reference.sh_basis(torch.tensor([direction], dtype=torch.float64), degree)[0]
        np.testing.assert_allclose(_C.math.sh_basis(direction, degree), expected, rtol=0, atol=1e-15)


def test_spherical_harmonics_are_orthonormal():
    """Integrated over the sphere (Gauss-Legendre by uniform angle: exact here) the basis gives the identity."""
    heights, weights = np.polynomial.legendre.leggauss(8)
    gram = np.zeros((16, 16))
    for z, weight in zip(heights, weights, strict=True):
        for angle in np.arange(16) * 2 * math.pi / 16:
            r = math.sqrt(1 - z * z)
            basis = np.array(_C.math.sh_basis([r * math.cos(angle), r * math.sin(angle), z], 3))
            gram += weight * (2 * math.pi / 16) * np.outer(basis, basis)
    np.testing.assert_allclose(gram, np.eye(16), atol=1e-13)


def test_beyond_the_limits_the_jacobian_does_not_move():
    """Where x/z is clamped, the Jacobian changes with y/z and depth alone: the VJP of x is zero, not tiny."""
    rng = np.random.default_rng(3)
    pinhole, inputs = camera(rng), [4.0, 0.1, 2.0]
    toward = numbers(rng, len(_C.math.projection_jacobian(inputs, pinhole)))
    gradient = _C.math.projection_jacobian_vjp(inputs, toward, pinhole)
    assert gradient[0] == 0 and gradient[1] != 0 and gradient[2] != 0


def test_a_splat_without_area_is_transparent_when_antialiased():
    """At determinant 0 the factor is 0, and so is its gradient, which would be infinite."""
    for singular in ([0.0, 0.0, 0.0], [4.0, 2.0, 1.0], [1.0, 1.0 + 1e-9, 1.0]):
        assert _C.math.antialias_factor(singular, 0.3) == [0.0]
        assert _C.math.antialias_factor_vjp(singular, [1.0], 0.3) == [0.0, 0.0, 0.0]


def test_where_alpha_is_capped_only_colour_and_depth_have_a_gradient():
    """Shape, position and opacity of a splat with alpha 0.99 do not change the pixel."""
    inputs, constants = splat_over_pixel(np.random.default_rng(4))
    inputs[3:6] = [*constants[0], 0.5]  # the mean on the pixel, opacity exp(0.5)
    gradient = _C.math.blend_vjp(inputs, [1.0, 2.0, 3.0, 4.0, 5.0], *constants)
    assert gradient[:6] == [0] * 6
    np.testing.assert_allclose(gradient[6:], 0.99 * constants[1] * np.array([1, 2, 3, 4]), rtol=1e-14)


def test_the_ellipse_of_a_splat_shrinks_to_its_margin_at_the_least_alpha():
    """The level is 2 ln(255 opacity) + 1e-4: its constant is the logarithm of LIMITS["alpha_min"]."""
    for opacity in (LIMITS["alpha_min"], 0.1, 1.0):
        expected = 2 * math.log(opacity / LIMITS["alpha_min"]) + 1e-4
        assert _C.math.ellipse_level(math.log2(opacity)) == pytest.approx(expected, rel=1e-13, abs=1e-14)
