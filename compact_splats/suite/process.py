"""Runs programs, with their output in a log. They end when this process ends. Knows no stages."""

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

ROOT = Path(commands.__path__[0])  # folder of the scripts; a checkout or, in a wheel, compact_splats/commands
GRACE = 10  # seconds from the request to end until the kill
_TAIL = 65_536  # bytes at the end of the log that are searched for an error

_children: set[subprocess.Popen] = set()
_guard = threading.Lock()
_stopping = threading.Event()


class Stopped(Exception):
    """The sweep was stopped, and with it the program."""


def run_python(words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> str | None:
    """Run a Python program of this project.

    Args:
        words: the words after ``python``: a script, or ``-m`` and a module, and arguments; paths are absolute.
        log: the output is appended to this file.
        environment: variables to add to those of this process.

    Returns:
        None after exit code 0; else the error in one line.

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
    """End the running programs, and start no other until :func:`allow_all`."""
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
    """Allow programs to start again."""
    _stopping.clear()


def _start(words: list[str], output: int, variables: Mapping[str, str]) -> subprocess.Popen:
    # In a new session: Ctrl-C in a terminal reaches only the sweep, which then ends its programs.
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
    """The last error in the output of a program, or its last line, or its exit code or signal."""
    if code < 0:
        hint = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
        return f"ended by signal {-code} ({signal.strsignal(-code)}){hint}"
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _TAIL))
        text = file.read().decode(errors="replace")
    lines = [" ".join(line.split()) for line in re.split(r"[\r\n]+", text) if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"ended with exit code {code}"])[-1]
