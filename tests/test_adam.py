"""The engine's Adam against torch.optim.Adam: the same rows, the same state, one call for all parameters."""

import copy

import pytest
import torch
import usable_processors
from diff_gaussian_rasterization.optimizer import Adam
from torch import Tensor, nn

SHAPES = {"means": (3,), "quats": (4,), "opacity_logits": (1,), "sh_dc": (1, 3), "sh_rest": (15, 3)}
RATES = dict(zip(SHAPES, (1.6e-4, 1e-3, 5e-2, 2.5e-3, 1.25e-4), strict=True))


def random_rows(num: int, device: str, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(num, *shape, generator=generator).to(device)) for shape in SHAPES.values()]


def groups_of(rows: list[nn.Parameter]) -> list[dict]:
    return [{"params": [row], "lr": RATES[name], "name": name} for name, row in zip(SHAPES, rows, strict=True)]


def both(num: int, device: str, **settings) -> tuple[Adam, torch.optim.Adam]:
    """The engine's Adam and torch's, of equal rows."""
    settings = {"eps": 1e-15} | settings
    return Adam(groups_of(random_rows(num, device)), **settings), torch.optim.Adam(
        groups_of(random_rows(num, device)), fused=False, foreach=False, **settings
    )


def rows_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [row for group in optimizer.param_groups for row in group["params"]]


def give_gradients(*optimizers: torch.optim.Optimizer, seed: int, share: float = 1.0) -> None:
    """The same gradients to each, of very different sizes; to a share of the rows' parameters only."""
    generator = torch.Generator().manual_seed(seed)
    for rows in zip(*map(rows_of, optimizers), strict=True):
        size = 10.0 ** torch.randint(-8, 2, rows[0].shape, generator=generator)
        gradient = torch.randn(rows[0].shape, generator=generator) * size
        given = torch.rand((), generator=generator) < share
        for row in rows:
            row.grad = gradient.to(row.device) if given else None


