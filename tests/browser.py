"""A real browser for tests of pages, and how like each other two pictures are. Without Chromium, why not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

# Software WebGL, so that no GPU is needed and every machine draws the same.
ARGUMENTS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox")
SLOW = 60_000  # ms: a busy machine without a GPU draws a few frames a second


def why_not() -> str | None:
    """Why there is no browser here, or None."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return None if _chromium() else "no chromium is installed"


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Visit:
    """A page in the browser, and what was heard from it.

    Attributes:
        page: playwright's.
        complaints: errors and warnings of the console, and uncaught exceptions.
        requests: addresses that were asked for.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def picture(self) -> np.ndarray:
        """(H,W,3) uint8 RGB of the window."""
        return cv2.imdecode(np.frombuffer(self.page.screenshot(), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window, for the length of the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_chromium(), args=list(ARGUMENTS))
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def visit(
    chromium: Any, address: str, width: int, height: int, *, is_offline: bool, until: str = "load"
) -> Iterator[Visit]:
    """Open a page in a window of this size, px, that shows each pixel as one; wait for its "load" or "commit"."""
    context = chromium.new_context(
        viewport={"width": width, "height": height}, offline=is_offline, reduced_motion="reduce"
    )
    context.set_default_timeout(SLOW)
    seen = Visit(context.new_page())
    seen.page.on(
        "console", lambda said: seen.complaints.append(said.text) if said.type in ("error", "warning") else None
    )
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    try:
        seen.page.goto(address, wait_until=until)
        yield seen
    finally:
        context.close()


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR in dB of two pictures (H,W,3) uint8."""
    assert a.shape == b.shape, (a.shape, b.shape)
    error = np.square(a.astype(float) - b.astype(float)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
