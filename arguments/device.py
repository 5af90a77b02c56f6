"""The choice of the device. All other code uses the device of its tensors."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from usable_processors import num_processors

from compact_splats.utils.errors import InputError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
_REBUILD = "run DGR_CUDA=1 pip install submodules/diff-gaussian-rasterization, which builds it or says what is missing"
_threads = {"set here": 0, "set elsewhere": 0}


def pick_device(name: str, usable: Collection[str] = ("cpu", "cuda")) -> torch.device:
    """The device of a value of ``--device``.

    Args:
        name: one of :data:`DEVICES`; ``auto`` is the GPU, if there is one.
        usable: device types that the caller supports. If ``auto`` skips a GPU for that reason, it prints a note.

    Raises:
        InputError: ``name`` is "cuda", and no GPU can be used.
    """
    import torch  # late, so that --help is fast

    sees_gpu, has_engine = torch.cuda.is_available(), "cuda" in usable
    if name == "cuda" and not (sees_gpu and has_engine):
        raise _no_engine() if sees_gpu else _no_gpu(has_engine)
    if name == "auto" and sees_gpu and not has_engine:
        gpu = torch.cuda.get_device_name()
        print(f"note: the {gpu} is not used: the engine was built for the CPU only; {_REBUILD}", file=sys.stderr)
    return torch.device("cuda" if name != "cpu" and sees_gpu and has_engine else "cpu")


def use_threads(count: int) -> None:
    """Set the number of CPU threads of torch and the engine.

    0: the number before the first call, i.e. that of ``torch.set_num_threads`` or OMP_NUM_THREADS, but not more than
    the processors that this process may use.
    """
    import torch

    if torch.get_num_threads() != _threads["set here"]:
        _threads["set elsewhere"] = torch.get_num_threads()
    _threads["set here"] = count or min(_threads["set elsewhere"], num_processors())
    torch.set_num_threads(_threads["set here"])


def use_deterministic_algorithms(wanted: bool) -> None:
    """Make engine and torch use algorithms that give the same bits in every run, or not."""
    import torch

    # Not torch.use_deterministic_algorithms: it imports torch's compiler, which takes a second and 100 MB.
    torch.set_deterministic_debug_mode("warn" if wanted else "default")
    # The code reads no uninitialized memory, and filling it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch adds it later


def _no_engine() -> InputError:
    import torch

    return InputError(
        "--device cuda can't be used: the engine was built for the CPU only, not for the "
        f"{torch.cuda.get_device_name()}; {_REBUILD}, or use --device cpu"
    )


def _no_gpu(has_engine: bool) -> InputError:
    """The reason that torch gives when CUDA is initialised."""
    import torch

    reason, fix = "torch finds no NVIDIA GPU", ""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:  # AssertionError: torch was built without CUDA
        reason = " ".join(str(error).split(". ")[0].split())
    too_old = re.search(r"driver .* too old \(found version (\d+)\)", reason)
    if torch.version.cuda is None:
        reason = f"torch {torch.__version__} was built without CUDA"
        fix = "install torch for CUDA (see pytorch.org), or "
    elif too_old:
        version = int(too_old[1])
        reason = f"torch needs an NVIDIA driver for CUDA {torch.version.cuda}, this one is for CUDA "
        reason += f"{version // 1000}.{version % 1000 // 10}"
        fix = "update the driver, or install torch for an older CUDA, or "
    engine = "" if has_engine else ", and the engine was built for the CPU only"
    return InputError(f"--device cuda can't be used: {reason}{engine}; {fix}use --device cpu or auto")
