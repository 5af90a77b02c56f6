"""The engine's sums of gradients: a view counts in full or not at all, and nobody waits to know which."""

import math

import pytest
import torch
from rasterizer_cases import add_gradients
from torch import Tensor

SHAPES = {"means": (3,), "sh_rest": (15, 3), "opacities": (1,), "single": ()}


def numbers(num: int, seed: int, device: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(num, *shape, generator=generator).to(device) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("num", [0, 1, 7, 2000])
def test_a_usable_view_is_added_and_stays_where_there_is_no_sum(engine, num):
    gradients, sums = numbers(num, 0, engine.device), numbers(num, 1, engine.device)
    before = {name: values.clone() for name, values in gradients.items()}
    expected = {name: sums[name] + gradients[name] for name in SHAPES}
    pairs = {name: (gradients[name], None if name == "means" else sums[name]) for name in SHAPES}
    usable = add_gradients(torch.tensor(2.0, device=engine.device), pairs, largest=1e30)
    assert usable.shape == () and usable.dtype == torch.bool and usable.device.type == engine.device and usable
    for name in SHAPES:
        assert torch.equal(gradients[name], before[name])
        assert name == "means" or torch.equal(sums[name], expected[name])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e20])
@pytest.mark.parametrize("place", ["loss", *SHAPES])
def test_a_view_with_one_bad_number_is_not_added(engine, place, bad):
    """Sums keep their bits; a gradient without a sum becomes zero. A large loss or an unchecked gradient is no harm."""
    gradients, sums = numbers(1500, 0, engine.device), numbers(1500, 1, engine.device)
    loss = torch.tensor(bad if place == "loss" else 2.0, device=engine.device)
    if place != "loss":
        gradients[place].view(-1)[-1] = bad
    before = {name: values.clone() for name, values in sums.items()}
    pairs = {name: (gradients[name], None if name == "means" else sums[name]) for name in SHAPES}
    usable = add_gradients(loss, pairs, largest=1e30, unchecked="sh_rest")
    if place == "sh_rest" or (place == "loss" and bad == 1e20):
        assert usable
    else:
        assert not usable and not gradients["means"].any()
        assert all(torch.equal(sums[name], before[name]) for name in SHAPES)


def test_the_limit_is_the_sum_of_the_squares_and_the_loss(engine):
    """3^2 + 4^2 + |-5| = 30, over parts that a thread or a block adds alone."""
    gradient, other = torch.zeros(70_000, device=engine.device), torch.zeros(3, device=engine.device)
    gradient[-1], other[0] = 3, 4
    for largest, expected in ((30.0, False), (30.01, True)):
        pairs = {"a": (gradient.clone(), None), "b": (other.clone(), None)}
        assert add_gradients(torch.tensor(-5.0, device=engine.device), pairs, largest=largest) == expected


def test_more_gradients_than_a_launch_takes(engine):
    gradients = [torch.full((n + 1,), float(n), device=engine.device) for n in range(70)]
    sums = [torch.ones_like(each) for each in gradients]
    pairs = {str(n): pair for n, pair in enumerate(zip(gradients, sums, strict=True))}
    assert add_gradients(torch.tensor(0.0, device=engine.device), pairs, largest=1e30)
    assert all(each.eq(n + 1).all() for n, each in enumerate(sums))
    gradients[69][0] = math.nan
    assert not add_gradients(torch.tensor(0.0, device=engine.device), pairs, largest=1e30)
    assert all(each.eq(n + 1).all() for n, each in enumerate(sums))


def test_threads_do_not_change_a_bit():
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            gradients, sums = numbers(3000, 0, "cpu"), numbers(3000, 1, "cpu")
            squares = sum(values.double().square().sum() for values in gradients.values())
            pairs = {name: (gradients[name], sums[name]) for name in SHAPES}
            found = [bool(add_gradients(torch.tensor(0.0), pairs, largest=float(squares * (1 + k * 1e-8))))
                     for k in range(-20, 20)]  # fmt: skip
            results.append((found, sums))
    finally:
        torch.set_num_threads(before)
    for found, sums in results[1:]:
        assert found == results[0][0] and all(torch.equal(sums[name], results[0][1][name]) for name in SHAPES)


@pytest.mark.parametrize(
    "gradient, total, loss, words",
    [
        (torch.ones(3), torch.ones(4), torch.ones(()), ["a: sum", "(3,)", "(4,)"]),
        (torch.ones(3).double(), None, torch.ones(()), ["a: gradient", "float32", "float64"]),
        (torch.ones(3), torch.ones(3).half(), torch.ones(()), ["a: sum", "float32", "float16"]),
        (torch.ones(6)[::2], None, torch.ones(()), ["a: gradient", "contiguous"]),
        (torch.ones(3), None, torch.ones(2), ["loss", "one number", "(2,)"]),
        (torch.ones(3), None, torch.ones(()).int(), ["loss", "float32", "int32"]),
    ],
)
def test_a_wrong_argument_is_named(engine, gradient, total, loss, words):
    pair = gradient.to(engine.device), None if total is None else total.to(engine.device)
    if not gradient.is_contiguous():
        pair = torch.ones(6, device=engine.device)[::2], None
    with pytest.raises(ValueError) as error:
        add_gradients(loss.to(engine.device), {"a": pair}, largest=1e30)
    assert all(word in str(error.value) for word in words), error.value
