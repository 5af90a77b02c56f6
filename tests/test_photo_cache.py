"""Photos that do not fit into memory: same bits, memory below the limit, order, files, and faults in mid-run."""

import errno
import json
import random
import shutil
import threading
import time
import weakref
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from kill_runs import result_of
from PIL import Image
from scene_writers import write_colmap
from test_resume import make_config, run_until

from compact_splats.arguments.sizes import memory_size
from compact_splats.gaussian_renderer.evaluation import measure
from compact_splats.scene import load_scene, photo_cache
from compact_splats.scene.cameras import in_turn
from compact_splats.scene.gaussian_model import GaussianModel
from compact_splats.scene.photo_cache import PhotoCache, Planes
from compact_splats.scene.photos import Photo
from compact_splats.training import training as training_module
from compact_splats.training.loading import Decoding
from compact_splats.training.memory import check_memory
from compact_splats.training.processes import SingleProcess
from compact_splats.training.progress import Progress
from compact_splats.training.run import train
from compact_splats.training.summary import describe
from compact_splats.training.view_sampler import ViewSampler
from compact_splats.utils.errors import InputError

CPU = torch.device("cpu")
TINY = "40KB"  # of the 65 KB of 14 photos: two fetched ahead, one in use, room for a larger one, and three kept
WHOLE = "1GB"

pytestmark = pytest.mark.usefixtures("short_schedules_in_use")


@pytest.fixture(scope="module")
def whole(short_scene, tmp_path_factory) -> dict:
    """The result of a run whose photos fit."""
    config = make_config(short_scene, tmp_path_factory.mktemp("whole") / "out", photo_memory=WHOLE)
    train(config)
    return result_of(config.model_path)


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """Bytes of decoded photos in memory, counted at each that is made, whoever keeps them."""
    made, alive, lock = [], [0], threading.Lock()

    def count(num_bytes: int) -> None:
        with lock:
            alive[0] += num_bytes
            made.append(alive[0])

    def watch(planes: Planes | None) -> Planes | None:
        for each in planes or ():
            if each is not None:
                count(each.nbytes)
                weakref.finalize(each, count, -each.nbytes)
        return planes

    decode, read = Photo.decode, photo_cache._PhotoFile.read
    monkeypatch.setattr(Photo, "decode", lambda photo: watch(decode(photo)))
    monkeypatch.setattr(photo_cache._PhotoFile, "read", lambda file, place: watch(read(file, place)))
    return made


def on_step(monkeypatch, act) -> None:
    """Call ``act`` with the number of each step after its work."""
    update = Progress.update

    def update_and_act(self, step, *args):
        update(self, step, *args)
        act(step.number)

    monkeypatch.setattr(Progress, "update", update_and_act)


def truncate(photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])


# ---- same bits ----


@pytest.mark.parametrize("is_costly", [True, False], ids=["from a file", "decoded again"])
def test_the_result_has_the_same_bits_and_memory_stays_below_the_limit(
    short_scene, tmp_path, monkeypatch, whole, counted, is_costly
):
    monkeypatch.setattr(Photo, "is_costly", is_costly)
    if not is_costly:
        monkeypatch.setattr(photo_cache, "free_space", lambda folder: 150_000)  # the photos take 86 kB
    config = make_config(short_scene, tmp_path / "out", photo_memory=TINY)
    summary = train(config)
    assert result_of(config.model_path) == whole
    assert len(counted) > 4 * 14, "photos came and went"
    assert 0.5 * memory_size(TINY) < max(counted) <= memory_size(TINY)
    assert summary["photos_left_out"] == 0


def test_smaller_photos_too(short_scene, tmp_path, monkeypatch, counted):
    """Of the fast schedule, whose first photos are smaller."""
    monkeypatch.setattr(training_module, "SMALLEST_SIDE", 8)
    configs = [make_config(short_scene, tmp_path / size, photo_memory=size, schedule="fast") for size in (WHOLE, TINY)]
    train(configs[0])
    counted.clear()
    train(configs[1])
    assert result_of(configs[1].model_path) == result_of(configs[0].model_path)
    assert max(counted) - min(counted) <= memory_size(TINY)


def test_masks_and_alpha_come_back_from_the_file_as_they_were(tmp_path):
    write_colmap(tmp_path, num_images=12)
    for path in list((tmp_path / "images").iterdir())[::2]:
        alpha = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 40), np.uint8))
        with Image.open(path) as picture:
            picture.putalpha(alpha)
            picture.save(path)
    for alpha in ("mask", "composite"):
        expected = [camera.photo.decode() for camera in load_scene(tmp_path, alpha=alpha).train]
        scene = load_scene(tmp_path, alpha=alpha, photo_memory=1)
        assert not scene.photos.holds_all
        with closing(Decoding(scene, CPU, tmp_path)):
            for _ in range(2):
                found = [camera.photo.planes() for camera in scene.train]
                for planes, others in zip(found, expected, strict=True):
                    assert all(a is b or torch.equal(a, b) for a, b in zip(planes, others, strict=True))
            assert scene.photos._file._end == sum(planes.num_bytes for planes in expected)


