"""The argument parser of any command of the project, taken from the command itself."""

import argparse
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parent.parent.parent


class _Caught(BaseException):  # not an Exception: a command may catch those
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def parser_of(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command; the command is stopped when it parses.

    Args:
        words: what follows ``python``: a script, or ``-m`` and a module, and a subcommand.

    Raises:
        LookupError: the command has no parser.
    """

    def catch(parser: argparse.ArgumentParser, *_args, **_kwargs) -> None:
        raise _Caught(parser)

    try:
        with mock.patch.object(argparse.ArgumentParser, "parse_known_args", catch):
            run(words)
    except _Caught as caught:
        return caught.parser
    raise LookupError(f"{' '.join(words)}: no parser")


def run(words: Sequence[str]) -> int | str | None:
    """Run a command of the project in this process and in the current folder; return its exit code."""
    module = words[0] == "-m"
    name, arguments = (words[1], words[2:]) if module else (words[0], words[1:])
    folders = [] if module else [str((ROOT / name).parent)]
    with mock.patch.object(sys, "argv", [name, *arguments]), mock.patch.object(sys, "path", [*folders, *sys.path]):
        try:
            if module:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(ROOT / name), run_name="__main__")
        except SystemExit as end:
            return end.code
    return 0


def rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, str]]:
    """For each argument but ``--help``: names, value, help."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        names = ", ".join(action.option_strings) or (action.metavar or action.dest).upper()
        yield names, _value(action), formatter._expand_help(action) if action.help else ""


def _value(action: argparse.Action) -> str:
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ""
    if action.choices:
        return " or ".join(f"`{choice}`" for choice in action.choices)
    kind = {int: "whole number", float: "number", Path: "path"}.get(action.type, "text")
    return f"{kind}s" if action.nargs in ("*", "+") else kind
