"""Sizes of memory on the command line."""

from __future__ import annotations

import re

from compact_splats.utils.errors import InputError

_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT])(I?)B?", re.IGNORECASE | re.ASCII)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


def memory_size(text: str) -> int | None:
    """Read a value of ``--photo-memory``.

    Args:
        text: ``"4GB"``, ``"800MB"``, ``"1.5GiB"``; without the B, too. ``"auto"``: no value.

    Returns:
        Bytes; None for ``"auto"``.

    Raises:
        InputError: it is none of these.
    """
    if text == "auto":
        return None
    found = _SIZE.fullmatch(text)
    if found is None or not float(found[1]):
        raise InputError(f"--photo-memory must be a size such as 4GB or 800MB, or auto, not '{text}'")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** _POWERS[found[2].upper()])
