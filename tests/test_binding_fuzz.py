"""The bindings of the CPU engine get arguments of random shapes, dtypes, strides and types; the process must survive.

Right arguments are changed at random, by the functions of the compiled module, behind those of the package, which check
more. Whatever the engine accepts may be written to, and nothing beside it. Runs in a process of its own, as a crash
would end it: ``python tests/test_binding_fuzz.py CALLS SEED``.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diff_gaussian_rasterization import _C
from torch import Tensor

CALLS = 3000
GUARD, POISON = 64, 77.0  # numbers before and behind each array, and what they are
REFUSALS = (ValueError, TypeError, MemoryError)

Arguments = dict[str, object]


class Arrays:
    """Makes tensors that lie between guards, and looks whether these are untouched."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._made: list[tuple[Tensor, int]] = []

    def make(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A contiguous tensor of small numbers."""
        size = int(np.prod(shape))
        whole = torch.full((size + 2 * GUARD,), int(POISON)).to(dtype)
        self._made.append((whole, size))
        inside = whole[GUARD : GUARD + size]
        inside.copy_(torch.rand(size, generator=torch.Generator().manual_seed(self._rng.randrange(1000))))
        return inside.view(shape)

    def check(self) -> None:
        """Raises AssertionError where a guard has changed; forgets all tensors."""
        made, self._made = self._made, []
        for whole, size in made:
            guards = torch.cat([whole[:GUARD], whole[GUARD + size :]])
            assert (guards == torch.tensor(int(POISON)).to(whole.dtype)).all(), f"written beside {size} {whole.dtype}"


def render_arguments(arrays: Arrays, rng: random.Random) -> Arguments:
    """What forward, backward and importance are given: all of it, by name."""
    n, width, height, rest = rng.choice((0, 1, 5, 30)), rng.choice((1, 17, 33)), rng.choice((1, 20)), 15
    make = arrays.make
    rows = {"means": make(n, 3), rng.choice(("opacities", "opacity_logits")): rng.choice((make(n), make(n, 1)))}
    scales = rng.choice(("scales", "log_scales"))
    rows |= rng.choice(({"quats": make(n, 4), scales: make(n, 3)}, {"covariances": make(n, 6)}))
    rows |= rng.choice(({"colors": make(n, 3)}, {"sh_dc": make(n, 1, 3), "sh_rest": make(n, rest, 3)}))
    matrix = make(4, 4).mul_(0.1).add_(torch.eye(4))
    pictures = {"image": (3, height, width), "transmittance": (height, width), "inverse_depth": (height, width)}
    return {
        **{f"rows.{name}": value for name, value in rows.items()},
        **{f"v_rows.{name}": make(*value.shape) for name, value in rows.items()},
        **{f"out.{name}": make(*shape) for name, shape in pictures.items()},
        **{f"images.{name}": make(*shape) for name, shape in pictures.items()},
        **{f"v_images.{name}": make(*shape) for name, shape in pictures.items()},
        **dict(zip(("view.width", "view.height", "view.fx", "view.fy"), (width, height, 20.0, 21.0), strict=True)),
        **{"view.cx": 8.0, "view.cy": 9.0, "view.world_to_camera": matrix, "view.background": make(3)},
        **{"antialiased": rng.random() < 0.5, "sh_degree": rng.randrange(4), "threads": rng.randrange(4)},
        **{"radii": make(n, dtype=torch.int32), "v_screen_means": make(n, 4), "v_world_to_camera": make(4, 4)},
        **{"abs_grad": make(n), "seen": make(n), "pixel_weights": make(height, width)},
        **{"weighted": make(n), "total": make(n), "distance": make(n)},
        **{"num_pixels": make(n, dtype=torch.int32), "num_weighted": make(n, dtype=torch.int32)},
        "num_gaussians": make(height, width, dtype=torch.int32),
    }  # fmt: skip


def part(arguments: Arguments, prefix: str) -> Arguments:
    """The arguments of one struct, without its name."""
    return {name.removeprefix(prefix): value for name, value in arguments.items() if name.startswith(prefix)}


def view_of(arguments: Arguments) -> object:
    return _C.View(*part(arguments, "view.").values())


def frame_of(arguments: Arguments) -> object:
    return _C.forward(
        _C.Rows(**part(arguments, "rows.")), view_of(arguments), _C.Queue(), antialiased=arguments["antialiased"],
        sh_degree=arguments["sh_degree"], threads=arguments["threads"], differentiable=True,
        out=_C.Outputs(*part(arguments, "out.").values()), radii=arguments["radii"],
    )  # fmt: skip


def forward_and_backward(change: Callable[[Arguments], Arguments], right: Arguments) -> None:
    """Two calls: right and wrong, so that backward is reached, or both wrong."""
    wrong = change(right)
    first = right if any(name.startswith(("v_", "images")) for name in differing(right, wrong)) else wrong
    _C.backward(
        frame_of(first), _C.Rows(**part(wrong, "rows.")), _C.Rows(**part(wrong, "v_rows.")), _C.Queue(),
        images=_C.Outputs(*part(wrong, "images.").values()), v_images=_C.Outputs(*part(wrong, "v_images.").values()),
        v_screen_means=wrong["v_screen_means"], abs_grad=wrong["abs_grad"], seen=wrong["seen"],
        v_world_to_camera=wrong["v_world_to_camera"],
    )  # fmt: skip


def differing(a: Arguments, b: Arguments) -> list[str]:
    return [name for name in a if a[name] is not b[name]]


def importance(change: Callable[[Arguments], Arguments], right: Arguments) -> None:
    wrong = change(right)
    names = ("pixel_weights", "weighted", "total", "distance", "num_pixels", "num_weighted", "num_gaussians")
    _C.importance(
        _C.Rows(**part(wrong, "rows.")), view_of(wrong), _C.Queue(), antialiased=wrong["antialiased"],
        threads=wrong["threads"], **{name: wrong[name] for name in names}
    )  # fmt: skip


def removal_error(change: Callable[[Arguments], Arguments], right: Arguments) -> None:
    names = ("out.image", "images.image", "pixel_weights", "weighted")  # few, or most calls would have no wrong one
    wrong = change({name: right[name] for name in names})
    _C.removal_error(
        frame_of(right), _C.Queue(), image=wrong["out.image"], photo=wrong["images.image"],
        pixel_weights=wrong["pixel_weights"], change=wrong["weighted"],
    )  # fmt: skip


def loss_arguments(arrays: Arrays, rng: random.Random) -> Arguments:
    shape = (rng.choice((1, 3, 4)), rng.choice((1, 20)), rng.choice((1, 40)))
    photo = arrays.make(*shape, dtype=rng.choice((torch.float32, torch.uint8)))
    return {
        "image": arrays.make(*shape), "photo": photo, "mask": arrays.make(*shape[1:], dtype=torch.bool),
        "ssim_weight": 0.2, "margin": rng.choice((0, 5)) if min(shape[1:]) > 10 else 0,
        "threads": rng.randrange(4), "loss": arrays.make(), "parts": arrays.make(2), "v_image": arrays.make(*shape),
    }  # fmt: skip


def loss(change: Callable[[Arguments], Arguments], right: Arguments) -> None:
    _C.photometric_loss(queue=_C.Queue(), **change(right))


def adam_arguments(arrays: Arrays, rng: random.Random) -> Arguments:
    shape = rng.choice(((7,), (7, 3), (7, 15, 3), (0, 3)))
    names = ("values", "gradient", "exp_avg", "exp_avg_sq")
    numbers = {"rate": 0.1, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "step": 1 + rng.randrange(3)}
    visible = rng.choice((None, arrays.make(shape[0], dtype=torch.int32)))
    return {**{name: arrays.make(*shape) for name in names}, **numbers, "visible": visible, "threads": rng.randrange(4)}


def adam(change: Callable[[Arguments], Arguments], right: Arguments) -> None:
    wrong = change(right)
    rest = {name: wrong.pop(name) for name in ("visible", "threads")}
    _C.adam([_C.AdamStep("name", **wrong)], _C.Queue(), **rest)


def sum_arguments(arrays: Arrays, rng: random.Random) -> Arguments:
    shape = rng.choice(((), (7,), (7, 3), (0, 3), (40, 15, 3)))
    return {
        "gradient": arrays.make(*shape), "sum": rng.choice((None, arrays.make(*shape))),
        "is_checked": rng.random() < 0.5, "loss": arrays.make(), "largest": rng.choice((1e30, 0.0)),
        "usable": arrays.make(dtype=torch.bool), "threads": rng.randrange(4),
    }  # fmt: skip


def add_gradients(change: Callable[[Arguments], Arguments], right: Arguments) -> None:
    wrong = change(right)
    first = {name: wrong.pop(name) for name in ("gradient", "sum", "is_checked")}
    _C.add_gradients([_C.GradientSum("name", **first)], _C.Queue(), **wrong)


TARGETS = (
    (render_arguments, forward_and_backward), (render_arguments, importance),
    (render_arguments, removal_error), (loss_arguments, loss), (adam_arguments, adam), (sum_arguments, add_gradients),
)  # fmt: skip


def another(value: object, arrays: Arrays, rng: random.Random) -> object:
    """Something else in an argument's place."""
    if not isinstance(value, Tensor) or rng.random() < 0.1:
        near = [-1, 0, 1, 2, 4, 40] if isinstance(value, int | float) else []
        return rng.choice(
            [None, "text", 2**31 - 1, 2**31, 2**40, -(2**63), float("nan"), float("inf"), [], [1.0], *near]
        )
    shape, dtype = list(value.shape), value.dtype
    change = rng.randrange(9)
    if change == 0:
        dtypes = (torch.float16, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64)
        return arrays.make(*shape, dtype=rng.choice(dtypes))
    if change == 1 and shape:
        shape[rng.randrange(len(shape))] = rng.choice((0, 1, 2, 3, 4, 100))
        return arrays.make(*shape, dtype=dtype)
    if change == 2:
        return arrays.make(*shape, rng.choice((0, 1, 2)), dtype=dtype)
    if change == 3:
        return arrays.make(*shape[:-1], dtype=dtype)
    if change == 4 and shape:
        return arrays.make(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
    if change == 5:
        return value.transpose(0, -1) if shape else value
    if change == 6:
        return torch.zeros([1] * len(shape), dtype=dtype).expand(shape)
    if change == 7:
        return torch.empty(shape, dtype=dtype, device="meta")
    return rng.choice((value.numpy(), value[1:] if shape else value, value.tolist(), torch.tensor(1.0)))


def fuzz(num_calls: int, seed: int) -> dict[str, int]:
    """Call the engine; how often each function took its arguments ("yes") and refused them ("no").

    Raises:
        Exception: anything that is not a refusal; AssertionError where something was written beside an array.
    """
    rng, counts = random.Random(seed), Counter()
    for number in range(num_calls):
        arrays = Arrays(rng)
        arguments_of, call = TARGETS[number % len(TARGETS)]
        num_changes = rng.choice((0, 1, 1, 1, 2, 4))

        def change(right: Arguments, arrays: Arrays = arrays, num_changes: int = num_changes) -> Arguments:
            changed = dict(right)
            for name in rng.sample(list(right), min(num_changes, len(right))):
                changed[name] = another(right[name], arrays, rng)
            return changed

        try:
            call(change, arguments_of(arrays, rng))
            counts[f"{call.__name__}: yes"] += 1
        except REFUSALS as error:
            assert num_changes > 0, f"refused what is right: {error}"
            counts[f"{call.__name__}: no"] += 1
        except BaseException:
            print(f"call {number} of seed {seed}", file=sys.stderr)
            raise
        arrays.check()
    return dict(counts)


def counts_of(num_calls: int, *options: str) -> dict[str, int]:
    """Of :func:`fuzz` in another process."""
    folders = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path(__file__).parent)]).lstrip(os.pathsep)
    command = [sys.executable, __file__, str(num_calls), "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": folders})
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)


def test_no_argument_does_harm():
    """3,000 calls: each is served or refused with a ValueError, TypeError or MemoryError, and no guard is touched."""
    counts = counts_of(CALLS)
    assert sum(counts.values()) == CALLS
    for _, call in TARGETS:
        assert counts[f"{call.__name__}: yes"] > 100 and counts[f"{call.__name__}: no"] > 100, counts


@pytest.mark.skipif(not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="this torch is an older one")
def test_tensors_of_an_older_torch_are_served_and_refused_alike():
    """A torch before 2.10 has no table of DLPack's functions."""
    assert counts_of(CALLS // 6) == counts_of(CALLS // 6, "without DLPack")


if __name__ == "__main__":
    if "without DLPack" in sys.argv:
        del torch.Tensor.__dlpack_c_exchange_api__
    print(json.dumps(fuzz(int(sys.argv[1]), int(sys.argv[2]))))
