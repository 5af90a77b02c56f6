"""The commands that the pages show, and what each needs: they stand in fences of ``sh``, one a line.

A fence below a comment ``<!-- needs: REASON -->`` is not run by the tests, for one of ``REASONS``; its flags are
checked all the same. Every other one is run, on a small scene.
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
    "time": "minutes; CI or a person runs it",
    "browser": "a person who looks",
    "cluster": "several machines",
    "network": "something fetched",
}
LANGUAGES = ("sh", "python", "text", "yaml", "json", "{toctree}", "{command-options}")

FENCE = re.compile(
    r"^(?:<!-- needs: (?P<needs>[^\n]*) -->\n)?(?P<ticks>```+)(?P<language>[^\n]*)\n(?P<body>.*?)^(?P=ticks)$",
    re.M | re.S,
)
_MENTION = re.compile(r"(?<!`)`((?:python|torchrun|make) [^`\n]+)`(?!`)|^    ((?:python|torchrun|make) [^\n]+)$", re.M)


@dataclass(frozen=True)
class Command:
    """A line of a page.

    Attributes:
        page: where it stands.
        words: as a shell splits it, without the comment and without variables in front.
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
    """The commands in running text and in the records of measurements, as inline or indented code: checked, not run."""
    lines = (match[1] or match[2] for match in _MENTION.finditer(FENCE.sub("", page.read_text())))
    return [_command(page, shlex.split(re.sub(r"[][]", "", line)), "a reader's own files") for line in lines]


def _command(page: Path, words: list[str], needs: str) -> Command:
    """Without the variables that are set for it."""
    first = next(i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
    return Command(page, tuple(words[first:]), needs)
