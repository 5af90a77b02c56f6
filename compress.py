"""Compress or order a trained model, convert models to the formats of other tools, and show what a file holds.

``compress.py -m output/my_scene`` prunes Gaussians, fine-tunes the rest and stores them in ``compressed/compact.gsz``;
``compress.py --ply any.ply -s my_scene`` does the same with the model of any trainer; ``compress.py export FILE
--format ply`` decodes; ``compress.py info FILE`` shows the number of Gaussians and the size; ``compress.py order -m
output/my_scene`` makes a nested model, whose first Gaussians alone are a good model, too.
"""

import importlib
import sys

from compact_splats.arguments.compress import (
    DEFAULT_ROUNDS,
    ORDER_RATES,
    RATES,
    CompressConfig,
    FineTuneConfig,
    OrderConfig,
)
from compact_splats.arguments.options import run_command, to_json
from compact_splats.utils.errors import InputError, run_script

# Above the imports that load torch, for which --help does not wait.
if __name__ == "__main__":
    if sys.argv[1:2] in (["export"], ["info"]):  # these load no torch
        module = importlib.import_module(f"compact_splats.compression.{sys.argv[1]}")
        run_script(lambda: getattr(module, sys.argv[1])(sys.argv[2:]))
    if sys.argv[1:2] == ["order"]:
        del sys.argv[1]
        run_command(OrderConfig, "compress", "make_nested")
    if sys.argv[1:2] == ["run"]:
        del sys.argv[1]
    run_command(CompressConfig, "compress", "compress")

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from compact_splats.arguments import pick_device
from compact_splats.arguments.device import use_threads
from compact_splats.compression import ColorBasis, decode, write_gsz
from compact_splats.compression.compact import PRESETS, CompactQuantizer
from compact_splats.compression.compact_streams import LEVELS
from compact_splats.compression.container import input_errors
from compact_splats.compression.export import bare_name, export
from compact_splats.compression.files import model_file
from compact_splats.compression.finetune import Photos
from compact_splats.compression.info import info
from compact_splats.compression.load import load_model
from compact_splats.compression.ordering import measured, nested
from compact_splats.compression.posthoc import Goals, PostHoc, Result, Stage
from compact_splats.compression.quantizer import Quantizer
from compact_splats.compression.seed import SeedQuantizer
from compact_splats.gaussian_renderer import DEVICES
from compact_splats.scene.cameras import Camera
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.normalization import Units
from compact_splats.training.exposure import FILE, Exposure
from compact_splats.training.loading import Decoding, load
from compact_splats.training.poses import take_refined_poses
from compact_splats.training.random_streams import random_stream
from compact_splats.training.run_folder import RunFolder
from compact_splats.training.summary import memory_line
from compact_splats.training.view_sampler import ViewSampler
from compact_splats.utils.files import check_writable, write_json
from compact_splats.utils.usage import MB, MemoryMeter, Stopwatch

HEADER = f"{'':12} {'Gaussians':>10} {'MB':>8} {'bytes each':>10} {'train PSNR':>10} {'test PSNR':>10}"


def main(argv: Sequence[str]) -> None:
    """Run the command of the command line; the post-hoc stage if there is none."""
    word, words = argv[:1], argv[1:]
    if word in (["export"], ["info"]):
        (export if word == ["export"] else info)(words)
    elif word == ["order"]:
        make_nested(OrderConfig.from_command_line(words))
    else:
        compress(CompressConfig.from_command_line(words if word == ["run"] else argv))


# ---- the post-hoc stage ----


