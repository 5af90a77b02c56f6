"""Train, render and measure the scenes of budget.txt with the full schedule, and print a table."""

import sys

from compact_splats.suite.command import run_suite
from compact_splats.utils.errors import run_script

if __name__ == "__main__":
    run_script(lambda: sys.exit(run_suite(sys.argv[1:], "full")))
