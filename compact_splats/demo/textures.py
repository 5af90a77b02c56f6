"""Procedural textures with fine detail, for the demo scene: functions of two surface coordinates in world units."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Texture = Callable[[Array, Array], Array]
Rgb = tuple[float, float, float]


def lattice(i: Array, j: Array, seed: int) -> Array:
    """A fixed random number in [0, 1) for each pair of integers."""
    h = i.astype(np.int64).astype(np.uint32) * np.uint32(374761393) + j.astype(np.int64).astype(np.uint32) * np.uint32(
        668265263
    )
    h += np.uint32(seed * 2246822519 & 0xFFFFFFFF)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(2246822519)
    return (h ^ (h >> np.uint32(16))).astype(np.float32) * np.float32(2**-32)


def noise(u: Array, v: Array, seed: int, octaves: int = 4) -> Array:
    """Smooth noise in [0, 1] with details of 1 to 2^(1 - octaves) units."""
    total, weight = np.zeros_like(u), 0.0
    for octave in range(octaves):
        scale = np.float32(2**octave)
        i, j = np.floor(u * scale), np.floor(v * scale)
        x, y = (f * f * (3 - 2 * f) for f in (u * scale - i, v * scale - j))
        bottom = lattice(i, j, seed + octave) * (1 - x) + lattice(i + 1, j, seed + octave) * x
        top = lattice(i, j + 1, seed + octave) * (1 - x) + lattice(i + 1, j + 1, seed + octave) * x
        total += (bottom * (1 - y) + top * y) / scale
        weight += 1 / float(scale)
    return total / np.float32(weight)


def mix(a: Rgb | Array, b: Rgb | Array, weight: Array) -> Array:
    """Linear interpolation (3,N) from ``a`` to ``b`` with ``weight`` (N,) in [0, 1]."""
    a, b = (np.asarray(c, np.float32).reshape(3, -1) for c in (a, b))
    return a + (b - a) * weight.astype(np.float32)


def plain(colour: Rgb) -> Texture:
    """One colour."""
    return lambda u, v: mix(colour, colour, np.zeros_like(u))


def bricks(seed: int, length: float, height: float, joint: float) -> Texture:
    """Rows of bricks in running bond, each of its own shade, with grain."""

    def texture(u: Array, v: Array) -> Array:
        row = np.floor(v / height)
        shifted = u / length + 0.5 * (row % 2)
        in_joint = ((shifted % 1) * length < joint) | ((v / height % 1) * height < joint)
        shade = lattice(np.floor(shifted), row, seed)
        grain = noise(u * 25, v * 25, seed, 3)
        return mix(mix((0.36, 0.12, 0.07), (0.72, 0.33, 0.2), 0.6 * shade + 0.4 * grain), (0.62, 0.6, 0.55), in_joint)

    return texture


def planks(seed: int, width: float, length: float) -> Texture:
    """Floor boards with grain along their length and dark gaps."""

    def texture(u: Array, v: Array) -> Array:
        board = np.floor(v / width)
        along = u / length + lattice(board, board, seed)
        shade = lattice(np.floor(along), board, seed + 1)
        grain = noise(u * 4 + 31 * shade, v * 60, seed, 3)
        gap = ((v / width % 1) * width < 0.012) | ((along % 1) * length < 0.012)
        return mix(mix((0.3, 0.17, 0.08), (0.74, 0.5, 0.28), 0.35 * shade + 0.65 * grain), (0.06, 0.03, 0.02), gap)

    return texture


def checks(size: float, a: Rgb, b: Rgb) -> Texture:
    """A chessboard of squares of ``size`` units."""
    return lambda u, v: mix(a, b, (np.floor(u / size) + np.floor(v / size)) % 2)


def mosaic(seed: int, size: float, a: Rgb, b: Rgb) -> Texture:
    """Squares of ``size`` units in colour ``a`` or ``b`` at random."""
    return lambda u, v: mix(a, b, lattice(np.floor(u / size), np.floor(v / size), seed) > 0.5)


def marble(seed: int, a: Rgb, b: Rgb) -> Texture:
    """Veins: stripes bent by noise."""
    return lambda u, v: mix(a, b, 0.5 + 0.5 * np.sin(60 * (u + 0.5 * v) + 14 * noise(u * 7, v * 7, seed, 5)))


def wallpaper(a: Rgb, b: Rgb) -> Texture:
    """Stripes with a column of dots in every third one."""

    def texture(u: Array, v: Array) -> Array:
        stripe = np.floor(u / 0.11)
        x, y = (u / 0.11 % 1) - 0.5, (v / 0.11 % 1) - 0.5
        dots = (x * x + y * y < 0.09) & (stripe % 3 == 0)
        return mix(mix(a, b, 0.35 * (stripe % 2)), b, dots)

    return texture


def fractal(centre_u: float, centre_v: float, size: float) -> Texture:
    """A Julia set, which has detail at every scale; ``size`` units are one unit of its plane."""

    def texture(u: Array, v: Array) -> Array:
        z = ((u - centre_u) / size + 1j * (v - centre_v) / size).astype(np.complex64)
        steps = np.zeros(u.shape, np.float32)
        for _ in range(28):
            inside = np.abs(z) < 2
            steps += inside
            z = np.where(inside, z * z + np.complex64(-0.79 + 0.156j), z)
        return np.stack([0.5 + 0.45 * np.sin(0.55 * steps + phase) for phase in (0.2, 1.4, 3.0)]).astype(np.float32)

    return texture
