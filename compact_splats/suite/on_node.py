"""A task on a node of a Ray cluster: look whether all that must be shared is there, then do the job.

Ray gets these functions by value, so that they run, and can say what is missing, where this project is not there.
"""

import contextlib
import os
import pickle
import socket
import sys
from typing import Any

Problem = tuple[str, str, str, str]  # what InputError is made of


def run_task(payload: bytes, project: str, shared: dict[str, str], lock: str) -> tuple[Problem | None, Any]:
    """Do a job on this node.

    Args:
        payload: the function and its one argument, pickled.
        project: folder of this project.
        shared: paths that have to be there, and what each is.
        lock: file that is locked meanwhile.

    Returns:
        What is wrong with this node, or else None and what the function returned.
    """
    node = f"node {socket.gethostname()}"
    for path, name in shared.items():
        if not os.path.exists(path):
            fix = "let all nodes share its file system, under the same path, and start again"
            return (node, f"{name} at {path}", "nothing", fix), None
    if project not in sys.path:
        sys.path.insert(0, project)
    try:
        function, argument = pickle.loads(payload)
    except ImportError as error:
        fix = "install requirements.txt and submodules/ there, and start again"
        return (node, "the packages of this project", f"'{error}'", fix), None
    with _alone(lock):
        return None, function(argument)


@contextlib.contextmanager
def _alone(lock: str):
    """Wait until no other process is in such a block: where a node is taken for lost, its task may live on a while."""
    import fcntl  # not on Windows

    with open(lock, "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
