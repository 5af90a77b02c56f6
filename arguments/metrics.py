"""The flags of metrics.py."""

from dataclasses import dataclass
from pathlib import Path

from compact_splats.arguments.device import DEVICES
from compact_splats.arguments.options import Command, check, option
from compact_splats.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MetricsConfig(Command):
    """Which renders to measure."""

    about = "Measure the rendered test views of trained models: PSNR, SSIM and LPIPS."
    examples = ("output/my_scene", "output/first output/second")

    model_paths: tuple[Path, ...] = option(
        type=Path, short="-m", many=True, positional="RUN", group="basic", help="folders of train.py with views that "
        "render.py wrote (required)"
    )  # fmt: skip
    lpips: bool = option(
        True, type=bool, group="basic", help="measure LPIPS; --no-lpips: leave it out, and download nothing"
    )
    vgg: Path | None = option(
        None,
        type=Path,
        help="VGG16 checkpoint for LPIPS (default: that in torch hub's cache; 528 MB are downloaded if it is missing)",
    )
    device: str = option("auto", choices=DEVICES, help="auto: the GPU, if there is one")

    def __post_init__(self) -> None:
        check(self)
        if self.vgg is not None and not self.lpips:
            raise InputError("--vgg and --no-lpips exclude each other: leave one of them out")
        if not self.model_paths:
            raise InputError("-m names no model folder (see --help)")
