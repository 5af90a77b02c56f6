"""How often an edit of the set waits for a GPU, counted on the CPU; and photos that stay on a device."""

import gc

import torch
from test_natural_selection import full, make_model
from torch.utils._python_dispatch import TorchDispatchMode

from compact_splats.arguments.schedule import FULL
from compact_splats.training.densification import Densification
from compact_splats.utils.device_copies import DeviceCopies, on_device

aten = torch.ops.aten


class ReadBacks(TorchDispatchMode):
    """Counts operations for which a GPU has to be waited for: numbers, and results whose size values decide.

    ``tolist`` does not come here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        reads = function.overloadpacket in (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal)
        if function.overloadpacket is aten.index:
            reads = any(each is not None and each.dtype == torch.bool for each in args[1])
        # A mask with one value is a fill; with more, its true entries are counted.
        if function.overloadpacket in (aten.index_put, aten.index_put_) and args[2].numel() > 1:
            reads = any(each is not None and each.dtype == torch.bool for each in args[1])
        if reads:
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_the_counter_sees_what_waits():
    values, mask = torch.arange(4.0), torch.tensor([True, False, True, False])
    with ReadBacks() as counted:
        values[mask], mask.nonzero(), bool(mask.any()), values.max().item()
    assert len(counted.names) == 4
    with ReadBacks() as counted:
        values[mask] = 0
        values[torch.tensor([0, 1])], torch.where(mask, values, 1.0)
    assert counted.names == []


def with_optimizer(opacities: torch.Tensor):
    """A model that has been updated once, so that an edit moves moments, too."""
    model = make_model(opacities)
    model.start_training(dict.fromkeys(model.parameters, 0.1))
    for values in model.parameters.values():
        values.grad = torch.zeros_like(values)
    model.update()
    return model


def test_a_split_reads_three_times_and_a_prune_once():
    model = with_optimizer(torch.linspace(1e-4, 0.9, 40))
    (each,) = FULL.densification_rounds[:1]
    densification = Densification((each,), 1000, torch.Generator().manual_seed(0), lambda *_: None)
    step = next(step for step in range(1, 10_000) if each.is_due(step) and each.allowance(step, 1000) > 60)
    stats = densification.interval_stats(step, model)
    stats.abs_grad_sum += 1
    stats.views += 1
    with ReadBacks() as counted:
        num_split, num_pruned = densification.edit(step, model, lambda _: torch.ones(model.num_gaussians))
    assert num_split and num_pruned
    assert len(counted.names) == 4, counted.names


def test_selection_reads_twice_where_it_prunes_and_never_where_nothing_is_due():
    selection, model = full(budget=10), with_optimizer(torch.linspace(1e-4, 0.9, 100))
    with ReadBacks() as counted:
        assert selection.edit(15_999, model) == 0  # between two prunes
        assert selection.edit(15_950, model) == 0  # regularises, and does not prune yet
    assert counted.names == []
    with ReadBacks() as counted:
        assert selection.edit(16_000, model) > 0
    assert len(counted.names) == 2, counted.names
    with ReadBacks() as counted:
        assert selection.edit(23_000, model) > 0 and selection.has_ended(23_000)
    assert len(counted.names) == 3 and model.num_gaussians == 10, counted.names


def test_photos_stay_on_a_device_while_there_is_room_and_no_longer_than_their_originals():
    """The meta device has no memory, but is another device."""
    copies = DeviceCopies(torch.device("meta"), most=250)
    photos = [torch.full((100,), i, dtype=torch.uint8) for i in range(3)]

    def copy_of(photo: torch.Tensor) -> torch.Tensor:
        copy, nothing = copies.of(photo, lambda: (photo, None))
        assert nothing is None
        return copy

    first = [copy_of(photo) for photo in photos]
    assert all(copy.device.type == "meta" and copy.shape == (100,) for copy in first)
    assert [copy_of(photo) is copy for photo, copy in zip(photos, first, strict=True)] == [True, True, False]
    assert [photo in copies for photo in photos] == [True, True, False]
    del photos[0]
    gc.collect()
    third = copy_of(photos[1])
    assert copy_of(photos[1]) is third is not first[2]


def test_what_is_in_main_memory_already_is_not_copied():
    values = torch.zeros(3)
    assert on_device(values, torch.device("cpu"), lambda: (values,))[0] is values
