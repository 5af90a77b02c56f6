"""Decoded photos: in memory while there is room, else on disk or decoded again; the next ones are fetched ahead."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from usable_processors import default_threads

from compact_splats.utils.errors import InputError, note, readable
from compact_splats.utils.files import existing_parent, free_space

if TYPE_CHECKING:
    from compact_splats.scene.photos import Photo

MOST_AHEAD = 32  # photos
_SHARE_AHEAD = 0.25  # of the memory


class Planes(NamedTuple):
    """A decoded photo.

    Attributes:
        rgb: (3,H,W) uint8, multiplied by alpha where there is alpha: the photo over black.
        alpha: (H,W) uint8; None: opaque, or alpha is a mask.
        mask: (H,W) bool, True where the pixel counts in the loss; None if all do.
    """

    rgb: Tensor
    alpha: Tensor | None
    mask: Tensor | None

    @classmethod
    def left_out(cls, width: int, height: int) -> Planes:
        """A black photo of which no pixel counts."""
        return cls(torch.zeros(3, height, width, dtype=torch.uint8), None, torch.zeros(height, width, dtype=torch.bool))

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return sum(each.nbytes for each in self if each is not None)

    def each(self, change: Callable[[Tensor], Tensor]) -> Planes:
        """The planes, each changed by the same function."""
        alpha = None if self.alpha is None else change(self.alpha)
        return Planes(change(self.rgb), alpha, None if self.mask is None else change(self.mask))

    def over(self, background: Tensor) -> Tensor:
        """(3,H,W) uint8, the photo over a background: colour * alpha + background * (1 - alpha), rounded.

        Args:
            background: (3,) RGB in [0, 1], in main memory.
        """
        if self.alpha is None or not background.any():
            return self.rgb
        behind = (255 - self.alpha) * background.to(self.alpha.device)[:, None, None]
        return self.rgb + behind.round_().byte()


@dataclass(eq=False)
class _Entry:
    """What the cache has of a photo."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    planes: Planes | None = None  # in memory
    place: _Place | None = None  # in the file


