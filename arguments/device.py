"""The choice of the device; all other code follows the tensors it is given."""

from collections.abc import Collection

import torch

from utils.errors import InputError

DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str, usable: Collection[str] = ("cpu", "cuda")) -> torch.device:
    """Turn a value of ``--device`` into a device.

    Args:
        name: one of :data:`DEVICES`; ``auto`` is the GPU where there is one.
        usable: types of device that the caller's code runs on.

    Raises:
        InputError: a GPU is asked for by name and can't be used.
    """
    has_gpu = "cuda" in usable and torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        lacks = "an engine built for the CPU only" if "cuda" not in usable else "none that torch can use"
        raise InputError("--device cuda", "an NVIDIA GPU and a CUDA build", lacks, "use --device cpu or auto")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
