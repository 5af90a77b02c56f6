"""Starts a program that the kernel kills when the parent process ends (on Linux).

Run by its path, so that it imports nothing else: ``python child.py PARENT PROGRAM WORD ...``.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Request SIGKILL at the end of the parent, and replace this process by the program."""
    parent, *words = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it ended before the request
            sys.exit("the suite has ended")
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