class PhotoCache:
    """The decoded photos of a scene. Thread-safe.

    Without a limit, or where all photos fit into it, each is decoded once and kept. Else those that are decoded first
    are kept, and others come from a file on disk if :meth:`open_file` was called and decoding them costs more than
    that (``Photo.is_costly``), or are decoded again. A few are fetched in threads before they are asked for.

    Attributes:
        holds_all: whether all photos of the scene fit into memory.
        num_ahead: how many photos are fetched ahead; 0 where all fit.
        pin: page-locked memory, for asynchronous copies to a GPU.
        most_bytes: what the photos take at most.
        leave_out: called with a photo that can't be decoded, and the error; the photo is then black, and no pixel of it
            counts. None: the error is raised.
    """

    def __init__(self) -> None:
        self.holds_all, self.num_ahead, self.most_bytes, self.pin = True, 0, 0, False
        self.leave_out: Callable[[Photo, InputError], None] | None = None
        self._lock = threading.Lock()
        self._entries: weakref.WeakKeyDictionary[Photo, _Entry] = weakref.WeakKeyDictionary()
        self._room: float = inf  # bytes
        self._given_back: deque[int] = deque()  # bytes; finalizers may run anywhere, and must not wait for a lock
        self._size_ahead = 0  # bytes
        self._ahead: dict[Photo, Future[Planes]] = {}
        self._latest: tuple[Photo, Planes] | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._file: _PhotoFile | None = None
        self._stores_all = False

    def limit(self, photos: Sequence[Photo], most: int | None) -> None:
        """Set the limit, before the first photo is decoded.

        Args:
            photos: all of the scene.
            most: bytes that decoded photos may take, at least four photos; None: no limit.
        """
        sizes = [photo.num_bytes for photo in photos]
        self.holds_all = most is None or sum(sizes) <= most
        self.num_ahead, self._size_ahead, self._room, self.most_bytes = 0, 0, inf, sum(sizes)
        if most is None:
            return
        if not self.holds_all:
            self.num_ahead = max(2, min(MOST_AHEAD, int(_SHARE_AHEAD * most) // max(sizes)))
            self._size_ahead = (self.num_ahead + 2) * max(sizes)  # and the one in use, and one that it is made from
            self.most_bytes = max(most, self._size_ahead)
        self._room = most - (sum(sizes) if self.holds_all else self._size_ahead)

    @property
    def num_bytes(self) -> int:
        """Memory that the photos take, with those that are fetched ahead."""
        with self._lock:
            kept = [entry.planes.num_bytes for entry in self._entries.values() if entry.planes is not None]
        return sum(kept) + self._size_ahead

    def open_file(self, folder: Path, photos: Sequence[Photo], copies: int = 1, *, is_busy: bool = False) -> None:
        """Store the photos that do not fit into memory, and cost more to decode than to read, in a file.

        Where the processor is busy, all are stored, unless they take more than half of the free disk.

        The file has no name, so that the system removes it when the process ends, however that is. If the disk fills up
        meanwhile, a note says so, the file is emptied, and photos are decoded again.

        Args:
            folder: of the file; need not exist, nothing is made there.
            photos: all of the scene.
            copies: processes that store them on the same disk.
            is_busy: decoding takes time from the training, which runs on the processor.

        Raises:
            InputError: there is not enough space, or the folder can't be written.
        """
        if self.holds_all:
            return
        free = free_space(folder)
        needed = copies * sum(photo.num_bytes for photo in photos)
        self._stores_all = is_busy and free is not None and needed <= free // 2
        if not self._stores_all:
            needed = copies * sum(photo.num_bytes for photo in photos if photo.is_costly)
        if not needed:
            return
        if free is not None and free < needed:
            raise InputError(
                f"the photos do not fit into memory, and take {readable(needed)} of the disk of {folder}, which has "
                f"{readable(free)} free; give them more --photo-memory, make them smaller by -r, or free some space"
            )
        self._file = _PhotoFile(existing_parent(folder))

    def close(self) -> None:
        """Remove the file, and fetch nothing ahead any more. Photos can still be decoded."""
        with self._lock:
            executor, self._executor = self._executor, None
            self._ahead, self._latest, self.num_ahead = {}, None, 0
        if executor is not None:
            executor.shutdown(cancel_futures=True)
        if self._file is not None:
            for entry in list(self._entries.values()):
                entry.place = None
            self._file.close()
            self._file = None

    def reserve(self, owner: object, num_bytes: int) -> bool:
        """Take memory for something that lives as long as ``owner``; False where there is no room."""
        with self._lock:
            while self._given_back:
                self._room += self._given_back.popleft()
            if num_bytes > self._room:
                return False
            self._room -= num_bytes
        weakref.finalize(owner, self._given_back.append, num_bytes).atexit = False
        return True

    def want(self, photos: Sequence[Photo]) -> None:
        """Fetch photos in threads, the first first, in place of those that were wanted before.

        Args:
            photos: those that will be asked for next, in this order; no more than ``num_ahead`` count.
        """
        if not self.num_ahead:
            return
        with self._lock:
            wanted = dict.fromkeys(photo for photo in photos[: self.num_ahead] if not self._has(photo))
            for photo in self._ahead.keys() - wanted.keys():
                self._ahead.pop(photo).cancel()
            if self._executor is None and wanted:
                num_threads = min(default_threads(), self.num_ahead)
                self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="photos ahead")
            for photo in wanted:
                if photo not in self._ahead and self._executor is not None:
                    self._ahead[photo] = self._executor.submit(self._fetch, photo)

    def planes(self, photo: Photo) -> Planes:
        """A decoded photo.

        Raises:
            InputError: as for ``Photo.decode``, without ``leave_out``.
        """
        with self._lock:
            if (planes := self._has(photo)) is not None:
                return planes
            future = self._ahead.pop(photo, None)
        planes = self._fetch(photo) if future is None or future.cancel() else future.result()
        if not self.holds_all:
            with self._lock:
                self._latest = photo, planes
        return planes

    def larger_planes(self, photo: Photo) -> Planes:
        """As :meth:`planes`, to make a smaller photo of: not kept for this alone, where memory is limited."""
        return self._fetch(photo, keep=self.holds_all)

    def _has(self, photo: Photo) -> Planes | None:
        """What is in memory, not counting what is fetched ahead."""
        entry = self._entries.get(photo)
        if entry is not None and entry.planes is not None:
            return entry.planes
        return self._latest[1] if self._latest is not None and self._latest[0] is photo else None

    def _fetch(self, photo: Photo, keep: bool = True) -> Planes:
        with self._lock:
            entry = self._entries.setdefault(photo, _Entry())
        with entry.lock:
            if entry.planes is not None:
                return entry.planes
            planes = None if self._file is None or entry.place is None else self._file.read(entry.place)
            if planes is None:
                try:
                    planes = photo.decode()
                except InputError as error:
                    if self.leave_out is None:
                        raise
                    self.leave_out(photo, error)
                    return Planes.left_out(*photo.size)
            kept = keep and self._is_kept(photo, planes)
            is_stored = photo.larger is None and (photo.is_costly or self._stores_all)
            if is_stored and not kept and entry.place is None and self._file is not None:
                entry.place = self._file.write(planes)
            if self.pin:
                planes = planes.each(Tensor.pin_memory)
            if kept:
                entry.planes = planes
            return planes

    def _is_kept(self, photo: Photo, planes: Planes) -> bool:
        """Takes room for it."""
        whole = self.holds_all and photo.larger is None  # has room already
        return whole or self.reserve(photo, planes.num_bytes)


def _empty(shape: tuple[int, ...] | None, dtype: torch.dtype) -> Any:
    """A tensor of a shape, if there is one."""
    return None if shape is None else torch.empty(shape, dtype=dtype)


_Place = tuple[int, list[tuple[int, ...] | None]]  # offset in bytes, and the shape of each plane


class _PhotoFile:
    """Photos one after the other in a file without a name. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise InputError(f"folder {folder} can't be written: '{error}'; choose another folder") from error
        self._lock = threading.Lock()
        self._end = 0
        self._is_full = False

    def write(self, planes: Planes) -> _Place | None:
        """Where they are now; None if the disk is full, and what was there is gone then."""
        with self._lock:
            if self._is_full:
                return None
            start = self._end
            try:
                self._file.seek(start)
                for each in planes:
                    if each is not None:
                        self._file.write(each.contiguous().numpy().data.cast("B"))
                self._file.flush()
            except OSError as error:
                self._is_full = True
                note(f"photos can't be stored on the disk ('{error}'): they are decoded again for each use, slower")
                with suppress(OSError):  # leaves the disk to the results
                    self._file.truncate(0)
                return None
            self._end = start + planes.num_bytes
            return start, [None if each is None else tuple(each.shape) for each in planes]

    def read(self, place: _Place) -> Planes | None:
        """What was written; None if the disk fails or was full."""
        start, planes = place[0], Planes(*map(_empty, place[1], (torch.uint8, torch.uint8, torch.bool)))
        with self._lock:
            if self._is_full:
                return None
            try:
                self._file.seek(start)
                for each in planes:
                    if each is not None and self._file.readinto(each.numpy().data.cast("B")) < each.nbytes:
                        return None
            except (OSError, ValueError):  # ValueError: closed meanwhile
                return None
        return planes

    def close(self) -> None:
        """Remove it."""
        with self._lock:
            self._file.close()
