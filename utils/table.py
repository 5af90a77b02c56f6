"""Tables of text: for a terminal, or in Markdown. Cells are strings; the first line is the head."""

from collections.abc import Sequence

Lines = Sequence[Sequence[str]]


def text_table(lines: Lines, left: int = 1) -> str:
    """A table with columns of even width; the first ``left`` columns are aligned to the left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        "  ".join(
            f"{cell:{'<' if i < left else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def markdown_table(lines: Lines, left: int = 1) -> str:
    """The same in Markdown."""
    rule = [*[":--"] * left, *["--:"] * (len(lines[0]) - left)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
