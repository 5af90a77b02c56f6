"""Make the demo scene: a ray-traced room with textured objects, seen by 60 cameras, in COLMAP's layout.

``python -m compact_splats.demo.scene OUT`` takes a few seconds; the same seed gives the same files. Thin rods, fine
textures and highlights make it hard enough that more Gaussians help. The poses are exact; the points are noisy.
"""

import argparse
import os
import shutil
import struct
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm
from usable_processors import default_threads

from compact_splats.demo.ray_tracer import Box, Lighting, Material, Quad, Rod, Shape, Sphere, trace, unit
from compact_splats.demo.textures import bricks, checks, fractal, marble, mosaic, plain, planks, wallpaper
from compact_splats.utils.errors import InputError, run_script

Array = np.ndarray

ROOM = np.array([2.8, 2.4, 2.6], np.float32)  # half length, half width and height, world units (metres)
LIGHTING = Lighting(lamp=np.array([0.9, -0.7, 2.45], np.float32), power=2.4, ambient=0.24)
POINT_NOISE = 0.008  # world units, standard deviation of the points' positions
PINHOLE = 1  # COLMAP's number for the camera model fx, fy, cx, cy
SUBPIXELS = (0.25, 0.75)  # 2x2 rays a pixel


@dataclass(frozen=True)
class Lens:
    """The one pinhole camera: sizes and intrinsics in px, the centre of the top-left pixel at (0.5, 0.5)."""

    width: int
    height: int

    @property
    def params(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy; slightly different focal lengths and off centre, as in real cameras."""
        return 0.84 * self.width, 0.846 * self.width, 0.512 * self.width, 0.49 * self.height

    def directions(self, x: Array, y: Array) -> Array:
        """Unit viewing directions (3,N), OpenCV axes, through the pixel coordinates x, y (N,)."""
        fx, fy, cx, cy = self.params
        return unit(np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)]).astype(np.float32))


def write_demo_scene(
    out: Path,
    width: int = 320,
    height: int = 240,
    num_views: int = 60,
    num_points: int = 6000,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Make the scene in a temporary folder beside ``out`` and move it into place.

    Args:
        out: folder to create; it may exist if it is empty.
        width: of the photos, px.
        height: of the photos, px.
        num_views: number of photos, on two circles around the objects.
        num_points: size of the point cloud.
        seed: of the objects' details, the camera path and the noise of the points.
        progress: show a progress bar.

    Raises:
        InputError: ``out`` is not empty or can't be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder; remove it or name another folder for the demo scene")
    rng = np.random.default_rng(seed)
    shapes, lens, poses = make_shapes(rng), Lens(width, height), make_poses(num_views, rng)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:12]}")
    try:
        (temporary / "images").mkdir(parents=True)
        (temporary / "sparse" / "0").mkdir(parents=True)
        names = [f"view_{i:03d}.png" for i in range(num_views)]
        _write_photos(temporary / "images", names, shapes, lens, poses, progress)
        xyz, rgb = sample_points(shapes, lens, poses, num_points, rng)
        write_colmap(temporary / "sparse" / "0", lens, poses, names, xyz, rgb)
        os.replace(temporary, out)
    except OSError as error:
        raise InputError(f"{out} can't be written: '{error}'; name another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_shapes(rng: np.random.Generator) -> list[Shape]:
    """The room and its objects."""
    seed = int(rng.integers(1 << 16))
    return _room(seed) + _objects(seed) + _rods(rng)


def _room(seed: int) -> list[Shape]:
    x, y, z = ROOM
    along_x, along_y, up = (np.array(e, np.float32) for e in ((2 * x, 0, 0), (0, 2 * y, 0), (0, 0, z)))
    corner = np.array([-x, -y, 0], np.float32)
    poster = np.array([-0.9, y - 0.01, 0.75], np.float32)
    paper = Material(wallpaper((0.75, 0.78, 0.62), (0.16, 0.33, 0.3)))
    return [
        Quad(corner, along_x, along_y, Material(planks(seed, width=0.22, length=1.4))),
        Quad(corner + up, along_y, along_x, Material(plain((0.8, 0.79, 0.75)))),
        Quad(corner, along_y, up, Material(bricks(seed, 0.36, 0.13, 0.02))),
        Quad(corner + along_x, up, along_y, Material(wallpaper((0.8, 0.7, 0.5), (0.5, 0.16, 0.13)))),
        Quad(corner, up, along_x, paper),
        Quad(corner + along_y, along_x, up, paper),
        Quad(poster, np.array([1.8, 0, 0]), np.array([0, 0, 1.2]), Material(fractal(0.9, 0.6, 0.55))),
    ]


def _objects(seed: int) -> list[Shape]:
    def at(x: float, y: float, z: float) -> Array:
        return np.array([x, y, z], np.float32)

    cloth = Material(checks(0.1, (0.85, 0.83, 0.78), (0.12, 0.2, 0.42)))
    code = Material(mosaic(seed, 0.05, (0.9, 0.88, 0.8), (0.07, 0.07, 0.09)))
    crate = Material(planks(seed + 5, width=0.11, length=0.9))
    marbled = Material(marble(seed, (0.85, 0.84, 0.8), (0.1, 0.28, 0.2)), gloss=0.9, shininess=90)
    ball = Material(checks(0.06, (0.85, 0.3, 0.08), (0.95, 0.85, 0.6)), gloss=0.35, shininess=25)
    shiny = Material(plain((0.35, 0.06, 0.08)), gloss=1.6, shininess=50)
    return [
        Box(at(0, 0, 0.25), at(0.66, 0.46, 0.25), 0.3, cloth),
        Box(at(-0.3, 0.1, 0.68), at(0.17, 0.17, 0.18), 0.9, code),
        Box(at(1.15, 0.75, 0.22), at(0.25, 0.2, 0.22), -0.5, crate),
        Box(at(1.12, 0.78, 0.53), at(0.14, 0.14, 0.09), 0.2, Material(bricks(seed + 1, 0.1, 0.045, 0.009))),
        Sphere(at(0.25, -0.12, 0.74), 0.24, marbled),
        Sphere(at(-0.9, -0.75, 0.2), 0.2, ball),
        Sphere(at(-0.02, -0.42, 0.58), 0.08, shiny),
        Sphere(at(-0.3, 0.1, 0.96), 0.1, shiny),
    ]


def _rods(rng: np.random.Generator) -> list[Shape]:
    """A bundle of thin rods, a few pixels wide each, and a striped pole."""
    foot, top = np.array([-0.95, 0.75, 0.0]), np.array([-0.95, 0.75, 1.05])
    rods: list[Shape] = []
    for angle in np.linspace(0, 2 * np.pi, 9, endpoint=False) + rng.uniform(0, 0.2, 9):
        spoke = np.array([np.cos(angle), np.sin(angle), 0])
        start, end = (each.astype(np.float32) for each in (foot + 0.3 * spoke, top - 0.14 * spoke))
        colour = tuple(0.15 + 0.75 * rng.random(3))
        rods.append(Rod(start, end, 0.014, Material(plain(colour), gloss=0.3)))
    pole = Material(checks(0.1, (0.9, 0.9, 0.9), (0.75, 0.1, 0.1)), gloss=0.4)
    start, end = (np.array(each, np.float32) for each in ([0.42, 0.32, 0.5], [0.34, 0.3, 1.3]))
    return [*rods, Rod(start, end, 0.022, pole)]


def make_poses(num_views: int, rng: np.random.Generator) -> Array:
    """World-to-camera matrices (V,4,4) float64: two noisy circles around the objects, one high, one low."""
    poses = []
    for i in range(num_views):
        fraction = i / num_views
        angle, low = 4 * np.pi * fraction, fraction >= 0.5
        x, y = (1.75 if low else 1.95) * np.array([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.04, 2)
        z = (0.85 if low else 1.55) + 0.12 * np.sin(3 * angle) + rng.normal(0, 0.03)
        target = np.array([0.0, 0.0, 0.55]) + rng.normal(0, 0.06, 3)
        poses.append(_look_at(np.array([x, y, z]), target))
    return np.stack(poses)


def _look_at(eye: Array, target: Array) -> Array:
    forward = unit(target - eye)
    right = unit(np.cross(forward, [0.0, 0.0, 1.0]))
    pose = np.eye(4)
    pose[:3, :3] = [right, np.cross(forward, right), forward]
    pose[:3, 3] = -pose[:3, :3] @ eye
    return pose


def render_view(shapes: list[Shape], lens: Lens, pose: Array) -> Array:
    """One photo (H,W,3) uint8 RGB, the mean of 2x2 rays a pixel."""
    row, column = np.meshgrid(np.arange(lens.height), np.arange(lens.width), indexing="ij")
    total = np.zeros((3, row.size), np.float32)
    for dy in SUBPIXELS:
        for dx in SUBPIXELS:
            total += _cast(shapes, lens, pose, column.ravel() + dx, row.ravel() + dy)[0]
    return np.round(255 / 4 * total).astype(np.uint8).T.reshape(lens.height, lens.width, 3)


def sample_points(
    shapes: list[Shape], lens: Lens, poses: Array, num_points: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Noisy points as from structure from motion: the surface points of random pixels.

    Returns:
        Positions (P,3) float64 in world units and colours (P,3) uint8.
    """
    xyz, rgb = [], []
    for pose, part in zip(poses, np.array_split(np.arange(num_points), len(poses)), strict=True):
        x, y = rng.uniform(0, lens.width, len(part)), rng.uniform(0, lens.height, len(part))
        colours, points = _cast(shapes, lens, pose, x, y)
        xyz.append(points.T)
        rgb.append(colours.T)
    positions = np.concatenate(xyz).astype(np.float64) + rng.normal(0, POINT_NOISE, (num_points, 3))
    return positions, np.round(255 * np.concatenate(rgb)).astype(np.uint8)


def _cast(shapes: list[Shape], lens: Lens, pose: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Colours (3,N) in [0, 1] and world points (3,N) of the surfaces at pixel coordinates x, y (N,)."""
    to_world = pose[:3, :3].T.astype(np.float32)
    eye = (-pose[:3, :3].T @ pose[:3, 3]).astype(np.float32)
    directions = to_world @ lens.directions(x, y)
    colours, distances = trace(shapes, LIGHTING, eye, directions)
    return colours, eye[:, None] + distances * directions


def _write_photos(
    folder: Path, names: list[str], shapes: list[Shape], lens: Lens, poses: Array, progress: bool
) -> None:
    def write(name: str, pose: Array) -> None:
        photo = render_view(shapes, lens, pose)
        if not cv2.imwrite(str(folder / name), photo[:, :, ::-1]):
            raise OSError(f"could not write {name}")

    with ThreadPoolExecutor(default_threads()) as pool:
        list(tqdm(pool.map(write, names, poses), total=len(names), desc="photos", unit="view", disable=not progress))


def write_colmap(folder: Path, lens: Lens, poses: Array, names: list[str], xyz: Array, rgb: Array) -> None:
    """COLMAP's binary model: one camera, the poses, and points without tracks."""
    camera = struct.pack("<QiiQQ4d", 1, 1, PINHOLE, lens.width, lens.height, *lens.params)
    (folder / "cameras.bin").write_bytes(camera)
    images = [struct.pack("<Q", len(names))]
    for i, (name, pose) in enumerate(zip(names, poses, strict=True)):
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        images.append(struct.pack("<i7di", i + 1, w, x, y, z, *pose[:3, 3], 1) + name.encode() + b"\0")
        images.append(struct.pack("<Q", 0))  # no observed points
    (folder / "images.bin").write_bytes(b"".join(images))
    points = [struct.pack("<Q", len(xyz))]
    points += [
        struct.pack("<Q3d3BdQ", i + 1, *p, *c.tolist(), 1.0, 0) for i, (p, c) in enumerate(zip(xyz, rgb, strict=True))
    ]
    (folder / "points3D.bin").write_bytes(b"".join(points))


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--width", type=int, default=320, help="of the photos, px (default: 320)")
    parser.add_argument("--height", type=int, default=240, help="of the photos, px (default: 240)")
    parser.add_argument("--views", type=int, default=60, help="number of photos (default: 60)")
    parser.add_argument("--points", type=int, default=6000, help="size of the point cloud (default: 6000)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    args = parser.parse_args(argv)
    for name in ("width", "height", "views", "points"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} must be 1 or more, not {getattr(args, name)}")
    write_demo_scene(args.out, args.width, args.height, args.views, args.points, args.seed, progress=True)
    print(f"{args.out}: {args.views} photos of {args.width}x{args.height} pixels, {args.points} points")


if __name__ == "__main__":
    run_script(main)
