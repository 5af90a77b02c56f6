"""A small model with cameras and photos, as a run folder on disk, that browsers can be shown at once."""

from pathlib import Path

import numpy as np
import torch

from compact_splats.scene import ply
from compact_splats.scene.cameras import Camera
from compact_splats.scene.saved_cameras import camera_entries
from compact_splats.utils.files import write_json

WIDTH, HEIGHT = 160, 120


def rows_of(num: int, sh_degree: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A ball of coloured, opaque and elongated Gaussians around the origin, whose colours depend on the direction."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(num, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rows = {
        "means": directions * rng.uniform(0.2, 1, (num, 1)),
        "log_scales": np.log(rng.uniform(0.02, 0.15, (num, 3))),
        "quats": rng.normal(size=(num, 4)),
        "opacity_logits": rng.uniform(-1, 4, (num, 1)),
        "sh_dc": rng.uniform(-1.2, 1.2, (num, 1, 3)),
        "sh_rest": rng.normal(0, 0.15, (num, (sh_degree + 1) ** 2 - 1, 3)),
    }
    return {name: row.astype(np.float32) for name, row in rows.items()}


def cameras(num: int = 3) -> list[Camera]:
    """On a circle, with a principal point off centre and different focal lengths; y is down."""
    made = []
    for index in range(num):
        angle = 0.5 * index
        rotation = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
        pose = np.eye(4)
        pose[:3, :3] = rotation
        pose[:3, 3] = (0.1, 0.05, 3)
        pose = torch.from_numpy(pose).float()
        made.append(Camera(f"{index}.png", WIDTH, HEIGHT, 150.0, 145.0, 85.0, 55.0, pose, None))
    return made


def write_run(folder: Path, num: int = 300, sh_degree: int = 3) -> Path:
    """A run folder with a model and its cameras, and no photos."""
    path = folder / "point_cloud" / "iteration_1" / "point_cloud.ply"
    path.parent.mkdir(parents=True)
    ply.write(path, rows_of(num, sh_degree))
    write_json(folder / "cameras.json", camera_entries(cameras()))
    return folder
