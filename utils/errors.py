"""The one exception for what a user can get wrong, and how a script ends on it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class InputError(Exception):
    """Something in the user's input is wrong; the message is a single line that says where, what, and the way out.

    Args:
        where: the path or the command-line flag that is at fault.
        expected: what was needed there.
        found: what is there instead.
        fix: what the user can do about it, as an imperative.
    """

    def __init__(self, where: str | Path, expected: str, found: str, fix: str) -> None:
        super().__init__(" ".join(f"{where}: expected {expected}, found {found}; {fix}".split()))
        self._parts = (where, expected, found, fix)

    def __reduce__(self) -> tuple:  # the default would rebuild it from the message alone, and fail in process pools
        return InputError, self._parts


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run ``main`` and end the process: exit code 0, or on an ``InputError`` one line on stderr and exit code 2."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
