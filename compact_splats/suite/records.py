"""What a run folder has finished: for each stage its command, what it was made from, and the files it left.

A stage counts as finished if all of that is as it was noted: not because a file is there, but because it is the one.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compact_splats.utils.files import write_json

FILE = "stages.json"
FORMAT = 1
MADE_BY = {"command", "commit", "processor", "cores", "accelerator", "torch"}  # what reports say of how it was made

Record = dict[str, Any]


def read_records(folder: Path) -> dict[str, Record]:
    """The records of a run folder by stage; none where there is no file, or one that can't be used."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    stages = content.get("stages") if isinstance(content, dict) and content.get("format") == FORMAT else None
    return stages if isinstance(stages, dict) else {}


def write_records(folder: Path, records: dict[str, Record]) -> None:
    """Note what is finished.

    Raises:
        InputError: the file can't be written.
    """
    write_json(folder / FILE, {"format": FORMAT, "stages": records})


def make_record(folder: Path, words: Sequence[str], basis: Sequence[str], outputs: Sequence[str]) -> Record:
    """The record of a stage as its files are now.

    Args:
        folder: of the run.
        words: the command, without what has no influence on its result.
        basis: digests of what the stage reads.
        outputs: the files it leaves, relative to the folder; a folder stands for all files in it.
    """
    paths = [path for name in outputs for path in _files(folder / name)]
    found = {path.relative_to(folder).as_posix(): _describe(path) for path in paths}
    return {"command": list(words), "basis": list(basis), "outputs": found}


def is_same(record: Any, expected: Record) -> bool:
    """Whether a record from a file says the same as one of now; how it was made, under ``made_by``, can differ."""
    return (
        isinstance(record, dict)
        and _what(record) == _what(expected)
        and isinstance(record.get("made_by"), dict)
        and MADE_BY <= record["made_by"].keys()
    )


def digest(record: Record) -> str:
    """A name for a record; the same for the same files from the same command, whoever made them."""
    return _hash(_what(record))


def scene_digest(source: Path, images: str) -> str:
    """A name for a scene's photos and poses, by the names and sizes of the files: another copy has the same."""
    parts = [source / name for name in (images, "masks", "sparse")]
    files = [path for part in parts for path in _files(part)]
    files += [path for path in source.glob("*") if path.is_file()] if source.is_dir() else []
    return _hash(sorted((path.relative_to(source).as_posix(), path.stat().st_size) for path in files))


def _what(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "made_by"}


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    """The file, or all files in the folder and below, in the order of their names."""
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        total = hashlib.sha256()
        while block := file.read(1 << 20):
            total.update(block)
        return {"size": file.tell(), "sha256": total.hexdigest()}
