"""What is fuzzed: for each reader a function of bytes, and inputs to begin with.

A target returns if the input is read, and raises InputError or FormatError if it is refused; all else is a finding.
The first byte of most inputs says which file it stands for, or whether the rest lies below a compression or checksums,
which are then put right: no fuzzer would guess those.
"""

import contextlib
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
from format_cases import FORMATS, first_sog, ksplat_bytes, random_rows
from gsz_cases import PRELUDE, basis_of_views, model_rows, with_right_checksum
from PIL import Image
from scene_writers import write_colmap, write_photo, write_transforms

from compact_splats.arguments.config import TrainConfig, scene_of_run
from compact_splats.arguments.options import from_json, read_json
from compact_splats.compression import compact_streams
from compact_splats.compression.arrays import Arrays
from compact_splats.compression.codec import PROFILES, encode
from compact_splats.compression.files import read_model
from compact_splats.scene import load_scene, ply
from compact_splats.scene.colmap import read_colmap
from compact_splats.scene.lens import Lens
from compact_splats.scene.masks import masks_of_scene
from compact_splats.scene.names import SceneFiles
from compact_splats.scene.parameters import SavedArrays
from compact_splats.scene.photos import _read_mask, _read_photo
from compact_splats.scene.points import Points, read_points_ply
from compact_splats.scene.posed_photo import DataSet, PosedPhoto
from compact_splats.scene.splits import split
from compact_splats.suite.budgets import read_budgets
from compact_splats.utils import pictures

try:
    import zstandard
except ImportError:  # .spz of version 4 is refused then
    zstandard = None

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Target:
    """A reader to fuzz.

    Attributes:
        read: takes an input and a folder of its own, the same each time.
        seeds: makes inputs that are read, in an empty folder.
        is_json: inputs are better changed as JSON than as bytes.
    """

    read: Callable[[bytes, Path], None]
    seeds: Callable[[Path], list[bytes]]
    is_json: bool = False


def _check_rows(rows: Arrays) -> None:
    assert all(row.dtype == np.float32 and np.isfinite(row).all() for row in rows.values())


def _check_points(points: Points | None) -> None:
    assert points is None or points.xyz.isfinite().all() and len(points.xyz) == len(points.rgb)


# ---- scenes ----

COLMAP_FILES = [f"{stem}{suffix}" for stem in ("cameras", "images", "points3D") for suffix in (".bin", ".txt")]
COLMAP_CAMERAS = (
    (1, "OPENCV", 40, 30, (35.0, 36.0, 20.0, 15.0, 0.1, 0.0, 0.0, 0.0)),
    (2, "SIMPLE_PINHOLE", 40, 30, (35.0, 20.0, 15.0)),
)
COLMAP_TEXTS = {
    "cameras.txt": b"# a comment\n1 OPENCV 40 30 35 36 20 15 0.1 0 0 0\n2 SIMPLE_RADIAL 40 30 35 20 15 0.1\n",
    "images.txt": b"1 1 0 0 0 1 2 3 1 a.png\n1 2 -1\n2 1 0 0 0 4 5 6 1 b/c.png\n\n",
    "points3D.txt": b"5 1 2 3 10 20 30 0.1 1 0\n6 1e3 -2 3 0 255 30 0.1\n",
}


def read_colmap_file(data: bytes, folder: Path) -> None:
    """One file of a COLMAP model, beside two that are right."""
    name = COLMAP_FILES[(data[0] if data else 0) % len(COLMAP_FILES)]
    scene = folder / name
    if not scene.exists():
        (write_colmap(scene, COLMAP_CAMERAS, num_images=3) / name).with_suffix(".bin").unlink()
    (scene / "sparse" / "0" / name).write_bytes(data[1:])
    data = read_colmap(scene / "sparse" / "0", SceneFiles(scene))
    frames, points = data.photos, data.points
    _check_points(points)
    for frame in frames:
        assert ".." not in frame.path.parts and frame.path.is_relative_to(scene)
        assert np.isfinite(frame.world_to_camera).all() and frame.lens.pinhole().fx > 0


