"""One browser on a live page: its camera, and what it has been sent.

Viser's callbacks run in its own threads and only record what changed. The thread that owns the model calls ``refresh``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from viser import ClientHandle, GaussianSplatHandle
from viser.transforms import SO3

from compact_splats.gaussian_renderer.evaluation import view_pair
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.errors import InputError
from compact_splats.utils.images import pixels_of
from compact_splats.utils.losses import psnr
from compact_splats.viewer import splats
from compact_splats.viewer.images import Filter, containing_fov, overlay_photo, rendered, window_camera
from compact_splats.viewer.panel import Panel, PanelConfig
from compact_splats.viewer.ranking import most_important
from compact_splats.viewer.views import Views

REST_SECONDS = 0.25  # without movement until the camera is at rest
RESEND_BYTES = 8_000_000  # splats up to this size are sent again, for new colours, each time the camera comes to rest
SPLATS_EVERY = 10.0  # minimum seconds between updates of the splats of a training
MAX_FRUSTUMS = 300
NEARBY = 0.05  # extents that the camera may move before splats are sent again


@dataclass(frozen=True)
class PageConfig:
    """The options shared by all browsers of a page.

    Attributes:
        views: the cameras.
        background: initial RGB, 0 to 255.
        max_gaussians: maximum number sent to a browser.
        is_training: the model is being trained; images are sent as JPEG.
    """

    views: Views
    background: tuple[int, int, int]
    max_gaussians: int
    is_training: bool


class Session:
    """A browser.

    Args:
        client: viser's handle of the browser.
        config: shared by all browsers.
        max_degree: of the model's spherical harmonics.
        on_pause: called when the user pauses or resumes the training.
    """

    def __init__(self, client: ClientHandle, config: PageConfig, max_degree: int, on_pause: Callable[[], None]) -> None:
        self._client, self._config, self._views = client, config, config.views
        self._lock = threading.Lock()  # held while switching between image and splats
        self._version = 0  # counts the user's actions
        self._changed = 0.0
        self._jumps = 0
        self._pose: tuple | None = None
        self._done: tuple[int, int] | None = None  # version and step that the page shows
        self._splats: GaussianSplatHandle | None = None  # None before the first refresh
        self._splats_done: tuple | None = None
        self._splats_step, self._splats_time = -1, -math.inf
        self._is_image_shown = False
        self.num_splats = 0
        has_photos = any(camera.photo is not None for camera in self._views.cameras)
        panel_config = PanelConfig(self._views.labels, max_degree, config.background, has_photos, config.is_training)
        self.panel = Panel(client, panel_config, self._change, self.jump, self._draw_cameras, on_pause)
        client.camera.on_update(lambda _: self._moved())
        self.jump(0)

    # ---- callbacks, in viser's threads ----

    def jump(self, index: int) -> None:
        """Go to a camera, with a field of view that contains its whole photo."""
        camera, handle = self._views.cameras[index], self._client.camera
        to_world = _to_world(camera)
        position, forward = to_world[:3, 3], to_world[:3, 2]
        distance = max(float(forward @ (self._views.centre - position)), 0.1 * self._views.extent)
        with self._client.atomic():
            handle.position = position
            handle.look_at = position + distance * forward
            handle.up_direction = self._up_for(to_world)
            handle.fov = containing_fov(camera, max(1, handle.image_width) / max(1, handle.image_height))
        self.panel.camera = index
        self._jumps += 1
        self._change()

    def _up_for(self, to_world: np.ndarray) -> np.ndarray:
        """The orbit axis: the scene's up direction, projected so that the camera keeps its roll."""
        right, own = to_world[:3, 0], -to_world[:3, 1]
        up = self._views.up - (self._views.up @ right) * right
        return up / np.linalg.norm(up) if up @ own > 0.1 else own

    def _moved(self) -> None:
        handle = self._client.camera
        pose = (*handle.wxyz, *handle.position, handle.fov, handle.image_width, handle.image_height)
        if self._pose is not None and np.allclose(pose, self._pose, atol=1e-7):
            return
        self._pose = pose
        self._change()
        with self._lock:
            if self._is_image_shown:
                self._show_splats()

    def _change(self) -> None:
        self._version += 1
        self._changed = time.monotonic()

    def _draw_cameras(self, are_shown: bool) -> None:
        """Draw clickable camera frustums, or remove them."""
        if not are_shown:
            self._client.scene.remove_by_name("/cameras")
            return
        chosen = np.linspace(0, len(self._views.cameras) - 1, MAX_FRUSTUMS).astype(int)
        for index in sorted(set(chosen.tolist())):
            self._draw_camera(index)

    def _draw_camera(self, index: int) -> None:
        camera, extent = self._views.cameras[index], self._views.extent
        to_world = _to_world(camera)
        frustum = self._client.scene.add_camera_frustum(
            f"/cameras/{index}", 2 * math.atan(camera.height / 2 / camera.fy), camera.width / camera.height,
            scale=0.06 * extent, thickness=0.0015 * extent, color=(255, 170, 40),
            wxyz=SO3.from_matrix(to_world[:3, :3]).wxyz, position=to_world[:3, 3],
        )  # fmt: skip
        frustum.on_click(lambda _: self.jump(index))

    # ---- updates, in the thread that owns the model ----

    def refresh(self, model: GaussianModel, step: int) -> bool:
        """Update the page if its camera is at rest.

        Args:
            model: the Gaussians.
            step: a number that changes when the model does.

        Returns:
            Whether anything was sent.
        """
        version = self._version
        if (version, step) == self._done or time.monotonic() - self._changed < REST_SECONDS:
            return False
        panel, handle = self.panel, self._client.camera
        chosen = Filter(panel.degree, panel.min_opacity, panel.size_range)
        window = window_camera(
            SO3(handle.wxyz).as_matrix(), handle.position, handle.fov, handle.image_width, handle.image_height
        )
        shown, background = chosen.applied(model), torch.tensor(panel.background) / 255
        self._send_splats(model, chosen, window.centre, step)
        camera = self._views.cameras[panel.camera]
        is_at_camera = torch.allclose(window.world_to_camera, camera.world_to_camera, atol=1e-3)
        image = rendered(window, shown, background) if panel.is_exact else None
        if is_at_camera and camera.photo is not None:
            image = self._with_photo(shown, camera, window, background, image)
        elif is_at_camera:
            panel.show_pair("", rendered(camera, shown, background), None)
        with self._lock:
            if version == self._version:  # else the user moved the camera meanwhile
                self._show_splats() if image is None else self._show_image(image)
                self._done = (version, step)
        return True

    def _send_splats(self, model: GaussianModel, chosen: Filter, eye: torch.Tensor, step: int) -> None:
        """Send splats with the colours seen from ``eye``, if those of the page are outdated."""
        is_small = min(model.num_gaussians, self._config.max_gaussians) * splats.BYTES_EACH <= RESEND_BYTES
        cell = (eye / (NEARBY * self._views.extent)).round().tolist() if is_small and chosen.sh_degree else None
        wanted, now = (chosen, self._jumps, cell), time.monotonic()
        is_old = step != self._splats_step and now - self._splats_time >= SPLATS_EVERY
        if wanted == self._splats_done and not is_old:
            return
        indices = most_important(model, self._config.max_gaussians, chosen.mask(model))
        arrays = splats.arrays(model, indices, eye, min(chosen.sh_degree, model.sh_degree))
        if self._splats is None:
            self._splats = self._client.scene.add_gaussian_splats("/splats", **arrays)
        else:
            self._splats.set_gaussians(**arrays)
        self._splats_done, self._splats_step, self._splats_time = wanted, step, now
        self.num_splats = len(indices)

    def _with_photo(
        self,
        shown: GaussianModel,
        camera: Camera,
        window: Camera,
        background: torch.Tensor,
        image: np.ndarray | None,
    ) -> np.ndarray | None:
        """Show the photo and its render in the panel; return the image with the photo over its left part."""
        try:
            pair = view_pair(camera, shown, background)
        except InputError as error:
            self.panel.show_pair(str(error), None, None)
            return image
        quality = psnr(*(pixels.float() / 255 for pixels in pair)).item()
        render, photo = map(pixels_of, pair)
        self.panel.show_pair(f"{camera.name}: PSNR {quality:.2f} dB", render, photo)
        if image is None or not self.panel.photo_fraction:
            return image
        return overlay_photo(image, window, camera, photo, self.panel.photo_fraction)

    def _show_image(self, image: np.ndarray) -> None:
        scene = self._client.scene
        scene.set_background_image(image, "jpeg" if self._config.is_training else "png", jpeg_quality=90)
        self._set_image_shown(True)

    def _show_splats(self) -> None:
        color = np.array(self.panel.background, np.uint8).reshape(1, 1, 3)
        self._client.scene.set_background_image(color, "png")
        self._set_image_shown(False)

    def _set_image_shown(self, is_shown: bool) -> None:
        assert self._splats is not None  # a refresh sends splats before an image
        self._splats.visible = not is_shown
        self._is_image_shown = is_shown


def _to_world(camera: Camera) -> np.ndarray:
    return np.linalg.inv(camera.world_to_camera.numpy().astype(np.float64))
