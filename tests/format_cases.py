"""Models to put into files of other tools, and how near a copy has to be; imported by the tests of the formats."""

import importlib
import io
import json
import struct

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree
from scipy.special import expit

ENDINGS = {"splat": ".splat", "spz": ".spz", "compressed_ply": ".compressed.ply", "sog": ".sog", "glb": ".glb"}
FORMATS = {name: importlib.import_module(f"compact_splats.compression.formats.{name}") for name in ENDINGS}
C0 = 0.28209479177387814
# Largest errors of rotations, as parts of unit quaternions. Half a step of the three stored parts, and what that makes
# of the fourth, which is at least 1/2: up to 3 half steps of parts up to sqrt(1/2) over a part of 1/2 = 3 sqrt(1/2) / 2
# half steps over 1/2; a step is 1/128 (splat), sqrt(2)/1022, sqrt(2)/1023 and sqrt(2)/255.
QUAT_ERROR = {"splat": 0.0079, "spz": 0.0021, "compressed_ply": 0.0021, "sog": 0.0083, "glb": 2e-6}


def random_rows(num: int, num_rest: int = 15, seed: int = 0) -> dict[str, np.ndarray]:
    """Values as trained models have them, all within what every format can hold."""
    rng = np.random.default_rng(seed)
    rows = {
        "means": rng.uniform(-3, 3, (num, 3)),
        "log_scales": rng.uniform(-7, -1, (num, 3)),
        "quats": rng.standard_normal((num, 4)) * rng.uniform(0.1, 5, (num, 1)),
        "opacity_logits": rng.uniform(-5, 5, (num, 1)),
        "sh_dc": rng.uniform(-1.7, 1.7, (num, 1, 3)),
        "sh_rest": np.clip(0.3 * rng.standard_normal((num, num_rest, 3)), -0.99, 0.99),
    }
    return {name: row.astype(np.float32) for name, row in rows.items()}


def ksplat_bytes(rows: dict[str, np.ndarray], level: int, bucket_size: int = 16) -> bytes:
    """A .ksplat of two sections as the format is documented, by a writer of its own; ``rows`` come back in order."""
    num, num_rest = len(rows["means"]), rows["sh_rest"].shape[1]
    kinds = {0: ("<f4", "<f4", "<f4"), 1: ("<u2", "<f2", "<f2"), 2: ("<u2", "<f2", "u1")}[level]
    low, high, side = -2.0, 2.0, 4.0
    headers, bodies = [], []
    for rows_of_section in np.array_split(np.arange(num), 2):
        part = {name: row[rows_of_section].astype(np.float64) for name, row in rows.items()}
        count = len(rows_of_section)
        table = np.zeros(count, [("c", kinds[0], 3), ("s", kinds[1], 3), ("q", kinds[1], 4), ("rgba", "u1", 4),
                                 ("r", kinds[2], 3 * num_rest)])  # fmt: skip
        num_full, left = divmod(count, bucket_size)
        num_buckets = num_full + bool(left) if level else 0
        centers = np.zeros((num_buckets, 3), "<f4")
        if level:
            buckets = np.arange(count) // bucket_size
            for i in range(num_buckets):
                centers[i] = part["means"][buckets == i].mean(axis=0)
            steps = (part["means"] - centers[buckets]) * 32767 / (side / 2) + 32767
            assert steps.min() >= 0 and steps.max() <= 65535
            table["c"] = np.rint(steps)
        else:
            table["c"] = part["means"]
        table["s"], table["q"] = np.exp(part["log_scales"]), unit_quats(part["quats"])
        color = 255 * np.clip(0.5 + C0 * part["sh_dc"][:, 0], 0, 1)
        table["rgba"] = np.rint(np.concatenate([color, 255 * expit(part["opacity_logits"])], axis=1))
        bands = np.split(part["sh_rest"], [min(3, num_rest)], axis=1)
        rest = np.concatenate([band.swapaxes(1, 2).reshape(count, -1) for band in bands], axis=1)
        table["r"] = np.rint((np.clip(rest, low, high) - low) / (high - low) * 255) if level == 2 else rest
        lengths = np.array([left] if left and level else [], "<u4")
        body = lengths.tobytes() + centers.tobytes() + table.tobytes()
        headers.append(struct.pack(
            "<IIIIfHxxIIIIH982x", count, count, bucket_size, num_buckets, side, 12 if level else 0, 32767, len(body),
            num_full if level else 0, len(lengths), {0: 0, 3: 1, 8: 2}[num_rest],
        ))  # fmt: skip
        bodies.append(body)
    main = struct.pack("<BBxxIIIIHxx3fff", 0, 1, 2, 2, num, num, level, 0, 0, 0, low, high).ljust(4096, b"\0")
    return main + b"".join(headers) + b"".join(bodies)