def colmap_seeds(folder: Path) -> list[bytes]:
    """Each of the six files."""
    model = write_colmap(folder, COLMAP_CAMERAS, num_images=3)
    contents = {path.name: path.read_bytes() for path in model.iterdir()} | COLMAP_TEXTS
    return [bytes([i]) + contents[name] for i, name in enumerate(COLMAP_FILES)]


def read_transforms_file(data: bytes, folder: Path) -> None:
    """transforms.json of a scene with two photos, a mask and points; the photos are decoded."""
    if not (folder / "images").exists():
        write_transforms(folder, num_frames=2)
        write_photo(folder / "mask.png", mode="L")
        rows = "element vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        (folder / "points3d.ply").write_text(f"ply\nformat ascii 1.0\n{rows}end_header\n1 2 3\n")
    (folder / "transforms.json").write_bytes(data)
    with contextlib.redirect_stderr(io.StringIO()):
        scene = load_scene(folder, eval=False)
    _check_points(scene.points)
    for camera in scene.train[:4]:
        assert camera.photo.path.is_relative_to(folder) and camera.photo.pixels().shape[0] == 3


NAMES_ON_DISK = (
    "cam1/0001.jpg",
    "cam2/0001.jpg",
    "cam1_0002.jpg",
    "0003.JPG",
    "a b.png",
    "\u7167.jpg",
    "caf\u00e9.png",
)


def read_names(data: bytes, folder: Path) -> None:
    """Names of photos, one a line, and after an empty line those of test.txt; the scene has files of unusual names."""
    for name in NAMES_ON_DISK:
        if not (folder / "images" / name).exists():
            write_photo(folder / "images" / name)
            write_photo(folder / "masks" / name, mode="L")
    registered, _, listed = data.partition(b"\n\n")
    names = registered.decode("utf-8", "surrogateescape").split("\n")[:50]
    (folder / "test.txt").write_bytes(listed)
    for from_scene in (False, True):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            files = SceneFiles(folder)
            found = files.match(folder / "images.bin", names, from_scene=from_scene)
            photos = [PosedPhoto(each, Lens(40, 30, 35, 35, 20, 15), np.eye(4)) for each in found]
            train, test = split(DataSet(folder / "images.bin", photos), folder, True)
            masks = masks_of_scene(folder, {photo.name: photo.path for photo in photos if photo.path.is_file()})
        assert len(train) + len(test) == len(names)
        for photo in photos:
            assert ".." not in photo.path.parts and photo.path.is_relative_to(folder) and photo.name.isprintable()
        assert all(mask.is_file() for mask in masks.values())
        assert all(line.isprintable() for line in said.getvalue().split("\n"))
        assert files.file(folder / "images.bin", names[0]).is_relative_to(folder)


def name_seeds(folder: Path) -> list[bytes]:
    """Every kind of difference: slashes, case, suffix, folders, encodings, Unicode forms, percent coding."""
    names = [
        "cam1\\0001.JPG",
        "D:/x/cam2/0001.jpeg",
        "cam1/0002.jpg",
        "file:///x/0003.jpg",
        "images/a%20b.jpg",
        "cafe\u0301.png",
    ]
    rest = b"\n" + "\u7167.jpg".encode("gbk")
    return [
        "\n".join(NAMES_ON_DISK).encode() + b"\n\n0003.jpg\n# one\n",
        "\n".join(names).encode() + rest + b"\n\ncam2/0001",
        b"0003\n\\\\h\\a b\n/etc/../0003.jpg\n\nnobody\na b.png",
    ]


