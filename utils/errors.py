"""InputError, for what a user can get wrong, and how a script exits."""

import os
import re
import reprlib
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from compact_splats import HOW_TO_INSTALL
from compact_splats.utils.memory import free_memory

ENGINE = "diff_gaussian_rasterization"  # its import fails with a line where processor or torch do not suit
_MAX_CHARACTERS = 500  # of each part of a message: parts may quote files
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80


class InputError(Exception):
    """The user's input is wrong. The message is one line: what is wrong, where, and what to do.

    ``InputError("scene folder /x does not exist (see -s)")``, or, where it reads well, the four parts of "WHERE:
    expected EXPECTED, found FOUND; FIX".

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
        if expected is None:
            text = _shortened(str(message))
        else:
            expected, found, fix = (_shortened(part or "") for part in (expected, found, fix))
            text = f"{message}: expected {expected}, found {found}; {fix}"
        super().__init__(one_line(text))

    def with_hint(self, hint: str) -> "InputError":
        """The same error with one more thing to do."""
        message, expected, found, fix = self._parts
        if expected is None:
            return InputError(f"{message}; {hint}")
        return InputError(message, expected, found, f"{fix}; {hint}")

    def __reduce__(self) -> tuple:  # by default pickle passes the message alone, which is not all parts
        return InputError, self._parts


def note(text: str) -> None:
    """Tell the user, in one line on stderr, what was done with unusual input."""
    print(f"note: {one_line(text)}", file=sys.stderr)


def brief(value: object) -> str:
    """``repr`` of a value from a file, shortened, for a message."""
    return _BRIEF.repr(value)


class Stopped(Exception):
    """The user stopped a script, and its work is saved.

    Args:
        signal_number: SIGINT or SIGTERM.
        said: the line for the user: what is saved and how to continue.
    """

    def __init__(self, signal_number: int, said: str) -> None:
        super().__init__(signal_number, said)
        self.signal_number, self.said = signal_number, said


def exit_code_of(error: Exception) -> int:
    """The exit code after an error: 128 plus the signal number after ``Stopped``, else 2."""
    return 128 + error.signal_number if isinstance(error, Stopped) else 2


def run_script(main: Callable[[], None], *, less_memory: str = "") -> NoReturn:
    """Run ``main`` and exit.

    Exit code 0; 2 with one line on stderr after an ``InputError``, out of memory, GPU errors, and where a package is
    not installed or does not suit; 128 plus the signal number with one line after ``Stopped`` and Ctrl-C, and without
    one where nobody reads the output any more (``| head``). Any other exception is a bug and keeps its traceback.

    Args:
        main: the script.
        less_memory: the flags that reduce memory, for the message when memory runs out.
    """
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _is_output_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(128 + signal.SIGPIPE)
    except (Stopped, KeyboardInterrupt) as error:
        number, said = (error.signal_number, error.said) if isinstance(error, Stopped) else (signal.SIGINT, "stopped")
        print(said, file=sys.stderr)
        sys.exit(128 + number)
    except (InputError, ImportError, MemoryError, RuntimeError) as error:
        line = _line_for_user(error, less_memory)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _is_output_closed() -> bool:
    """Whether stdout is a pipe without a reader; not known on Windows."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno())
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _line_for_user(error: Exception, less_memory: str) -> str | None:
    """The line to print; None for a bug."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        name = error.name or "compact_splats"
        package = name.partition(".")[0]
        lacks = f"has no package {name}" if name == package else f"needs another version of {package}, with {name}"
        return None if package == "compact_splats" else f"{sys.executable} {lacks}; {HOW_TO_INSTALL}"
    if isinstance(error, ImportError):
        return one_line(str(error)) if error.name == ENGINE else None
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by name: torch and the engine need not be imported here
    if kinds & {"MemoryError", "OutOfMemoryError"} or _OUT_OF_MEMORY.search(str(error)):
        on_gpu = bool(kinds & {"OutOfMemoryError", "CudaError"}) or "CUDA" in str(error)
        return _out_of_memory(str(error), on_gpu, less_memory)
    return one_line(str(error)) if "CudaError" in kinds else None


# Messages of torch's CPU and CUDA allocators and of numpy.
_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory")
_NEEDED = re.compile(r"(?:[Tt]ried to allocate|Requested +:|Unable to allocate) ([\d.]+ \w+)")
_FREE = re.compile(r"of which ([\d.]+ \w+) is free|([\d.]+ \w+) free|Free \(according to CUDA\): ([\d.]+ \w+)")


def _out_of_memory(text: str, on_gpu: bool, flags: str) -> str:
    needed, free = _NEEDED.search(text), _FREE.search(text)
    facts = [f"{_size(needed[1])} more needed"] if needed else []
    if free:
        facts.append(f"{free[free.lastindex or 0]} free")
    elif not on_gpu and (free_bytes := free_memory()) is not None:
        facts.append(f"{readable(free_bytes)} free")
    what = "out of GPU memory" if on_gpu else "out of memory"
    hint = f"to use less, see {flags}" if flags else "close other programs or use a machine with more memory"
    return f"{what}{': ' if facts else ''}{', '.join(facts)}; {hint}"


def _size(amount: str) -> str:
    """An amount in bytes in a readable unit; others unchanged."""
    number, unit = amount.split()
    return readable(float(number)) if unit == "bytes" else amount


def readable(num_bytes: float) -> str:
    """A number of bytes in GiB, MiB or KiB."""
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.2f} GiB"
    return f"{num_bytes / 2**20:.0f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:.0f} KiB"


def one_line(text: str) -> str:
    """Text that may quote untrusted input, on one line; control characters become question marks."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 100]} ... {text[-90:]}"