def compress(config: CompressConfig) -> dict[str, Any]:
    """Compress a model; write the file, and beside it a ``.json`` of the same name with all measurements.

    Returns:
        The content of the ``.json``.

    Raises:
        InputError: the model or the scene can't be read, or the folder can't be written. Nothing is written then.
    """
    source = _source(config)
    out = config.out or default_out(config)
    if out.exists() and config.out is None and not (config.ply is None or config.overwrite):
        raise InputError(f"{out} exists: give --overwrite to replace it, or name another file with --out")
    with _loaded(config, source, out) as given:
        if out.exists():
            config.say(f"{out} exists; it will be replaced when the new file is complete")
        nested = given.model.nested and config.profile == "compact"
        if given.model.nested and not nested:
            config.say_notes(source, ("the order of the nested model is lost: profile seed has its own",))
        config.say(HEADER)
        stage = PostHoc(
            given.model, quantizer_of(config, given.photos.scene.train, given.model.units), decode, given.photos,
            config.make_schedule(), RATES[config.profile], config.prune_by,
            report=lambda stage: config.say(table_line(stage)), quiet=config.quiet,
            prefixes=random_stream(config.seed, "prefixes") if nested else None,
        )  # fmt: skip
        with input_errors(source, "repair the model or train it again"):
            result = stage.run(goals_of(config), source.stat().st_size)
        summary = {
            "source": str(source.absolute()),
            "file": str(out.absolute()),
            **result.as_json(),
            **given.cost(),
            "config": to_json(config),
        }
        if nested:
            decoded = GaussianModel.from_arrays(decode(result.data), given.model.device, given.model.units)
            summary["prefixes"] = [asdict(each) for each in measured(decoded, given.photos, LEVELS)]
    write_gsz(out, result.data)
    write_json(out.with_suffix(".json"), summary)
    config.say(describe(result, summary))
    return summary


@dataclass
class Loaded:
    """A model, the photos that it is fine-tuned on, and what measures the time and memory of that."""

    model: GaussianModel
    photos: Photos
    memory: MemoryMeter
    clock: Stopwatch

    def cost(self) -> dict[str, float]:
        """Minutes and memory for the ``.json``."""
        return {"minutes": self.clock.seconds / 60, **self.memory.read()}


def _source(config: FineTuneConfig) -> Path:
    """The file of the model."""
    if config.ply is None and config.model_path is not None:
        return RunFolder(config.model_path).find_ply(config.iteration)[0]
    return model_file(config.ply)


@contextmanager
def _loaded(config: FineTuneConfig, source: Path, out: Path) -> Iterator[Loaded]:
    """Read model and scene, for a file that goes to ``out``."""
    device = pick_device(config.device, DEVICES)
    use_threads(config.threads)
    check_writable(out.parent)
    known = None if config.model_path is None else RunFolder(config.model_path).units()
    scene = load(config, units=known)
    take_refined_poses(scene, config.model_path)
    model = load_model(source, config, device, scene.units if known else scene.units.without_offset())
    memory, clock = MemoryMeter(device, lambda: scene.photos.num_bytes), Stopwatch(device)
    with closing(Decoding(scene, device, out.parent)) as decoding:
        with clock.paused():
            decoding.finish()
        config.say(f"{source}: {model.num_gaussians:,} Gaussians, {source.stat().st_size / MB:.2f} MB")
        views = ViewSampler(len(scene.train), random_stream(config.seed, "views"))
        background = torch.full((3,), float(config.white_background))
        exposure = None if config.model_path is None else Exposure.read(config.model_path / FILE, scene.train, device)
        yield Loaded(model, Photos(scene, views, background, config.lambda_dssim, exposure), memory, clock)


def quantizer_of(config: CompressConfig, cameras: Sequence[Camera], units: Units) -> Quantizer:
    """The quantizer of the profile, with the colour basis of the training cameras."""
    if config.profile == "seed":
        return SeedQuantizer()
    return CompactQuantizer(PRESETS[config.quality], ColorBasis.of_cameras(cameras, units))


def goals_of(config: CompressConfig) -> Goals | None:
    """When to stop pruning; None: no pruning."""
    if not config.prune:
        return None
    num_bytes = None if config.target_mb is None else int(config.target_mb * MB)
    targets = (config.target_gaussians, num_bytes, config.max_psnr_drop)
    rounds = DEFAULT_ROUNDS if config.rounds is None and targets == (None, None, None) else config.rounds
    return Goals(*targets, rounds)


