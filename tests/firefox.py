"""Firefox, driven by WebDriver BiDi: commands and answers as JSON over a web socket, without a driver program.

It draws WebGL in software only on a display, so without one Xvfb makes it.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

_PROGRAM = next(filter(None, map(shutil.which, ("firefox", "firefox-esr"))), None)


def why_not() -> str | None:
    """Why there is no Firefox here, or None."""
    if _PROGRAM is None:
        return "no firefox is installed"
    return None if os.environ.get("DISPLAY") or shutil.which("Xvfb") else "Firefox has no display, and no Xvfb for one"


class Firefox:
    """A tab, and what the console of its page says: pairs of level and text."""

    def __init__(self, socket: Any, width: int, height: int) -> None:
        self._socket, self._numbers, self.said = socket, itertools.count(), []
        self._ask("session.new", capabilities={})
        self._ask("session.subscribe", events=["log.entryAdded"])
        self._tab = {"context": self._ask("browsingContext.create", type="tab")["context"]}
        self._ask("browsingContext.setViewport", **self._tab, viewport={"width": width, "height": height})

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != number:
            if answer.get("method") == "log.entryAdded":
                self.said.append((answer["params"]["level"], answer["params"]["text"]))
        assert answer["type"] == "success", answer
        return answer["result"]

    def go(self, address: str) -> None:
        """Open a page, and wait until it is loaded."""
        self._ask("browsingContext.navigate", **self._tab, url=address, wait="complete")

    def value(self, script: str) -> Any:
        """The value of an expression; None where it has none."""
        return self._ask("script.evaluate", target=self._tab, expression=script, awaitPromise=False)["result"].get(
            "value"
        )

    def picture(self) -> np.ndarray:
        """(H,W,3) uint8 RGB of the window."""
        data = base64.b64decode(self._ask("browsingContext.captureScreenshot", **self._tab)["data"])
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


@contextmanager
def firefox(width: int, height: int) -> Iterator[Firefox]:
    """Firefox with a new profile and a window of this size, px, for the length of the block."""
    from websockets.sync.client import connect

    with ExitStack() as stack:
        environment = dict(os.environ)
        if not environment.get("DISPLAY"):
            reading, writing = os.pipe()
            command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x1024x24"]
            _started(stack, command, pass_fds=(writing,), stderr=subprocess.DEVNULL)
            os.close(writing)
            with os.fdopen(reading) as pipe:
                environment["DISPLAY"] = f":{pipe.readline().strip()}"
        profile = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        command = [str(_PROGRAM), "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
        browser = _started(stack, command, env=environment, stderr=subprocess.PIPE, text=True)
        lines = (line.partition("BiDi listening on ")[2].strip() for line in browser.stderr)
        address = next(filter(None, lines))
        yield Firefox(stack.enter_context(connect(f"{address}/session", max_size=None)), width, height)


def _started(stack: ExitStack, command: list[str], **options: Any) -> subprocess.Popen:
    """A process that is killed at the end."""
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL, **options))
    stack.callback(process.kill)
    return process