def transforms_seeds(folder: Path) -> list[bytes]:
    """Pinholes, distorted lenses, fisheyes, fields of view; sizes given or not."""
    lens = {"w": 40, "h": 30, "cx": 20, "cy": 15, "k1": 0.1, "p1": 0.01}
    tables = [
        {},
        {"camera_angle_x": 0.8, "ply_file_path": "points3d.ply"},
        {**lens, "camera_model": "OPENCV", "fl_y": 36},
        {**lens, "camera_model": "OPENCV_FISHEYE", "k4": 0.01},
        {**lens, "is_fisheye": True},
        {**lens, "camera_model": "FISHEYE624", "distortion_params": [0.01] * 12},
        {"camera_model": "EQUIRECTANGULAR", "w": 40, "h": 30},
        {"train_filenames": ["images/000.png"], "test_filenames": ["001.PNG"], "w": 40.00001, "h": 30},
        {"frame": {"mask_path": "mask.png", "file_path": "./images/000", "fl_x": 34, **lens}},
    ]
    contents = []
    for i, table in enumerate(tables):
        entry = table.pop("frame", {})
        write_transforms(folder / str(i), num_frames=2, frame=lambda _, entry=entry: entry, **table)
        contents.append((folder / str(i) / "transforms.json").read_bytes())
    return contents


# ---- models ----

PLY_READERS = (lambda path: _check_points(read_points_ply(path)), ply.read, read_model)


def read_ply_file(data: bytes, folder: Path) -> None:
    """A point cloud, a model, or a model of any format whose file ends in .ply."""
    path = folder / "a.ply"
    path.write_bytes(data[1:])
    rows = PLY_READERS[(data[0] if data else 0) % len(PLY_READERS)](path)
    if rows is not None:
        _check_rows(rows)


def ply_seeds(folder: Path) -> list[bytes]:
    """Ascii and both byte orders, lists, comments, models, and compressed ones."""
    path, seeds = folder / "a.ply", []
    for kind, body in (
        ("ascii", "1 2 3 4 5 6\n"),
        ("binary_big_endian", 14 * "\1"),
        ("binary_little_endian", "0" * 14),
    ):
        for before in ("", "element face 1\nproperty list uchar short i\n"):
            list_body = ("1 7\n" if kind == "ascii" else "\1\0\0") if before else ""
            columns = "".join(f"property float {name}\n" for name in "xyz") + "property uchar red\nproperty char a\n"
            columns += "property uchar green\n" if kind == "ascii" else ""
            header = f"ply\nformat {kind} 1.0\ncomment c\n{before}element vertex 1\n{columns}end_header\n"
            seeds.append(b"\0" + (header + list_body + body).encode())
    for num_rest in (0, 3):
        ply.write(path, model_rows(2, num_rest))
        seeds.append(b"\1" + path.read_bytes())
        FORMATS["compressed_ply"].write(path, random_rows(3, num_rest))
        seeds.append(b"\2" + path.read_bytes())
    return seeds


small_blocks = mock.patch.object(compact_streams, "BLOCK", 8)  # so that small models have several


@small_blocks
def read_gsz_file(data: bytes, folder: Path) -> None:
    """A .gsz; after an odd first byte with checksums that are right."""
    content = data[1:] if not data or not data[0] % 2 else right_checksums(data[1:])
    (folder / "a.gsz").write_bytes(content)
    _check_rows(read_model(folder / "a.gsz"))


def right_checksums(data: bytes) -> bytes:
    """A .gsz whose checksums, of its streams and of its head, are put right as far as its own sizes lead."""
    if len(data) < PRELUDE.size:
        return data
    _, _, text_size, table_size, _, _ = PRELUDE.unpack_from(data)
    content, entry = bytearray(data), PRELUDE.size + text_size
    start = end = entry + table_size
    while entry < end <= len(data) and (place := entry + 1 + data[entry]) + 12 <= end:
        (size,) = struct.unpack_from("<Q", data, place)
        struct.pack_into("<I", content, place + 8, zlib.crc32(data[start : start + size]))
        entry, start = place + 12, start + size
    return with_right_checksum(bytes(content))


@small_blocks
def gsz_seeds(folder: Path) -> list[bytes]:
    """Every profile, small."""
    models = [model_rows(num, num_rest) for num, num_rest in ((3, 0), (20, 3))]
    seen = [b"\1" + encode(models[1], color_basis=basis_of_views(2))]
    seen.append(b"\1" + encode(SavedArrays(model_rows(30, 3), nested=True)))
    return [b"\1" + encode(rows, profile) for profile in sorted(PROFILES) for rows in models] + seen