def test_a_run_continues_with_the_same_bits_and_another_limit(short_scene, tmp_path, monkeypatch, whole):
    config = make_config(short_scene, tmp_path / "out", photo_memory=TINY, checkpoint_every="7")
    resumed = run_until(config, 21, monkeypatch)
    train(resumed)
    assert result_of(config.model_path) == whole


# ---- order ----


def test_the_sampler_tells_its_next_views_and_draws_the_same():
    random.seed(0)
    sampler, other = (ViewSampler(7, torch.Generator().manual_seed(3)) for _ in range(2))
    for _ in range(60):
        count = random.randrange(8)
        upcoming = sampler.upcoming(count)
        assert len(upcoming) == count
        drawn = [other.draw() for _ in range(count)]
        assert upcoming == drawn == [sampler.draw() for _ in range(count)]


def test_photos_are_decoded_in_the_order_of_their_use_and_once(short_scene, tmp_path, monkeypatch):
    """The first is the first that the training asks for; with one thread, so that the order is known."""
    monkeypatch.setattr(photo_cache, "default_threads", lambda: 1)
    decoded, used, decode, view = [], [], Photo.decode, training_module.Training.__next__

    def watch(self):
        step = view(self)
        used.append(step.camera.name)
        return step

    monkeypatch.setattr(Photo, "decode", lambda photo: decoded.append(photo.path.name) or decode(photo))
    monkeypatch.setattr(training_module.Training, "__next__", watch)
    on_step(monkeypatch, lambda step: time.sleep(0.02))  # so that none is needed before it is fetched
    train(make_config(short_scene, tmp_path / "out", photo_memory=TINY))
    first = list(dict.fromkeys(used))
    assert [name for name in decoded if name in first] == first
    assert len(decoded) == 14, "each once: what is not kept is in the file"


def test_the_next_photos_are_fetched_while_one_is_used(tmp_path, monkeypatch):
    write_colmap(tmp_path, num_images=12)
    scene = load_scene(tmp_path, eval=False, photo_memory=1)
    fetched, seen = [], []
    fetch = PhotoCache._fetch
    monkeypatch.setattr(PhotoCache, "_fetch", lambda cache, photo, *a: fetched.append(photo) or fetch(cache, photo, *a))
    with closing(scene.photos):
        for camera in in_turn(scene.train, CPU):
            camera.photo.planes()
            seen.append(threading.current_thread())
            deadline = time.monotonic() + 20
            while len(fetched) < min(len(seen) + scene.photos.num_ahead - 1, 12) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(fetched) == min(len(seen) + scene.photos.num_ahead - 1, 12)
    assert fetched == [camera.photo for camera in scene.train]


# ---- files ----


def test_the_file_has_no_name_and_is_gone_after_the_run(short_scene, tmp_path, monkeypatch):
    """So nothing is left by a process that is killed."""
    files, names = [], set()
    original = photo_cache._PhotoFile.__init__
    monkeypatch.setattr(
        photo_cache._PhotoFile, "__init__", lambda file, folder: (original(file, folder), files.append(file))[0]
    )
    on_step(monkeypatch, lambda step: names.update(path.name for path in tmp_path.rglob("*")))
    train(make_config(short_scene, tmp_path / "out", photo_memory=TINY))
    (file,) = files
    assert file._end > 4 * 4608 and file._file.closed
    known = {"out", ".lock", "point_cloud", "config.json", "cfg_args", "cameras.json", "input.ply", "log.jsonl"}
    assert names <= known | {"checkpoints"}


def test_no_file_where_all_photos_fit_or_are_cheap(short_scene, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_cache, "_PhotoFile", None)
    scene = load_scene(short_scene, photo_memory=memory_size(WHOLE))
    Decoding(scene, CPU, tmp_path).close()
    monkeypatch.setattr(Photo, "is_costly", False)
    scene = load_scene(short_scene, photo_memory=memory_size(TINY))
    scene.photos.open_file(tmp_path, [camera.photo for camera in scene.train + scene.test])
    monkeypatch.setattr(photo_cache, "free_space", lambda folder: 150_000)  # the photos take 86 kB
    Decoding(scene, CPU, tmp_path).close()


def test_cheap_photos_are_stored_too_where_the_processor_is_busy(short_scene, tmp_path, monkeypatch):
    monkeypatch.setattr(Photo, "is_costly", False)
    scene = load_scene(short_scene, photo_memory=memory_size(TINY))
    with closing(Decoding(scene, CPU, tmp_path)):
        for camera in scene.train:
            camera.photo.planes()
        assert scene.photos._file._end > 4 * 4608


