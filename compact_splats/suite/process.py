"""Programs run to their end, with their output in a log. None of them outlives this process. Knows no stages."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from compact_splats import commands

ROOT = Path(commands.__path__[0])  # the folder of the scripts, where they run
GRACE = 10  # seconds from the request to end until the kill
_TAIL = 65_536  # bytes of the log in which the last line of a program is looked for

_children: set[subprocess.Popen] = set()
_guard = threading.Lock()
_stopping = threading.Event()


class Stopped(Exception):
    """The sweep has been told to end, and with it the program."""


def run_python(words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> str | None:
    """Run a Python program of this project.

    Args:
        words: what follows ``python``: a script, or ``-m`` and a module, and its arguments; paths are absolute.
        log: what it prints is added to this file.
        environment: variables that it gets beside those of this process.

    Returns:
        None if it ended well; otherwise what went wrong, in one line.

    Raises:
        Stopped: :func:`stop_all` was called.
        OSError: the log can't be written, or the program can't be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(f"\n$ python {shlex.join(words)}\n".encode())
        file.flush()
        start = file.tell()
        child = _start([sys.executable, *words], file.fileno(), environment or {})
        try:
            code = child.wait()
        finally:
            with _guard:
                _children.discard(child)
    if _stopping.is_set():
        raise Stopped
    return None if code == 0 else _reason(code, log, start)


def stop_all() -> None:
    """End the programs that are running, and let no further one start until :func:`allow_all`."""
    with _guard:
        _stopping.set()
        running = list(_children)
    for child in running:
        _signal(child, signal.SIGTERM)
    for child in running:
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            _signal(child, signal.SIGKILL)


def allow_all() -> None:
    """Let programs start again."""
    _stopping.clear()


def _start(words: list[str], output: int, variables: Mapping[str, str]) -> subprocess.Popen:
    # A group of its own: Ctrl-C in a terminal reaches the sweep alone, which then ends its programs one by one.
    keeper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py")), str(os.getpid())]
    environment = {**os.environ, "TQDM_MININTERVAL": "30", "PYTHONUNBUFFERED": "1", **variables}
    with _guard:
        if _stopping.is_set():
            raise Stopped
        child = subprocess.Popen(
            [*keeper, *words], cwd=ROOT, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        _children.add(child)
    return child


def _signal(child: subprocess.Popen, number: signal.Signals) -> None:
    if child.poll() is None:
        child.send_signal(number)


def _reason(code: int, log: Path, start: int) -> str:
    """The last error that a program printed, or its last line, or how it ended."""
    if code < 0:
        hint = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
        return f"ended by signal {-code} ({signal.strsignal(-code)}){hint}"
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _TAIL))
        text = file.read().decode(errors="replace")
    lines = [" ".join(line.split()) for line in re.split(r"[\r\n]+", text) if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"ended with exit code {code}"])[-1]
