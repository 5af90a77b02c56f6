"""The finished stages of a run: for each its command, digests of its inputs, and the files that it wrote.

A stage counts as finished if its record would be the same now: the same command, the same inputs, the same files.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compact_splats.utils.files import write_json

FILE = "stages.json"
FORMAT = 1

Record = dict[str, Any]


def read_records(folder: Path) -> dict[str, Record]:
    """The records of a run by stage; none if the file is missing or can't be read."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    stages = content.get("stages") if isinstance(content, dict) and content.get("format") == FORMAT else None
    return stages if isinstance(stages, dict) else {}


def write_records(folder: Path, records: dict[str, Record]) -> None:
    """Write the records of a run.

    Raises:
        InputError: the file can't be written.
    """
    write_json(folder / FILE, {"format": FORMAT, "stages": records})


def make_record(folder: Path, words: Sequence[str], basis: Sequence[str], outputs: Sequence[str]) -> Record:
    """The record of a stage with its files as they are now.

    Args:
        folder: of the run.
        words: the command, without words that do not change its result.
        basis: digests of what the stage reads.
        outputs: the files that it writes, relative to the folder; a folder counts with all files in it.
    """
    paths = [path for name in outputs for path in _files(folder / name)]
    found = {path.relative_to(folder).as_posix(): _describe(path) for path in paths}
    return {"command": list(words), "basis": list(basis), "outputs": found}


def is_same(record: Any, expected: Record) -> bool:
    """Whether a record from a file is of a finished stage, and equals one of now.

    ``made_by``, the command and the machine, may differ; a stage that has only begun has none.
    """
    return isinstance(record, dict) and "made_by" in record and _result(record) == _result(expected)


def digest(record: Record) -> str:
    """A digest of a record without ``made_by``."""
    return _hash(_result(record))


def scene_digest(source: Path, images: str) -> str:
    """A digest of a scene's photos and poses, from the names and sizes of the files: copies have the same."""
    parts = [source / name for name in (images, "masks", "sparse")]
    files = [path for part in parts for path in _files(part)]
    files += [path for path in source.glob("*") if path.is_file()] if source.is_dir() else []
    return _hash(sorted((path.relative_to(source).as_posix(), path.stat().st_size) for path in files))


def _result(record: Record) -> Record:
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
