"""Sphinx extension: links from docs/ to other files of the repository work on the site, too.

A link to the README goes to the first page. MyST copies files into the site. Folders and Markdown files outside docs/
are not copied: links to them become plain text.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

_LINK = re.compile(r"\[(?P<text>[^][]*)\]\((?P<path>\.\./[^)#\s]*)(?:#[^)\s]*)?\)")


def redirect(app: Sphinx, name: str, source: list[str]) -> None:
    """Rewrite the links of one page."""

    def rewritten(link: re.Match) -> str:
        target = (Path(app.srcdir) / link["path"]).resolve()
        if target == Path(app.srcdir).parent / "README.md":
            return f"[{link['text']}](index.md)"
        if not target.exists():
            return link[0]  # MyST warns about it
        return link["text"] if target.is_dir() or target.suffix == ".md" else link[0]

    source[0] = _LINK.sub(rewritten, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect it."""
    app.connect("source-read", redirect)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
