"""How far the camera poses of one scene are from those of another, after the similarity that brings them closest.

``python tests/pose_errors.py GIVEN FOUND`` compares photos of the same name, suffixes and marks of doubles aside.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parent.parent


class PoseErrors(NamedTuple):
    """Of photos that are in both scenes.

    Attributes:
        count: number of them.
        rotation_deg: (count,) angle between given and found orientation.
        position: (count,) distance between given and found centre, as a share of the given cameras' extent, the
            largest distance of one from their middle.
        focal: mean ratio of found to given focal length, both in shares of the width.
    """

    count: int
    rotation_deg: np.ndarray
    position: np.ndarray
    focal: float

    def __str__(self) -> str:
        rotation, position = self.rotation_deg, 100 * self.position
        return (
            f"{self.count} cameras; rotation: median {np.median(rotation):.3f}, largest {rotation.max():.3f} degrees; "
            f"position: median {np.median(position):.3f}, largest {position.max():.3f} % of the extent; "
            f"focal length: {100 * (self.focal - 1):+.2f} %"
        )


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, (3,3) rotation and (3,) shift that bring (N,3) source closest to target [Umeyama 1991]."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    u, d, vt = np.linalg.svd((target - target_mean).T @ (source - source_mean))
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * signs) @ vt
    scale = (d * signs).sum() / ((source - source_mean) ** 2).sum()
    return scale, rotation, target_mean - scale * rotation @ source_mean


def pose_errors(given: Path, found: Path) -> PoseErrors:
    """Compare two COLMAP scenes, folders with ``sparse/0``."""
    from compact_splats.scene.colmap import read_colmap
    from compact_splats.scene.names import SceneFiles

    cameras = [
        {Path(frame.name).stem: frame for frame in read_colmap(scene / "sparse" / "0", SceneFiles(scene)).photos}
        for scene in (given, found)
    ]
    names = sorted(cameras[0].keys() & cameras[1].keys())
    given_poses, found_poses = (np.stack([of[name].world_to_camera for name in names]) for of in cameras)
    given_centres, found_centres = (
        -np.einsum("nij,ni->nj", poses[:, :3, :3], poses[:, :3, 3]) for poses in (given_poses, found_poses)
    )
    scale, rotation, shift = similarity(found_centres, given_centres)
    distances = np.linalg.norm(scale * found_centres @ rotation.T + shift - given_centres, axis=1)
    extent = np.linalg.norm(given_centres - given_centres.mean(0), axis=1).max()
    turns = found_poses[:, :3, :3] @ rotation.T @ given_poses[:, :3, :3].transpose(0, 2, 1)
    cosines = np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1)
    lenses = [(cameras[0][name].lens, cameras[1][name].lens) for name in names]
    focal = np.mean([(b.fx / b.width) / (a.fx / a.width) for a, b in lenses])
    return PoseErrors(len(names), np.degrees(np.arccos(cosines)), distances / extent, float(focal))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    print(pose_errors(Path(sys.argv[1]), Path(sys.argv[2])))