def read_spz_file(data: bytes, folder: Path) -> None:
    """An .spz; after an odd first byte, what lies below its compression, with a header of 16 or of 32 bytes."""
    content = data[1:]
    if data and data[0] % 2:
        content = gzip.compress(content, 1) if content[4:8] != bytes([4, 0, 0, 0]) else fourth_spz(content)
    (folder / "a.spz").write_bytes(content)
    _check_rows(read_model(folder / "a.spz"))


def fourth_spz(data: bytes) -> bytes:
    """A .spz of version 4 of its header and its arrays; sizes that fit them as far as the header says."""
    if len(data) < 32 or zstandard is None:
        return data
    num, degree = struct.unpack_from("<IB", data, 8)
    sizes = [9, 1, 3, 3, 4, 3 * ((degree + 1) ** 2 - 1)]
    ends = np.cumsum([32, *(num * size for size in sizes)]).tolist()
    parts = [data[a:b] for a, b in pairwise(ends) if b > a][: data[15]]
    packed = [zstandard.ZstdCompressor(level=1).compress(part) for part in parts]
    table = b"".join(struct.pack("<QQ", len(a), len(b)) for a, b in zip(packed, parts, strict=True))
    return data[:32] + table + b"".join(packed)


def spz_seeds(folder: Path) -> list[bytes]:
    """With and without harmonics, compressed and not, of versions 3 and 4."""
    contents = []
    for num_rest in (0, 8):
        FORMATS["spz"].write(folder / "a.spz", random_rows(5, num_rest))
        contents.append((folder / "a.spz").read_bytes())
    seeds = [b"\0" + contents[0], *(b"\1" + gzip.decompress(content) for content in contents)]
    if zstandard is not None:
        for content in contents:
            plain = gzip.decompress(content)
            head = plain[:4] + struct.pack("<I", 4) + plain[8:15] + bytes([6 if plain[12] else 5])
            seeds.append(b"\1" + head + struct.pack("<I12x", 32) + plain[16:])
        FORMATS["spz"].write(folder / "a.spz", random_rows(5, 3), version=4)
        seeds.append(b"\0" + (folder / "a.spz").read_bytes())
    return seeds


def read_ksplat_file(data: bytes, folder: Path) -> None:
    """A .ksplat, without the empty bytes of its headers: 44 of the first, 42 of each section."""
    sections = data[4] if len(data) > 4 else 0
    parts = [data[:44].ljust(4096, b"\0")]
    parts += [data[44 + 42 * i : 44 + 42 * (i + 1)].ljust(1024, b"\0") for i in range(sections)]
    (folder / "a.ksplat").write_bytes(b"".join(parts) + data[44 + 42 * sections :])
    _check_rows(read_model(folder / "a.ksplat"))


def ksplat_seeds(folder: Path) -> list[bytes]:
    """Every level, with and without harmonics."""
    seeds = []
    for level, num_rest in ((0, 0), (1, 3), (2, 8)):
        rows = random_rows(9, num_rest)
        whole = ksplat_bytes(rows | {"means": rows["means"] * np.float32(0.3)}, level, bucket_size=4)
        seeds.append(whole[:44] + whole[4096:4138] + whole[5120:5162] + whole[6144:])
    return seeds


def read_glb_file(data: bytes, folder: Path) -> None:
    """A .glb; after an odd first byte, its JSON up to the first zero and then its other chunk."""
    content = data[1:]
    if data and data[0] % 2:
        text, _, body = content.partition(b"\0")
        total = 28 + len(text) + len(body)
        head = struct.pack("<4sIII4s", b"glTF", 2, total, len(text), b"JSON")
        content = head + text + struct.pack("<I4s", len(body), b"BIN\0") + body
    (folder / "a.glb").write_bytes(content)
    _check_rows(read_model(folder / "a.glb"))


