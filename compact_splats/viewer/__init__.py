"""Viewers in the browser: a live page (viser), and single-file HTML pages."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from compact_splats.utils.errors import InputError

if TYPE_CHECKING:
    from compact_splats.viewer.live import LivePage
    from compact_splats.viewer.views import Views


def check_installed() -> None:
    """Check that viser is installed.

    Raises:
        InputError: it is not.
    """
    if importlib.util.find_spec("viser") is None:
        raise InputError("the live page needs the package viser: pip install viser==1.1.1, or use view.py --html")


def open_page(
    title: str,
    views: Views,
    max_degree: int,
    *,
    white_background: bool,
    max_gaussians: int,
    is_training: bool,
    host: str,
    port: int,
) -> LivePage:
    """Start serving a live page. Imports viser.

    Args:
        title: of the page.
        views: the cameras to choose from.
        max_degree: of the model's spherical harmonics.
        white_background: initially white instead of black.
        max_gaussians: maximum number sent to a browser.
        is_training: the model is being trained, and the page has a pause button.
        host: address to listen on.
        port: to listen on; 0: any free one.

    Raises:
        InputError: viser is not installed, or the port can't be used.
    """
    check_installed()
    from compact_splats.viewer.live import LivePage
    from compact_splats.viewer.session import PageConfig

    background = (255 * int(white_background),) * 3
    return LivePage(title, PageConfig(views, background, max_gaussians, is_training), max_degree, host, port)
