"""``compress.py info``: what a file holds. Needs no torch: of a .gsz it reads header and checksums only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compact_splats.arguments.options import Parser
from compact_splats.compression import formats
from compact_splats.compression.container import (
    ANTIALIASED_KEY,
    MAGIC,
    bounds_in,
    counts_in,
    input_errors,
    levels_in,
    offset_in,
    unpack,
)
from compact_splats.compression.files import kind_of, model_file, read_model
from compact_splats.compression.formats.common import sigmoid
from compact_splats.scene.parameters import REST_COUNTS, SavedArrays, Vector, is_antialiased, is_nested, sh_degree
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import open_file
from compact_splats.utils.usage import MB

_FAR = 20.0  # an outlier is farther from the median than this many times the 90 % nearest


def info(argv: Sequence[str]) -> None:
    """Show what a file holds.

    Raises:
        InputError: it can't be read.
    """
    parser = Parser(
        "Show what a file holds: number and degree of the Gaussians, bounds, outliers, marks and bad values; of a .gsz "
        "header and streams.",
        ("model.ply", "output/my_scene"), "MODEL", "info",
    )  # fmt: skip
    parser.add_argument("file", type=Path, help="a model of any known format, or a folder of train.py")
    parser.add_argument("--keep-nan", action="store_true", help="refuse a model with values that are not finite")
    args = parser.parse_args(argv)
    path = model_file(args.file)
    with open_file(path, "a model that can be read", "check the path") as file:
        data = file.read() if file.read(len(MAGIC)) == MAGIC and not file.seek(0) else b""
    print("\n".join(_of_gsz(path, data) if data else described(path, read_model(path, keep_nan=args.keep_nan))))


def described(path: Path, arrays: SavedArrays) -> list[str]:
    """Lines about a model."""
    num = len(arrays["means"])
    lines = [f"{path}: {described_size(num, path)}, SH degree {sh_degree(arrays)}"]
    lines += [f"  format      {kind_of(path)}", f"  marked      {_mark(is_antialiased(arrays), is_nested(arrays))}"]
    lines += _offset(arrays.offset)
    if num:
        means, middle = arrays["means"], np.median(arrays["means"], axis=0)
        distance = np.linalg.norm(means - middle, axis=1)
        reach = float(np.quantile(distance, 0.9))
        far = int((distance > _FAR * reach).sum())
        lines += _bounds(means.min(axis=0), means.max(axis=0))
        lines.append(f"  nearest 90%  within {reach:.4g} of the median position")
        lines.append(f"  outliers    {far:,} farther than {_FAR:g} times that" if far else "  outliers    none")
        opacity = sigmoid(arrays["opacity_logits"])
        faint = 100 * (opacity < 0.005).mean()
        lines.append(f"  opacity     median {np.median(opacity):.3g}, {faint:.3g} % below 0.005")
        scales = np.exp(np.quantile(arrays["log_scales"], (0.01, 0.5, 0.99)).clip(-80, 80))
        lines.append("  scales      1 %: {:.3g}, median: {:.3g}, 99 %: {:.3g}".format(*scales))
    return lines + [f"  note: {text}" for text in arrays.notes]


def described_size(num: int, path: Path) -> str:
    """Number of Gaussians and size of a file, or of a folder of .sog, in words."""
    files = path.parent.glob("*.webp") if path.name == formats.META else ()
    size = path.stat().st_size + sum(file.stat().st_size for file in files)
    return f"{num:,} Gaussians, {size / MB:.3f} MB, {size / max(num, 1):.1f} bytes per Gaussian"


def _bounds(lows: Sequence[float], highs: Sequence[float]) -> list[str]:
    return [f"  {name:<11} {low:.6g} to {high:.6g}" for name, low, high in zip("xyz", lows, highs, strict=True)]


def _offset(offset: Vector | None) -> list[str]:
    text = "  offset      {:.10g} {:.10g} {:.10g}, subtracted from the coordinates"
    return [] if offset is None else [text.format(*offset)]


def _mark(antialiased: bool, nested: bool) -> str:
    return ("anti-aliased" if antialiased else "not anti-aliased") + (", nested" if nested else "")


def _of_gsz(path: Path, data: bytes) -> list[str]:
    """Lines about a .gsz, without decoding its Gaussians."""
    with input_errors(path, "copy or make the file again"):
        header, streams = unpack(data)
        bounds, offset, levels = bounds_in(header), offset_in(header), levels_in(header)
    num, num_rest = counts_in(header)
    if type(num) is not int or num_rest not in REST_COUNTS:
        raise InputError(path, "a .gsz with its number of Gaussians", "none", "copy or make the file again")
    lines = [
        f"{path}: {described_size(num, path)}, SH degree {REST_COUNTS.index(num_rest)}",
        "  format      gsz",
        f"  marked      {_mark(header.get(ANTIALIASED_KEY) is True, bool(levels))}",
        *([f"  levels      the first {', '.join(f'{end:,}' for end in levels)} Gaussians"] if levels else []),
        *_offset(offset),
        *(_bounds(*bounds) if bounds else []),
        "header: " + ", ".join(f"{key} {json.dumps(value)}"[:80] for key, value in header.items()),
    ]
    width = max(map(len, streams), default=0)
    lines += [
        f"  {name:{width}} {len(stream):10,} bytes {len(stream) / max(num, 1):8.2f} each"
        for name, stream in streams.items()
    ]
    return lines
