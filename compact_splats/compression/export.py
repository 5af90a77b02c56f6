"""``compress.py export``: a model in the format of another tool. Needs no torch, but to measure what a format loses."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from compact_splats.arguments.options import Parser
from compact_splats.arguments.view import run_folder
from compact_splats.compression import formats
from compact_splats.compression.arrays import Arrays
from compact_splats.compression.files import model_file, read_model
from compact_splats.compression.info import described_size
from compact_splats.scene import ply
from compact_splats.scene.parameters import SavedArrays
from compact_splats.utils.errors import InputError, note

FOLDER = "sog-folder"  # a .sog as loose files
FORMATS = ("ply", *(suffix[1:] for suffix in formats.WRITTEN), FOLDER)
_SPZ_VERSIONS = ("3", "4")


def export(argv: Sequence[str]) -> None:
    """Convert a model to another format.

    Raises:
        InputError: the model can't be read, or the file can't be written or is there already.
    """
    args = _parser().parse_args(argv)
    source = model_file(args.model)
    out = args.out or default_out(source, args.format)
    if args.format == FOLDER and out.name != formats.META:
        out = out / formats.META
    if out.exists() and out.samefile(source):
        raise InputError(f"{out} is the model itself: name another file with --out")
    if out.exists() and args.out is None and not args.overwrite:
        raise InputError(f"{out} exists: give --overwrite to replace it, or name another file with --out")
    arrays = read_model(source, keep_nan=args.keep_nan)
    if args.antialiasing is not None:
        arrays.antialiased = args.antialiasing
    lost = writer_of(args.format, int(args.spz_version))(out, arrays)
    if args.quiet:
        return
    print(f"{out}: {described_size(len(arrays['means']), out)}")
    for text in arrays.notes:
        note(f"{source}: {text}")
    for text in [*lost, *(_figure(source, arrays, out) if lost else [])]:
        note(f"{out}: {text}")


def _parser() -> Parser:
    parser = Parser("Convert a model to the format of another tool; --format ply decodes a .gsz.")
    parser.add_argument("model", type=Path, help="a model of any known format, or a folder of train.py")
    parser.add_argument("--format", choices=FORMATS, required=True, help="format of the new file")
    parser.add_argument(
        "-o", "--out", type=Path, help="the new file, replaced if it exists (default: beside the model, with its name)"
    )
    parser.add_argument("--overwrite", action="store_true", help="without --out: replace a file of that name")
    parser.add_argument(
        "--antialiasing", action=BooleanOptionalAction, default=None, help="how to mark the new file (default: as the "
        "model is marked)"
    )  # fmt: skip
    parser.add_argument(
        "--keep-nan", action="store_true", help="refuse a model with values that are not finite, instead of leaving "
        "out these Gaussians"
    )  # fmt: skip
    parser.add_argument(
        "--spz-version", choices=_SPZ_VERSIONS, default=_SPZ_VERSIONS[0], help="of a .spz: 3 for all viewers, 4 is "
        "smaller (default: %(default)s)"
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


def default_out(source: Path, name: str) -> Path:
    """The new file beside the model, with its name; ``NAME-sog/meta.json`` for a folder of .sog."""
    base = source.absolute().parent if source.name == formats.META else source
    bare = base.name if base is not source else bare_name(source)
    return base.with_name(f"{bare}-sog" if name == FOLDER else f"{bare}.{name}")


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
    return formats.writer_for("sog" if name == FOLDER else name)


def _write_ply(path: Path, arrays: Arrays) -> list[str]:
    ply.write(path, arrays)
    return []


def _figure(source: Path, arrays: SavedArrays, out: Path) -> list[str]:
    """The PSNR of the new file from the cameras of the model's run, if it lies in one."""
    folder = run_folder(source)
    if folder is None or not (folder / "cameras.json").is_file():
        return []
    from compact_splats.arguments.device import pick_device  # these load torch
    from compact_splats.compression.load import psnr_of_copy
    from compact_splats.gaussian_renderer import DEVICES
    from compact_splats.scene.saved_cameras import read_cameras
    from compact_splats.training.run_folder import RunFolder

    cameras, units = read_cameras(folder / "cameras.json", RunFolder(folder).units())
    return psnr_of_copy(arrays, read_model(out), cameras, units, arrays.antialiased, pick_device("auto", DEVICES))