def glb_seeds(folder: Path) -> list[bytes]:
    """With and without harmonics, as files and as JSON and numbers; and nodes that move."""
    seeds = []
    for num_rest in (0, 3):
        FORMATS["glb"].write(folder / "a.glb", random_rows(3, num_rest))
        whole = (folder / "a.glb").read_bytes()
        size = struct.unpack_from("<I", whole, 12)[0]
        text, body = whole[20 : 20 + size].rstrip(), whole[28 + size :]
        moved = text.replace(b'{"mesh":0}', b'{"mesh":0,"scale":[2,2,2],"rotation":[1,0,0,0],"translation":[1,2,3]}')
        seeds += [b"\0" + whole, b"\1" + text + b"\0" + body, b"\1" + moved + b"\0" + body]
    return seeds


SOG_NAMES = (
    *("meta.json", "means_l.webp", "means_u.webp", "scales.webp", "quats.webp", "sh0.webp"),
    *("shN_centroids.webp", "shN_labels.webp"),
)


def read_sog_file(data: bytes, folder: Path) -> None:
    """A .sog; after an odd first byte, the files in it: of each the number of its name, its size in 2 bytes, itself."""
    content = data[1:] if not data or not data[0] % 2 else bundle(data[1:])
    (folder / "a.sog").write_bytes(content)
    _check_rows(read_model(folder / "a.sog"))


def read_sog_folder(data: bytes, folder: Path) -> None:
    """The files of a .sog in a folder, packed as for the one above."""
    for path in folder.iterdir():
        path.unlink()
    with zipfile.ZipFile(io.BytesIO(bundle(data))) as archive:
        archive.extractall(folder)
    _check_rows(read_model(folder / "meta.json"))


def sog_folder_seeds(folder: Path) -> list[bytes]:
    """Both versions."""
    FORMATS["sog"].write(folder / "meta.json", random_rows(4, 3))
    second = {path.name: path.read_bytes() for path in folder.iterdir()}
    return [packed_files(files) for files in (second, first_sog(random_rows(4, 0)), first_sog(random_rows(4, 15)))]


def packed_files(files: dict[str, bytes]) -> bytes:
    """The inverse of :func:`bundle`."""
    return b"".join(bytes([SOG_NAMES.index(n)]) + len(c).to_bytes(2, "little") + c for n, c in files.items())


def bundle(data: bytes) -> bytes:
    """The archive of the files in an input."""
    out, position, names = io.BytesIO(), 0, set()
    with zipfile.ZipFile(out, "w") as archive:
        while position + 3 <= len(data):
            name = SOG_NAMES[data[position] % len(SOG_NAMES)]
            end = position + 3 + int.from_bytes(data[position + 1 : position + 3], "little")
            if name not in names:
                archive.writestr(name, data[position + 3 : end])
            names.add(name)
            position = end
    return out.getvalue()


def sog_seeds(folder: Path) -> list[bytes]:
    """With and without harmonics, as archives and as files."""
    seeds = []
    for num_rest in (0, 3):
        FORMATS["sog"].write(folder / "a.sog", random_rows(4, num_rest))
        archive = zipfile.ZipFile(folder / "a.sog")
        files = {name: archive.read(name) for name in archive.namelist()}
        assert files.keys() <= set(SOG_NAMES)
        seeds += [b"\0" + (folder / "a.sog").read_bytes(), b"\1" + packed_files(files)]
    return seeds


# ---- pictures ----


def read_photo_file(data: bytes, folder: Path) -> None:
    """A picture as photo and as mask; after an odd first byte, a PNG whose checksums are put right.

    Up to 2^20 pixels in a few bytes instead of 2^26, for which the decoders would take most of the time.
    """
    path = folder / "a.png"
    path.write_bytes(data[1:] if not data or not data[0] % 2 else right_png(data[1:]))
    with mock.patch.object(pictures, "_SMALL_PIXELS", 1 << 20):
        width, height = pictures.picture_size(path)
        rgb, alpha = _read_photo(path)
        assert rgb.dtype == np.uint8 and rgb.shape == (height, width, 3)
        assert alpha is None or alpha.shape == (height, width)
        assert _read_mask(path, (6, 8)).shape == (6, 8)


