"""PlayCanvas's .sog: meta.json and lossless WebP images, a pixel per Gaussian, in a ZIP or in a folder.

Positions are 16 bits an axis on a logarithmic scale; scales and colours are indices of codebooks of 256; quaternions
are three parts of 8 bits; the higher SH degrees are an entry of a palette, whose coefficients are indices, too.
Version 1, which is read only, has 256 equal steps between bounds in place of each codebook.

[https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog; of version 1
https://github.com/playcanvas/splat-transform/pull/233; of extras
https://api.playcanvas.com/engine/classes/GSplatSogResource]
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from compact_splats.compression.arrays import Arrays
from compact_splats.compression.container import OFFSET_KEY, FormatError, input_errors, offset_in
from compact_splats.compression.formats import META
from compact_splats.compression.formats.common import (
    MAX_PART,
    READ_FIX,
    WRITE_FIX,
    checked_to_write,
    from_smallest_three,
    in_spatial_order,
    opacity_from_byte,
    opacity_to_byte,
    read_file,
    sigmoid,
    smallest_three,
    to_byte,
    unpacked,
    write_file,
)
from compact_splats.compression.formats.kmeans import codebook_of_numbers, codebook_of_vectors, nearest_number
from compact_splats.scene.parameters import REST_COUNTS, SavedArrays, is_antialiased
from compact_splats.utils.files import atomic_write, open_file

VERSION = 2
_EXTRAS, _OURS = "extras", "compact-splats"  # in meta.json: data of applications; of this one
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


def write(path: str | Path, arrays: Arrays, *, palette: int | None = None) -> list[str]:
    """Write a model, in Morton order.

    Args:
        path: the file, replaced in one move; or, where it is named ``meta.json``, that of a folder of loose files,
            which are replaced one by one, ``meta.json`` last.
        arrays: of a model.
        palette: number of entries for the higher SH degrees, 1 to 65,536; None: a quarter of the Gaussians.

    Returns:
        Nothing: the codebooks reach all values.
    """
    assert palette is None or 1 <= palette <= _MAX_PALETTE, palette
    path = Path(path)
    if path.name != META:
        return write_file(path, arrays, lambda arrays: _zipped(_pack(arrays, palette)), {})
    with input_errors(path, WRITE_FIX):
        files = _pack(checked_to_write(arrays), palette)
    for name in sorted(files, key=lambda name: name == META):
        with atomic_write(path.with_name(name)) as temporary:
            temporary.write_bytes(files[name])
    return []


def read(path: str | Path, *, keep_nan: bool = False) -> SavedArrays:
    """Read a model of SH degree 0 to 3, from an archive or from a folder of loose files.

    Args:
        path: the archive, or meta.json, or its folder.
        keep_nan: as of every format.
    """
    path = Path(path)
    if path.is_dir():
        path = path / META
    if path.suffix.lower() != ".json":
        return read_file(path, _unpack, keep_nan)
    return unpacked(path, lambda: _Bundle(_loose_files(path), None).arrays(), keep_nan)


# ---- writing ----


def _pack(arrays: SavedArrays, palette: int | None) -> dict[str, bytes]:
    """The files of a model, by name."""
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
    if is_antialiased(arrays):
        meta |= {"antialias": True, "model": "antialiased"}  # of the specification; of splat-transform
    if arrays.offset is not None:
        meta[_EXTRAS] = {_OURS: {OFFSET_KEY: list(arrays.offset)}}
    if arrays["sh_rest"].shape[1]:
        size = min(_MAX_PALETTE, max(1, num // 4)) if palette is None else palette
        meta["shN"], more = _pack_rest(arrays["sh_rest"], weights, size)
        images |= more
    text = json.dumps(meta, separators=(",", ":")).encode()
    return {META: text, **{f"{name}.webp": content for name, content in images.items()}}


def _zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
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
    weights = np.sqrt(sigmoid(arrays["opacity_logits"][:, 0]) * np.exp(log_area))
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


Files = Callable[[str, int], bytes]  # the content of a file by name, of at most a number of bytes


def _unpack(data: bytes) -> Arrays:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except _ZIP_ERRORS as error:
        raise FormatError("a .sog file, a ZIP archive", f"'{error}'") from error
    return _Bundle(_files_of(archive), len(data)).arrays()


def _files_of(archive: zipfile.ZipFile) -> Files:
    """The files at the root of an archive, or in its only folder."""
    metas = [name for name in archive.namelist() if name.rpartition("/")[2] == META]
    folder = metas[0].removesuffix(META) if len(metas) == 1 else ""

    def content(name: str, limit: int) -> bytes:
        try:
            info = archive.getinfo(folder + name)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.file_size > limit:
                raise FormatError(f"{name} of at most {limit} bytes, stored or deflated", f"{info.file_size} bytes")
            with archive.open(info) as file:
                return file.read(limit + 1)
        except KeyError as error:
            raise FormatError(f"{name} in the archive", "no such file") from error
        except FormatError:
            raise
        except _ZIP_ERRORS as error:
            raise FormatError(f"{name} in the archive", f"'{error}'") from error

    return content


def _loose_files(meta: Path) -> Files:
    """The files beside meta.json, which may have any name; nothing outside of its folder."""

    def content(name: str, limit: int) -> bytes:
        path = meta if name == META else meta.parent / name
        if not name or not name.isprintable() or Path(name).name != name:
            raise FormatError("names of files in the folder of meta.json", f"{name!r:.50}")
        with open_file(path, f"{name} beside meta.json" if path != meta else "meta.json of a .sog", READ_FIX) as file:
            return file.read(limit + 1)

    return content


class _Bundle:
    """The files of a model; everything in them is untrusted.

    Args:
        files: reads one of them.
        num_bytes: of all, None: unknown, then each file counts on its own.
    """

    def __init__(self, files: Files, num_bytes: int | None) -> None:
        self.files = files
        try:
            self.meta = json.loads(self.content(META, _MAX_META))
        except (ValueError, RecursionError) as error:
            raise FormatError("JSON in meta.json", f"'{error}'") from error
        version = self.entry(dict, name=META).get("version", 1)
        if version not in (1, VERSION) or isinstance(version, bool):
            raise FormatError(f".sog of version 1 or {VERSION}", f"version {version!r:.20}")
        self.is_first = version == 1
        self.num_bytes = 1 << 31 if num_bytes is None else num_bytes
        if self.is_first:  # of an array of the file's writer
            self.meta["count"] = next(iter(self.entry(list, "means", "shape")), None)
        if num_bytes is None:
            num_bytes = len(self.image_file("means", 0)[1])
        self.num = self.whole_number(max(_FEW_GAUSSIANS, _MAX_GAUSSIANS_PER_BYTE * num_bytes), "count")

    def arrays(self) -> SavedArrays:
        lower, upper = self.image("means", 0)[:, :3], self.image("means", 1)[:, :3]
        low, high = self.numbers(3, "means", "mins"), self.numbers(3, "means", "maxs")
        logs = low + (high - low) * ((upper.astype(np.float64) * 256 + lower) / 65535)
        quats = self.image("quats", 0, channels=4)
        if not (quats[:, 3] >= _FIRST_MODE).all():
            raise FormatError("alpha of 252 to 255 in quats", f"{quats[:, 3].min()}")
        colors = self.image("sh0", 0, channels=4)[:, :4]
        if self.is_first:
            colors, opacities = np.split(self.between_bounds("sh0", colors), [3], axis=1)
        else:
            opacities = opacity_from_byte(colors[:, 3:])
            colors = self.indexed("sh0", colors[:, :3])
        scales = self.image("scales", 0)[:, :3]
        mark = self.meta.get("antialias") is True or self.meta.get("model") == "antialiased"
        arrays = {
            "means": np.copysign(np.expm1(np.abs(logs)), logs).astype(np.float32),
            "log_scales": (self.between_bounds if self.is_first else self.indexed)("scales", scales),
            "quats": from_smallest_three(quats[:, 3] - _FIRST_MODE, (quats[:, :3] / 127.5 - 1) * MAX_PART),
            "opacity_logits": opacities,
            "sh_dc": colors[:, None],
            "sh_rest": self.rest(),
        }
        ours: Any = self.meta.get(_EXTRAS)
        ours = ours.get(_OURS) if isinstance(ours, dict) else None
        return SavedArrays(arrays, mark, offset=offset_in(ours) if isinstance(ours, dict) else None)

    def indexed(self, key: str, indices: np.ndarray) -> np.ndarray:
        """float32 numbers of a codebook of version 2."""
        return self.numbers(_CODEBOOK, key, "codebook")[indices]

    def between_bounds(self, key: str, steps: np.ndarray) -> np.ndarray:
        """float32 (N,C) of bytes (N,C): equal steps between the bounds of each column, in version 1."""
        columns = steps.shape[1]
        low, high = (self.numbers(columns, key, end).astype(np.float64) for end in ("mins", "maxs"))
        return (low + (high - low) * (steps / 255)).astype(np.float32)

    def rest(self) -> np.ndarray:
        """(N,K,3), K = 0 without shN."""
        if self.meta.get("shN") is None:
            return np.zeros((self.num, 0, 3), np.float32)
        if self.is_first:  # which says neither: the palette's image does
            width, height = _webp_sides(*self.image_file("shN", 0))
            num_rest, size = width // _PALETTE_COLUMNS, min(_MAX_PALETTE, height * _PALETTE_COLUMNS)
            if num_rest not in REST_COUNTS[1:]:
                raise FormatError("a palette of SH degree 1 to 3", f"{width} pixels in a row")
        else:
            num_rest = REST_COUNTS[self.whole_number(3, "shN", "bands")]
            size = self.whole_number(_MAX_PALETTE, "shN", "count")
        width, height = _PALETTE_COLUMNS * num_rest, math.ceil(size / _PALETTE_COLUMNS)
        pixels = self.image("shN", 0, sides=(width, height)).reshape(-1, num_rest, self.channels)[:size, :, :3]
        labels = self.image("shN", 1)[:, :2].astype(np.int64) @ [1, 256]
        if labels.max() >= size:
            raise FormatError(f"labels of {size} palette entries", f"{labels.max()}")
        if self.is_first:
            low, high = (float(self.entry((int, float), "shN", end)) for end in ("mins", "maxs"))
            if not (abs(low) < 1e30 and abs(high) < 1e30):
                raise FormatError("finite bounds of shN", f"{low:.6g} and {high:.6g}")
            return (low + (high - low) * (pixels / 255)).astype(np.float32)[labels]
        return self.indexed("shN", pixels)[labels]

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
        """A file, of at most ``limit`` bytes."""
        content = self.files(name, limit)
        if len(content) > limit:
            raise FormatError(f"{name} of at most {limit} bytes", "more")
        return content

    def image_file(self, key: str, place: int) -> tuple[str, bytes]:
        """Name and content of the image at a place of the list of an entry."""
        files = self.entry(list, key, "files")
        if len(files) <= place or not isinstance(files[place], str):
            raise FormatError(f"file {place} of {key} in meta.json", f"{files!r:.50}")
        return files[place], self.content(files[place], self.num_bytes)

    def image(self, key: str, place: int, channels: int = 3, sides: tuple[int, int] | None = None) -> np.ndarray:
        """Pixels (N,C) uint8 of an image, in reading order.

        Args:
            key: its entry in meta.json.
            place: its place in the list of files there.
            channels: least C.
            sides: required width and height; None: any with a pixel per Gaussian, and few more.
        """
        name, content = self.image_file(key, place)
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
