"""Checkpoint files: what comes back is what was written, any damage is noticed, and the last two are kept."""

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch

from compact_splats.arguments.interval import Interval
from compact_splats.training.checkpoint import VERSION, Checkpoints
from compact_splats.training.state_file import DamagedFile, read_state, write_state
from compact_splats.utils.errors import InputError
from compact_splats.utils.files import atomic_write, remove_leftovers

STATE = {
    "rows": {"means": torch.tensor([[1.5, -0.0, float("inf")]]), "none": torch.empty(0, 3)},
    "counts": (torch.arange(3, dtype=torch.int32), torch.tensor(7), torch.tensor([True, False])),
    0: {"bytes": torch.arange(5, dtype=torch.uint8), "double": torch.tensor(0.1, dtype=torch.float64)},
    "plain": [None, True, 3, 0.1, 1e-300, "ü", [], {}, ()],
}


class Part:
    """A part of a run that is nothing but a number."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.fixture
def written(tmp_path) -> Path:
    write_state(tmp_path / "state", STATE)
    return tmp_path / "state"


def checkpoints(folder: Path, every: str = "1") -> Checkpoints:
    return Checkpoints(folder, Interval.parse(every))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# ---- the file ----


def test_what_is_read_is_what_was_written(written):
    assert same(read_state(written), STATE)


def test_any_cut_and_any_further_byte_is_noticed(written):
    whole = written.read_bytes()
    for length in [*range(len(whole)), len(whole) + 1]:
        written.write_bytes((whole + b"\0")[:length])
        with pytest.raises(DamagedFile):
            read_state(written)


def test_any_flipped_bit_is_noticed(written):
    whole = written.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        written.write_bytes(damaged)
        with pytest.raises(DamagedFile):
            read_state(written)


def test_another_kind_of_file_is_damage_even_with_the_right_digest(tmp_path):
    for content in (b"", b"something else", pickle.dumps(print)):
        (tmp_path / "state").write_bytes(content + hashlib.sha256(content).digest())
        with pytest.raises(DamagedFile):
            read_state(tmp_path / "state")


# ---- the folder ----


def test_the_last_two_are_kept_and_the_newest_is_found(tmp_path):
    run = checkpoints(tmp_path)
    for step in (1, 5, 9):
        run.about = {"config": {"seed": step}}
        run.save(step, {"part": Part(10 * step)})
    assert names(tmp_path) == ["step_00000005.ckpt", "step_00000009.ckpt"]
    part, again = Part(), checkpoints(tmp_path)
    assert again.find(pytest.fail) == {"config": {"seed": 9}, "step": 9}
    assert (again.restore({"part": part}), part.value) == (9, 90)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: b"", lambda content: b"x" + content[1:]]
)
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(tmp_path, damage):
    run = checkpoints(tmp_path)
    for step in (3, 4):
        run.save(step, {"part": Part(step)})
    newest = tmp_path / "checkpoints" / "step_00000004.ckpt"
    newest.write_bytes(damage(newest.read_bytes()))
    said, part, again = [], Part(), checkpoints(tmp_path)
    assert again.find(said.append)["step"] == 3 and len(said) == 1 and "step_00000004" in said[0]
    assert (again.restore({"part": part}), part.value) == (3, 3)
    again.save(4, {"part": part})
    assert names(tmp_path) == ["step_00000003.ckpt", "step_00000004.ckpt"]
    assert checkpoints(tmp_path).find(pytest.fail)["step"] == 4


def test_where_all_are_damaged_nothing_is_begun_anew_unasked(tmp_path):
    checkpoints(tmp_path).save(3, {"part": Part()})
    (path,) = (tmp_path / "checkpoints").iterdir()
    path.write_bytes(b"")
    with pytest.raises(InputError, match="leave out --resume"):
        checkpoints(tmp_path).find(lambda text: None)
    assert path.exists()


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    state = {"version": VERSION + 1, "about": {"step": 1}, "parts": {}}
    write_state(tmp_path / "checkpoints" / "step_00000001.ckpt", state)
    said = []
    with pytest.raises(InputError, match="leave out --resume"):
        checkpoints(tmp_path).find(said.append)
    assert "another version" in said[0]


def test_a_full_disk_is_an_os_error_though_torch_raises_its_own(tmp_path):
    """torch.save turns it into a RuntimeError."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OSError, match="No space left"):
        write_state(Path("/dev/full"), {"a": torch.zeros(1 << 20)})


