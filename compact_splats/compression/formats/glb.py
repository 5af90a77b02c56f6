"""glTF with KHR_gaussian_splatting as .glb: float32, without loss, SH degrees 0 to 3.

glTF's axes are left, up, front (x to the left of the model), those of models right, down, front: the writer turns the
model half about z, which changes signs only, and the reader turns it back. An offset is the node's translation. The
anti-aliased mark, for which the extension has no field, is in the primitive's ``extras``.

[https://github.com/KhronosGroup/glTF, extensions/2.0/Khronos/KHR_gaussian_splatting/README.md, ratified; glTF 2.0]
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from compact_splats.compression.arrays import Arrays, joined
from compact_splats.compression.container import FormatError
from compact_splats.compression.edits import transformed
from compact_splats.compression.formats.common import (
    MAX_LOG_SCALE,
    dc_to_color,
    from_scales,
    logit,
    read_file,
    sigmoid,
    to_byte,
    to_scales,
    unit,
    write_file,
)
from compact_splats.scene.parameters import MAX_LOGIT, REST_COUNTS, SavedArrays, is_antialiased, sh_degree

MAGIC = b"glTF"
EXTENSION = "KHR_gaussian_splatting"
_HEADER, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")  # magic, version, bytes; bytes, kind
LIMITS = {"log_scales": (-MAX_LOG_SCALE, MAX_LOG_SCALE)}
_MAX_JSON = 1 << 24  # bytes
_MAX_DEPTH = 64  # of nodes
_LEAST = 256  # Gaussians that a primitive counts for, as reading one takes time
_HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])  # about z
_KINDS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5126: "<f4"}  # by componentType
_COLUMNS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
_MARK = "SplatRenderMode"  # in extras


def write(path: str | Path, arrays: Arrays) -> list[str]:
    """Write a model in its own order, with colours for viewers that show points."""
    return write_file(path, arrays, _pack, LIMITS)


def read(path: str | Path, *, keep_nan: bool = False) -> SavedArrays:
    """Read a model, all splat primitives of the scene together, moved as their nodes say."""
    return read_file(path, _unpack, keep_nan)


# ---- writing ----


def _pack(arrays: SavedArrays) -> bytes:
    mark = is_antialiased(arrays)
    arrays = transformed(arrays, _HALF_TURN)
    opacity = sigmoid(arrays["opacity_logits"])
    shown = to_byte(255 * np.concatenate([dc_to_color(arrays["sh_dc"][:, 0]), opacity], axis=1))
    columns = {
        "POSITION": arrays["means"],
        "COLOR_0": shown,
        f"{EXTENSION}:ROTATION": np.roll(unit(arrays["quats"]), -1, axis=1).astype("<f4"),
        f"{EXTENSION}:SCALE": to_scales(arrays["log_scales"]),
        f"{EXTENSION}:OPACITY": opacity.astype("<f4"),
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": arrays["sh_dc"][:, 0],
    }
    for degree in range(1, sh_degree(arrays) + 1):
        for i in range(2 * degree + 1):
            columns[f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{i}"] = arrays["sh_rest"][:, degree**2 - 1 + i]
    views, accessors, parts, start = [], [], [], 0
    for name, values in columns.items():
        data = np.ascontiguousarray(values).tobytes()
        views.append({"buffer": 0, "byteOffset": start, "byteLength": len(data), "target": 34962})
        accessors.append(_accessor(name, values, len(views) - 1))
        parts.append(data)
        start += len(data)
    extension = {
        "kernel": "ellipse", "colorSpace": "srgb_rec709_display", "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }  # fmt: skip
    primitive: dict[str, Any] = {
        "attributes": {name: i for i, name in enumerate(columns)},
        "mode": 0,
        "extensions": {EXTENSION: extension},
    }
    if mark:
        primitive["extras"] = {_MARK: "mip"}
    document = {
        "asset": {"version": "2.0", "generator": "compact-splats"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0} if arrays.offset is None else {"mesh": 0, "translation": list(arrays.offset)}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": start}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body = b"".join(parts)
    total = _HEADER.size + 2 * _CHUNK.size + len(text) + len(body)
    if total >= 1 << 32:
        raise FormatError("a .glb of less than 4 GiB", f"{total:,} bytes")
    chunks = [_CHUNK.pack(len(text), b"JSON"), text, _CHUNK.pack(len(body), b"BIN\0"), body]
    return _HEADER.pack(MAGIC, 2, total) + b"".join(chunks)


def _accessor(name: str, values: np.ndarray, view: int) -> dict[str, Any]:
    kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[values.shape[1]]
    accessor: dict[str, Any] = {"bufferView": view, "componentType": 5126, "count": len(values), "type": kind}
    if values.dtype == np.uint8:
        accessor |= {"componentType": 5121, "normalized": True}
    if name == "POSITION":  # glTF wants its bounds
        accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
    return accessor


# ---- reading ----


def _unpack(data: bytes) -> Arrays:
    if len(data) < _HEADER.size or data[:4] != MAGIC:
        raise FormatError("a .glb file", f"one that starts with {data[:4]!r}")
    _, version, total = _HEADER.unpack_from(data)
    if version != 2 or total > len(data):
        raise FormatError(f"glTF 2.0 in {total} bytes", f"version {version} in {len(data)} bytes")
    text, start = _chunk(data, _HEADER.size, b"JSON")
    body = _chunk(data, start, b"BIN\0")[0] if start < len(data) else memoryview(b"")
    if len(text) > _MAX_JSON:
        raise FormatError(f"JSON of at most {_MAX_JSON} bytes", f"{len(text)}")
    try:
        document = json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        raise FormatError("JSON in a .glb", f"'{error}'") from error
    return _Document(document, body).arrays()


def _chunk(data: bytes, start: int, kind: bytes) -> tuple[memoryview, int]:
    """A chunk's content and where the next one starts."""
    if start + _CHUNK.size > len(data):
        raise FormatError(f"a chunk {kind!r} in a .glb", "the end of the file")
    size, found = _CHUNK.unpack_from(data, start)
    end = start + _CHUNK.size + size
    if found != kind or end > len(data):
        raise FormatError(f"a chunk {kind!r} in a .glb", f"{found!r} of {size} bytes")
    return memoryview(data)[start + _CHUNK.size : end], end