def test_what_is_cheap_to_decode(tmp_path):
    """A JPEG of the wanted size."""
    write_colmap(tmp_path, num_images=2)
    photo = load_scene(tmp_path, eval=False).train[0].photo
    assert photo.is_costly and photo.num_bytes == 4 * 30 * 40  # it may have alpha
    for suffix in (".jpg", ".JPEG"):
        cheap = Photo(photo.path.with_suffix(suffix), photo.lens, photo.size)
        assert not cheap.is_costly and cheap.num_bytes == 3 * 30 * 40
        assert Photo(cheap.path, photo.lens, (20, 15)).is_costly


def test_a_disk_that_is_too_small_is_one_line_before_anything_is_written(short_scene, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_cache, "free_space", lambda folder: 50_000)
    with pytest.raises(InputError, match=r"take 84 KiB of the disk of .*, which has 49 KiB free; give them more --pho"):
        train(make_config(short_scene, tmp_path / "out", photo_memory=TINY))
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_costs_time_but_no_bits(short_scene, tmp_path, monkeypatch, whole, capfd):
    """/dev/full takes nothing: error ENOSPC."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    monkeypatch.setattr(photo_cache.tempfile, "TemporaryFile", lambda dir: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    config = make_config(short_scene, tmp_path / "out", photo_memory=TINY)
    train(config)
    assert result_of(config.model_path) == whole
    said = capfd.readouterr().err
    assert said.count("photos can't be stored on the disk") == 1 and f"Errno {errno.ENOSPC}" in said


def test_a_file_that_can_not_grow_is_emptied_and_its_photos_are_decoded_again(tmp_path, monkeypatch, capfd):
    write_colmap(tmp_path, num_images=10)
    scene = load_scene(tmp_path, eval=False, photo_memory=1)
    with closing(Decoding(scene, CPU, tmp_path)):
        photos = [camera.photo for camera in scene.train]
        expected = [photo.planes().rgb for photo in photos[:5]]
        file = scene.photos._file
        size = Path(f"/proc/self/fd/{file._file.fileno()}")
        assert not size.exists() or size.stat().st_size == 5 * 3 * 30 * 40
        full = OSError(errno.ENOSPC, "full")
        monkeypatch.setattr(file, "_file", FullFile(file._file, full))
        photos[5].planes()
        assert not size.exists() or size.stat().st_size == 0
        assert all(torch.equal(photo.planes().rgb, rgb) for photo, rgb in zip(photos, expected, strict=False))
    assert capfd.readouterr().err.count("note: ") == 1


class FullFile:
    """A file that can't be written to."""

    def __init__(self, file, error: OSError) -> None:
        self._file, self._error = file, error

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def write(self, content) -> None:
        raise self._error


# ---- photos that break ----


@pytest.fixture
def scene(short_scene, tmp_path) -> Path:
    return Path(shutil.copytree(short_scene, tmp_path / "scene"))


def test_a_photo_that_breaks_counts_as_little_as_one_that_is_masked(scene, tmp_path, capfd):
    """Same bits as with a mask that leaves no pixel; one warning, no error, and the summary says how many."""
    photo = sorted((scene / "images").iterdir())[5]
    (scene / "masks").mkdir()
    Image.new("L", (48, 32), 0).save(scene / "masks" / photo.name)
    masked = make_config(scene, tmp_path / "masked", photo_memory=WHOLE)
    train(masked)
    shutil.rmtree(scene / "masks")
    truncate(photo)
    capfd.readouterr()
    config = make_config(scene, tmp_path / "out", photo_memory=TINY)
    summary = train(config)
    said = capfd.readouterr().err
    assert said.count("warning: ") == said.count("\n") == 1 and photo.name in said and "leaves out its views" in said
    assert summary["photos_left_out"] == 1
    assert result_of(config.model_path) == result_of(masked.model_path)
    assert "1 can't be decoded: their views were left out" in describe(summary, config.final_budget, tmp_path)


def test_photos_that_are_gone_in_mid_run_end_it_only_if_they_are_many(scene, tmp_path, monkeypatch):
    photos = sorted((scene / "images").iterdir())
    monkeypatch.setattr(Photo, "is_costly", False)  # they would be in the file
    monkeypatch.setattr(photo_cache, "free_space", lambda folder: 150_000)

    def remove(number: int) -> None:
        for path in photos[1:number]:
            path.unlink(missing_ok=True)

    on_step(monkeypatch, lambda step: remove(2) if step == 25 else None)
    config = make_config(scene, tmp_path / "out", photo_memory=TINY, checkpoint_every="7")
    assert train(config)["photos_left_out"] <= 1
    on_step(monkeypatch, lambda step: remove(14) if step == 25 else None)
    with pytest.raises(InputError, match=r"2 of 13 photos can't be decoded\. .*; --resume continues after step"):
        train(config)


