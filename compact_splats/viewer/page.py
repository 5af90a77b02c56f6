"""Single-file HTML pages: model, viewer and cameras in one file that opens without a server and offline.

The renderer is ``web/bundle.js.gz``, built from ``web/src`` by ``make viewer-bundle``. The model is a .spz or a .gsz.
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

from compact_splats.compression.arrays import Arrays
from compact_splats.compression.codec import decode, encode
from compact_splats.compression.color_basis import ColorBasis
from compact_splats.compression.compact_streams import parts_of
from compact_splats.compression.container import counts_in, unpack
from compact_splats.compression.files import kind_of
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


def whole_gsz(path: Path, model: GaussianModel, max_gaussians: int) -> bytes | None:
    """The content of the file of a model that a page can hold as it is; None: it is no .gsz, or it has more in it.

    Args:
        path: the file that the model was read from.
        model: what the flags have left of it.
        max_gaussians: maximum in the page.
    """
    if kind_of(path) != ".gsz":
        return None
    data = path.read_bytes()
    header, _ = unpack(data)
    is_whole = counts_in(header) == (min(model.num_gaussians, max_gaussians), model.sh_rest.shape[1])
    return data if is_whole else None


def write_page(
    path: Path,
    name: str,
    model: GaussianModel,
    views: Views,
    *,
    background: str,
    max_gaussians: int,
    format: str = "spz",
    gsz: bytes | None = None,
    color_basis: ColorBasis | None = None,
) -> list[str]:
    """Write a page that shows a model.

    Args:
        path: the HTML file, written atomically.
        name: title of the page.
        model: at least one Gaussian.
        views: cameras; the page starts at the first.
        background: a colour as ``#rrggbb``.
        max_gaussians: maximum in the page; see :func:`most_important`.
        format: in which the page holds the model, "spz" or "gsz".
        gsz: result of :func:`whole_gsz`, which goes into the page as it is; None: a .gsz is made of the model.
        color_basis: for that, in world units; None: the spherical harmonics.

    Returns:
        Sentences about what the page has lost, with the PSNR from the cameras.

    Raises:
        InputError: the file can't be written, or .spz can't represent the model.
    """
    chosen = most_important(model, max_gaussians)
    units, lost = Units(), list[str]()
    if format == "gsz" and gsz is not None:
        packed, units = gsz, model.units.of_files()
    else:
        given = {key: values.detach()[chosen].cpu().numpy() for key, values in model.parameters.items()}
        arrays = SavedArrays(given, model.antialiased, nested=model.nested)
        packed, copy, lost = _as_gsz(arrays, color_basis) if format == "gsz" else _as_spz(arrays)
        if lost:
            lost += psnr_of_copy(given, copy, views.cameras, units, model.antialiased, model.device)
    parts = parts_of(packed) if format == "gsz" else [packed]
    about = {
        "format": format,
        "parts": len(parts),
        "units": {"origin": units.origin, "scale": units.scale},
        "background": background,
        "antialiased": model.antialiased,
        "nested": model.nested,
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
        MODEL="\n".join(_part(index, each) for index, each in enumerate(parts)),
        BUNDLE=_base64((WEB / "bundle.js.gz").read_bytes()),
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return lost


def _as_spz(arrays: SavedArrays) -> tuple[bytes, Arrays, list[str]]:
    """The file, what it holds, and what it has lost."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.spz"
        lost = spz.write(file, arrays)
        return file.read_bytes(), spz.read(file), lost


def _as_gsz(arrays: SavedArrays, color_basis: ColorBasis | None) -> tuple[bytes, Arrays, list[str]]:
    packed = encode(arrays, color_basis=color_basis)
    lost = "the .gsz in it is not fine-tuned; the page of a .gsz that compress.py has made is closer to the model"
    return packed, decode(packed), [lost]


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


def _part(index: int, data: bytes) -> str:
    """The element with a part of the model."""
    name = f"model-{index}" if index else "model"
    return f'<script type="application/octet-stream" id="{name}">{_base64(data)}</script>'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
