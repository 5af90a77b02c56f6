"""Sphinx extension: the directive ``command-options``, a table of a command's arguments, read from its parser."""

from docutils import nodes
from parsers import parser_of, rows
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class CommandOptions(SphinxDirective):
    """``{command-options} train.py``, or a script with a subcommand: ``compress.py export``."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """The description and the table."""
        parser = parser_of(self.arguments[0].split())
        lines = ["| argument | value | what it does |", "|---|---|---|"]
        for names, value, help in rows(parser):
            lines.append(f"| `{names.replace(', ', '`, `')}` | {value} | {help.replace('|', '&#124;')} |")
        description = (parser.description or "").strip().split("\n\n")[0]
        return self.parse_text_to_nodes("\n".join([description, "", *lines]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-options", CommandOptions)
    return {"parallel_read_safe": False, "parallel_write_safe": True}  # runs commands in this process