def test_the_count_of_broken_photos_is_continued(scene, tmp_path, monkeypatch):
    """The photo is whole again when the run is continued, but its views were left out."""
    photo = sorted((scene / "images").iterdir())[5]
    content = photo.read_bytes()
    truncate(photo)
    config = make_config(scene, tmp_path / "out", photo_memory=TINY, checkpoint_every="7")
    resumed = run_until(config, 28, monkeypatch)
    photo.write_bytes(content)
    assert train(resumed)["photos_left_out"] == 1


def test_a_jpeg_without_its_end_is_found_before_anything_is_written(scene, tmp_path):
    """Also where the photos do not fit into memory; an older run stays as it is."""
    config = make_config(scene, tmp_path / "out", photo_memory=TINY)
    train(config)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    photo = sorted((scene / "images").iterdir())[8]
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(photo, format="JPEG")
    truncate(photo)
    with pytest.raises(InputError, match=photo.name):
        train(config)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_other_commands_end_with_the_error(scene):
    """They measure and compare: a black photo would be a wrong result."""
    truncate(sorted((scene / "images").iterdir())[8])
    loaded = load_scene(scene, photo_memory=1)
    model = GaussianModel.from_points(loaded.points, 0, CPU)
    with pytest.raises(InputError, match=r"\.png"), closing(loaded.photos):
        measure(loaded, model, torch.zeros(3))


# ---- memory ----


class Two(SingleProcess):
    count = on_this_machine = 2


@pytest.mark.parametrize("free", [10**8, None])
@pytest.mark.parametrize("processes", [SingleProcess(), Two()])
def test_the_default_is_half_of_what_is_free_divided_among_processes(
    short_scene, tmp_path, monkeypatch, free, processes
):
    monkeypatch.setattr("compact_splats.training.memory.free_memory", lambda: free)
    config = make_config(short_scene, tmp_path)
    scene = load_scene(short_scene)
    check_memory(config, config.make_schedule(), processes, CPU, scene)
    room = free // 2 // processes.count - 14 * 48 * 32 * 4 if free else float("inf")
    assert scene.photos.holds_all and scene.photos._room == room


def test_what_a_training_needs_besides_is_left_for_it(short_scene, tmp_path, monkeypatch):
    """And if there is too little for that and a few photos, it is refused."""
    config = make_config(short_scene, tmp_path)
    schedule = config.make_schedule()
    with pytest.raises(InputError, match="memory: expected .* at least, found 0 KiB free; .*--photo-memory"):
        monkeypatch.setattr("compact_splats.training.memory.free_memory", lambda: 0)
        check_memory(config, schedule, SingleProcess(), CPU, load_scene(short_scene))
    scene = load_scene(short_scene)
    monkeypatch.setattr("compact_splats.training.memory.free_memory", lambda: 100_000_000)
    wanted = []
    monkeypatch.setattr(
        "compact_splats.training.memory._check", lambda config, num_bytes, what: wanted.append(num_bytes)
    )
    check_memory(config, schedule, SingleProcess(), CPU, scene)
    need = wanted[0] - scene.photos.most_bytes
    monkeypatch.setattr("compact_splats.training.memory.free_memory", lambda: need + 50_000)
    check_memory(config, schedule, SingleProcess(), CPU, scene)
    assert not scene.photos.holds_all and scene.photos.most_bytes == 50_000


def test_memory_for_what_is_gone_is_free_again():
    cache, owner = PhotoCache(), PhotoCache()
    cache._room = 100
    assert cache.reserve(owner, 60) and not cache.reserve(cache, 60)
    del owner
    assert cache.reserve(cache, 60) and not cache.reserve(cache, 60)


def test_sizes():
    for text, size in (("4GB", 4e9), ("800MB", 8e8), ("1.5 GiB", 1.5 * 2**30), ("2g", 2e9), ("64KiB", 65536)):
        assert memory_size(text) == size
    assert memory_size("auto") is None
    for text in ("", "4", "GB", "0GB", "-1GB", "4GBB", "1e3GB", "4,5GB", "٤GB"):
        with pytest.raises(InputError, match="--photo-memory must be a size such as"):
            memory_size(text)


def test_the_limit_of_a_run_is_not_that_of_other_commands(short_scene, tmp_path):
    from compact_splats.arguments.config import scene_of_run

    (tmp_path / "config.json").write_text(json.dumps({"source_path": str(short_scene), "photo_memory": TINY}))
    assert scene_of_run(tmp_path) == {"source_path": short_scene}
