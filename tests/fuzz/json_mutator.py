"""Changes to JSON that leave it JSON: other values, entries less, more, or from elsewhere. Bytes are for libFuzzer."""

import json
import random
from typing import Any

from test_gsz_fuzz import HOSTILE, near, walk

NAMES = (
    "../a",
    "/a",
    "a" * 300,
    "images/000.png",
    "images/../../a.png",
    "C:\\a",
    "OPENCV_FISHEYE",
    "THIN_PRISM_FISHEYE",
    "FISHEYE624",
    "EQUIRECTANGULAR",
    "FOV",
    "EUCM",
    "DIVISION",
    "\x1b[2J",
    "\ud800",
)


def mutate(data: bytes, rng: random.Random) -> bytes | None:
    """A changed copy of a JSON text; None if this is none, nothing can be changed in it, or it is nested too deep."""
    try:
        root = [json.loads(data)]
        for _ in range(rng.choice((1, 1, 2, 4))):
            places = list(walk(root))
            if not places:
                return None
            _change(*rng.choice(places), [container[key] for container, key in places], rng)
        return json.dumps(root[0] if root else None).encode()
    except (ValueError, RecursionError):
        return None


def _change(container: dict | list, key: Any, values: list, rng: random.Random) -> None:
    how = rng.randrange(6)
    if how == 0:
        container[key] = near(container[key], rng)
    elif how == 1:
        container[key] = rng.choice(HOSTILE)
    elif how == 2:
        container[key] = rng.choice(NAMES)
    elif how == 3:
        container[key] = json.loads(json.dumps(rng.choice(values)))  # a copy: trees with loops are no JSON
    elif how == 4:
        del container[key]
    elif isinstance(container, list):
        container.insert(key, json.loads(json.dumps(rng.choice(values))))
    else:
        container[rng.choice(_KEYS)] = json.loads(json.dumps(rng.choice((*values, 0.1, 30, True, None))))


_KEYS = (
    *("w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4", "p1", "p2", "camera_angle_x", "camera_angle_y"),
    *("camera_model", "is_fisheye", "file_path", "mask_path", "transform_matrix", "ply_file_path", "frames"),
    *("distortion_params", "sx1", "sy1", "omega", "alpha", "beta", "k", "ftheta_p1"),
    *("iterations", "seed", "final_budget", "test_iterations"),
)
