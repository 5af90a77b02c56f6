"""Small random scenes, and one way to run each on the engine and on the torch reference and get back the same dict."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType

import diff_gaussian_rasterization
import torch
import torch_reference as reference
from diff_gaussian_rasterization import View, importance, rasterize, removal_error, render_pass
from diff_gaussian_rasterization.queue import queue_for, thread_count
from torch import Tensor

BAND = 1e-3  # relative distance to a discrete decision under which a pixel is not compared tightly
OUTPUTS = ("image", "transmittance", "inverse_depth")


@dataclass(frozen=True)
class Case:
    """One scene, in float64 values that float32 can hold exactly, so that rounding the input is no difference."""

    camera: reference.Pinhole
    inputs: dict[str, Tensor]  # means, opacities, and what the colours and shapes need
    sh_degree: int = 0
    antialiased: bool = False
    weights: dict[str, Tensor] = field(default_factory=dict)  # per output: d(loss) / d(output)

    def but(self, inputs: Mapping[str, Tensor] | None = None, **fields) -> Case:
        """A copy with some inputs and fields replaced."""
        return replace(self, inputs={**self.inputs, **(inputs or {})}, **fields)

    @property
    def num_gaussians(self) -> int:
        return len(self.inputs["means"])


def random_rotation(generator: torch.Generator) -> Tensor:
    """A rotation matrix (3, 3), float64."""
    return reference.rotation_matrices(torch.randn(1, 4, generator=generator, dtype=torch.float64))[0]


def make_camera(
    width: int, height: int, generator: torch.Generator, *, centred: bool = False, identity: bool = False
) -> reference.Pinhole:
    """A camera with different focal lengths, looking anywhere; its principal point is off centre unless ``centred``."""
    size = max(width, height)
    cx, cy = (0.5 * width, 0.5 * height) if centred else (0.42 * width, 0.61 * height)
    world_to_camera = torch.eye(4, dtype=torch.float64)
    if not identity:
        world_to_camera[:3, :3] = random_rotation(generator)
        world_to_camera[:3, 3] = torch.randn(3, generator=generator, dtype=torch.float64)
    background = torch.rand(3, generator=generator, dtype=torch.float64)
    return _rounded(reference.Pinhole(width, height, 0.8 * size, 0.87 * size, cx, cy, world_to_camera, background))


def _rounded(camera: reference.Pinhole) -> reference.Pinhole:
    return replace(
        camera,
        world_to_camera=camera.world_to_camera.float().double(),
        background=camera.background.float().double(),
        **{name: float(torch.tensor(getattr(camera, name))) for name in ("fx", "fy", "cx", "cy")},
    )


def make_case(
    seed: int = 0,
    num: int = 40,
    width: int = 33,
    height: int = 17,
    *,
    color: str = "sh3",
    shape: str = "scales",
    activated: bool = True,
    antialiased: bool = False,
    centred: bool = False,
    identity: bool = False,
    in_front: bool = False,
    size: float = 1.0,
    needles: bool = False,
) -> Case:
    """Random Gaussians of all sizes: inside the image, at its border, outside, and behind the camera.

    ``color`` is "sh0" to "sh3", or "colors" for precomputed ones; ``shape`` is "scales" (and rotations) or
    "covariances"; without ``activated``, the inputs are log_scales and opacity_logits; ``in_front`` keeps all Gaussians
    well beyond the near plane; ``size`` multiplies all scales; ``needles`` makes one axis 5 times as long and another
    50 times as short.
    """
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=g, dtype=torch.float64)

    camera = make_camera(width, height, g, centred=centred, identity=identity)
    z = uniform(num, low=1.0 if in_front else -0.3, high=6.0)
    target = torch.stack([uniform(num, low=-0.4, high=1.4) * width, uniform(num, low=-0.4, high=1.4) * height], 1)
    centre, focal = torch.tensor([camera.cx, camera.cy]), torch.tensor([camera.fx, camera.fy])
    in_camera = torch.cat([(target - centre) / focal * z.abs().clamp_min(0.1)[:, None], z[:, None]], 1)
    rotation, translation = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
    inputs = {"means": (in_camera - translation) @ rotation}
    scales = z.abs().clamp_min(0.3)[:, None] * uniform(num, 3, low=-5.5, high=-1.0).exp() * size
    if needles:
        scales = scales * torch.tensor([5, 0.02, 1])
    quats = torch.randn(num, 4, generator=g, dtype=torch.float64)
    if shape == "scales":
        inputs |= {"scales": scales, "quats": quats}
    else:
        cov = reference.covariances_of(quats, scales)
        inputs["covariances"] = cov[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    # Some nearly transparent (under 1/255), most between, some that meet the cap of alpha.
    inputs["opacities"] = (uniform(num, 1, low=-0.1, high=1.3)).clamp(0.002, 0.9999)
    degree = 0
    if color == "colors":
        inputs["colors"] = uniform(num, 3)
    else:
        degree = int(color[2:])
        inputs["sh_dc"] = uniform(num, 1, 3, low=-2.0, high=2.0)
        if degree:
            inputs["sh_rest"] = 0.4 * torch.randn(num, 15, 3, generator=g, dtype=torch.float64)
    weights = {
        "image": torch.randn(3, height, width, generator=g, dtype=torch.float64),
        "transmittance": torch.randn(height, width, generator=g, dtype=torch.float64),
        "inverse_depth": torch.randn(height, width, generator=g, dtype=torch.float64),
    }
    if not activated:
        inputs["log_scales"], inputs["opacity_logits"] = inputs.pop("scales").log(), inputs.pop("opacities").logit()
    inputs = {name: value.float().double() for name, value in inputs.items()}
    return Case(camera, inputs, degree, antialiased, {k: v.float().double() for k, v in weights.items()})


def away_from_decisions(case: Case, band: float = BAND) -> tuple[Case, Tensor]:
    """The case with no weight on pixels near a discrete decision, and the mask (H, W) of the pixels that are left."""
    with torch.no_grad():
        out = reference.render(case.camera, **_reference_arguments(case, case.inputs))
    clear = out.margin > band
    smooth = clear & (out.clamp_margin > band)
    return replace(case, weights={name: w * smooth for name, w in case.weights.items()}), clear


def _reference_arguments(case: Case, inputs: Mapping[str, Tensor]) -> dict:
    inputs = {"quats": None, "scales": None, **inputs}
    if "log_scales" in inputs:
        inputs["scales"] = inputs.pop("log_scales").exp()
    if "opacity_logits" in inputs:
        inputs["opacities"] = inputs.pop("opacity_logits").sigmoid()
    return {**inputs, "sh_degree": case.sh_degree, "antialiased": case.antialiased}


def _weighted(case: Case, outputs: Mapping[str, Tensor], like: Tensor) -> Tensor:
    return sum((outputs[name] * weight.to(like)).sum() for name, weight in case.weights.items())


def run_reference(case: Case, pixel_weights: Tensor | None = None) -> dict[str, Tensor]:
    """Outputs by name and gradients as "d_<input>"; float64 on the CPU."""
    leaves = {name: value.clone().requires_grad_() for name, value in case.inputs.items()}
    screen_means = torch.zeros(case.num_gaussians, 4, dtype=torch.float64, requires_grad=True)
    pose = case.camera.world_to_camera.clone().requires_grad_()
    out = reference.render(
        replace(case.camera, world_to_camera=pose),
        **_reference_arguments(case, leaves),
        screen_means=screen_means,
        pixel_weights=pixel_weights,
    )
    values = {name: getattr(out, name) for name in out.__dataclass_fields__ if name != "splats"}
    _weighted(case, values, out.image).backward()
    leaves |= {"screen_means": screen_means, "world_to_camera": pose}
    gradients = {f"d_{k}": torch.zeros_like(v) if v.grad is None else v.grad for k, v in leaves.items()}
    return {name: value.detach() for name, value in values.items()} | gradients


def projection(width: int, height: int, fx: float, fy: float, cx: float, cy: float) -> Tensor:
    """(4, 4) from camera to clip coordinates, float64, not transposed; depth from 0.01 to 100."""
    near, far = 0.01, 100.0
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[0, 0], matrix[0, 2] = 2 * fx / width, 2 * cx / width - 1
    matrix[1, 1], matrix[1, 2] = 2 * fy / height, 2 * cy / height - 1
    matrix[2, 2], matrix[2, 3] = far / (far - near), -far * near / (far - near)
    matrix[3, 2] = 1
    return matrix


@dataclass(frozen=True)
class Engine:
    """The engine under test: the CPU's, CUDA's on a GPU, or CUDA's with its kernels on the CPU: compiled as C++
    ("emulated"), or to PTX by nvcc ("ptx").

    Attributes:
        name: "cpu", "cuda", "emulated" or "ptx".
        device: Where its tensors lie, for torch.
        has_double: Does it take float64?
        module: The extension module that has it.
    """

    name: str
    device: str
    has_double: bool
    module: ModuleType

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """What its tensors may be."""
        return (torch.float32, torch.float64) if self.has_double else (torch.float32,)

    @contextmanager
    def active(self) -> Iterator[Engine]:
        """Within it, all functions of the package run on this engine's extension module."""
        package = diff_gaussian_rasterization.__name__
        users = [m for name, m in sys.modules.items() if name.startswith(f"{package}.") and hasattr(m, "_C")]
        before = [user._C for user in users]
        for user in users:
            user._C = self.module
        try:
            yield self
        finally:
            for user, module in zip(users, before, strict=True):
                user._C = module

    def view(self, case: Case, dtype: torch.dtype):
        """The engine's View of a case's camera."""
        camera, to = case.camera, {"device": self.device, "dtype": dtype}
        return View(
            camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy,
            camera.world_to_camera.to(**to), camera.background.to(**to),
        )  # fmt: skip

    def rasterize(self, case: Case, inputs: Mapping[str, Tensor], dtype: torch.dtype = torch.float64, **options):
        """Call the engine with a case's options and these inputs."""
        named = {name: value for name, value in inputs.items() if name not in ("means", "quats", "scales", "opacities")}
        with self.active():
            return rasterize(
                self.view(case, dtype), inputs["means"], inputs.get("quats"), inputs.get("scales"),
                inputs.get("opacities"), sh_degree=case.sh_degree, antialiased=case.antialiased, **named, **options,
            )  # fmt: skip

    def run(self, case: Case, dtype: torch.dtype = torch.float64, threads: int = 0, stats=None) -> dict[str, Tensor]:
        """As ``run_reference``: outputs and gradients, brought back to float64 (integers stay) on the CPU."""
        leaves = {name: value.to(self.device, dtype).clone().requires_grad_() for name, value in case.inputs.items()}
        screen_means = torch.zeros(case.num_gaussians, 4, dtype=dtype, device=self.device, requires_grad=True)
        pose = case.camera.world_to_camera.to(self.device, dtype).clone().requires_grad_()
        posed = case.but(camera=replace(case.camera, world_to_camera=pose))
        out = self.rasterize(
            posed, leaves, dtype, inverse_depth=True, screen_means=screen_means, stats=stats, threads=threads
        )
        values = {name: getattr(out, name) for name in ("image", "transmittance", "radii", "inverse_depth")}
        assert out.image.dtype == dtype and out.image.device.type == torch.device(self.device).type
        with self.active():
            _weighted(case, values, out.image).backward()
        leaves |= {"screen_means": screen_means, "world_to_camera": pose}
        gradients = {f"d_{name}": leaf.grad for name, leaf in leaves.items()}
        return {
            name: value.detach().cpu() if name == "radii" else value.detach().cpu().double()
            for name, value in (values | gradients).items()
        }

    def importance(self, case: Case, pixel_weights: Tensor, dtype: torch.dtype = torch.float64, threads: int = 0):
        """The engine's importance of a case's Gaussians."""
        colors = ("sh_dc", "sh_rest", "colors")
        inputs = {name: value.to(self.device, dtype) for name, value in case.inputs.items() if name not in colors}
        inputs.setdefault("quats", None)
        with self.active():
            return importance(
                self.view(case, dtype), **inputs, antialiased=case.antialiased,
                pixel_weights=pixel_weights.to(self.device, dtype), threads=threads,
            )  # fmt: skip

    def removal_error(
        self, case: Case, photo: Tensor, pixel_weights: Tensor | None, dtype: torch.dtype = torch.float64,
        threads: int = 0,
    ) -> Tensor:  # fmt: skip
        """The engine's removal errors of a case's Gaussians."""
        inputs = {name: value.to(self.device, dtype) for name, value in case.inputs.items()}
        inputs.setdefault("quats", None)
        with self.active():
            return removal_error(
                self.view(case, dtype), **inputs, sh_degree=case.sh_degree, antialiased=case.antialiased,
                photo=photo.to(self.device, dtype), threads=threads,
                pixel_weights=None if pixel_weights is None else pixel_weights.to(self.device, dtype),
            )  # fmt: skip


CPU = Engine("cpu", "cpu", True, diff_gaussian_rasterization._C)
CUDA_ENGINES = ["emulated", "ptx"]
if "cuda" in CPU.module.DEVICES and torch.cuda.is_available():
    CUDA_ENGINES.append("cuda")


def add_gradients(
    loss: Tensor, gradients: Mapping[str, tuple[Tensor, Tensor | None]], *, largest: float, unchecked: str = ""
) -> Tensor:
    """``RenderPass.add_gradients`` of any gradients, each with its sum, if any."""
    usable, module = torch.empty((), dtype=torch.bool, device=loss.device), render_pass._C
    sums = [module.GradientSum(name, *pair, name != unchecked) for name, pair in gradients.items()]
    module.add_gradients(
        sums, queue_for(loss.device), loss=loss, largest=largest, usable=usable, threads=thread_count(0)
    )
    return usable


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude (over 1e-12, so that all-zero tensors compare too)."""
    if expected.numel() == 0:
        return 0.0
    return ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
