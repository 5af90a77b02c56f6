"""Become another program that ends when the process that started it ends, however that happens (on Linux).

Run by its path, so that nothing else has to be loaded: ``python child.py PARENT PROGRAM WORD ...``.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for a signal at the parent's end, and become the program."""
    parent, *words = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it has ended before the kernel knew
            sys.exit("the suite has ended")
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
