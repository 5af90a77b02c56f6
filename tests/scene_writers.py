"""Small data sets for the tests of the readers, written from the formats' documentation alone."""

import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

MODEL_IDS = {
    "SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4, "OPENCV_FISHEYE": 5,
    "FULL_OPENCV": 6, "FOV": 7, "SIMPLE_RADIAL_FISHEYE": 8, "RADIAL_FISHEYE": 9, "THIN_PRISM_FISHEYE": 10,
    "RAD_TAN_THIN_PRISM_FISHEYE": 11, "SIMPLE_DIVISION": 12, "DIVISION": 13, "SIMPLE_FISHEYE": 14, "FISHEYE": 15,
    "EUCM": 16, "EQUIRECTANGULAR": 17,
}  # fmt: skip
MODEL_PARAMS = dict(zip(MODEL_IDS, (3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12, 16, 4, 5, 3, 4, 6, 2), strict=True))
PINHOLE = (1, "PINHOLE", 40, 30, (35.0, 36.0, 20.5, 14.5))


def write_photo(path: Path, width: int = 40, height: int = 30, mode: str = "RGB", seed: int = 0) -> np.ndarray:
    """Write a picture of noise and return its (H,W,...) uint8 values."""
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path)
    return pixels


def write_cameras(model: Path, cameras: list[tuple]) -> None:
    """cameras.bin of (id, model name, width, height, parameters)."""
    data = struct.pack("<Q", len(cameras))
    for camera_id, name, width, height, params in cameras:
        data += struct.pack(f"<IiQQ{len(params)}d", camera_id, MODEL_IDS[name], width, height, *params)
    (model / "cameras.bin").write_bytes(data)


def write_images(model: Path, images: list[tuple]) -> None:
    """images.bin of (name, camera id, quaternion, translation), each with two observations."""
    data = struct.pack("<Q", len(images))
    for index, (name, camera_id, q, t) in enumerate(images):
        data += struct.pack("<I7dI", index + 1, *q, *t, camera_id) + name.encode() + b"\0"
        data += struct.pack("<QddQddQ", 2, 1.5, 2.5, 1, 3.5, 4.5, 2**64 - 1)
    (model / "images.bin").write_bytes(data)


def write_points(model: Path, xyz: np.ndarray, rgb: np.ndarray) -> None:
    """points3D.bin with tracks of 0, 1, 2, ... observations."""
    data = struct.pack("<Q", len(xyz))
    for index, (position, colour) in enumerate(zip(xyz, rgb, strict=True)):
        data += struct.pack("<Q3d3BdQ", index, *position, *colour, 0.5, index) + bytes(8 * index)
    (model / "points3D.bin").write_bytes(data)


def ply_of(properties: list[tuple[str, str]], rows: list[tuple], layout: str = "ascii") -> bytes:
    """A PLY of rows; properties are (type, name). A comment and no faces are in it, too."""
    letters = {"float": "f", "float32": "f", "double": "d", "uchar": "B", "ushort": "H", "int": "i"}
    header = ["ply", f"format {layout} 1.0", "comment made by hand", f"element vertex {len(rows)}"]
    header += [f"property {kind} {name}" for kind, name in properties]
    header += ["element face 0", "property list uchar int vertex_indices", "end_header", ""]
    if layout == "ascii":
        body = "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()
    else:
        row_of = (">" if "big" in layout else "<") + "".join(letters[kind] for kind, _ in properties)
        body = b"".join(struct.pack(row_of, *row) for row in rows)
    return "\n".join(header).encode() + body


def write_colmap(source: Path, cameras=(PINHOLE,), num_images: int = 10, num_points: int = 5) -> Path:
    """A whole binary scene whose cameras stand side by side, photo 000.png leftmost; returns the model's folder."""
    model = source / "sparse" / "0"
    model.mkdir(parents=True)
    write_cameras(model, list(cameras))
    images = []
    for i in range(num_images):
        camera_id, _, width, height, _ = cameras[i % len(cameras)]
        write_photo(source / "images" / f"{i:03}.png", width, height, seed=i)
        images.append((f"{i:03}.png", camera_id, (1, 0, 0, 0), (-i, 0, 0)))
    write_images(model, images)
    rng = np.random.default_rng(0)
    write_points(model, rng.normal(size=(num_points, 3)), rng.integers(0, 256, (num_points, 3)))
    return model


def write_transforms(source: Path, name: str = "transforms.json", num_frames: int = 10, frame=None, **table) -> dict:
    """A JSON data set with photos images/000.png ...; ``frame(i)`` adds to the entries; returns the table."""
    frames = []
    for i in range(num_frames):
        write_photo(source / "images" / f"{i:03}.png", seed=i)
        entry = {"file_path": f"images/{i:03}.png", "transform_matrix": np.eye(4).tolist()}
        frames.append({**entry, **(frame(i) if frame else {})})
    table = {"fl_x": 35.0, "frames": frames, **table}
    (source / name).write_text(json.dumps(table))
    return table
