"""The steps of gpu_check: programs with a time limit each, and what is reported of them."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
PART_SECONDS = 560


class Check:
    """Runs steps, and writes summary.txt and log.txt.

    Args:
        folder: of the files that stay.
        device: to check.
        sizes: of scenes and trainings.

    Attributes:
        work: folder of all other files.
        deadline: time.monotonic() at which the part ends.
        failed: names of the steps that failed.
    """

    def __init__(self, folder: Path, work: Path, device: torch.device, sizes: Any) -> None:
        self.folder, self.work, self.device, self.sizes = folder, work, device, sizes
        self.deadline = time.monotonic() + PART_SECONDS
        self.failed: list[str] = []
        self.lock = threading.Lock()

    def run(
        self, name: str, command: list[str], limit: float, environ: Mapping[str, str] | None = None, *, shown: int = 0
    ) -> bool:
        """Run a step.

        Args:
            name: of the step.
            command: its output goes to log.txt.
            limit: s.
            environ: variables to add.
            shown: lines at the end of the output that also go to summary.txt; of a step that fails at least 15.

        Returns:
            Whether it ended with exit code 0.
        """
        code, lines, seconds = self.call(name, command, limit, environ)
        if seconds == 0:
            return self.result(name, "too slow", "no time left in this part")
        status = "ok" if code == 0 else "too slow" if code is None else "failed"
        self.result(name, status, f"exit code {code}" if code else "", seconds)
        count = shown if code == 0 else max(shown, 15)
        for line in lines[-count:] if count else []:
            self.say(f"    {line}")
        return code == 0

    def call(
        self, name: str, command: list[str], limit: float, environ: Mapping[str, str] | None = None
    ) -> tuple[int | None, list[str], float]:
        """Run a program; several may run at once. What it prints goes to log.txt once it has ended.

        Returns:
            Exit code (None: it took too long), its lines, and the seconds that it took, 0 where none are left.
        """
        limit, start = min(limit, self.deadline - time.monotonic()), time.monotonic()
        if limit <= 0:
            return None, [], 0.0
        with tempfile.TemporaryFile() as output:
            code = run_group(command, environ, output, limit)
            output.seek(0)
            said = output.read()
        with self.lock, (self.folder / "log.txt").open("ab") as log:
            log.write(f"\n===== {name}: {' '.join(command)}\n".encode() + said)
        return code, said.decode(errors="replace").splitlines(), time.monotonic() - start

    def result(self, name: str, status: str, note: str = "", seconds: float = 0.0) -> bool:
        """Report the status of a step, "ok", "skipped", "failed" or "too slow"; whether it is "ok"."""
        self.say(f"{name:<30}{status:<10}{seconds:>7.1f} s  {note}".rstrip())
        if status in ("failed", "too slow"):
            self.failed.append(name)
        return status == "ok"

    def say(self, text: str) -> None:
        """Print a line, and append it to summary.txt."""
        print(text, flush=True)
        with self.lock, (self.folder / "summary.txt").open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def run_group(command: list[str], environ: Mapping[str, str] | None, output: Any, limit: float) -> int | None:
    """Run a program, and end it with all that it started; its exit code, or None after ``limit`` seconds."""
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nothing of it runs any more
        process.wait()
