"""A task on a node of a Ray cluster: check that everything shared is there, then run the job.

Ray sends these functions by value, so that they run, and can report what is missing, on a node without this project.
"""

import contextlib
import os
import pickle
import socket
import sys
from typing import Any


def run_task(payload: bytes, project: str, shared: dict[str, str], lock: str) -> tuple[str | None, Any]:
    """Run a job on this node.

    Args:
        payload: the function and its one argument, pickled.
        project: folder of this project.
        shared: paths that must exist, and what each is.
        lock: file that is locked meanwhile.

    Returns:
        What is wrong with this node, and None; or None, and the result of the function.
    """
    node = f"node {socket.gethostname()}"
    for path, name in shared.items():
        if not os.path.exists(path):
            return f"{node} does not see {name} at {path}: all nodes need the same file system under that path", None
    if project not in sys.path:
        sys.path.insert(0, project)
    try:
        function, argument = pickle.loads(payload)
    except ImportError as error:
        return f"{node} lacks a package of this project ({error}): install requirements.txt and submodules/", None
    with _exclusive(lock):
        return None, function(argument)


@contextlib.contextmanager
def _exclusive(lock: str):
    """Wait for the lock: the task of a node that Ray has given up may still run."""
    import fcntl  # not on Windows

    with open(lock, "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
