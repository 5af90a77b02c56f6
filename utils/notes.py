"""Notes for the user: what a command did otherwise than asked, on stderr."""

import sys


def note(text: str) -> None:
    """Print a line ``note: ...``."""
    print(f"note: {text}", file=sys.stderr, flush=True)