def test_where_there_are_none_the_parts_stay_as_they_are(tmp_path):
    part, run = Part(5), checkpoints(tmp_path / "nowhere")
    assert run.find(pytest.fail) is None and run.restore({"part": part}) == 0 and part.value == 5
    run.clear()
    assert not list(tmp_path.iterdir())


def test_the_first_of_a_new_run_replaces_all_of_an_earlier_one(tmp_path):
    earlier = checkpoints(tmp_path)
    for step in (100, 200):
        earlier.save(step, {"part": Part()})
    checkpoints(tmp_path).save(7, {"part": Part()})
    assert names(tmp_path) == ["step_00000007.ckpt"]


def test_a_failed_write_leaves_the_earlier_ones(tmp_path, monkeypatch):
    """No space left, half way: one line, and the last good one is still there."""
    run = checkpoints(tmp_path)
    run.save(1, {"part": Part(1)})

    def full(path: Path, *_) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("compact_splats.training.checkpoint.write_state", full)
    with pytest.raises(InputError, match="No space left"):
        run.save(2, {"part": Part(2)})
    assert names(tmp_path) == ["step_00000001.ckpt"]
    assert checkpoints(tmp_path).find(pytest.fail)["step"] == 1


@pytest.mark.parametrize("parts", [{}, {"other": {}}, {"part": {}}, {"part": 3}])
def test_a_state_of_other_parts_is_one_line(tmp_path, parts):
    (tmp_path / "checkpoints").mkdir()
    state = {"version": VERSION, "about": {"step": 1}, "parts": parts}
    write_state(tmp_path / "checkpoints" / "step_00000001.ckpt", state)
    run = checkpoints(tmp_path)
    run.find(pytest.fail)
    with pytest.raises(InputError) as error:
        run.restore({"part": Part()})
    assert "\n" not in str(error.value)


def test_a_finished_run_leaves_no_trace_of_them(tmp_path):
    run = checkpoints(tmp_path)
    run.save(1, {"part": Part()})
    (tmp_path / "checkpoints" / f".step_00000002.{'0' * 12}.ckpt").touch()  # of a process that was killed
    run.clear()
    assert not list(tmp_path.iterdir())


def test_only_leftovers_of_killed_processes_are_removed(tmp_path):
    for name in (".lock", ".hidden.txt", "file.txt", ".a.0123456789ab.txt", ".b.0123456789AB.txt", ".c.0123456789ab"):
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "new.bin", durable=True) as temporary:
        assert temporary.name.startswith(".new.")
        temporary.write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".b.0123456789AB.txt", ".hidden.txt", ".lock", "file.txt", "new.bin"]


# ---- when ----


def test_steps_and_minutes_are_kept_to():
    steps, minutes, never = map(Interval.parse, ("20", "2.5m", "0"))
    assert [step for step in range(1, 101) if steps.is_due(step, 1e9, 0)] == [20, 40, 60, 80, 100]
    assert not minutes.is_due(1, 149, 100) and minutes.is_due(1, 150, 100)
    assert not any(never.is_due(step, 1e9, 0) for step in range(1, 100))


@pytest.mark.parametrize(("cost", "seconds"), [(0.1, 300), (3, 300), (10, 1000)])
def test_by_itself_it_costs_no_more_than_a_hundredth(cost, seconds):
    interval = Interval.parse("auto")
    assert not interval.is_due(1, seconds - 1, cost) and interval.is_due(1, seconds, cost)


@pytest.mark.parametrize(
    ("views", "processes", "steps"), [("2000", 2, 1000), ("2000", 3, 670), ("7", 2, 10), ("7", 1, 7)]
)
def test_several_processes_write_after_as_many_views_when_they_meet(views, processes, steps):
    assert Interval.parse(views).shared(processes, meet_every=10) == Interval(steps=steps)
    for text in ("auto", "0", "3m"):
        assert Interval.parse(text).shared(processes, meet_every=10) == Interval.parse(text)