def right_png(data: bytes) -> bytes:
    """A PNG with the checksums of its chunks put right."""
    content, position = bytearray(data), 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            break
        struct.pack_into(">I", content, end, zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return bytes(content)


def photo_seeds(folder: Path) -> list[bytes]:
    """Every format, and modes of PNG and TIFF that are read in ways of their own."""
    rgba = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8), "RGBA")
    kinds = [(kind, "RGB", {}) for kind in pictures._formats()]
    kinds += [("PNG", mode, {}) for mode in ("RGBA", "P", "L", "LA", "1", "I;16")]
    kinds += [("JPEG", "RGB", {"progressive": True}), ("JPEG", "CMYK", {}), ("WEBP", "RGBA", {"lossless": True})]
    kinds += [("JPEG", "RGB", {"restart_marker_rows": 1})]
    kinds += [("TIFF", "RGB", {"compression": how}) for how in ("tiff_lzw", "tiff_deflate", "jpeg")]
    seeds = []
    for kind, mode, options in kinds:
        out = io.BytesIO()
        rgba.convert("L" if mode in ("I;16", "LA") else mode).convert(mode).save(out, kind, **options)
        seeds.append((b"\1" if kind == "PNG" else b"\0") + out.getvalue())
        if kind == "JPEG":
            seeds.append(b"\0" + out.getvalue()[:-2])
    return seeds


# ---- tables ----


def read_budget_file(data: bytes, folder: Path) -> None:
    """A table of scenes and budgets."""
    (folder / "budget.txt").write_bytes(data)
    for name, line in read_budgets(folder / "budget.txt").items():
        assert "/" not in name and name not in (".", "..") and line.budget > 0


def budget_seeds(folder: Path) -> list[bytes]:
    """The project's own, and two of its lines."""
    lines = (ROOT / "budget.txt").read_bytes().splitlines()
    return [b"\n".join(lines), b"\n".join([line for line in lines if line and not line.startswith(b"#")][:3])]


def read_config_file(data: bytes, folder: Path) -> None:
    """config.json of a model."""
    path = folder / "config.json"
    path.write_bytes(data)
    from_json(TrainConfig, read_json(path), path)


def read_cfg_args_file(data: bytes, folder: Path) -> None:
    """cfg_args of a 3DGS run."""
    (folder / "cfg_args").write_bytes(data)
    scene_of_run(folder)


def cfg_args_seeds(folder: Path) -> list[bytes]:
    """As 3DGS writes it, and other literals."""
    return [
        b"Namespace(data_device='cuda', depths='', eval=True, images='images', model_path='/a', resolution=-1, "
        b"sh_degree=3, source_path='/b c', train_test_exp=False, white_background=False)",
        b"Namespace(a=None, b=[1, 2.5], c={'x': (1,)}, eval=False)",
    ]


def config_seeds(folder: Path) -> list[bytes]:
    """Every kind of value."""
    values = {
        "iterations": 30_000,
        "eval": True,
        "source_path": "a",
        "position_lr_init": 1e-4,
        "save_iterations": [1, 2],
    }
    return [json.dumps(values).encode(), json.dumps(values, indent=1).encode("utf-16")]


TARGETS = {
    "colmap": Target(read_colmap_file, colmap_seeds),
    "transforms": Target(read_transforms_file, transforms_seeds, is_json=True),
    "names": Target(read_names, name_seeds),
    "ply": Target(read_ply_file, ply_seeds),
    "photo": Target(read_photo_file, photo_seeds),
    "gsz": Target(read_gsz_file, gsz_seeds),
    "spz": Target(read_spz_file, spz_seeds),
    "sog": Target(read_sog_file, sog_seeds),
    "sog_folder": Target(read_sog_folder, sog_folder_seeds),
    "ksplat": Target(read_ksplat_file, ksplat_seeds),
    "glb": Target(read_glb_file, glb_seeds),
    "budget": Target(read_budget_file, budget_seeds),
    "config": Target(read_config_file, config_seeds, is_json=True),
    "cfg_args": Target(read_cfg_args_file, cfg_args_seeds),
}
