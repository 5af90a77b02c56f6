"""Frozen dataclasses as command line and JSON: each field is one flag."""

import argparse
import dataclasses
import difflib
import importlib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from compact_splats.utils import files
from compact_splats.utils.errors import InputError, brief, run_script

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
AnyCommand = TypeVar("AnyCommand", bound="Command")
GROUPS = ("basic", "output", "advanced")


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    type: type = str,
    short: str | None = None,
    choices: Sequence[str] | None = None,
    many: bool = False,
    low: float | None = None,
    high: float | None = None,
    saves_memory: bool = False,
    may_change: bool = False,
    positional: str | None = None,
    alone: Any = None,
    group: str = "advanced",
) -> Any:
    """A field of a config dataclass that is also a flag and a JSON entry.

    Args:
        default: value if the flag is not given; a flag without a default is required. ``None``: no value.
        help: one line for ``--help``.
        type: ``str``, ``int``, ``float``, ``bool`` or ``Path``; a ``bool`` gets ``--flag`` and ``--no-flag``.
        short: second name of the flag, such as ``-s``.
        choices: the allowed values.
        many: the value is a tuple of any number of ``type``.
        low: the smallest allowed value.
        high: the largest one, if there is a smallest.
        saves_memory: another value can reduce the memory needed.
        may_change: the value does not affect the model, so a run may be continued with another one.
        positional: what the usage calls it; words without a flag are its value. At most one field has it.
        alone: value if the flag is given without one; None: a value is required.
        group: heading in ``--help``, one of ``GROUPS``.
    """
    metadata = {
        "help": help, "type": type, "short": short, "choices": choices, "many": many, "low": low, "high": high,
        "saves_memory": saves_memory, "may_change": may_change, "positional": positional, "alone": alone,
        "group": group,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


class Parser(argparse.ArgumentParser):
    """Argument parser that accepts ``_`` for ``-`` in flags and raises :class:`InputError`.

    Args:
        description: what the command does.
        examples: at least two command lines without the name of the command; ``--help`` begins with them.
        usage: the command line in general, likewise without the name.
        subcommand: a word that is part of the name.
    """

    def __init__(self, description: str, examples: Sequence[str], usage: str, subcommand: str = ""):
        epilog = "Flags may be written with underscores instead of hyphens."
        super().__init__(description=description, epilog=epilog, allow_abbrev=False)
        self.prog = f"{self.prog} {subcommand}".rstrip()
        python = "python " if self.prog.partition(" ")[0].endswith(".py") else ""
        self.usage = "\n".join([f"%(prog)s {usage}\n", *(f"  {python}%(prog)s {line}" for line in examples)])
        self._optionals.title = GROUPS[0]
        self.groups = {GROUPS[0]: self._optionals, **{name: self.add_argument_group(name) for name in GROUPS[1:]}}

    def parse_args(self, argv: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        """Parse; flags that are not given are absent from the result."""
        namespace, words = self.parse_flags(argv)
        if words:
            raise self._unknown(words[0])
        return namespace

    def parse_flags(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Parse; also give the words that belong to no flag."""
        namespace, rest = self.parse_known_args(_joined([_hyphens(word) for word in argv]))
        for word in rest:
            if word.startswith("-") and word != "--":
                raise self._unknown(word)
        return namespace, [word for word in rest if word != "--"]

    def _unknown(self, word: str) -> InputError:
        close = difflib.get_close_matches(word, self._option_string_actions, 1)
        return InputError(f"unknown argument '{word}': {f'did you mean {close[0]}?' if close else 'see --help'}")

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise InputError(f"{message} (see --help)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A config that is read from the command line of a command. Values are checked on creation.

    Attributes:
        about: what the command does.
        examples: see :class:`Parser`, as for ``subcommand``.

    Raises:
        InputError: a value has the wrong type or is out of range, or flags exclude each other.
    """

    about: ClassVar[str]
    examples: ClassVar[tuple[str, ...]]
    subcommand: ClassVar[str] = ""

    @classmethod
    def from_command_line(cls: type[AnyCommand], argv: Sequence[str]) -> AnyCommand:
        """Read the flags.

        Raises:
            InputError: a flag is unknown or missing, or its value is not valid.
        """
        return build(cls, cls.completed(given(cls, argv)))

    @classmethod
    def completed(cls, flags: dict[str, Any]) -> dict[str, Any]:
        """The given flags, and what the run that they name says of the others.

        Raises:
            InputError: the run can't be read.
        """
        return flags


def given(cls: type[Command], argv: Sequence[str]) -> dict[str, Any]:
    """The fields of ``cls`` that are set on the command line, by name.

    Raises:
        InputError: a flag is unknown, its value has the wrong type, or too many words have no flag.
    """
    fields = dataclasses.fields(cls)
    bare = next((field for field in fields if field.metadata["positional"]), None)
    needed = [field for field in fields if "(required)" in field.metadata["help"] and field is not bare]
    usage = [*([bare.metadata["positional"]] if bare else []), *(f"{flag(each)} {_metavar(each)}" for each in needed)]
    parser = Parser(cls.about, cls.examples, " ".join([*usage, "[flags]"]), cls.subcommand)
    for field in fields:
        _add_flag(parser, field)
    if bare is None:
        return vars(parser.parse_args(argv))
    namespace, words = parser.parse_flags(argv)
    return {**vars(namespace), **_bare_value(bare, words, bare.name in namespace)}


def _bare_value(field: dataclasses.Field, words: list[str], is_given: bool) -> dict[str, Any]:
    """The words without a flag as the value of a field."""
    if not words:
        return {}
    name = "/".join(filter(None, (field.metadata["short"], flag(field))))
    if is_given:
        raise InputError(f"'{words[0]}' has no flag and would be {name}, which is given, too: leave one of them out")
    values = tuple(field.metadata["type"](word) for word in words)
    if field.metadata["many"]:
        return {field.name: values}
    if len(values) > 1:
        raise InputError(f"'{words[0]}' and '{words[1]}' have no flag, but only one word can be {name} (see --help)")
    return {field.name: values[0]}


def build(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Make a config from ``values`` and defaults.

    Raises:
        InputError: a field without default is missing.
    """
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.name not in values:
            what = field.metadata["help"].removesuffix(" (required)")
            raise InputError(f"{flag(field)} is missing: {what} (see --help)")
    return cls(**values)


def check(config: Any) -> None:
    """Check the type, choices and range of every field; for ``__post_init__``.

    Raises:
        InputError: a field has the wrong type, none of its choices, or is out of range.
    """
    for field in dataclasses.fields(config):
        _check_value(flag(field), field, getattr(config, field.name))


def to_json(config: Any) -> dict[str, Any]:
    """All fields as JSON types; paths are made absolute."""
    return {field.name: _encode(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_json(cls: type, values: Mapping[str, Any], origin: Path) -> dict[str, Any]:
    """Inverse of :func:`to_json`: the fields of ``cls`` by name; other entries are ignored.

    Args:
        cls: the config class.
        values: decoded JSON object.
        origin: its file, for messages.

    Raises:
        InputError: an entry has the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    return {name: _decode(fields[name], value, origin) for name, value in values.items() if name in fields}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file does not exist, can't be read, or is not a JSON object.
    """
    fix = "train again or give the flags"
    values = files.read_json(path, "a JSON file", fix)
    if not isinstance(values, dict):
        raise InputError(path, "a JSON object", type(values).__name__, fix)
    return values


def flag(field: dataclasses.Field) -> str:
    """The flag of a field."""
    return "--" + field.name.replace("_", "-")


def flags_that_save_memory(cls: type) -> str:
    """The flags of a config that reduce memory, as a list in a sentence."""
    fields = [field for field in dataclasses.fields(cls) if field.metadata["saves_memory"]]
    names = ["/".join(filter(None, (field.metadata["short"], flag(field)))) for field in fields]
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def run_command(cls: Any, script: str, work: str) -> NoReturn:
    """Read the flags of a script, then import it as a module, call its function ``work`` with them, and exit.

    A script calls this above its other imports, so that --help and a wrong flag do not wait for torch.
    """

    def main() -> None:
        config = cls.from_command_line(sys.argv[1:])
        getattr(importlib.import_module(f"compact_splats.commands.{script}"), work)(config)

    run_script(main, less_memory=flags_that_save_memory(cls))


def _hyphens(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _joined(words: Sequence[str]) -> list[str]:
    """Words with ``--flag -1,2`` as ``--flag=-1,2``, and so with -x, -y, -z, which argparse would take for flags."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and re.match(r"-[\d.].*,|-[xyzXYZ]$", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _add_flag(parser: Parser, field: dataclasses.Field) -> None:
    meta, names = field.metadata, [flag(field)]
    names += [meta["short"]] if meta["short"] else []
    has_default = field.default not in (dataclasses.MISSING, None, ()) and field.default is not False
    help = meta["help"] + (f" (default: {field.default})" if has_default else "")
    if meta["positional"]:
        help += "; the flag may be left out"
    group = parser.groups[meta["group"]]
    if meta["type"] is bool:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help)
        return
    form: dict[str, Any] = {} if meta["choices"] else {"metavar": _metavar(field)}
    if meta["many"]:
        form |= {"nargs": "*", "action": _Tuple}
    if meta["alone"] is not None:
        form |= {"nargs": "?", "const": meta["alone"]}
    group.add_argument(
        *names, type=meta["type"], choices=meta["choices"], default=argparse.SUPPRESS, help=help, **form
    )  # fmt: skip


def _metavar(field: dataclasses.Field) -> str:
    return {Path: "PATH", int: "INT", float: "FLOAT", str: "TEXT"}[field.metadata["type"]]


class _Tuple(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):  # noqa: D102
        setattr(namespace, self.dest, tuple(values))


def _check_value(where: str | Path, field: dataclasses.Field, value: Any) -> None:
    kind, choices, low, high = (field.metadata[key] for key in ("type", "choices", "low", "high"))
    if value is None and field.default is None:
        return
    for item in value if field.metadata["many"] and isinstance(value, tuple) else (value,):
        if not _is(item, kind):
            raise InputError(f"{where} must be of type {kind.__name__}, not {brief(item)} (see --help)")
        if choices and item not in choices:
            raise InputError(f"{where} must be one of {', '.join(choices)}, not {brief(item)}")
        if low is not None and not low <= item <= (math.inf if high is None else high):
            allowed = f"{low} or more" if high is None else f"a number from {low} to {high}"
            raise InputError(f"{where} must be {allowed}, not {item}")


def _is(value: Any, kind: type) -> bool:
    """Whether ``value`` has type ``kind``. A bool is not a number, an int is also a float, NaN has no type."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind) and value == value


def _encode(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return [_encode(each) for each in value] if isinstance(value, tuple) else value


def _decode(field: dataclasses.Field, value: Any, origin: Path) -> Any:
    if field.metadata["type"] is Path and isinstance(value, str):
        value = Path(value)
    if field.metadata["many"] and isinstance(value, list):
        value = tuple(value)
    _check_value(f"{origin}: {field.name}", field, value)
    return value
