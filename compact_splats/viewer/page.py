"""Single-file HTML pages: model, viewer and cameras in one file that opens without a server and offline.

The renderer is ``web/bundle.js.gz``, built from ``web/src`` by ``make viewer-bundle``. The model is stored as .spz.
"""

from __future__ import annotations

import base64
import html
import json
import string
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from diff_gaussian_rasterization import LIMITS

from compact_splats.compression.formats import spz
from compact_splats.compression.load import psnr_of_copy
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.normalization import Units
from compact_splats.scene.parameters import SavedArrays
from compact_splats.utils.files import atomic_write
from compact_splats.utils.usage import MB
from compact_splats.viewer.ranking import most_important
from compact_splats.viewer.views import Views

WEB = Path(__file__).parent / "web"
MAX_CAMERAS = 500  # in a page; of more, an evenly spaced selection
_TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes right, up, back


def write_page(
    path: Path,
    name: str,
    model: GaussianModel,
    views: Views,
    *,
    background: str,
    max_gaussians: int,
) -> list[str]:
    """Write a page that shows a model.

    Args:
        path: the HTML file, written atomically.
        name: title of the page.
        model: at least one Gaussian.
        views: cameras; the page starts at the first.
        background: a colour as ``#rrggbb``.
        max_gaussians: maximum in the page; see :func:`most_important`.

    Returns:
        Sentences about what the page has lost, with the PSNR from the cameras.

    Raises:
        InputError: the file can't be written, or .spz can't represent the model.
    """
    chosen = most_important(model, max_gaussians)
    given = {key: values.detach()[chosen].cpu().numpy() for key, values in model.parameters.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.spz"
        lost = spz.write(file, SavedArrays(given, model.antialiased))
        if lost:
            lost += psnr_of_copy(given, spz.read(file), views.cameras, Units(), model.antialiased, model.device)
        packed = file.read_bytes()
    about = {
        "background": background,
        "antialiased": model.antialiased,
        "blur": LIMITS["blur"],
        "near": LIMITS["near"],
        "up": views.up.tolist(),
        "centre": views.centre.tolist(),
        "extent": views.extent,
        "cameras": [_entry(*each) for each in _evenly(list(zip(views.labels, views.cameras, strict=True)))],
    }
    count = f"{len(chosen):,} Gaussians"
    if len(chosen) < model.num_gaussians:
        count = f"{len(chosen):,} of {model.num_gaussians:,} Gaussians"
    text = string.Template((WEB / "template.html").read_text(encoding="utf-8")).substitute(
        TITLE=html.escape(name),
        NAME=html.escape(name),
        COUNT=count,
        SIZE=f"{len(packed) / MB:.1f} MB",
        BACKGROUND=background,
        NOTICES=(WEB / "NOTICES.txt").read_text(encoding="utf-8"),
        ABOUT=_json_in_html(about),
        MODEL=_base64(packed),
        BUNDLE=_base64((WEB / "bundle.js.gz").read_bytes()),
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return lost


def _entry(label: str, camera: Camera) -> dict[str, Any]:
    """A camera for the page: intrinsics in px, and camera-to-world by rows with OpenGL axes."""
    pose = np.linalg.inv(camera.world_to_camera.numpy().astype(np.float64)) @ _TO_OPENGL
    lens = {key: getattr(camera, key) for key in ("width", "height", "fx", "fy", "cx", "cy")}
    return {"name": label, **lens, "pose": np.round(pose, 7).flatten().tolist()}


def _evenly(items: list) -> list:
    if len(items) <= MAX_CAMERAS:
        return items
    return [items[index] for index in np.linspace(0, len(items) - 1, MAX_CAMERAS).astype(int)]


def _json_in_html(content: Any) -> str:
    """JSON that can't end the script element, whatever the photos are called."""
    return json.dumps(content).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