def first_sog(rows: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The files of a .sog of version 1, SH degree 3 or 0, by a writer of its own; ``rows`` come back in order."""
    num = len(rows["means"])
    side = int(np.ceil(np.sqrt(num)))

    def image(columns: np.ndarray) -> bytes:
        width = side if len(columns) == num else columns.shape[1]
        pixels = np.zeros((side * side, columns.shape[1]), np.uint8)
        if len(columns) == num:
            pixels[:num] = columns
            columns = pixels.reshape(side, width, -1)
        out = io.BytesIO()
        Image.fromarray(columns.astype(np.uint8)).save(out, "WEBP", lossless=True, exact=True)
        return out.getvalue()

    def steps(values: np.ndarray, most: int) -> tuple[np.ndarray, dict[str, list[float]]]:
        low, high = values.min(axis=0), values.max(axis=0)
        fractions = (values - low) / np.where(high > low, high - low, 1)
        return np.rint(fractions * most).astype(int), {"mins": low.tolist(), "maxs": high.tolist()}

    means, mean_bounds = steps(np.sign(rows["means"]) * np.log1p(np.abs(rows["means"].astype(np.float64))), 65535)
    scales, scale_bounds = steps(rows["log_scales"].astype(np.float64), 255)
    colors, color_bounds = steps(np.concatenate([rows["sh_dc"][:, 0], rows["opacity_logits"]], axis=1), 255)
    quats = unit_quats(rows["quats"])
    largest = np.abs(quats).argmax(axis=1)
    quats = quats * np.sign(np.take_along_axis(quats, largest[:, None], axis=1))
    others = np.stack([np.delete(quat, index) for quat, index in zip(quats, largest, strict=True)])
    packed = np.concatenate([np.rint((others * np.sqrt(2) / 2 + 0.5) * 255), 252 + largest[:, None]], axis=1)
    files = {
        "means_l.webp": image(means & 255), "means_u.webp": image(means >> 8), "scales.webp": image(scales),
        "quats.webp": image(packed), "sh0.webp": image(colors),
    }  # fmt: skip
    meta: dict = {
        "means": {"shape": [num, 3], "dtype": "float32", **mean_bounds, "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"shape": [num, 3], "dtype": "float32", **scale_bounds, "files": ["scales.webp"]},
        "quats": {"shape": [num, 4], "dtype": "uint8", "encoding": "quaternion_packed", "files": ["quats.webp"]},
        "sh0": {"shape": [num, 1, 4], "dtype": "float32", **color_bounds, "files": ["sh0.webp"]},
    }
    if rows["sh_rest"].shape[1]:
        assert num <= 64, "one palette entry each, in one row of the image"
        rest = rows["sh_rest"].astype(np.float64)
        low, high = float(rest.min()), float(rest.max())
        palette = np.zeros((64, 15, 3), np.uint8)
        palette[:num] = np.rint((rest - low) / (high - low) * 255)
        labels = np.arange(num)
        files["shN_centroids.webp"] = image(palette.reshape(1, 64 * 15, 3))
        files["shN_labels.webp"] = image(np.stack([labels & 255, labels >> 8, labels * 0], axis=1))
        meta["shN"] = {"shape": [num, 15], "dtype": "float32", "mins": low, "maxs": high, "quantization": 8,
                       "files": ["shN_centroids.webp", "shN_labels.webp"]}  # fmt: skip
    return {"meta.json": json.dumps(meta).encode(), **files}


def aligned(rows: dict[str, np.ndarray], like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The Gaussians in the order of those of another model that lie nearest to them; formats choose their own order."""
    order = cKDTree(rows["means"]).query(like["means"])[1]
    assert len(np.unique(order)) == len(like["means"]) == len(rows["means"]), "Gaussians lost, or taken twice"
    return {name: row[order] for name, row in rows.items()}


def unit_quats(quats: np.ndarray) -> np.ndarray:
    return quats / np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)


def errors(rows: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of each row: of opacities after activation, and of quaternions up to length and sign."""
    found = {name: row.astype(np.float64) for name, row in rows.items()}
    result = {name: np.abs(row - expected[name]).max(initial=0) for name, row in found.items()}
    result["opacity_logits"] = np.abs(expit(found["opacity_logits"]) - expit(expected["opacity_logits"])).max()
    one, other = unit_quats(rows["quats"]), unit_quats(expected["quats"])
    signs = np.where((one * other).sum(axis=1, keepdims=True) < 0, -1, 1)
    result["quats"] = np.abs(one - signs * other).max()
    return result
