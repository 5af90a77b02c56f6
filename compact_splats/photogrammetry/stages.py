"""The long steps of a conversion: each shows a bar, is timed, and ends early when the user asks for it."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from contextlib import contextmanager
from typing import TypeVar

import pycolmap
from tqdm import tqdm

from compact_splats.utils.signals import StopRequest

T = TypeVar("T")
LOOK_EVERY = 0.1  # seconds between two looks at what COLMAP has done


class Stages:
    """Runs the stages one after another.

    Args:
        stop: whether the user wants to stop.
        quiet: show no bars.

    Attributes:
        seconds: time that each stage has taken, by label.
    """

    def __init__(self, stop: StopRequest, quiet: bool) -> None:
        self._stop, self._quiet = stop, quiet
        self.seconds: dict[str, float] = {}

    def each(
        self,
        label: str,
        items: Iterable[T],
        total: int | None = None,
        unit: str = "photo",
        size: Callable[[T], int] = lambda item: 1,
    ) -> Iterator[T]:
        """Pass items on, one after another, with a bar.

        Args:
            label: of the bar.
            items: what is passed on.
            total: number of steps of the bar, if known.
            unit: what a step is.
            size: how many steps an item is.

        Raises:
            Stopped: the user has asked for it.
        """
        with self._bar(label, total, unit) as bar:
            for item in items:
                self._check()
                yield item
                bar.update(size(item))

    def run(
        self, label: str, total: int, work: Callable[[pycolmap.CancellationToken], T], done: Callable[[], int]
    ) -> T:
        """Let COLMAP work in another thread, with a bar that is moved by what there is to see of it.

        Args:
            label: of the bar.
            total: number of steps.
            work: what to do; it ends soon after its token is cancelled.
            done: how many steps are done by now; asked several times a second.

        Raises:
            Stopped: the user has asked for it.
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
                            future.result(LOOK_EVERY)
                finally:
                    token.cancel()  # or the thread would be waited for to its end
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
