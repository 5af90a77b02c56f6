"""The machine and versions that results depend on: processor, cores, GPU, packages, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from usable_processors import num_processors


def machine_info() -> dict[str, str | int]:
    """Processor, usable cores, GPU if any, versions, and the commit of the checkout."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": num_processors(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": os.environ.get("COMMIT") or commit(),
    }


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(index) for index in range(count)])[:count]


def commit() -> str:
    """The commit of the checkout, with "-dirty" if files differ from it; empty outside of a checkout."""
    return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", "-uno") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
