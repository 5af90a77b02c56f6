"""A page that shows a training while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compact_splats.arguments import TrainConfig
from compact_splats.scene.dataset import Scene
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.processes import SingleProcess
from compact_splats.utils.errors import InputError
from compact_splats.utils.signals import StopRequest
from compact_splats.utils.usage import Stopwatch
from compact_splats.viewer import check_installed, open_page
from compact_splats.viewer.ports import check_port, where_to_look

if TYPE_CHECKING:
    from compact_splats.viewer.live import LivePage

HOST = "127.0.0.1"
MAX_GAUSSIANS = 500_000  # that a browser is sent
SHARE = 0.2  # of the time that looking may take from a training
PAUSED_EVERY = 0.02  # seconds between two looks for something to do while the training waits


class NullViewer:
    """Shows nothing."""

    def step(self, model: GaussianModel, step: int) -> None:
        """Do nothing."""


class TrainingViewer(NullViewer):
    """Shows the model on a page between two steps.

    Args:
        page: that shows the model.
        stop: a request to end the training, which ends a pause, too.
        clock: of the training; it is paused while the page is served.
    """

    def __init__(self, page: LivePage, stop: StopRequest, clock: Stopwatch) -> None:
        self._page, self._stop, self._clock = page, stop, clock
        self._next = 0.0

    def step(self, model: GaussianModel, step: int) -> None:
        """Update the page, and wait while the user has paused the training.

        Args:
            model: the Gaussians, between two steps.
            step: number of steps done.
        """
        page = self._page
        if not page.has_viewers or time.monotonic() < self._next and not page.is_paused:
            return
        with self._clock.paused():
            start = time.monotonic()
            page.serve(model, step, f"step {step:,}: ")
            spent = time.monotonic() - start
            while page.is_paused and not self._stop:
                time.sleep(PAUSED_EVERY)
                page.serve(model, step, f"paused after step {step:,}: ")
        self._next = time.monotonic() + spent * (1 / SHARE - 1)


def check_viewer(config: TrainConfig, processes: SingleProcess) -> None:
    """Make sure that the page can be served, before anything is read or written.

    Raises:
        InputError: the port is taken, viser is not installed, or several processes train.
    """
    if config.viewer is None:
        return
    if processes.count > 1:
        raise InputError("--viewer", "a training by one process", f"one by {processes.count}", "leave it out")
    check_installed()
    check_port(HOST, config.viewer)


@contextmanager
def training_viewer(
    config: TrainConfig, folder: Path, scene: Scene, stop: StopRequest, clock: Stopwatch
) -> Iterator[NullViewer]:
    """The page of a training, for as long as the block runs.

    Args:
        config: without ``viewer`` there is no page.
        folder: of the run.
        scene: its cameras are those to look from.
        stop: see :class:`TrainingViewer`.
        clock: likewise.

    Raises:
        InputError: viser is not installed, or the port can't be had.
    """
    if config.viewer is None:
        yield NullViewer()
        return
    from compact_splats.viewer.surroundings import (
        surroundings,  # loads much that a training without a page does not need
    )

    around = surroundings({"train": scene.train, "test": scene.test}, scene.points.xyz.numpy())
    page = open_page(
        folder.name, around, config.sh_degree, white_background=config.white_background,
        max_gaussians=MAX_GAUSSIANS, is_training=True, host=HOST, port=config.viewer,
    )  # fmt: skip
    if not config.quiet:
        print(where_to_look(HOST, page.port).replace("Ctrl-C ends", "the training goes on meanwhile"), flush=True)
    try:
        yield TrainingViewer(page, stop, clock)
    finally:
        page.close()
