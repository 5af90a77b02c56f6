"""``compress.py export``: a model in the format of another tool. Needs no torch, but to measure what a format loses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compact_splats.arguments.config import run_folder
from compact_splats.arguments.export import SOG_FOLDER, ExportConfig
from compact_splats.compression import formats
from compact_splats.compression.arrays import Arrays
from compact_splats.compression.edits import edited, merged, similarity
from compact_splats.compression.files import model_file, read_model
from compact_splats.compression.info import described_size
from compact_splats.scene import ply
from compact_splats.scene.parameters import SavedArrays
from compact_splats.training.run_folder import RunFolder
from compact_splats.utils.errors import InputError, note

_KEEPS_ORDER = ("spz", "splat", "glb")  # of nested models; .ply has the mark, too
_NO_OFFSET = ("spz", "splat")  # have no place for it


def export(argv: Sequence[str]) -> None:
    """Convert a model to another format.

    Raises:
        InputError: the model can't be read, or the file can't be written or is there already.
    """
    config = ExportConfig.from_command_line(argv)
    sources = [model_file(path) for path in config.models]
    out = config.out or default_out(sources[0], config.format)
    if config.format == SOG_FOLDER and out.name != formats.META:
        out = out / formats.META
    if out.exists() and any(out.samefile(source) for source in sources if source.exists()):
        raise InputError(f"{out} is the model itself: name another file with --out")
    if out.exists() and config.out is None and not config.overwrite:
        raise InputError(f"{out} exists: give --overwrite to replace it, or name another file with --out")
    given = _read(sources, config)
    arrays, said = _without_floaters(sources[0], given, config)
    arrays = edited(arrays, config)
    if config.antialiasing is not None:
        arrays.antialiased = config.antialiasing
    lost = writer_of(config.format, int(config.spz_version))(out, arrays)
    if config.quiet:
        return
    num, left = len(given["means"]), len(arrays["means"])
    kept = f" of {num:,}" if left < num else ""
    print(f"{out}: {described_size(left, out)}{kept and f' ({left:,}{kept} Gaussians kept)'}")
    for text in (*arrays.notes, *said):
        note(f"{sources[0]}: {text}")
    if arrays.offset is not None and config.format in _NO_OFFSET:
        numbers = " ".join(f"{each:.10g}" for each in arrays.offset)
        note(f"{out}: its coordinates are those of the scene minus {numbers}, which this format can't say")
    if arrays.nested and config.format != "ply":
        kept = "kept, without its mark" if config.format in _KEEPS_ORDER else "lost: this format has its own"
        note(f"{out}: the order of the nested model is {kept}")
    for text in [*lost, *(_figure(sources[0], arrays, out) if lost and _is_in_place(config) else [])]:
        note(f"{out}: {text}")


def _read(sources: Sequence[Path], config: ExportConfig) -> SavedArrays:
    models = [read_model(source, keep_nan=config.keep_nan) for source in sources]
    try:
        return merged(models) if len(models) > 1 else models[0]
    except ValueError as error:
        names = ", ".join(map(str, sources))
        raise InputError(f"{names} can't become one model: {error}; export them one by one") from error


def _is_in_place(config: ExportConfig) -> bool:
    """Whether the cameras of the run still fit the model."""
    return bool(np.array_equal(similarity(config), np.eye(4)))


def _without_floaters(source: Path, arrays: SavedArrays, config: ExportConfig) -> tuple[SavedArrays, list[str]]:
    """The model without the Gaussians that too few cameras see, and a sentence with the PSNR."""
    if config.drop_floaters is None:
        return arrays, []
    folder = _run_with_cameras(source)
    if folder is None:
        raise InputError(f"--drop-floaters needs cameras: {source} lies in no run folder with a cameras.json")
    from compact_splats.compression.load import num_cameras_that_see  # these load torch

    cameras, units, device = _cameras_of(folder)
    seen = num_cameras_that_see(arrays, cameras, units, device) >= config.drop_floaters
    if not seen.any():
        most = len(cameras)
        raise InputError(f"--drop-floaters {config.drop_floaters} leaves no Gaussian: the run has {most} cameras")
    left = arrays.replaced({name: values[seen] for name, values in arrays.items()})
    said = [f"{int((~seen).sum()):,} Gaussians that fewer than {config.drop_floaters} cameras see are left out"]
    return left, said + _psnr(arrays, left, folder)


def default_out(source: Path, name: str) -> Path:
    """The new file beside the model, with its name; ``NAME-sog/meta.json`` for a folder of .sog."""
    base = source.absolute().parent if source.name == formats.META else source
    bare = base.name if base is not source else bare_name(source)
    return base.with_name(f"{bare}-sog" if name == SOG_FOLDER else f"{bare}.{name}")


def bare_name(path: Path) -> str:
    """The name of a model's file without the suffix of its format."""
    suffix = ".compressed.ply"
    return path.name.removesuffix(suffix) or path.name if path.name.endswith(suffix) else path.stem


def writer_of(name: str, spz_version: int = 3) -> Callable[..., list[str]]:
    """The writer of one of ``FORMATS``, which returns sentences about what the file has lost."""
    if name == "ply":
        return _write_ply
    if name == "spz":
        return partial(formats.writer_for("spz"), version=spz_version)
    return formats.writer_for("sog" if name == SOG_FOLDER else name)


def _write_ply(path: Path, arrays: Arrays) -> list[str]:
    ply.write(path, arrays)
    return []


def _figure(source: Path, arrays: SavedArrays, out: Path) -> list[str]:
    """The PSNR of the new file from the cameras of the model's run, if it lies in one."""
    folder = _run_with_cameras(source)
    return [] if folder is None else _psnr(arrays, read_model(out), folder)


def _run_with_cameras(source: Path) -> Path | None:
    folder = run_folder(source)
    return folder if folder is not None and (folder / "cameras.json").is_file() else None


def _psnr(arrays: SavedArrays, copy: SavedArrays, folder: Path) -> list[str]:
    from compact_splats.compression.load import psnr_of_copy  # loads torch

    cameras, units, device = _cameras_of(folder)
    return psnr_of_copy(arrays, copy, cameras, units, arrays.antialiased, device)


def _cameras_of(folder: Path) -> Any:
    """The cameras of a run, their units, and the device that draws them."""
    from compact_splats.arguments.device import pick_device  # these load torch
    from compact_splats.gaussian_renderer import DEVICES
    from compact_splats.scene.saved_cameras import read_cameras

    cameras, units = read_cameras(folder / "cameras.json", RunFolder(folder).units())
    return cameras, units, pick_device("auto", DEVICES)
