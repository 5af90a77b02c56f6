"""Writing files so that nothing half-written is ever seen under its final name."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import InputError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it into place when the block ends well, delete it otherwise.

    The temporary name keeps the suffix, because image and array writers choose their format by it. Missing folders are
    created. The block should do nothing but write: any ``OSError`` in it is taken for a failure to write ``path``.

    Args:
        path: where the finished file belongs; an existing file is replaced.

    Yields:
        The path to write to; an empty file is there already.

    Raises:
        InputError: the folder or the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # an unwritable folder shows before the work, and the file gets the user's umask
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            path, "a place that can be written", f"'{error}'", "choose another folder or free this one"
        ) from error
    finally:
        _remove_if_there(temporary)


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file that is either the whole new one or the old one.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _remove_if_there(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # moved into place, or never created: nothing is left to clean
        pass
