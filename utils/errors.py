"""The one exception for what a user can get wrong, and how a script ends on it, or where the machine is too small."""

import re
import reprlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from compact_splats.utils.memory import free_memory

_LONGEST = 500  # characters of each part of a message; files can be quoted in it
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80


class InputError(Exception):
    """Something in the user's input is wrong; the message is one line: what is wrong, where, and what to do.

    ``InputError("scene folder /x does not exist (see -s)")``, or, where it reads well, the parts of "WHERE: expected
    EXPECTED, found FOUND; FIX".

    Args:
        message: the whole sentence, or a path or flag that is wrong.
        expected: what was needed there.
        found: what is there instead.
        fix: what the user can do, as an imperative.
    """

    def __init__(
        self, message: str | Path, expected: str | None = None, found: str | None = None, fix: str | None = None
    ) -> None:
        self._parts = (message, expected, found, fix)
        text = str(message)
        if expected is not None:
            expected, found, fix = (_shortened(part or "") for part in (expected, found, fix))
            text = f"{message}: expected {expected}, found {found}; {fix}"
        super().__init__(one_line(_shortened(text) if expected is None else text))

    def with_hint(self, hint: str) -> "InputError":
        """The same with one more thing to do."""
        message, expected, found, fix = self._parts
        return InputError(f"{message}; {hint}") if fix is None else InputError(message, expected, found, f"{fix}; {hint}")

    def __reduce__(self) -> tuple:  # the default would rebuild it from the message alone, and fail in process pools
        return InputError, self._parts


def brief(value: object) -> str:
    """``repr`` of what a file holds, for a message: never long, and of nested values only the outer ones."""
    return _BRIEF.repr(value)


class Stopped(Exception):
    """The user has asked a script to end, and it has put its work in order.

    Args:
        signal_number: of the request.
        said: what the user is told, and how to go on.
    """

    def __init__(self, signal_number: int, said: str) -> None:
        super().__init__(signal_number, said)
        self.signal_number, self.said = signal_number, said


def exit_code_of(error: Exception) -> int:
    """How a script ends on an error that it tells in a line: 2, or 128 and the signal's number."""
    return 128 + error.signal_number if isinstance(error, Stopped) else 2


def run_script(main: Callable[[], None], *, less_memory: str = "") -> NoReturn:
    """Run ``main`` and end the process.

    Exit code 0; or one line on stderr and exit code 2 after an ``InputError``, where memory runs out, and where the
    GPU fails; or a line and, as shells count, 128 and the signal's number where the user has asked for the end.
    Anything else is a bug, and keeps its traceback.

    Args:
        main: the script.
        less_memory: flags by which it can be told to need less memory.
    """
    try:
        main()
    except (Stopped, KeyboardInterrupt) as error:
        number, said = (error.signal_number, error.said) if isinstance(error, Stopped) else (signal.SIGINT, "stopped")
        print(said, file=sys.stderr)
        sys.exit(128 + number)
    except (InputError, MemoryError, RuntimeError) as error:
        line = _line_for_user(error, less_memory)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _line_for_user(error: Exception, less_memory: str) -> str | None:
    """What to tell the user; None for a bug."""
    if isinstance(error, InputError):
        return str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by name: torch and the engine need not be loaded here
    if kinds & {"MemoryError", "OutOfMemoryError"} or _OUT_OF_MEMORY.search(str(error)):
        on_gpu = bool(kinds & {"OutOfMemoryError", "CudaError"}) or "CUDA" in str(error)
        return str(_out_of_memory(str(error), on_gpu, less_memory))
    return one_line(str(error)) if "CudaError" in kinds else None


# What torch's allocators say, the ordinary ones of GPU and CPU, the stream-ordered one, and numpy.
_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory")
_WANTED = re.compile(r"(?:[Tt]ried to allocate|Requested +:|Unable to allocate) ([\d.]+ \w+)")
_FREE = re.compile(r"of which ([\d.]+ \w+) is free|([\d.]+ \w+) free|Free \(according to CUDA\): ([\d.]+ \w+)")


def _out_of_memory(text: str, on_gpu: bool, flags: str) -> InputError:
    wanted, free = _WANTED.search(text), _FREE.search(text)
    return InputError(
        "GPU memory" if on_gpu else "memory",
        f"{_size(wanted[1])} more" if wanted else "more",
        f"{free[free.lastindex]} free" if free else "too little" if on_gpu else _free_on_host(),
        f"ask for less by {flags}" if flags else "make room, or use a machine that has more",
    )


def _size(amount: str) -> str:
    """Bytes in a unit that can be read; other amounts as they are."""
    number, unit = amount.split()
    return readable(float(number)) if unit == "bytes" else amount


def readable(num_bytes: float) -> str:
    """Bytes in a unit that can be read."""
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.2f} GiB"
    return f"{num_bytes / 2**20:.0f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:.0f} KiB"


def _free_on_host() -> str:
    free = free_memory()
    return "less" if free is None else f"{readable(free)} free"


def one_line(text: str) -> str:
    """The words of a text, which may quote a stranger's file: what would steer a terminal becomes question marks."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 100]} ... {text[-90:]}"