def default_out(config: CompressConfig) -> Path:
    """The file to write where ``--out`` is not given."""
    if config.model_path is not None:
        return config.model_path / "compressed" / f"{config.profile}.gsz"
    return config.ply.parent / "compressed" / f"{config.ply.stem}.gsz"


def table_line(stage: Stage) -> str:
    """The line of a stage in the table."""
    test = "-" if stage.test_psnr is None else f"{stage.test_psnr:.2f}"
    return (
        f"{stage.name:12} {stage.gaussians:10,} {stage.bytes / MB:8.3f} {stage.bytes / stage.gaussians:10.1f} "
        f"{stage.train_psnr:10.2f} {test:>10}"
    )


def describe(result: Result, summary: dict[str, Any]) -> str:
    """The printed summary."""
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
            lines.append("             (no test views: --eval makes every 8th photo one)")
            continue
        lines.append(
            f"{split + ' views':12} PSNR {psnr:.2f} -> {new_psnr:.2f} dB ({new_psnr - psnr:+.2f})   "
            f"SSIM {ssim:.4f} -> {new_ssim:.4f}"
        )
    lines += [
        f"{'first':12} {each['gaussians']:,}  PSNR {each['psnr']:.2f} dB   SSIM {each['ssim']:.4f}"
        for each in summary.get("prefixes", [])
    ]
    if result.stopped_by is not None:
        missed = f"; not reached: {' and '.join(result.missed)}" if result.missed else ""
        lines.append(f"{'stopped at':12} {result.stopped_by}{missed}")
    file = Path(summary["file"])
    lines += [
        f"{'time':12} {summary['minutes']:.2f} min without loading and saving",
        memory_line(summary),
        f"{'files':12} {file} and {file.with_suffix('.json').name}",
    ]
    return "\n".join(lines)


# ---- nested models ----


def make_nested(config: OrderConfig) -> dict[str, Any]:
    """Make a nested model; write its PLY, and beside it a ``.json`` of the same name with all measurements.

    Returns:
        The content of the ``.json``.

    Raises:
        InputError: the model or the scene can't be read, the model is too small, or the file is there already. Nothing
            is written then.
    """
    source = _source(config)
    folder = source.parent if config.model_path is None else config.model_path
    out = config.out or folder / "nested" / f"{bare_name(source)}.ply"
    if out.exists() and not config.overwrite:
        raise InputError(f"{out} exists: give --overwrite to replace it, or name another file with --out")
    schedule = config.make_schedule()
    shares = (*sorted({0.1, 0.25, 0.5, *schedule.levels}), 1.0)
    with _loaded(config, source, out) as given:
        (before,) = measured(given.model, given.photos, (1.0,))
        prefixes = random_stream(config.seed, "prefixes")
        model = nested(given.model, given.photos, schedule, ORDER_RATES, prefixes, config.quiet)
        cost, after = given.cost(), measured(model, given.photos, shares)
    views = "test" if given.photos.scene.test else "training"
    summary = {
        "source": str(source.absolute()),
        "file": str(out.absolute()),
        "views": views,
        "given": asdict(before),
        "prefixes": [asdict(each) for each in after],
        **cost,
        "config": to_json(config),
    }
    model.save_ply(out)
    write_json(out.with_suffix(".json"), summary)
    config.say(f"{views} views  Gaussians   PSNR    SSIM")
    for name, each in zip(("as given", *(f"first {share:.0%}" for share in shares)), (before, *after), strict=True):
        config.say(f"{name:10} {each.gaussians:10,}  {each.psnr:5.2f}  {each.ssim:.4f}")
    config.say(f"{out}: {cost['minutes']:.2f} min without loading and saving")
    return summary
