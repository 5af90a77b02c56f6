"""Models in the browser: a live page on viser, and pages that are one file each."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from compact_splats.utils.errors import InputError

if TYPE_CHECKING:
    from compact_splats.viewer.live import LivePage
    from compact_splats.viewer.surroundings import Surroundings


def check_installed() -> None:
    """Make sure that viser is there, which nothing else needs.

    Raises:
        InputError: it is not.
    """
    if importlib.util.find_spec("viser") is None:
        fix = "pip install viser==1.1.1, or write a page by view.py --html"
        raise InputError("the live page", "the package viser", "none", fix)


def open_page(
    title: str,
    around: Surroundings,
    max_degree: int,
    *,
    white_background: bool,
    max_gaussians: int,
    is_training: bool,
    host: str,
    port: int,
) -> LivePage:
    """Start to serve a live page; viser is not loaded before.

    Args:
        title: of the page.
        around: the cameras to look from.
        max_degree: of the model's spherical harmonics.
        white_background: instead of black, at first.
        max_gaussians: that a browser is sent.
        is_training: the model changes, and the user can pause that.
        host: address to listen on.
        port: to listen on; 0: any free one.

    Raises:
        InputError: viser is not installed, or the port can't be had.
    """
    check_installed()
    from compact_splats.viewer.live import LivePage
    from compact_splats.viewer.session import Look

    background = (255 * int(white_background),) * 3
    return LivePage(title, Look(around, background, max_gaussians, is_training), max_degree, host, port)
