"""Make a trained model small, write it in the formats of other tools, and say what a file holds.

``compress.py -m output/my_scene`` removes Gaussians, fine-tunes the rest and stores them in ``compressed/compact.gsz``;
``compress.py --ply any.ply -s my_scene`` does so with a model of any origin; ``compress.py export FILE --format ply``
decodes; ``compress.py info FILE`` looks.
"""

import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before torch is imported: its idle OpenMP threads would otherwise spin on the cores that the rasterizer needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from compact_splats.arguments import pick_device
from compact_splats.arguments.compress import DEFAULT_ROUNDS, RATES, CompressConfig
from compact_splats.arguments.device import use_threads
from compact_splats.arguments.options import Parser, flags_that_save_memory, to_json
from compact_splats.compression import FormatError, decode, read_model, write_gsz
from compact_splats.compression.compact import CompactQuantizer
from compact_splats.compression.container import MAGIC, unpack
from compact_splats.compression.finetune import Photos
from compact_splats.compression.posthoc import Goals, PostHoc, Result, Stage
from compact_splats.compression.quantizer import Quantizer
from compact_splats.compression.seed import SeedQuantizer
from compact_splats.compression.viewpoints import Viewpoints
from compact_splats.gaussian_renderer import DEVICES
from compact_splats.scene import ply
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.training.loading import load
from compact_splats.training.random_streams import random_stream
from compact_splats.training.run_folder import RunFolder
from compact_splats.training.view_sampler import ViewSampler
from compact_splats.utils.errors import InputError, run_script
from compact_splats.utils.files import check_writable, write_json
from compact_splats.utils.usage import MB, MemoryMeter, Stopwatch

HEADER = f"{'':12} {'Gaussians':>10} {'MB':>8} {'bytes each':>10} {'train PSNR':>10} {'test PSNR':>10}"


