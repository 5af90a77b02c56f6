"""The summary that a training prints at its end."""

import shlex
import sys
from pathlib import Path
from typing import Any


def describe(summary: dict[str, Any], budget: int, folder: Path) -> str:
    """Format the summary."""
    script = Path(sys.argv[0])
    view = ["python", str(script.with_name("view.py"))] if script.name == "train.py" else ["compact-splats", "view"]
    quality = [
        f"{split + ' views':12} PSNR {_figure(scores['psnr'], 2)} dB   SSIM {_figure(scores['ssim'], 4)}"
        for split in ("test", "train")
        if (scores := summary.get(split))
    ]
    if "test" not in summary:
        quality.append("             (no test views: --eval keeps every 8th photo out of training)")
    if num := summary.get("photos_left_out"):
        quality.append(f"{'photos':12} {num:,} can't be decoded: their views were left out")
    if worst := summary.get("worst_views"):
        more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
        quality.append(
            f"{'worst fit':12} {', '.join(worst[:3])}{more}: far worse than the other photos; wrong pose, blur, or "
            "something that moved?"
        )
    return "\n".join(
        [
            *quality,
            f"{'Gaussians':12} {summary['num_gaussians']:,} of {budget:,}   {summary['ply_mb']:.2f} MB",
            f"{'time':12} {summary['training_minutes']:.2f} min without loading, measuring and saving, "
            f"{summary['steps_per_second']:.1f} steps/s",
            memory_line(summary),
            f"{'files':12} {summary['point_cloud']}",
            f"{'to see it':12} {shlex.join([*view, str(folder)])}",
        ]
    )


def memory_line(summary: dict[str, Any]) -> str:
    """The line about what ``utils.usage.MemoryMeter`` has read."""
    line = f"{'memory':12} peak {summary['peak_rss_mb']:,.0f} MB"
    if "peak_rss_above_start_mb" in summary:
        line += f", {summary['peak_rss_above_start_mb']:,.0f} MB of it since the start of training"
    if "peak_device_mb" in summary:
        line += f"; on the GPU {summary['peak_device_mb']:,.0f} MB"
    return line


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
