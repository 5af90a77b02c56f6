"""The controls beside a live page. Knows viser's widgets, and nothing of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from viser import ClientHandle

PHOTO_WIDTH = 480  # px of photo and render in the panel


@dataclass(frozen=True)
class Facts:
    """What the controls are made for.

    Attributes:
        cameras: what each is called.
        max_degree: of the model's spherical harmonics.
        background: RGB, 0 to 255, at first.
        has_photos: whether there is a photo for a camera.
        has_pause: whether there is a training to pause.
    """

    cameras: tuple[str, ...]
    max_degree: int
    background: tuple[int, int, int]
    has_photos: bool
    has_pause: bool


class Panel:
    """The controls of one browser.

    Args:
        client: viser's handle of it.
        facts: see there.
        on_change: called when a control has a new value.
        on_jump: called with the number of the camera to go to.
        on_cameras: called when cameras shall be drawn, or no longer.
        on_pause: called when the button to pause and go on is pressed.
    """

    def __init__(
        self,
        client: ClientHandle,
        facts: Facts,
        on_change: Callable[[], None],
        on_jump: Callable[[int], None],
        on_cameras: Callable[[bool], None],
        on_pause: Callable[[], None],
    ) -> None:
        gui, self._cameras = client.gui, facts.cameras
        self._status = gui.add_markdown("")
        self._pause = gui.add_button("Pause", visible=facts.has_pause)
        with gui.add_folder("Camera"):
            self._camera = gui.add_dropdown("go to", facts.cameras)
            steps = gui.add_button_group("step", ("previous", "again", "next"))
            cameras = gui.add_checkbox("show cameras", False, hint="click one to go there")
            self._is_exact = gui.add_checkbox(
                "exact at rest", True, hint="while the camera rests, show a picture by the trainer's own renderer"
            )
        with gui.add_folder("Gaussians"):
            degrees = max(1, facts.max_degree)
            self._degree = gui.add_slider("SH degree", 0, degrees, 1, facts.max_degree, disabled=not facts.max_degree)
            self._opacity = gui.add_slider("opacity from", 0.0, 1.0, 0.01, 0.0)
            self._sizes = gui.add_multi_slider(
                "sizes", 0, 100, 1, (0, 100), hint="percentiles: 0 to 90 hides the largest tenth"
            )
            self._background = gui.add_rgb("background", facts.background)
        with gui.add_folder("Photo and render" if facts.has_photos else "Render"):
            self._wipe = gui.add_slider(
                "photo, %", 0, 100, 1, 0, visible=facts.has_photos, hint="lay the photo over the view, from the left"
            )
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
        """The camera that was chosen last."""
        return self._cameras.index(self._camera.value)

    @camera.setter
    def camera(self, index: int) -> None:
        if self.camera != index:
            self._camera.value = self._cameras[index]

    @property
    def degree(self) -> int:
        """Of the spherical harmonics."""
        return int(self._degree.value)

    @property
    def min_opacity(self) -> float:
        """Below which Gaussians are hidden."""
        return float(self._opacity.value)

    @property
    def size_range(self) -> tuple[float, float]:
        """Percentiles between which Gaussians are shown."""
        low, high = self._sizes.value
        return float(low), float(high)

    @property
    def background(self) -> tuple[int, int, int]:
        """RGB, 0 to 255."""
        return tuple(self._background.value)

    @property
    def is_exact(self) -> bool:
        """Whether a picture of ours is shown at rest."""
        return bool(self._is_exact.value)

    @is_exact.setter
    def is_exact(self, value: bool) -> None:
        self._is_exact.value = value

    @property
    def photo_share(self) -> float:
        """Of the view's width that shows the photo, 0 to 1."""
        return self._wipe.value / 100

    def say(self, text: str, is_paused: bool) -> None:
        """Show a line above the controls, and what the button would do."""
        for handle, name, value in ((self._status, "content", text), (self._pause, "label", _LABELS[is_paused])):
            if getattr(handle, name) != value:
                setattr(handle, name, value)

    def show_pair(self, text: str, render: np.ndarray | None, photo: np.ndarray | None) -> None:
        """Show a render and, below each other, its photo; (H,W,3) uint8, None for none."""
        self._quality.content = text
        for handle, pixels in ((self._render, render), (self._photo, photo)):
            if pixels is not None:
                handle.image = _fitted(pixels)
            if handle.visible != (pixels is not None):
                handle.visible = pixels is not None


_LABELS = {False: "Pause", True: "Go on"}


def _fitted(pixels: np.ndarray) -> np.ndarray:
    scale = min(1.0, PHOTO_WIDTH / pixels.shape[1])
    size = max(1, round(scale * pixels.shape[1])), max(1, round(scale * pixels.shape[0]))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
