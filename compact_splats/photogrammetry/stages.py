"""The stages of a conversion: each shows a progress bar, is timed, and stops on Ctrl-C."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from contextlib import contextmanager
from typing import TypeVar

import pycolmap
from tqdm import tqdm

from compact_splats.utils.errors import note, one_line
from compact_splats.utils.signals import StopRequest

T = TypeVar("T")
POLL_SECONDS = 0.1


class Stages:
    """Runs stages one after another.

    Args:
        stop: the user's request to stop.
        quiet: show no bars.

    Attributes:
        seconds: time of each stage, by label.
        notes: what the user was told.
    """

    def __init__(self, stop: StopRequest, quiet: bool) -> None:
        self._stop, self._quiet = stop, quiet
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Tell the user, unless quiet, and keep it for the report."""
        self.notes.append(text)
        if not self._quiet:
            note(text)

    def warn(self, text: str) -> None:
        """Tell the user even if quiet, and keep it for the report."""
        self.notes.append(text)
        print(f"WARNING: {one_line(text)}", file=sys.stderr)

    def each(
        self,
        label: str,
        items: Iterable[T],
        total: int | None = None,
        unit: str = "photo",
        size: Callable[[T], int] = lambda item: 1,
    ) -> Iterator[T]:
        """Yield the items with a progress bar.

        Args:
            label: of the bar.
            items: to yield.
            total: number of steps of the bar, if known.
            unit: of a step.
            size: number of steps of an item.

        Raises:
            Stopped: the user stopped it.
        """
        with self._bar(label, total, unit) as bar:
            for item in items:
                self._check()
                yield item
                bar.update(size(item))

    def run(
        self, label: str, total: int, work: Callable[[pycolmap.CancellationToken], T], done: Callable[[], int]
    ) -> T:
        """Call COLMAP in a thread, with a progress bar.

        Args:
            label: of the bar.
            total: number of steps.
            work: the call; returns soon after its token is cancelled.
            done: returns the number of steps done; polled.

        Raises:
            Stopped: the user stopped it.
        """
        token = pycolmap.CancellationToken()
        with self._bar(label, total, "photo") as bar:
            with ThreadPoolExecutor(1) as thread:
                future = thread.submit(work, token)
                try:
                    while not future.done():
                        self._check()
                        bar.update(min(done(), total) - bar.n)
                        with _no_timeout():
                            future.result(POLL_SECONDS)
                finally:
                    token.cancel()  # the executor waits for the thread
                result = future.result()
            bar.update(total - bar.n)
        return result

    def _check(self) -> None:
        if self._stop:
            raise self._stop.stopped("stopped; no scene has been written")

    @contextmanager
    def _bar(self, label: str, total: int | None, unit: str) -> Iterator[tqdm]:
        start = time.monotonic()
        with tqdm(total=total, desc=f"{label:12}", unit=unit, disable=self._quiet, dynamic_ncols=True) as bar:
            yield bar
        self.seconds[label] = self.seconds.get(label, 0.0) + time.monotonic() - start


@contextmanager
def _no_timeout() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        pass
