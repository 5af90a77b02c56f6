"""The control panel of a live page, in viser's widgets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import cv2
import numpy as np
from viser import ClientHandle

PHOTO_WIDTH = 480  # px, of photo and render in the panel
NARROW = 576  # px; viser has panels at the bottom of the page in windows up to this width


@dataclass(frozen=True)
class PanelConfig:
    """The options of a panel.

    Attributes:
        cameras: labels.
        max_degree: of the model's spherical harmonics.
        background: initial RGB, 0 to 255.
        has_photos: whether any camera has a photo.
        has_pause: show a pause button.
    """

    cameras: tuple[str, ...]
    max_degree: int
    background: tuple[int, int, int]
    has_photos: bool
    has_pause: bool


class Panel:
    """The panel of one browser.

    Args:
        client: viser's handle of the browser.
        config: the options.
        on_change: called when a control has a new value.
        on_jump: called with the index of the camera to go to.
        on_cameras: called when the drawing of cameras is switched on or off.
        on_pause: called when the pause button is pressed.
    """

    def __init__(
        self,
        client: ClientHandle,
        config: PanelConfig,
        on_change: Callable[[], None],
        on_jump: Callable[[int], None],
        on_cameras: Callable[[bool], None],
        on_pause: Callable[[], None],
    ) -> None:
        gui, self._cameras = client.gui, config.cameras
        self._status = gui.add_markdown("")
        self._pause = gui.add_button("Pause", visible=config.has_pause)
        # On a phone viser opens the page's own panel, over most of the scene, and closes those that are added.
        is_narrow = client.camera.image_width <= NARROW
        with gui.add_panel().add_tab("Controls") if is_narrow else nullcontext():
            with gui.add_folder("Camera"):
                self._camera = gui.add_dropdown("go to", config.cameras)
                steps = gui.add_button_group("step", ("previous", "again", "next"))
                cameras = gui.add_checkbox("show cameras", False, hint="click one to go there")
                self._is_exact = gui.add_checkbox(
                    "exact at rest", True, hint="while the camera rests, show an image of the renderer used in training"
                )
            with gui.add_folder("Gaussians"):
                top = max(1, config.max_degree)
                self._degree = gui.add_slider("SH degree", 0, top, 1, config.max_degree, disabled=not config.max_degree)
                self._opacity = gui.add_slider("opacity from", 0.0, 1.0, 0.01, 0.0)
                self._sizes = gui.add_multi_slider(
                    "sizes", 0, 100, 1, (0, 100), hint="percentiles: 0 to 90 hides the largest tenth"
                )
                self._background = gui.add_rgb("background", config.background)
            with gui.add_folder("Photo and render" if config.has_photos else "Render"):
                hint = "show the photo on the left part of the view"
                self._wipe = gui.add_slider("photo, %", 0, 100, 1, 0, visible=config.has_photos, hint=hint)
                self._quality = gui.add_markdown("")
                blank = np.zeros((1, 1, 3), np.uint8)
                self._photo = gui.add_image(blank, label="photo", visible=False)
                self._render = gui.add_image(blank, label="render", visible=False)
        self._pause.on_click(lambda _: on_pause())
        self._camera.on_update(lambda event: on_jump(self.camera) if event.client else None)
        steps.on_click(lambda event: on_jump(self._after(event.target.value)))
        cameras.on_update(lambda _: on_cameras(cameras.value))
        for control in (self._is_exact, self._degree, self._opacity, self._sizes, self._background, self._wipe):
            control.on_update(lambda _: on_change())

    def _after(self, step: str) -> int:
        return (self.camera + {"previous": -1, "again": 0, "next": 1}[step]) % len(self._cameras)

    @property
    def camera(self) -> int:
        """Index of the selected camera."""
        return self._cameras.index(self._camera.value)

    @camera.setter
    def camera(self, index: int) -> None:
        if self.camera != index:
            self._camera.value = self._cameras[index]  # type: ignore[misc]  # mypy misses the setter in viser

    @property
    def degree(self) -> int:
        """Degree of the spherical harmonics."""
        return int(self._degree.value)

    @property
    def min_opacity(self) -> float:
        """Gaussians of lower opacity are hidden."""
        return float(self._opacity.value)

    @property
    def size_range(self) -> tuple[float, float]:
        """Percentiles of the sizes between which Gaussians are shown."""
        low, high = self._sizes.value
        return float(low), float(high)

    @property
    def background(self) -> tuple[int, int, int]:
        """RGB, 0 to 255."""
        red, green, blue = self._background.value
        return red, green, blue

    @property
    def is_exact(self) -> bool:
        """Whether an image of the project's renderer is shown at rest."""
        return bool(self._is_exact.value)

    @is_exact.setter
    def is_exact(self, value: bool) -> None:
        self._is_exact.value = value  # type: ignore[misc]  # as above

    @property
    def photo_fraction(self) -> float:
        """Fraction of the width that shows the photo, 0 to 1."""
        return self._wipe.value / 100

    def say(self, text: str, is_paused: bool) -> None:
        """Set the status line and the label of the pause button."""
        label = "Resume" if is_paused else "Pause"
        for handle, name, value in ((self._status, "content", text), (self._pause, "label", label)):
            if getattr(handle, name) != value:  # assignments are sent to the browser
                setattr(handle, name, value)

    def show_pair(self, text: str, render: np.ndarray | None, photo: np.ndarray | None) -> None:
        """Show a render above its photo, each (H,W,3) uint8 or None."""
        self._quality.content = text
        for handle, pixels in ((self._render, render), (self._photo, photo)):
            if pixels is not None:
                handle.image = _fitted(pixels)
            if handle.visible != (pixels is not None):
                handle.visible = pixels is not None


def _fitted(pixels: np.ndarray) -> np.ndarray:
    scale = min(1.0, PHOTO_WIDTH / pixels.shape[1])
    size = max(1, round(scale * pixels.shape[1])), max(1, round(scale * pixels.shape[0]))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
