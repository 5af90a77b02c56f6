"""The live page of a running training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from compact_splats.arguments import TrainConfig
from compact_splats.scene.dataset import Scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.processes import SingleProcess
from compact_splats.training.run_context import NullViewer, OpenViewer, no_viewer
from compact_splats.utils.errors import InputError
from compact_splats.utils.signals import StopRequest
from compact_splats.utils.usage import Stopwatch
from compact_splats.viewer import check_installed, open_page
from compact_splats.viewer.ports import check_port, how_to_open

if TYPE_CHECKING:
    from compact_splats.viewer.live import LivePage

HOST = "127.0.0.1"
MAX_GAUSSIANS = 500_000  # sent to a browser
MAX_TIME_FRACTION = 0.2  # of the time of a training, for serving the page
POLL_SECONDS = 0.02  # while paused


class TrainingViewer(NullViewer):
    """Shows the model on a live page between steps.

    Args:
        page: the page.
        stop: the user's request to stop the training, which also ends a pause.
        clock: of the training; paused while the page is served.
    """

    def __init__(self, page: LivePage, stop: StopRequest, clock: Stopwatch) -> None:
        self._page, self._stop, self._clock = page, stop, clock
        self._next = 0.0

    def step(self, model: GaussianModel, step: int) -> None:
        """Update the page, and wait while the training is paused."""
        page = self._page
        if not page.has_viewers or time.monotonic() < self._next and not page.is_paused:
            return
        with self._clock.paused():
            start = time.monotonic()
            page.serve(model, step, f"step {step:,}: ")
            spent = time.monotonic() - start
            while page.is_paused and not self._stop:
                time.sleep(POLL_SECONDS)
                page.serve(model, step, f"paused after step {step:,}: ")
        self._next = time.monotonic() + spent * (1 / MAX_TIME_FRACTION - 1)


def viewer_of(config: TrainConfig, processes: SingleProcess) -> OpenViewer:
    """The viewer that ``config`` asks for; checks that its page can be served, before anything is read or written.

    Raises:
        InputError: the port is in use, viser is not installed, or there are several processes.
    """
    if config.viewer is None:
        return no_viewer
    if processes.count > 1:
        raise InputError(f"--viewer works with one process, not with {processes.count}; leave it out")
    check_installed()
    check_port(HOST, config.viewer)
    return partial(_live_page, config, config.viewer)


@contextmanager
def _live_page(
    config: TrainConfig, port: int, folder: Path, scene: Scene, stop: StopRequest, clock: Stopwatch
) -> Iterator[TrainingViewer]:
    from compact_splats.viewer.views import find_views  # imports scipy

    views = find_views({"train": scene.train, "test": scene.test}, scene.points.xyz.numpy())
    page = open_page(
        folder.name, views, config.sh_degree, white_background=config.white_background,
        max_gaussians=MAX_GAUSSIANS, is_training=True, host=HOST, port=port,
    )  # fmt: skip
    if not config.quiet:
        print(how_to_open(HOST, page.port).replace("Ctrl-C ends", "the training continues meanwhile"), flush=True)
    try:
        yield TrainingViewer(page, stop, clock)
    finally:
        page.close()
