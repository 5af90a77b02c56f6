"""PlayCanvas's .sog, version 2: a ZIP of meta.json and lossless WebP images, a pixel per Gaussian.

Positions are 16 bits an axis on a logarithmic scale; scales and colours are indices of codebooks of 256; quaternions
are three parts of 8 bits; the higher SH degrees are an entry of a palette, whose coefficients are indices, too. Not
read: folders of unzipped files, and version 1.

[https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog]
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import expit

from compact_splats.compression.arrays import REST_COUNTS, Arrays
from compact_splats.compression.container import FormatError
from compact_splats.compression.formats.common import (
    MAX_PART,
    from_smallest_three,
    in_spatial_order,
    opacity_from_byte,
    opacity_to_byte,
    read_file,
    smallest_three,
    to_byte,
    write_file,
)
from compact_splats.compression.formats.kmeans import codebook_of_numbers, codebook_of_vectors, nearest_number

VERSION = 2
_CODEBOOK = 256
_MAX_PALETTE = 1 << 16
_PALETTE_COLUMNS = 64  # entries of the palette in a row of pixels
_FIRST_MODE = 252  # of alpha in quats.webp: + index of the part that is left out
_MAX_META = 1 << 20  # bytes
_MAX_LOG_AREA = 300.0  # exp() of it and its square stay finite
_MAX_SIDE = 16383  # pixels, of WebP
# Real models take 10 bytes per Gaussian or more. A file that claims many more Gaussians is a bomb: a few bytes of WebP
# can be an image of one colour that fills the memory. Small files may claim `_FEW_GAUSSIANS`.
_MAX_GAUSSIANS_PER_BYTE, _FEW_GAUSSIANS = 4, 1 << 16
# RuntimeError: an encrypted file; its subclass NotImplementedError: a newer version of ZIP.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ValueError)


def write(path: str | Path, arrays: Arrays, *, palette: int | None = None) -> None:
    """Write a model, in Morton order.

    Args:
        path: the file; replaced in one move.
        arrays: by name and in the shapes of ``GaussianModel.parameters``, at least one Gaussian.
        palette: number of entries for the higher SH degrees, 1 to 65,536; None: a quarter of the Gaussians.

    Raises:
        InputError: not the arrays of a model, or a file that cannot be written.
    """
    assert palette is None or 1 <= palette <= _MAX_PALETTE, palette
    write_file(path, arrays, lambda arrays: _pack(arrays, palette))


def read(path: str | Path) -> Arrays:
    """Read a model of SH degree 0 to 3.

    Raises:
        InputError: no such file, another version, or one that is damaged.
    """
    return read_file(path, _unpack)


# ---- writing ----


def _pack(arrays: Arrays, palette: int | None) -> bytes:
    arrays = in_spatial_order(arrays)
    num = len(arrays["means"])
    means, low, high = _pack_means(arrays["means"])
    weights = _weights(arrays)
    scale_book, scales = _indexed(arrays["log_scales"], weights)
    color_book, colors = _indexed(arrays["sh_dc"][:, 0], weights)
    images = {
        "means_l": _image(means & 255),
        "means_u": _image(means >> 8),
        "scales": _image(scales),
        "quats": _image(_pack_rotations(arrays["quats"])),
        "sh0": _image(np.concatenate([colors, opacity_to_byte(arrays["opacity_logits"])], axis=1)),
    }
    meta: dict[str, Any] = {
        "version": VERSION,
        "count": num,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book, "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": color_book, "files": ["sh0.webp"]},
    }
    if arrays["sh_rest"].shape[1]:
        size = min(_MAX_PALETTE, max(1, num // 4)) if palette is None else palette
        meta["shN"], more = _pack_rest(arrays["sh_rest"], weights, size)
        images |= more
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {"meta.json": json.dumps(meta, separators=(",", ":")).encode(), **images}.items():
            name = name if name == "meta.json" else f"{name}.webp"
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980: the same model gives the same file
    return packed.getvalue()


def _pack_means(means: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """16-bit positions (N,3), and the bounds (3,) of their logarithms."""
    logs = np.copysign(np.log1p(np.abs(means.astype(np.float64))), means)
    low, high = logs.min(axis=0), logs.max(axis=0)
    extent = np.where(high > low, high - low, 1)
    return np.rint((logs - low) / extent * 65535).astype(np.uint16), low, high


def _indexed(values: np.ndarray, weights: np.ndarray) -> tuple[list[float], np.ndarray]:
    """A codebook of 256 numbers as it is written, and the uint8 index (N,D) of each value, with weights (N,)."""
    numbers = codebook_of_numbers(values.ravel(), np.repeat(weights, values.shape[1]), _CODEBOOK)
    codebook = [float(f"{number:.6g}") for number in numbers]
    return codebook, nearest_number(np.array(codebook), values).astype(np.uint8)


def _pack_rotations(quats: np.ndarray) -> np.ndarray:
    """(N,4) uint8: three parts, then which of (w, x, y, z) is left out."""
    largest, parts = smallest_three(quats)
    stored = to_byte((parts / (2 * MAX_PART) + 0.5) * 255)
    return np.concatenate([stored, (_FIRST_MODE + largest[:, None]).astype(np.uint8)], axis=1)


def _pack_rest(sh_rest: np.ndarray, weights: np.ndarray, size: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    num, num_rest = sh_rest.shape[:2]
    palette, labels = codebook_of_vectors(sh_rest.reshape(num, -1), weights, size)
    codebook, indices = _indexed(palette, np.bincount(labels, weights))
    height = math.ceil(len(palette) / _PALETTE_COLUMNS)
    pixels = np.zeros((height * _PALETTE_COLUMNS, num_rest, 3), np.uint8)
    pixels[: len(palette)] = indices.reshape(-1, num_rest, 3)
    labels_rgb = np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=1)
    files = ["shN_centroids.webp", "shN_labels.webp"]
    meta = {"count": len(palette), "bands": REST_COUNTS.index(num_rest), "codebook": codebook, "files": files}
    centroids = _webp(pixels.reshape(height, _PALETTE_COLUMNS * num_rest, 3))
    return meta, {"shN_centroids": centroids, "shN_labels": _image(labels_rgb)}


def _weights(arrays: Arrays) -> np.ndarray:
    """(N,) float32 weights of the Gaussians in an image, estimated without cameras: the root of opacity times area.

    On a trained scene of 20,000 Gaussians with a palette of 5,000, this power gave
    31.69 dB; the power 0, that is no weights, 30.81, 1/4 31.57, and 1 31.58.
    """
    scales = np.sort(arrays["log_scales"].astype(np.float64), axis=1)
    log_area = np.clip(scales[:, 1] + scales[:, 2], -_MAX_LOG_AREA, _MAX_LOG_AREA)
    weights = np.sqrt(expit(arrays["opacity_logits"][:, 0].astype(np.float64)) * np.exp(log_area))
    return (weights / weights.max() + 1e-6).astype(np.float32)


def _image(columns: np.ndarray) -> bytes:
    """A nearly square image with a pixel per row of (N,3) or (N,4)."""
    width = 4 * math.ceil(math.sqrt(len(columns)) / 4)
    height = math.ceil(len(columns) / width)
    if width > _MAX_SIDE:
        raise FormatError("a model that fits into images of 16,383 x 16,383 pixels", f"{len(columns)} Gaussians")
    pixels = np.zeros((height * width, columns.shape[1]), np.uint8)
    pixels[: len(columns)] = columns
    return _webp(pixels.reshape(height, width, -1))


def _webp(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    # exact: keeps colours where alpha is 0. quality: the effort of the lossless encoder.
    Image.fromarray(pixels).save(content, "WEBP", lossless=True, quality=100, method=4, exact=True)
    return content.getvalue()


# ---- reading ----


def _unpack(data: bytes) -> Arrays:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except _ZIP_ERRORS as error:
        raise FormatError("a .sog file, a ZIP archive", f"'{error}'") from error
    return _Bundle(archive, len(data)).arrays()


class _Bundle:
    """An archive; everything in it is untrusted."""

    def __init__(self, archive: zipfile.ZipFile, num_bytes: int) -> None:
        self.archive, self.num_bytes = archive, num_bytes
        try:
            self.meta = json.loads(self.content("meta.json", _MAX_META))
        except (ValueError, RecursionError) as error:
            raise FormatError("JSON in meta.json", f"'{error}'") from error
        version = self.entry(dict, name="meta.json").get("version")
        if version != VERSION:
            raise FormatError(f".sog of version {VERSION}", f"version {version!r}")
        self.num = self.whole_number(max(_FEW_GAUSSIANS, _MAX_GAUSSIANS_PER_BYTE * num_bytes), "count")

    def arrays(self) -> Arrays:
        lower, upper = self.image("means", 0)[:, :3], self.image("means", 1)[:, :3]
        low, high = self.numbers(3, "means", "mins"), self.numbers(3, "means", "maxs")
        logs = low + (high - low) * ((upper.astype(np.float64) * 256 + lower) / 65535)
        quats = self.image("quats", 0, channels=4)
        if not (quats[:, 3] >= _FIRST_MODE).all():
            raise FormatError("alpha of 252 to 255 in quats", f"{quats[:, 3].min()}")
        colors = self.image("sh0", 0, channels=4)
        with np.errstate(over="ignore"):  # becomes infinite: `checked` refuses it
            return {
                "means": np.copysign(np.expm1(np.abs(logs)), logs).astype(np.float32),
                "log_scales": self.numbers(_CODEBOOK, "scales", "codebook")[self.image("scales", 0)[:, :3]],
                "quats": from_smallest_three(quats[:, 3] - _FIRST_MODE, (quats[:, :3] / 127.5 - 1) * MAX_PART),
                "opacity_logits": opacity_from_byte(colors[:, 3:]),
                "sh_dc": self.numbers(_CODEBOOK, "sh0", "codebook")[colors[:, None, :3]],
                "sh_rest": self.rest(),
            }

    def rest(self) -> np.ndarray:
        """(N,K,3), K = 0 without shN."""
        if self.meta.get("shN") is None:
            return np.zeros((self.num, 0, 3), np.float32)
        num_rest = REST_COUNTS[self.whole_number(3, "shN", "bands")]
        size = self.whole_number(_MAX_PALETTE, "shN", "count")
        width, height = _PALETTE_COLUMNS * num_rest, math.ceil(size / _PALETTE_COLUMNS)
        pixels = self.image("shN", 0, sides=(width, height)).reshape(-1, num_rest, self.channels)[:size, :, :3]
        labels = self.image("shN", 1)[:, :2].astype(np.int64) @ [1, 256]
        if labels.max() >= size:
            raise FormatError(f"labels of {size} palette entries", f"{labels.max()}")
        palette = self.numbers(_CODEBOOK, "shN", "codebook")[pixels]
        return palette[labels]

    def entry(self, kind: type | tuple[type, ...], *keys: str, name: str = "") -> Any:
        """A value of meta.json, of the type ``kind``."""
        value = self.meta
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            name = name or f"{'.'.join(keys)} in meta.json"
            raise FormatError(f"{name} of a .sog file", "nothing" if value is None else f"{value!r:.50}")
        return value

    def whole_number(self, highest: int, *keys: str) -> int:
        value = self.entry(int, *keys)
        if not 1 <= value <= highest:
            raise FormatError(f"{'.'.join(keys)} from 1 to {highest}", f"{value:.6g}" if value < 1e300 else "more")
        return value

    def numbers(self, count: int, *keys: str) -> np.ndarray:
        """(count,) float32 of a codebook, float64 of the bounds of positions."""
        values = self.entry(list, *keys)
        if len(values) != count or not all(type(value) in (int, float) and abs(value) < 1e30 for value in values):
            raise FormatError(f"{count} finite numbers as {'.'.join(keys)}", f"{values!r:.50}")
        return np.array(values, np.float32 if count == _CODEBOOK else np.float64)

    def content(self, name: str, limit: int) -> bytes:
        """A file of the archive, at most ``limit`` bytes."""
        try:
            info = self.archive.getinfo(name)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.file_size > limit:
                raise FormatError(f"{name} of at most {limit} bytes, stored or deflated", f"{info.file_size} bytes")
            with self.archive.open(info) as file:
                content = file.read(limit + 1)
        except KeyError as error:
            raise FormatError(f"{name} in the archive", "no such file") from error
        except FormatError:
            raise
        except _ZIP_ERRORS as error:
            raise FormatError(f"{name} in the archive", f"'{error}'") from error
        if len(content) > limit:
            raise FormatError(f"{name} of at most {limit} bytes", "more")
        return content

    def image(self, key: str, place: int, channels: int = 3, sides: tuple[int, int] | None = None) -> np.ndarray:
        """Pixels (N,C) uint8 of an image, in reading order.

        Args:
            key: its entry in meta.json.
            place: its place in the list of files there.
            channels: least C.
            sides: required width and height; None: any with a pixel per Gaussian, and few more.
        """
        files = self.entry(list, key, "files")
        if len(files) <= place or not isinstance(files[place], str):
            raise FormatError(f"file {place} of {key} in meta.json", f"{files!r:.50}")
        name = files[place]
        content = self.content(name, self.num_bytes)
        width, height = _webp_sides(name, content)
        if sides is None:
            if not self.num <= width * height <= 2 * self.num + _FEW_GAUSSIANS:
                raise FormatError(f"{name} with a pixel for each of {self.num} Gaussians", f"{width} x {height} pixels")
        elif width != sides[0] or not sides[1] <= height <= _MAX_PALETTE // _PALETTE_COLUMNS:
            raise FormatError(f"{name} of {sides[0]} x {sides[1]} pixels", f"{width} x {height}")
        try:
            with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
                pixels = np.array(image)
        except (OSError, ValueError, SyntaxError, EOFError, RuntimeError) as error:
            raise FormatError(f"a WebP image as {name}", f"'{error}'") from error
        if pixels.shape[:2] != (height, width) or pixels.ndim != 3 or pixels.shape[2] < channels:
            raise FormatError(f"{name} of {width} x {height} pixels with {channels} channels", f"{pixels.shape}")
        self.channels = pixels.shape[2]
        pixels = pixels.reshape(height * width, -1)
        return pixels[: self.num] if sides is None else pixels


def _webp_sides(name: str, content: bytes) -> tuple[int, int]:
    """Width and height from the header: the decoder allocates the whole image when it opens it.

    Raises:
        FormatError: not a single lossless image. [RFC 9649, sections 2.5 and 2.7]
    """
    lossless = content[:4] == b"RIFF" and content[8:16] == b"WEBPVP8L" and len(content) >= 25 and content[20] == 0x2F
    if not lossless:
        raise FormatError(f"a lossless WebP image (VP8L) as {name}", f"one that starts with {content[:16]!r}")
    bits = int.from_bytes(content[21:25], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
