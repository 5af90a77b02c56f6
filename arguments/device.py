"""The choice of the device; all other code follows the tensors it is given."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from compact_splats.utils.errors import InputError
from compact_splats.utils.machine import num_cores

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
_REBUILD = "run DGR_CUDA=1 pip install submodules/diff-gaussian-rasterization, which builds it or says what it lacks"


def pick_device(name: str, usable: Collection[str] = ("cpu", "cuda")) -> torch.device:
    """Turn a value of ``--device`` into a device.

    Args:
        name: one of :data:`DEVICES`; ``auto`` is the GPU where there is one.
        usable: types of device that the caller's code runs on. Where ``auto`` leaves a GPU out on that account, a line
            on stderr says so.

    Raises:
        InputError: a GPU is asked for by name and can't be used.
    """
    import torch  # here, as --help does not wait for it

    sees_gpu, has_engine = torch.cuda.is_available(), "cuda" in usable
    if name == "cuda" and not (sees_gpu and has_engine):
        raise _no_engine() if sees_gpu else _no_gpu(has_engine)
    if name == "auto" and sees_gpu and not has_engine:
        gpu = torch.cuda.get_device_name()
        print(f"note: the {gpu} is not used: the engine was built for the CPU only; {_REBUILD}", file=sys.stderr)
    return torch.device("cuda" if name != "cpu" and sees_gpu and has_engine else "cpu")


def use_threads(count: int) -> None:
    """Let torch and the engine compute with so many CPU threads; 0: one for each core that the process may use."""
    import torch

    torch.set_num_threads(count or num_cores())


def use_deterministic_algorithms(wanted: bool) -> None:
    """Let engine and torch give the same bits from every run, or not."""
    import torch

    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing reads it, and filling takes time


def _no_engine() -> InputError:
    """The GPU is there, and only the engine was built without it."""
    import torch

    expected = f"an engine built for the {torch.cuda.get_device_name()}"
    return InputError("--device cuda", expected, "one built for the CPU only", f"{_REBUILD}, or use --device cpu")


def _no_gpu(has_engine: bool) -> InputError:
    """Torch can't use a GPU, and says why when CUDA is initialised."""
    import torch

    expected, found, fix = "an NVIDIA GPU", "none that torch can use", ""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:  # the first where torch was built without CUDA
        found = " ".join(str(error).split(". ")[0].removeprefix("Found ").split())
    too_old = re.search(r"driver .* too old \(found version (\d+)\)", found)
    if torch.version.cuda is None:
        expected, found = "torch with CUDA", f"torch {torch.__version__}"
        fix = "install torch for CUDA (see pytorch.org), or "
    elif too_old:
        version = int(too_old[1])
        expected = f"an NVIDIA driver for the CUDA {torch.version.cuda} that torch was built for"
        found = f"a driver for CUDA {version // 1000}.{version % 1000 // 10}"
        fix = "update the driver, or install torch for an older CUDA, or "
    engine = "" if has_engine else ", and an engine built for the CPU only"
    return InputError("--device cuda", expected, found + engine, fix + "use --device cpu or auto")
