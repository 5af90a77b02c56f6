"""The commands. In a wheel they lie in this folder. In a checkout they are the scripts at its top."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2])]
