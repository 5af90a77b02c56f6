"""Coverage-guided fuzzing of everything that reads a stranger's file: ``python -m tests.fuzz NAME --seconds 60``.

Without names it fuzzes all targets, one after another. Needs atheris; the findings are replayed without it, by
tests/test_fuzz.py.
"""

import sys
from pathlib import Path

FINDINGS = Path(__file__).parent / "findings"  # NAME/*, each once an input that the reader did not survive
CORPORA = Path(__file__).parent / "corpora"  # NAME.tar.xz, inputs of which each reached something new in long searches

sys.path.append(str(Path(__file__).parent.parent))  # for the modules that the tests share
