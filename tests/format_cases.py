"""Models to put into files of other tools, and how near a copy has to be; imported by the tests of the formats."""

import importlib

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import expit

ENDINGS = {"splat": ".splat", "spz": ".spz", "compressed_ply": ".compressed.ply", "sog": ".sog"}
FORMATS = {name: importlib.import_module(f"compact_splats.compression.formats.{name}") for name in ENDINGS}
C0 = 0.28209479177387814
# Largest errors of rotations, as parts of unit quaternions. Half a step of the three stored parts, and what that makes
# of the fourth, which is at least 1/2: up to 3 half steps of parts up to sqrt(1/2) over a part of 1/2 = 3 sqrt(1/2) / 2
# half steps over 1/2; a step is 1/128 (splat), sqrt(2)/1022, sqrt(2)/1023 and sqrt(2)/255.
QUAT_ERROR = {"splat": 0.0079, "spz": 0.0021, "compressed_ply": 0.0021, "sog": 0.0083}


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
