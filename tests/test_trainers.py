"""Small trainers, each written the way one line of 3DGS code calls its rasterizer, SSIM and optimizer."""

import math
from typing import Any

import pytest
import torch
from diff_gaussian_rasterization import GaussianRasterizationSettings, GaussianRasterizer, SparseGaussianAdam
from fused_ssim import fused_ssim
from rasterizer_cases import projection
from simple_knn._C import distCUDA2
from torch import Tensor, nn

from compact_splats.scene import load_scene
from compact_splats.utils.images import to_uint8
from compact_splats.utils.losses import psnr

RATES = {"xyz": 2e-3, "dc": 1e-2, "rest": 1e-2, "opacities": 5e-2, "log_scales": 1e-2, "rotations": 5e-3}
STEPS = 120


class FixedCamera:
    """What such code knows of a view."""

    def __init__(self, camera, device: str):
        self.image_width, self.image_height = camera.width, camera.height
        self.FoVx = 2 * math.atan(camera.width / (2 * camera.fx))
        self.FoVy = 2 * math.atan(camera.height / (2 * camera.fy))
        intrinsics = (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
        self.world_view_transform = camera.world_to_camera.transpose(0, 1).to(device)
        self.projection_matrix = projection(*intrinsics).float().transpose(0, 1).to(device)
        self.full_proj_transform = self.world_view_transform @ self.projection_matrix
        self.camera_center = self.world_view_transform.inverse()[3, :3]
        self.original_image = (camera.photo.pixels().float() / 255).to(device)

    def settings(self, sh_degree: int, **more: Any) -> GaussianRasterizationSettings:
        return GaussianRasterizationSettings(
            image_height=int(self.image_height), image_width=int(self.image_width),
            tanfovx=math.tan(self.FoVx * 0.5), tanfovy=math.tan(self.FoVy * 0.5),
            bg=torch.zeros(3, device=self.original_image.device), scale_modifier=1.0,
            viewmatrix=self.world_view_transform, projmatrix=self.full_proj_transform, sh_degree=sh_degree,
            campos=self.camera_center, prefiltered=False, debug=False, **more,
        )  # fmt: skip


class Trainer:
    """The original style: two results, L1, all Gaussians in each step of torch's Adam."""

    columns = 3  # of the screen-space points

    def __init__(self, cameras: list[FixedCamera], xyz: Tensor, rgb: Tensor):
        self.cameras = cameras
        rotations = torch.zeros(len(xyz), 4, device=xyz.device)
        rotations[:, 0] = 1
        self.set(
            xyz=xyz, dc=((rgb - 0.5) / 0.28209479177387814)[:, None],
            rest=torch.zeros(len(xyz), 15, 3, device=xyz.device), rotations=rotations,
            opacities=torch.full((len(xyz), 1), -2.0, device=xyz.device),
            log_scales=torch.sqrt(distCUDA2(xyz).clamp_min(1e-7)).log()[:, None].repeat(1, 3),
        )  # fmt: skip

    def set(self, **tensors: Tensor) -> None:
        self.rows = {name: nn.Parameter(tensor) for name, tensor in tensors.items()}
        groups = [{"params": [row], "lr": RATES[name], "name": name} for name, row in self.rows.items()]
        self.optimizer = self.make_optimizer(groups)
        self.gradient_sum = torch.zeros(len(self.rows["xyz"]), device=self.rows["xyz"].device)

    def make_optimizer(self, groups: list[dict]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=0.0, eps=1e-15)

    def settings(self, camera: FixedCamera, sh_degree: int) -> GaussianRasterizationSettings:
        return camera.settings(sh_degree)

    def colors(self) -> dict[str, Tensor]:
        return {"shs": torch.cat([self.rows["dc"], self.rows["rest"]], dim=1)}

    def rasterize(self, settings: GaussianRasterizationSettings, points: Tensor) -> tuple:
        return GaussianRasterizer(raster_settings=settings)(
            means3D=self.rows["xyz"], means2D=points, colors_precomp=None, cov3D_precomp=None,
            opacities=torch.sigmoid(self.rows["opacities"]), scales=torch.exp(self.rows["log_scales"]),
            rotations=nn.functional.normalize(self.rows["rotations"]), **self.colors(),
        )  # fmt: skip

    def unpack(self, results: tuple) -> tuple[Tensor, Tensor]:
        rendered_image, radii = results
        return rendered_image, radii

    def loss(self, image: Tensor, photo: Tensor) -> Tensor:
        return (image - photo).abs().mean()

    def take_step(self, radii: Tensor) -> None:
        self.optimizer.step()

    def render(self, camera: FixedCamera, sh_degree: int) -> tuple[Tensor, Tensor, Tensor]:
        """Image, radii and screen-space points that keep their gradient."""
        xyz = self.rows["xyz"]
        points = torch.zeros(len(xyz), self.columns, dtype=xyz.dtype, requires_grad=True, device=xyz.device) + 0
        if points.requires_grad:
            points.retain_grad()
        return *self.unpack(self.rasterize(self.settings(camera, sh_degree), points)), points

    def scores(self) -> Tensor:
        """(N,), what densification chooses by."""
        return self.gradient_sum

    @torch.no_grad()
    def densify(self) -> None:
        """Clone the tenth with the largest scores, and remove transparent Gaussians."""
        scores = self.scores()
        chosen = scores >= scores.quantile(0.9)
        kept = torch.sigmoid(self.rows["opacities"]).squeeze(1) > 0.005
        self.set(**{name: torch.cat([row[kept], row[chosen]]).detach() for name, row in self.rows.items()})

    def train(self) -> None:
        for step in range(1, STEPS + 1):
            camera = self.cameras[step % len(self.cameras)]
            image, radii, points = self.render(camera, min(3, step // 30))
            self.loss(image, camera.original_image).backward()
            with torch.no_grad():
                self.gradient_sum[radii > 0] += points.grad[radii > 0, -2:].norm(dim=-1)
                if step == STEPS // 2:
                    self.densify()
                else:
                    self.take_step(radii)
                    self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def mean_psnr(self) -> float:
        pairs = [(self.render(camera, 3)[0], camera.original_image) for camera in self.cameras]
        return sum(psnr(to_uint8(a).float() / 255, b).item() for a, b in pairs) / len(pairs)


class NewerTrainer(Trainer):
    """The newer style: three results, fused SSIM, degree 0 apart, and Adam of the visible Gaussians."""

    def make_optimizer(self, groups: list[dict]) -> torch.optim.Optimizer:
        return SparseGaussianAdam(groups, lr=0.0, eps=1e-15)

    def settings(self, camera: FixedCamera, sh_degree: int) -> GaussianRasterizationSettings:
        return camera.settings(sh_degree, antialiasing=False)

    def colors(self) -> dict[str, Tensor]:
        return {"dc": self.rows["dc"], "shs": self.rows["rest"]}

    def unpack(self, results: tuple) -> tuple[Tensor, Tensor]:
        rendered_image, radii, depth_image = results
        assert depth_image.shape == (1, *rendered_image.shape[1:])
        return rendered_image.clamp(0, 1), radii

    def loss(self, image: Tensor, photo: Tensor) -> Tensor:
        similarity = fused_ssim(image.unsqueeze(0), photo.unsqueeze(0))
        return 0.8 * (image - photo).abs().mean() + 0.2 * (1.0 - similarity)

    def take_step(self, radii: Tensor) -> None:
        self.optimizer.step(radii > 0, radii.shape[0])


class TamingTrainer(NewerTrainer):
    """The style of Taming 3DGS, Improved-GS and GNS: 13 results, and scores from weighted pixels."""

    columns = 4
    pixel_weights = None

    def settings(self, camera: FixedCamera, sh_degree: int) -> GaussianRasterizationSettings:
        return camera.settings(sh_degree, pixel_weights=self.pixel_weights)

    def unpack(self, results: tuple) -> tuple[Tensor, Tensor]:
        (
            rendered_image, radii, counts, lists, listsRender, listsDistance, centers, depths, my_radii, accum_weights,
            accum_count, accum_blend, accum_dist,
        ) = results  # fmt: skip
        self.accum_weights = accum_weights
        return rendered_image, radii

    def scores(self) -> Tensor:
        total = torch.zeros_like(self.gradient_sum)
        for camera in self.cameras:
            grey = camera.original_image.mean(0)
            self.pixel_weights = (grey - grey.mean()).abs()  # any map will do
            self.render(camera, 3)
            total += self.accum_weights / self.accum_weights.max()
        self.pixel_weights = None
        return total


class FastTrainer(NewerTrainer):
    """The style of FastGS: scores count the pixels with large errors that a Gaussian contributes to."""

    columns = 4
    metric_map: Tensor | None = None

    def settings(self, camera: FixedCamera, sh_degree: int) -> GaussianRasterizationSettings:
        counts = self.metric_map is not None
        return camera.settings(sh_degree, mult=0.5, get_flag=counts, metric_map=self.metric_map)

    def unpack(self, results: tuple) -> tuple[Tensor, Tensor]:
        rendered_image, radii, self.accum_metric_counts = results
        return rendered_image, radii

    def scores(self) -> Tensor:
        total = torch.zeros_like(self.gradient_sum)
        for camera in self.cameras:
            error = (self.render(camera, 3)[0] - camera.original_image).abs().mean(0)
            self.metric_map = (error > error.mean()).int()
            self.render(camera, 3)
            total += self.accum_metric_counts
            self.metric_map = None
        return total


# Measured on the CPU: from 15.6 to 22.9, 23.3, 23.3 and 23.2 dB.
@pytest.mark.parametrize("style", [Trainer, NewerTrainer, TamingTrainer, FastTrainer], ids=lambda style: style.__name__)
def test_a_trainer_of_each_line_learns_a_scene(engine, style, tiny_scene_dir):
    """Retained screen-space gradients, growth and the line's optimizer; the PSNR of the views rises to 22 dB."""
    scene = load_scene(tiny_scene_dir, resolution=2)
    cameras = [FixedCamera(camera, engine.device) for camera in scene.train]
    xyz, rgb = (torch.as_tensor(each)[::3].to(engine.device) for each in (scene.points.xyz, scene.points.rgb))
    trainer = style(cameras, xyz.float().contiguous(), rgb.float() / 255)
    before, num_before = trainer.mean_psnr(), len(trainer.rows["xyz"])
    trainer.train()
    assert len(trainer.rows["xyz"]) > num_before
    assert before < 17 and trainer.mean_psnr() > 22
