"""What MP4 and MOV files say about a video and PyAV does not tell (ISO/IEC 14496-12 and 14496-15).

Only headers are read; files of other formats have none of it.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_ENTRY_HEADER = 78  # bytes of a VisualSampleEntry before its boxes
_MAX_BOX = 1 << 20  # bytes; the boxes that are read have some hundred


@dataclass(frozen=True)
class SampleEntry:
    """The description of a video's frames.

    Attributes:
        crop: the clean aperture: width and height, and the way from the middle of the frame to its middle, right and
            down, in px; None: the whole frame.
        dolby_profile: of Dolby Vision; 0: none.
        is_dolby_without_base: there is no picture for players that do not know Dolby Vision.
    """

    crop: tuple[float, float, float, float] | None = None
    dolby_profile: int = 0
    is_dolby_without_base: bool = False

    @classmethod
    def read(cls, path: Path, track: int) -> "SampleEntry":
        """Of a track of a file; the defaults if there is none."""
        with open(path, "rb") as file:
            file.seek(4)
            if file.read(4) not in (b"ftyp", b"wide", b"moov", b"mdat", b"free", b"skip"):
                return cls()
            number, entry = 0, cls()
            for name, content in _boxes(file, 0, os.path.getsize(path)):
                if name == b"tkhd":
                    number = struct.unpack_from(">I", content, 20 if content[:1] == b"\1" else 12)[0]
                elif name == b"stsd" and number == track:
                    entry = cls._of(content)
            return entry

    @classmethod
    def _of(cls, description: bytes) -> "SampleEntry":
        crop, profile, has_base = None, 0, True
        for name, content in _inner(description[8 + 8 + _ENTRY_HEADER :]):
            if name == b"clap" and len(content) >= 32:
                numbers = struct.unpack(">IIIIiIiI", content[:32])
                if all(numbers[1::2]):
                    width, height, right, down = (a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True))
                    crop = (width, height, right, down) if width >= 1 and height >= 1 else None
            elif name in (b"dvcC", b"dvvC", b"dvwC") and len(content) >= 5:
                profile, has_base = content[2] >> 1, content[4] >> 4 > 0
        return cls(crop, profile, profile == 5 or profile > 7 and not has_base)


def has_index(path: Path) -> bool:
    """False if a file is an MP4 or MOV whose description is missing."""
    with open(path, "rb") as file:
        file.seek(4)
        if file.read(4) != b"ftyp":
            return True
        return any(name in (b"mvhd", b"moof") for name, _ in _boxes(file, 0, os.path.getsize(path)))


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the boxes in a range of a file; of parents, those inside, of large boxes the name alone."""
    while start + 8 <= end:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", file.read(8).rjust(8, b"\0"))[0], 16
        size = size or end - start
        if size < head or start + size > end:
            return
        if name in _PARENTS:
            yield from _boxes(file, start + head, start + size)
        else:
            yield name, file.read(size - head) if size < _MAX_BOX else b""
        start += size


def _inner(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    while len(content) >= 8:
        size, name = struct.unpack(">I4s", content[:8])
        if size < 8:
            return
        yield name, content[8:size]
        content = content[size:]
