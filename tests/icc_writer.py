"""Writes small ICC profiles (ICC.1:2001-04), as there are in photos: RGB by primaries, grey, and CMYK by a table."""

import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

P3 = ((0.3127, 0.3290), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = ((0.3127, 0.3290), (0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
PROPHOTO = ((0.3457, 0.3585), (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))
SRGB = ((0.3127, 0.3290), (0.640, 0.330), (0.300, 0.600), (0.150, 0.060))


def xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1, (1 - x - y) / y])


def to_d50(primaries) -> np.ndarray:
    """(3,3) linear RGB to XYZ, adapted to the D50 of profiles."""
    white, *colours = (xyz(*each) for each in primaries)
    matrix = np.stack(colours, 1)
    matrix = matrix * np.linalg.solve(matrix, white)
    cones = np.diag((_BRADFORD @ D50) / (_BRADFORD @ white))
    return np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD @ matrix


def _xyz_tag(values) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _curve(points) -> bytes:
    """A table of light by values in [0, 1]."""
    return b"curv\0\0\0\0" + struct.pack(">I", len(points)) + (points * 65535).round().astype(">u2").tobytes()


def _profile(space: bytes, kind: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, content, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(content), len(value))
        content += value + b"\0" * (-len(value) % 4)
    body = struct.pack(">I", len(tags)) + table + content
    header = struct.pack(">I", 128 + len(body)) + b"\0\0\0\0" + bytes.fromhex("02400000") + kind + space + connection
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += b"".join(struct.pack(">i", round(value * 65536)) for value in D50)
    return header.ljust(128, b"\0") + body


def srgb_curve(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def rgb_profile(primaries, curve=srgb_curve) -> bytes:
    light = _curve(curve(np.linspace(0, 1, 1024)))
    columns = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz_tag, to_d50(primaries).T), strict=True))
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), light)
    return _profile(b"RGB ", b"mntr", b"XYZ ", {b"wtpt": _xyz_tag(D50), **columns, **curves})


def grey_profile(gamma: float) -> bytes:
    curve = _curve(np.linspace(0, 1, 1024) ** gamma)
    return _profile(b"GRAY", b"mntr", b"XYZ ", {b"wtpt": _xyz_tag(D50), b"kTRC": curve})


def cmyk_profile(light_of_paper: float) -> bytes:
    """Neutral inks: L* is that of the paper, times 1 - ink of each."""
    grid = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(-1, 4)
    lightness = (light_of_paper * 255 / 100 * (1 - grid).prod(1)).round().astype(np.uint8)
    table = np.stack([lightness, np.full(16, 128, np.uint8), np.full(16, 128, np.uint8)], 1)
    line = np.arange(256, dtype=np.uint8).tobytes()
    matrix = b"".join(struct.pack(">i", round(value * 65536)) for value in np.eye(3).ravel())
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + line * 4 + table.tobytes() + line * 3
    return _profile(b"CMYK", b"prtr", b"Lab ", {b"wtpt": _xyz_tag(D50), b"A2B0": lut, b"A2B1": lut})