class _Document:
    """The JSON and the binary chunk of a .glb, both untrusted."""

    def __init__(self, document: Any, body: memoryview) -> None:
        self.document, self.body = document, body
        self.room = max(1 << 16, 4 * len(body))  # Gaussians in all: meshes may be shown several times

    def arrays(self) -> SavedArrays:
        parts = [part for root in self._roots() for part in self._of_node(root, np.eye(4), 0)]
        if not parts:
            raise FormatError(f"a primitive with {EXTENSION}", "none")
        is_mixed = len({part.antialiased for part in parts}) > 1
        notes = ["some parts are anti-aliased and some not: taken as not"] if is_mixed else []
        model = joined(parts)
        return model.replaced(model, *notes)

    def _roots(self) -> list[Any]:
        """The nodes of the scene; without scenes all that are no child."""
        scenes = self._entry(self.document, "scenes", list, [])
        if scenes:
            scene = self._item("scenes", self._entry(self.document, "scene", int, 0))
            return self._entry(scene, "nodes", list, [])
        nodes = self._entry(self.document, "nodes", list, [])
        children = {i for node in nodes if isinstance(node, dict) for i in _integers(node.get("children"))}
        return [i for i in range(len(nodes)) if i not in children]

    def _of_node(self, index: Any, parent: np.ndarray, depth: int) -> list[SavedArrays]:
        if depth > _MAX_DEPTH:
            raise FormatError(f"nodes at most {_MAX_DEPTH} deep", "more, or a circle")
        node = self._item("nodes", index)
        matrix = parent @ _matrix(node)
        found = []
        if "mesh" in node:
            for primitive in self._entry(self._item("meshes", node["mesh"]), "primitives", list, []):
                if EXTENSION in self._entry(primitive, "extensions", dict, {}):
                    found.append(self._of_primitive(primitive, matrix))
        for child in self._entry(node, "children", list, []):
            found += self._of_node(child, matrix, depth + 1)
        return found

    def _of_primitive(self, primitive: dict[str, Any], matrix: np.ndarray) -> SavedArrays:
        about = self._entry(self._entry(primitive, "extensions", dict, {}), EXTENSION, dict, {})
        if about.get("extensions"):
            raise FormatError(f"{EXTENSION} without further extensions", f"{list(about['extensions'])!r:.60}")
        if about.get("kernel") != "ellipse":
            raise FormatError("the kernel 'ellipse'", f"{about.get('kernel')!r:.60}")
        if about.get("colorSpace", "srgb_rec709_display") != "srgb_rec709_display":
            raise FormatError("the color space srgb_rec709_display", f"{about['colorSpace']!r:.60}")
        attributes = self._entry(primitive, "attributes", dict, {})
        means = self._values(attributes, "POSITION", 3)
        scales, quats, opacity, sh_dc = (
            self._values(attributes, f"{EXTENSION}:{name}", columns, len(means))
            for name, columns in (("SCALE", 3), ("ROTATION", 4), ("OPACITY", 1), ("SH_DEGREE_0_COEF_0", 3))
        )
        rest = [
            self._values(attributes, f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{i}", 3, len(means))
            for degree in range(1, len(REST_COUNTS))
            if f"{EXTENSION}:SH_DEGREE_{degree}_COEF_0" in attributes
            for i in range(2 * degree + 1)
        ]
        if len(rest) not in REST_COUNTS:
            raise FormatError("all lower SH degrees of a higher one", f"{len(rest)} coefficients")
        if (scales < 0).any() or (opacity < 0).any() or (opacity > 1).any():
            raise FormatError("scales of 0 or more and opacities from 0 to 1", f"{scales.min()} or {opacity.min()}")
        self.room -= max(len(means), _LEAST)
        if self.room < 0:
            raise FormatError("each mesh once", "more Gaussians than the file has room for")
        arrays = {
            "means": means,
            "log_scales": from_scales(scales),
            "quats": np.roll(quats, 1, axis=1),
            "opacity_logits": np.clip(logit(opacity.astype(np.float64)), -MAX_LOGIT, MAX_LOGIT),
            "sh_dc": sh_dc[:, None],
            "sh_rest": np.stack(rest, axis=1) if rest else np.zeros((len(means), 0, 3), np.float32),
        }
        mark = self._entry(primitive, "extras", dict, {}).get(_MARK) == "mip"
        try:
            return transformed(SavedArrays(arrays, mark), np.linalg.inv(_HALF_TURN) @ matrix)
        except ValueError as error:
            raise FormatError("nodes that move, turn and scale evenly", f"'{error}'") from error

    def _values(self, attributes: dict[str, Any], name: str, columns: int, num: int | None = None) -> np.ndarray:
        """(N,columns) float32 of an attribute; sparse accessors are refused."""
        accessor = self._item("accessors", self._entry(attributes, name, int))
        kind, count = self._entry(accessor, "componentType", int), self._entry(accessor, "count", int)
        if _COLUMNS.get(self._entry(accessor, "type", str)) != columns or kind not in _KINDS or "sparse" in accessor:
            raise FormatError(f"{name} of {columns} numbers", f"{accessor['type']!r:.20} of type {kind}")
        view = self._item("bufferViews", self._entry(accessor, "bufferView", int))
        dtype = np.dtype(_KINDS[kind])
        start = self._entry(view, "byteOffset", int, 0) + self._entry(accessor, "byteOffset", int, 0)
        stride = self._entry(view, "byteStride", int, columns * dtype.itemsize)
        length = (count - 1) * stride + columns * dtype.itemsize
        if self._entry(view, "buffer", int) != 0 or not columns * dtype.itemsize <= stride <= 252:
            raise FormatError("the buffer of the .glb, in strides of up to 252 bytes", f"strides of {stride}")
        if count < 1 or (num is not None and count != num) or start < 0 or start + length > len(self.body):
            raise FormatError(f"{name} of {num or 'at least one'} Gaussians in the file", f"{count} from byte {start}")
        values = np.ndarray((count, columns), dtype, self.body, start, (stride, dtype.itemsize))
        if accessor.get("normalized") is True and dtype.kind in "iu":
            return np.maximum(values / np.float32(np.iinfo(dtype).max), np.float32(-1)).astype(np.float32)
        return values.astype(np.float32)

    def _entry(self, owner: Any, key: str, kind: type, default: Any = None) -> Any:
        value: Any = owner.get(key, default) if isinstance(owner, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise FormatError(f"{key} in the JSON of a .glb", "nothing" if value is None else f"{value!r:.50}")
        if isinstance(value, int) and abs(value) >= 1 << 48:
            raise FormatError(f"{key} in the JSON of a .glb", "a number that is too large")
        return value

    def _item(self, key: str, index: Any) -> dict[str, Any]:
        items = self._entry(self.document, key, list)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(items):
            raise FormatError(f"an index of {key} in the JSON of a .glb", f"{index!r:.50}")
        if not isinstance(items[index], dict):
            raise FormatError(f"objects in {key} in the JSON of a .glb", f"{items[index]!r:.50}")
        return items[index]


def _integers(values: Any) -> list[int]:
    return [value for value in values if type(value) is int] if isinstance(values, list) else []


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """(4,4) of a node, by ``matrix`` or by translation, rotation and scale."""

    def numbers(key: str, default: list[float]) -> np.ndarray:
        values = node.get(key, default)
        is_list = isinstance(values, list) and len(values) == len(default)
        if not is_list or not all(type(value) in (int, float) and abs(value) < 1e30 for value in values):
            raise FormatError(f"{len(default)} finite numbers as {key} of a node", f"{values!r:.50}")
        return np.array(values, np.float64)

    if "matrix" in node:
        return numbers("matrix", [0.0] * 16).reshape(4, 4).T  # stored by columns
    x, y, z, w = numbers("rotation", [0.0, 0.0, 0.0, 1.0])
    length = x * x + y * y + z * z + w * w
    if not 0.5 < length < 2:
        raise FormatError("a unit quaternion as rotation of a node", f"one of length {length**0.5:.3g}")
    s = 2 / length
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)],
        [s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x)],
        [s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)],
    ]
    matrix[:3, :3] *= numbers("scale", [1.0, 1.0, 1.0])
    matrix[:3, 3] = numbers("translation", [0.0, 0.0, 0.0])
    return matrix
