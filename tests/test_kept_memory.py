"""Memory that is freed and taken again."""

import subprocess
import sys

import pytest

CODE = """
import os, sys
from compact_splats.utils.memory import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "kept":
    keep_freed_memory()
blocks = [bytes([i + 1]) * (8 << 20) for i in range(8)]
before = resident()
del blocks
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="malloc of glibc")
def test_what_a_step_frees_stays_with_the_process():
    """64 MB in blocks of 8, which malloc gives back to the system by itself."""
    given_back = [
        int(subprocess.run([sys.executable, "-c", CODE, how], check=True, capture_output=True, text=True).stdout)
        for how in ("kept", "not kept")
    ]
    assert given_back[0] < 1 << 20 and given_back[1] > 30 << 20
