"""Models to store, and .gsz files put together by hand, that several test files share."""

import struct
import zlib

import numpy as np
import torch

from compact_splats.compression import ColorBasis

PRELUDE = struct.Struct("<8sIIIII")  # magic, version, bytes of JSON, bytes of the table, streams, checksum
CHECKSUM_AT = PRELUDE.size - 4
# Files of profile "compact", each with the version that wrote it, and SHA-256 of the arrays that its reader decoded:
# 1,030 Gaussians of degree 1 with 12 viewpoints and a PCA basis; 80 of degree 3, anti-aliased, with an offset; twice 80
# of degree 2 with 12 viewpoints, anti-aliased, with an offset, the second time nested.
OF_VERSIONS = {
    "version_1_pca.gsz": (1, "bfbfab7739bf914572685cd7066d4d548f101cd3e16ee32dbf63c1e914b7d849"),
    "version_1_plain.gsz": (1, "cb6c7aef7ddccaecf2c1e9683338bd7224323414a0f6b64f99f45b06231622a7"),
    "version_2.gsz": (2, "ff9cc90705d22d3bdd6fe5f35497bd9c61aac0adf4de54aae76edaf768b541a0"),
    "version_3.gsz": (3, "b3e3ee3e1acde4852da2dcff707f70b90a617d19a6dd3672b9ad5be6651bab96"),
}


def model_rows(num: int, num_rest: int = 15, seed: int = 0) -> dict[str, np.ndarray]:
    """Random rows with about the spread of a trained model's."""
    rng = np.random.default_rng(seed)
    shapes = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (1,), "sh_dc": (1, 3)}
    shapes["sh_rest"] = (num_rest, 3)
    rows = {name: rng.standard_normal((num, *shape)).astype(np.float32) for name, shape in shapes.items()}
    rows["means"] *= 3
    rows["log_scales"] -= 4
    rows["sh_rest"] *= 0.15 * np.float32(rng.gamma(1, 1, (num, 1, 1)))
    return rows


def basis_of_views(num: int, cosine: float = 0.8) -> ColorBasis:
    """Of viewpoints that look at the origin from random places about 4 away."""
    rng = np.random.default_rng(num)
    positions = rng.standard_normal((num, 3)).astype(np.float32)
    positions *= 4 / np.linalg.norm(positions, axis=1, keepdims=True)
    directions = np.rint(positions * (-127 / 4))
    return ColorBasis(torch.from_numpy(positions).double(), torch.from_numpy(directions).double(), cosine)


def sorted_rows(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same Gaussians in an order that only their values decide."""
    if not len(rows["means"]):
        return rows
    table = np.concatenate([row.reshape(len(row), -1) for row in rows.values()], axis=1)
    order = np.lexsort(table.T[::-1])
    return {name: row[order] for name, row in rows.items()}


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether two models are equal to the last bit, Gaussian by Gaussian."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes()
        for name in a
    )


def table_entry(name: bytes, stream: bytes, size: int | None = None) -> bytes:
    """An entry of the table of streams, with a wrong size if one is given."""
    return bytes([len(name)]) + name + struct.pack("<QI", len(stream) if size is None else size, zlib.crc32(stream))


def raw_file(text: bytes, table: bytes, num_streams: int, streams: bytes = b"", version: int = 1) -> bytes:
    """A file with a right checksum around whatever is given, put together without the program's own writer."""
    prelude = PRELUDE.pack(b"\x89GSZ\r\n\x1a\n", version, len(text), len(table), num_streams, 0)
    checksum = struct.pack("<I", zlib.crc32(prelude + text + table))
    return prelude[:CHECKSUM_AT] + checksum + text + table + streams


def with_right_checksum(data: bytes) -> bytes:
    """The file with the checksum of its head repaired, as far as its own sizes say where that ends."""
    if len(data) < PRELUDE.size:
        return data
    _, _, text_size, table_size, _, _ = PRELUDE.unpack_from(data)
    head = data[:CHECKSUM_AT] + bytes(4) + data[PRELUDE.size : PRELUDE.size + text_size + table_size]
    return data[:CHECKSUM_AT] + struct.pack("<I", zlib.crc32(head)) + data[PRELUDE.size :]
