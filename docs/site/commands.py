"""The commands that the pages show: one per line, in fences of ``sh``.

A fence below a comment ``<!-- needs: REASON -->``, one of ``REASONS``, is not run by the tests; its flags are still
checked. Every other one is run, on a small scene.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
REASONS = {
    "gpu": "an NVIDIA GPU",
    "data": "photos or scenes that are not part of the project",
    "time": "minutes",
    "browser": "a person to look at it",
    "cluster": "several machines",
    "network": "a download",
}
LANGUAGES = ("sh", "python", "javascript", "text", "yaml", "json", "{toctree}", "{command-options}")

FENCE = re.compile(
    r"^(?:<!-- needs: (?P<needs>[^\n]*) -->\n)?(?P<ticks>```+)(?P<language>[^\n]*)\n(?P<body>.*?)^(?P=ticks)$",
    re.M | re.S,
)
_MENTION = re.compile(r"(?<!`)`((?:python|torchrun|make) [^`\n]+)`(?!`)|^    ((?:python|torchrun|make) [^\n]+)$", re.M)


@dataclass(frozen=True)
class Command:
    """A line of a page.

    Attributes:
        page: that shows it.
        words: as a shell splits it, without the comment and without leading variables.
        needs: why it is not run; "" if it is.
    """

    page: Path
    words: tuple[str, ...]
    needs: str

    @property
    def program(self) -> str:
        """The first word."""
        return self.words[0]

    def __str__(self) -> str:
        return f"{self.page.name}: {' '.join(self.words)}"


def fences(page: Path) -> Iterator[tuple[str, str, str]]:
    """Language, reason or "", and text of each fence."""
    for match in FENCE.finditer(page.read_text()):
        yield match["language"].strip(), (match["needs"] or "").strip(), match["body"]


def commands_of(page: Path) -> list[Command]:
    """All commands in the fences of a page."""
    found = []
    for language, needs, body in fences(page):
        if language == "sh":
            lines = (shlex.split(line, comments=True) for line in body.replace("\\\n", " ").splitlines())
            found += [_command(page, words, needs) for words in lines if words]
    return found


def mentions_of(page: Path) -> list[Command]:
    """Commands as inline or indented code, in text and beside measurements: checked, not run."""
    lines = (match[1] or match[2] for match in _MENTION.finditer(FENCE.sub("", page.read_text())))
    return [_command(page, shlex.split(re.sub(r"[][]", "", line)), "a reader's own files") for line in lines]


def _command(page: Path, words: list[str], needs: str) -> Command:
    first = next(i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
    return Command(page, tuple(words[first:]), needs)