def everything(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Copies of rows and moments."""
    found = []
    for row in rows_of(optimizer):
        state = optimizer.state.get(row, {})
        found += [row.detach(), *(state[name] for name in ("exp_avg", "exp_avg_sq") if name in state)]
    return [each.cpu().clone() for each in found]


@torch.no_grad()
def continue_from(source: torch.optim.Optimizer, target: torch.optim.Optimizer) -> None:
    """Rows and state of one become those of the other."""
    for row, other in zip(rows_of(source), rows_of(target), strict=True):
        other.copy_(row)
    target.load_state_dict(copy.deepcopy(source.state_dict()))


@torch.no_grad()
def worst_error(optimizer: torch.optim.Optimizer, other: torch.optim.Optimizer) -> float:
    """The largest difference, relative to the number or, for rows, to a rate of 0.05 where that is more."""
    worst = 0.0
    for ours, theirs in zip(rows_of(optimizer), rows_of(other), strict=True):
        worst = max(worst, float(((ours - theirs).abs() / theirs.abs().clamp_min(0.05)).max()))
        assert set(optimizer.state[ours]) == set(other.state[theirs])
        for name in other.state[theirs]:
            moment, wanted = (torch.as_tensor(of[name]) for of in (optimizer.state[ours], other.state[theirs]))
            # A first moment may nearly cancel: its terms are below the root of the second moment, a thousandth of each.
            scale = wanted.abs() + (other.state[theirs]["exp_avg_sq"].sqrt() if name == "exp_avg" else 1e-30)
            worst = max(worst, float(((moment - wanted).abs() / scale.clamp_min(1e-30)).max()))
    return worst


@pytest.mark.parametrize("num", [1, 7, 1000])
def test_many_steps_are_those_of_torch(engine, num):
    """Gradients that change, rates that change, and parameters without a gradient: rows, moments and counts agree."""
    ours, theirs = both(num, engine.device)
    for step in range(60):
        give_gradients(ours, theirs, seed=step, share=0.8)
        for optimizer in (ours, theirs):
            for group in optimizer.param_groups:
                group["lr"] = RATES[group["name"]] * 0.95**step
            optimizer.step()
    # Worst measured: 9e-7, on either engine: float32 rounding of 60 steps.
    assert worst_error(ours, theirs) < 1e-5


def test_other_factors_and_zero_gradients(engine):
    """Betas and eps reach the engine; a gradient of zero leaves a row without moments where it is."""
    ours, theirs = both(50, engine.device, betas=(0.8, 0.95), eps=1e-3)
    for step in range(10):
        give_gradients(ours, theirs, seed=step)
        for optimizer in (ours, theirs):
            for row in rows_of(optimizer):
                row.grad[::2] = 0
            optimizer.step()
    assert worst_error(ours, theirs) < 1e-5
    for row, start in zip(rows_of(ours), random_rows(50, engine.device), strict=True):
        assert torch.equal(row[::2], start[::2])


@pytest.mark.parametrize("as_radii", [False, True], ids=["mask", "radii"])
@pytest.mark.parametrize("num", [1, 5, 700])
def test_rows_out_of_sight_stay_and_the_others_move_as_ever(engine, num, as_radii):
    """With `visible`, rows where it is 0 keep values and moments; the others take the step they take without it."""
    ours, without = both(num, engine.device)[0], both(num, engine.device)[0]
    generator = torch.Generator().manual_seed(3)
    give_gradients(ours, without, seed=0)
    for optimizer in (ours, without):
        optimizer.step()
    for step in range(1, 8):
        visible = torch.rand(num, generator=generator) < 0.5
        before = everything(ours)
        give_gradients(ours, without, seed=step)
        continue_from(ours, without)
        without.step()
        argument = visible.int() * torch.randint(1, 90, (num,), generator=generator).int() if as_radii else visible
        ours.step(argument.to(engine.device))
        for old, now, wanted in zip(before, everything(ours), everything(without), strict=True):
            assert torch.equal(now[~visible], old[~visible])
            assert torch.equal(now[visible], wanted[visible])


def test_state_goes_over_to_torch_and_back(engine):
    """A state_dict of either continues in the other, counts and settings included, as if nothing had happened."""
    ours, theirs = both(20, engine.device)
    straight, _ = both(20, engine.device)
    for step in range(12):
        if step in (4, 8):
            continue_from(*((ours, theirs) if step == 4 else (theirs, ours)))
        current = theirs if 4 <= step < 8 else ours
        give_gradients(current, straight, seed=step)
        current.step()
        straight.step()
    assert worst_error(ours, straight) < 1e-5
    assert {int(state["step"]) for state in ours.state.values()} == {12}


def test_state_of_the_fused_adam_of_torch_fits(engine):
    rows = random_rows(5, engine.device)
    fused = torch.optim.Adam(groups_of(rows), eps=1e-15, fused=True)
    give_gradients(fused, seed=0)
    fused.step()
    ours = Adam(groups_of(random_rows(5, engine.device)))
    ours.load_state_dict(fused.state_dict())
    give_gradients(ours, seed=1)
    ours.step()
    assert all(state["step"] == 2 and isinstance(state["step"], int) for state in ours.state.values())
    assert ours.param_groups[0]["eps"] == 1e-15


def test_no_rows_and_no_gradients_are_no_work(engine):
    """N = 0 and parameters that wait are passed over; what has no gradient gets no state."""
    empty, _ = both(0, engine.device)
    give_gradients(empty, seed=0)
    empty.step()
    empty.step(torch.zeros(0, dtype=torch.int32, device=engine.device))
    waiting, _ = both(4, engine.device)
    before = everything(waiting)
    waiting.step()
    assert all(torch.equal(a, b) for a, b in zip(before, everything(waiting), strict=True))
    assert not waiting.state


def test_wide_rows_and_many_parameters(engine):
    """Rows that are wider than a block, more tensors than a launch takes, and data that no float4 may be read from."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5000), (2, 1500), *[(n, 2) for n in range(1, 20)], (4, 0)]
    base = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = [], []
    for start in base:
        padded = torch.zeros(start.numel() + 1, device=engine.device)
        ours.append(nn.Parameter(padded[1:].view(start.shape)))  # one float behind any alignment
        theirs.append(nn.Parameter(start.to(engine.device)))
        with torch.no_grad():
            ours[-1].copy_(start)
    optimizers = Adam(ours, lr=1e-2), torch.optim.Adam(theirs, lr=1e-2, fused=False, foreach=False)
    for step in range(3):
        give_gradients(*optimizers, seed=step)
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_contiguous_counts_like_one_that_is(engine):
    rows = [nn.Parameter(torch.ones(4, 3, device=engine.device)) for _ in range(2)]
    gradient = torch.arange(12.0, device=engine.device).view(3, 4).T
    rows[0].grad, rows[1].grad = gradient, gradient.contiguous()
    for row in rows:
        Adam([row]).step()
    assert torch.equal(rows[0], rows[1])


def test_a_graph_with_the_old_values_does_not_go_on(engine):
    """Backward after a step fails as it does with torch's Adam, and does not mix old and new values."""
    row = nn.Parameter(torch.ones(4, 3, device=engine.device))
    loss = (row * row).sum()
    row.grad = torch.ones_like(row)
    Adam([row]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_threads_do_not_change_a_bit(monkeypatch):
    results = []
    monkeypatch.setattr(usable_processors, "num_processors", lambda: 8)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            optimizer, _ = both(3000, "cpu")
            for step in range(3):
                give_gradients(optimizer, seed=step)
                optimizer.step()
            results.append(everything(optimizer))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def wrong_dtype(row, state):
    return nn.Parameter(row.detach().double())


def strided(row, state):
    return nn.Parameter(torch.ones(6, 4, device=row.device)[:, :3])


def short_moment(row, state):
    state["exp_avg"] = state["exp_avg"][:4]


def half_moment(row, state):
    state["exp_avg_sq"] = state["exp_avg_sq"].half()


def strided_moment(row, state):
    state["exp_avg_sq"] = torch.zeros(3, 6, device=row.device).T


WRONG = {
    "dtype": (wrong_dtype, ["means", "float32", "float64"]),
    "strides": (strided, ["means", "contiguous"]),
    "moment's shape": (short_moment, ["means: exp_avg", "(6, 3)", "(4, 3)"]),
    "moment's dtype": (half_moment, ["means: exp_avg_sq", "float32", "float16"]),
    "moment's strides": (strided_moment, ["means: exp_avg_sq", "contiguous"]),
}


@pytest.mark.parametrize("change, words", WRONG.values(), ids=WRONG.keys())
def test_wrong_rows_are_named_and_nothing_has_changed(engine, change, words):
    other = nn.Parameter(torch.ones(6, 1, device=engine.device))
    row = nn.Parameter(torch.ones(6, 3, device=engine.device))
    row.grad = torch.ones_like(row)
    optimizer = Adam([{"params": [other], "name": "other"}, {"params": [row], "name": "means"}])
    optimizer.step()
    new = change(row, optimizer.state[row])
    if new is not None:
        optimizer.param_groups[1]["params"], row = [new], new
    row.grad, other.grad = torch.ones_like(row), torch.ones_like(other)
    before = row.detach().clone()
    with pytest.raises(ValueError) as error:
        optimizer.step()
    assert all(word in str(error.value) for word in words), error.value
    assert torch.equal(row, before) and torch.equal(other, torch.ones_like(other))
    assert int(optimizer.state[other]["step"]) == 0


@pytest.mark.parametrize(
    "visible, words",
    [
        (torch.ones(5, dtype=torch.int32), ["visible", "(6,)", "(5,)"]),
        (torch.ones(6, 1, dtype=torch.bool), ["visible", "(6,)", "(6, 1)"]),
        (torch.ones(6), ["visible", "int32", "float32"]),
        (torch.ones(12, dtype=torch.int32)[::2], ["visible", "contiguous"]),
    ],
    ids=["length", "ndim", "dtype", "strides"],
)
def test_a_wrong_visible_is_named(engine, visible, words):
    row = nn.Parameter(torch.ones(6, 3, device=engine.device))
    row.grad = torch.ones_like(row)
    on_device = torch.as_strided(
        visible.to(engine.device).repeat_interleave(visible.stride(0)), visible.shape, visible.stride()
    )
    with pytest.raises(ValueError) as error:
        Adam([row]).step(on_device)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    "settings", [{"lr": -1.0}, {"lr": float("nan")}, {"eps": -1e-8}, {"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        Adam([nn.Parameter(torch.ones(1))], **settings)


@pytest.mark.parametrize("setting", [{"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True}])
def test_a_state_with_what_this_adam_lacks_is_refused(setting):
    state = torch.optim.Adam([nn.Parameter(torch.ones(1))], **setting).state_dict()
    optimizer = Adam([nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match=next(iter(setting))):
        optimizer.load_state_dict(state)
    assert not optimizer.param_groups[0][next(iter(setting))]


def test_rows_on_two_devices_are_refused(engine):
    if engine.device == "cpu":
        pytest.skip("there is one device")
    rows = [nn.Parameter(torch.ones(3, 2, device=device)) for device in ("cpu", engine.device)]
    for row in rows:
        row.grad = torch.ones_like(row)
    with pytest.raises(ValueError, match="expected device cpu, got cuda:0"):
        Adam(rows).step()
    assert all(torch.equal(row.cpu(), torch.ones(3, 2)) for row in rows)


def test_hooks_of_the_step_are_refused():
    optimizer = Adam([torch.nn.Parameter(torch.ones(2))])
    for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook):
        with pytest.raises(NotImplementedError, match="calls no hooks"):
            register(print)