def main(argv: Sequence[str] | None = None) -> None:
    """Do as the command line says: one of the commands, or without any the post-hoc stage."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS[argv.pop(0)] if argv and argv[0] in COMMANDS else run
    command(argv)


# ---- the post-hoc stage ----


def run(argv: Sequence[str]) -> None:
    """``compress.py [run]``: the post-hoc stage."""
    compress(CompressConfig.from_command_line(argv))


def compress(config: CompressConfig) -> dict[str, Any]:
    """Compress a model and leave the file, and beside it a ``.json`` of the same name with the course in figures.

    Args:
        config: what to do.

    Returns:
        The content of the ``.json``.

    Raises:
        InputError: model or scene can't be read, or the folder can't be written; nothing has been written then.
    """
    device = pick_device(config.device, DEVICES)
    use_threads(config.threads)
    source = RunFolder(config.model_path).find_ply(config.iteration)[0] if config.ply is None else config.ply
    out = config.out or default_out(config)
    say = (lambda text: None) if config.quiet else (lambda text: print(text, flush=True))
    check_writable(out.parent)
    model = read_checked(source, device)
    model.antialiased = config.antialiasing
    scene = load(config, say, device)
    say(f"{source}: {model.num_gaussians:,} Gaussians, {source.stat().st_size / MB:.2f} MB")
    if out.exists():
        say(f"{out} is there already; it is replaced when the new file is ready")

    memory, clock = MemoryMeter(device), Stopwatch(device)
    views = ViewSampler(len(scene.train), random_stream(config.seed, "views"))
    photos = Photos(scene, views, torch.full((3,), float(config.white_background)), config.lambda_dssim)
    say(HEADER)
    work = PostHoc(
        model, quantizer_of(config, scene.train), decode, photos, config.make_schedule(),
        RATES[config.profile], report=lambda stage: say(table_line(stage)), quiet=config.quiet,
    )  # fmt: skip
    try:
        result = work.run(goals_of(config), source.stat().st_size)
    except FormatError as error:
        raise InputError(source, error.expected, error.found, "repair the model or train it again") from error
    summary = {
        "source": str(source.absolute()),
        "file": str(out.absolute()),
        **result.as_json(),
        "minutes": clock.seconds / 60,
        **memory.read(),
        "config": to_json(config),
    }
    write_gsz(out, result.data)
    write_json(out.with_suffix(".json"), summary)
    say(describe(result, summary))
    return summary


def quantizer_of(config: CompressConfig, cameras: Sequence[Camera]) -> Quantizer:
    """The way to store the model that the profile names, for views like those of ``cameras``."""
    return SeedQuantizer() if config.profile == "seed" else CompactQuantizer(viewpoints=Viewpoints.of_cameras(cameras))


def goals_of(config: CompressConfig) -> Goals | None:
    """When to stop removing; None where nothing is to be removed."""
    if not config.prune:
        return None
    num_bytes = None if config.target_mb is None else int(config.target_mb * MB)
    asked = (config.target_gaussians, num_bytes, config.max_psnr_drop)
    rounds = DEFAULT_ROUNDS if config.rounds is None and asked == (None, None, None) else config.rounds
    return Goals(*asked, rounds)


def default_out(config: CompressConfig) -> Path:
    """Where the file goes if nobody says so."""
    if config.model_path is not None:
        return config.model_path / "compressed" / f"{config.profile}.gsz"
    return config.ply.parent / "compressed" / f"{config.ply.stem}.gsz"


def read_checked(path: Path, device: torch.device) -> GaussianModel:
    """Read a model of any format.

    Raises:
        InputError: it can't be read, or holds nothing.
    """
    rows = read_model(path)
    if not len(rows["means"]):
        raise InputError(path, "at least one Gaussian", "none", "give a trained model")
    return GaussianModel.from_arrays(rows, device)


def table_line(stage: Stage) -> str:
    """A line of the table of rounds."""
    test = "-" if stage.test_psnr is None else f"{stage.test_psnr:.2f}"
    return (
        f"{stage.name:12} {stage.gaussians:10,} {stage.bytes / MB:8.3f} {stage.bytes / stage.gaussians:10.1f} "
        f"{stage.train_psnr:10.2f} {test:>10}"
    )


def describe(result: Result, summary: dict[str, Any]) -> str:
    """The summary for a reader."""
    given, last = result.course[0], result.course[-1]
    lines = [
        f"{'Gaussians':12} {given.gaussians:,} -> {last.gaussians:,}",
        f"{'size':12} {given.bytes / MB:.2f} -> {last.bytes / MB:.3f} MB, 1/{given.bytes / last.bytes:.0f}; "
        f"{last.bytes / last.gaussians:.1f} bytes per Gaussian",
    ]
    for split in ("test", "train"):
        (psnr, ssim), (new_psnr, new_ssim) = (
            (getattr(stage, f"{split}_psnr"), getattr(stage, f"{split}_ssim")) for stage in (given, last)
        )
        if psnr is None:
            lines.append("             (no test views: --eval keeps every 8th photo out of training)")
            continue
        lines.append(
            f"{split + ' views':12} PSNR {psnr:.2f} -> {new_psnr:.2f} dB ({new_psnr - psnr:+.2f})   "
            f"SSIM {ssim:.4f} -> {new_ssim:.4f}"
        )
    if result.stopped_by is not None:
        missed = f"; not reached: {' and '.join(result.missed)}" if result.missed else ""
        lines.append(f"{'stopped at':12} {result.stopped_by}{missed}")
    memory = f"{'memory':12} peak {summary['peak_rss_mb']:,.0f} MB"
    if "peak_device_mb" in summary:
        memory += f"; on the GPU {summary['peak_device_mb']:,.0f} MB"
    file = Path(summary["file"])
    lines += [
        f"{'time':12} {summary['minutes']:.2f} min without loading and saving",
        memory,
        f"{'files':12} {file} and {file.with_suffix('.json').name}",
    ]
    return "\n".join(lines)


# ---- other formats ----


def export(argv: Sequence[str]) -> None:
    """``compress.py export``: write a model in another format, after decoding it.

    Raises:
        InputError: the model can't be read, or the file can't be written.
    """
    parser = Parser("Write a model in a format that other tools read; --format ply decodes it.")
    parser.add_argument("model", type=Path, help="any file that is read here, or a folder that train.py wrote")
    parser.add_argument("--format", choices=tuple(WRITERS), required=True, help="of the new file")
    parser.add_argument("-o", "--out", type=Path, help="the new file (default: beside the model, with its name)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    args = parser.parse_args(argv)
    source = RunFolder(args.model).find_ply()[0] if args.model.is_dir() else args.model
    out = args.out or source.with_name(f"{bare_name(source)}.{args.format}")
    if out.exists() and out.samefile(source):
        raise InputError(out, "another file than the model itself", "the same", "name one with --out")
    rows = read_model(source)
    try:
        WRITERS[args.format](out, rows)
    except FormatError as error:
        raise InputError(source, error.expected, error.found, "choose another --format") from error
    if not args.quiet:
        print(f"{out}: {described_size(len(rows['means']), out)}")


def write_standard(name: str) -> Callable[[Path, dict], None]:
    """The writer of a module of ``compression.formats``, which is loaded when it is needed."""

    def write(path: Path, rows: dict) -> None:
        importlib.import_module(f"compact_splats.compression.formats.{name}").write(path, rows)

    return write


WRITERS = {
    "ply": ply.write,
    "compressed.ply": write_standard("compressed_ply"),
    "splat": write_standard("splat"),
    "sog": write_standard("sog"),
    "spz": write_standard("spz"),
}


def bare_name(path: Path) -> str:
    """The name of a model's file without what stands for the format."""
    return (
        path.name.removesuffix(".compressed.ply") or path.name if path.name.endswith(".compressed.ply") else path.stem
    )


def info(argv: Sequence[str]) -> None:
    """``compress.py info``: say what a file holds.

    Raises:
        InputError: it can't be read.
    """
    parser = Parser("Say what a file holds: Gaussians, size, and for a .gsz header and streams.")
    parser.add_argument("file", type=Path, help="a model of any format that is read here")
    path = parser.parse_args(argv).file
    rows = read_model(path)
    num, coefficients = rows["sh_rest"].shape[:2]
    degree = math.isqrt(coefficients + 1) - 1
    print(f"{path}: {described_size(num, path)}, SH degree {degree}")
    data = path.read_bytes()
    if data.startswith(MAGIC):
        header, streams = unpack(data)
        print("header: " + ", ".join(f"{key} {json.dumps(value)}"[:80] for key, value in header.items()))
        width = max(map(len, streams), default=0)
        for name, stream in streams.items():
            print(f"  {name:{width}} {len(stream):10,} bytes {len(stream) / max(num, 1):8.2f} each")


def described_size(num: int, path: Path) -> str:
    """Number of Gaussians and size of a file, in words."""
    size = path.stat().st_size
    return f"{num:,} Gaussians, {size / MB:.3f} MB, {size / max(num, 1):.1f} bytes per Gaussian"


COMMANDS = {"run": run, "export": export, "info": info}

if __name__ == "__main__":
    run_script(main, less_memory=flags_that_save_memory(CompressConfig))
