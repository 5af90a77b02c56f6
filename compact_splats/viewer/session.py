"""One browser on a live page: where its camera is, and what it has been sent.

Viser calls in from threads of its own; those calls only note what is wanted. Whoever owns the model calls ``refresh``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from viser import ClientHandle
from viser.transforms import SO3

from compact_splats.gaussian_renderer.evaluation import view_pair
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.utils.errors import InputError
from compact_splats.utils.images import pixels_of
from compact_splats.utils.losses import psnr
from compact_splats.viewer import splats
from compact_splats.viewer.panel import Facts, Panel
from compact_splats.viewer.pictures import Filter, fov_of_all, lay_photo_over, picture, view_of
from compact_splats.viewer.ranking import most_important
from compact_splats.viewer.surroundings import Surroundings

REST_SECONDS = 0.25  # without movement, until the camera counts as resting
EASY_BYTES = 8_000_000  # of splats that are sent again, for new colours, wherever the camera comes to rest
SPLATS_EVERY = 10.0  # seconds between two times that splats of a training are sent
MAX_FRUSTUMS = 300
NEARBY = 0.05  # extents that the camera may move before splats are sent again


@dataclass(frozen=True)
class Look:
    """What is the same for all browsers.

    Attributes:
        around: the cameras.
        background: RGB, 0 to 255, at first.
        max_gaussians: that a browser is sent.
        is_training: pictures change by themselves, and are sent as JPEG.
    """

    around: Surroundings
    background: tuple[int, int, int]
    max_gaussians: int
    is_training: bool


class Session:
    """A browser.

    Args:
        client: viser's handle of it.
        look: what it has in common with others.
        max_degree: of the model's spherical harmonics.
        on_pause: called when the user wants to pause the training, or to go on.
    """

    def __init__(self, client: ClientHandle, look: Look, max_degree: int, on_pause: Callable[[], None]) -> None:
        self._client, self._look, self._around = client, look, look.around
        self._lock = threading.Lock()  # of what the page shows: picture or splats
        self._version = 0  # counts what the user does
        self._changed = 0.0
        self._jumps = 0
        self._pose: tuple | None = None
        self._done: tuple[int, int] | None = None  # version and step of what the page shows
        self._splats = None
        self._splats_done: tuple | None = None
        self._splats_step, self._splats_time = -1, -math.inf
        self._is_picture_shown = False
        self.num_splats = 0
        has_photos = any(camera.photo is not None for camera in self._around.cameras)
        facts = Facts(self._around.labels, max_degree, look.background, has_photos, look.is_training)
        self.panel = Panel(client, facts, self._change, self.jump, self._draw_cameras, on_pause)
        client.camera.on_update(lambda _: self._moved())
        self.jump(0)

    # ---- what the user does; in viser's threads ----

    def jump(self, index: int) -> None:
        """Go to a camera: its place, its direction, and a field of view in which all of its photo is seen."""
        camera, handle = self._around.cameras[index], self._client.camera
        to_world = _to_world(camera)
        place, sight = to_world[:3, 3], to_world[:3, 2]
        distance = max(float(sight @ (self._around.centre - place)), 0.1 * self._around.extent)
        with self._client.atomic():
            handle.position = place
            handle.look_at = place + distance * sight
            handle.up_direction = self._up_for(to_world)
            handle.fov = fov_of_all(camera, max(1, handle.image_width) / max(1, handle.image_height))
        self.panel.camera = index
        self._jumps += 1
        self._change()

    def _up_for(self, to_world: np.ndarray) -> np.ndarray:
        """The axis to orbit about: nearest to the scene's up of all those by which the camera keeps its roll."""
        right, own = to_world[:3, 0], -to_world[:3, 1]
        up = self._around.up - (self._around.up @ right) * right
        return up / np.linalg.norm(up) if up @ own > 0.1 else own

    def _moved(self) -> None:
        handle = self._client.camera
        pose = (*handle.wxyz, *handle.position, handle.fov, handle.image_width, handle.image_height)
        if self._pose is not None and np.allclose(pose, self._pose, atol=1e-7):
            return
        self._pose = pose
        self._change()
        with self._lock:
            if self._is_picture_shown:
                self._show_splats()

    def _change(self) -> None:
        self._version += 1
        self._changed = time.monotonic()

    def _draw_cameras(self, are_shown: bool) -> None:
        """Draw the cameras, each of which can be clicked; or take them away."""
        scene, extent = self._client.scene, self._around.extent
        if not are_shown:
            scene.remove_by_name("/cameras")
            return
        chosen = np.linspace(0, len(self._around.cameras) - 1, MAX_FRUSTUMS).astype(int)
        for index in sorted(set(chosen.tolist())):
            camera = self._around.cameras[index]
            to_world = _to_world(camera)
            frustum = scene.add_camera_frustum(
                f"/cameras/{index}", 2 * math.atan(camera.height / 2 / camera.fy), camera.width / camera.height,
                scale=0.06 * extent, thickness=0.0015 * extent, color=(255, 170, 40),
                wxyz=SO3.from_matrix(to_world[:3, :3]).wxyz, position=to_world[:3, 3],
            )  # fmt: skip
            frustum.on_click(lambda _, index=index: self.jump(index))

    # ---- what the page gets; in the thread that owns the model ----

    def refresh(self, model: GaussianModel, step: int) -> bool:
        """Send what the page lacks, if its camera rests.

        Args:
            model: the Gaussians.
            step: a number that changes whenever they do.

        Returns:
            Whether anything was sent.
        """
        version = self._version
        if (version, step) == self._done or time.monotonic() - self._changed < REST_SECONDS:
            return False
        panel, handle = self.panel, self._client.camera
        chosen = Filter(panel.degree, panel.min_opacity, panel.size_range)
        window = view_of(
            SO3(handle.wxyz).as_matrix(), handle.position, handle.fov, handle.image_width, handle.image_height
        )
        shown, background = chosen.applied(model), torch.tensor(panel.background) / 255
        self._send_splats(model, chosen, window.centre, step)
        camera = self._around.cameras[panel.camera]
        is_there = torch.allclose(window.world_to_camera, camera.world_to_camera, atol=1e-3)
        image = picture(window, shown, background) if panel.is_exact else None
        if is_there and camera.photo is not None:
            image = self._with_photo(shown, camera, window, background, image)
        elif is_there:
            panel.show_pair("", picture(camera, shown, background), None)
        with self._lock:
            if version == self._version:  # else the camera has moved on meanwhile
                self._show_splats() if image is None else self._show_picture(image)
                self._done = (version, step)
        return True

    def _send_splats(self, model: GaussianModel, chosen: Filter, eye: torch.Tensor, step: int) -> None:
        """Send Gaussians in the colours that are seen from here, unless those that are there will do."""
        is_easy = min(model.num_gaussians, self._look.max_gaussians) * splats.BYTES_EACH <= EASY_BYTES
        place = (eye / (NEARBY * self._around.extent)).round().tolist() if is_easy and chosen.sh_degree else None
        wanted, now = (chosen, self._jumps, place), time.monotonic()
        is_old = step != self._splats_step and now - self._splats_time >= SPLATS_EVERY
        if wanted == self._splats_done and not is_old:
            return
        rows = most_important(model, self._look.max_gaussians, chosen.mask(model))
        arrays = splats.arrays(model, rows, eye, min(chosen.sh_degree, model.sh_degree))
        if self._splats is None:
            self._splats = self._client.scene.add_gaussian_splats("/splats", **arrays)
        else:
            self._splats.set_gaussians(**arrays)
        self._splats_done, self._splats_step, self._splats_time = wanted, step, now
        self.num_splats = len(rows)

    def _with_photo(
        self,
        shown: GaussianModel,
        camera: Camera,
        window: Camera,
        background: torch.Tensor,
        image: np.ndarray | None,
    ) -> np.ndarray | None:
        """Show a camera's photo and render in the panel; give the window with as much of the photo as asked."""
        try:
            pair = view_pair(camera, shown, background)
        except InputError as error:
            self.panel.show_pair(str(error), None, None)
            return image
        quality = psnr(*(pixels.float() / 255 for pixels in pair)).item()
        render, photo = map(pixels_of, pair)
        self.panel.show_pair(f"{camera.name}: PSNR {quality:.2f} dB", render, photo)
        if image is None or not self.panel.photo_share:
            return image
        return lay_photo_over(image, window, camera, photo, self.panel.photo_share)

    def _show_picture(self, image: np.ndarray) -> None:
        form = "jpeg" if self._look.is_training else "png"
        self._client.scene.set_background_image(image, form, jpeg_quality=90)
        self._splats.visible = False
        self._is_picture_shown = True

    def _show_splats(self) -> None:
        color = np.array(self.panel.background, np.uint8).reshape(1, 1, 3)
        self._client.scene.set_background_image(color, "png")
        self._splats.visible = True
        self._is_picture_shown = False


def _to_world(camera: Camera) -> np.ndarray:
    return np.linalg.inv(camera.world_to_camera.numpy().astype(np.float64))
