"""A command's options: fields of one dataclass, given on the command line or in the file that `--config` names.

The parser is argparse, of which TRL's own, which `mallowspo train` uses, is a subclass: both show one page and say in
one message what is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mallowspo.cli.yaml_file import plain, read_yaml, text_of
from mallowspo.errors import InputError, told_as

if TYPE_CHECKING:
    from mallowspo.data.sources import LoadedData
    from mallowspo.data.validation import ValidatedData

__all__ = [
    "DATASET_OPTIONS",
    "FileLimits",
    "Page",
    "arguments_of",
    "did_you_mean",
    "option",
    "read_config",
    "read_known",
    "read_options",
    "read_pairs",
    "show_help",
    "take_config",
    "truth_of",
]

# What loading a data set calls its arguments → the options of the commands that take one.
DATASET_OPTIONS = {
    "dataset": "dataset_name",
    "dataset configuration": "dataset_config",
    "split": "dataset_train_split",
}
# What TRL's parser takes for a truth value where it is written as text.
_TRUTH = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(("no", "false", "f", "n", "0"), False)
_WORDS: Mapping[type, str] = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
_TAKEN: Mapping[type, str] = {int: "WHOLE NUMBER", float: "NUMBER", str: "TEXT", Path: "PATH"}


def option(
    text: str,
    default: Any = MISSING,  # without one it is required
    *,
    group: str | None = None,  # the heading of the help that begins with this option
    shown: str | None = None,  # the default in words, where it depends on others
    low: int | None = None,  # the lowest number
    commas: bool = False,  # the text holds several values with commas between them: a file may give a list
    positional: bool = False,  # given by its place
    as_json: bool = False,  # the text is a JSON object: a file may give a mapping
    null: Any = MISSING,  # what null in a file stands for, where the option itself is never None
) -> Any:
    """Declare an option as a field of a command's dataclass, with one sentence for the help."""
    facts = {
        "text": text,
        "group": group,
        "shown": shown,
        "low": low,
        "commas": commas,
        "positional": positional,
        "json": as_json,
        "null": null,
    }
    return field(default=default, metadata=facts)


@dataclass(frozen=True, kw_only=True)
class FileLimits:
    """Options of every command that reads data of the user's: how much of it is taken for a trap."""

    max_line_mb: int = option("MiB that a line, or a row of a CSV file, may have.", 64, group="Limits of files")
    max_nesting: int = option("Levels of lists and objects in a value.", 64)
    max_columns: int = option("Different columns of all rows together.", 1_000)


class Page(argparse.ArgumentParser):
    """What the parsers of all commands share: their page of help, and one message without the usage for a mistake."""

    def error(self, message: str) -> typing.NoReturn:
        """Say what is wrong with the command line."""
        said = message.removeprefix("argument ")
        name = said.partition(":")[0]
        if said.endswith("expected one argument"):
            said += f" (a value that begins with a dash is given as {name}=VALUE)"
        if "ignored explicit argument" in said:
            given = said.rpartition("ignored explicit argument ")[2]
            said = f"{name.partition('/')[0]}: got {given}, expected true or false, or nothing behind it"
        raise InputError(f"{said}; see `{self.prog} --help`")

    def print_help(self, file: Any = None) -> None:
        """Write the page; unlike argparse's own, an error of the stream is not passed over."""
        (file or sys.stdout).write(self.format_help())

    def page(self, usage: str, about: str, config: str, groups: Mapping[str, Iterable[tuple[Any, bool]]]) -> str:
        """Lay out the help: under each heading its options, each with whether its help is shown in full."""
        width = max(60, min(shutil.get_terminal_size((80, 24)).columns, 100))
        lines = [f"usage: {self.prog} {usage}".rstrip(), ""]
        for paragraph in about.split("\n\n"):
            lines += [*textwrap.wrap(" ".join(paragraph.split()), width), ""]
        lines += ["  --config FILE.yaml", *_indented(config, width), "  -h, --help", *_indented("This page.", width)]
        for title, actions in groups.items():
            lines += ["", f"{title}:"]
            for action, whole in actions:
                lines += _described(action, width, whole=whole)
        return "\n".join(lines) + "\n"


def _indented(text: str, width: int) -> list[str]:
    indent = " " * 6
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _described(action: Any, width: int, *, whole: bool) -> list[str]:
    """One option: its name and what it takes, then what it does."""
    kind = getattr(action.type, "__name__", "")
    taken = {"int": "WHOLE NUMBER", "float": "NUMBER", "string_to_bool": "true|false"}.get(kind, "TEXT")
    if action.nargs in ("+", "*"):
        taken += " ..."
    if action.nargs == 0:
        taken = ""
    elif action.metavar is not None:
        taken = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    name = f"--{action.dest} {taken}".rstrip() if action.option_strings else taken
    text = " ".join((action.help or "").replace("%%", "%").split())
    if not whole and ". " in text:
        text = text[: text.index(". ") + 1]
    if action.choices:
        listed = "One of: " + ", ".join(str(getattr(choice, "value", choice)) for choice in action.choices) + "."
        text = f"{text} {listed}".strip()
    default = getattr(action.default, "value", action.default)
    if isinstance(default, str | int | float | list) and default not in ("", [], argparse.SUPPRESS):
        text += f" [default: {' '.join(map(str, default)) if isinstance(default, list) else default}]"
    return [f"  {name}", *_indented(text, width)]


class _OptionsParser(Page):
    """The parser of one dataclass; what was not given is not in the namespace."""

    def __init__(self, kind: type, prog: str) -> None:
        super().__init__(prog=prog, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        # What begins so is a value; argparse's own pattern takes -1e-3 for an option.
        self._negative_number_matcher = re.compile(r"-\.?\d")
        self._kind, self._groups = kind, dict[str, list[tuple[Any, bool]]]()
        title = "Options"
        for item, values in _declared(kind).items():
            title = item.metadata["group"] or title
            self._groups.setdefault(title, []).append((self._add(item, values.of, values.places), True))

    def _add(self, item: Field[Any], of: type, places: int | None) -> argparse.Action:
        text = f"{item.metadata['text']}{_noted(item)}".replace("%", "%%")
        if of is bool:
            action = self.add_argument(f"--{item.name}", action="store_true", help=text)
            self.add_argument(f"--no_{item.name}", f"--no-{item.name}", dest=item.name, action="store_false")
            return action
        given: dict[str, Any] = {"type": _reader(of, item.metadata["low"]), "help": text, "metavar": _TAKEN[of]}
        if item.metadata["positional"]:
            return self.add_argument(item.name, **given | {"nargs": "?", "metavar": item.name.upper()})
        if places is None:
            return self.add_argument(f"--{item.name}", **given)
        if places == 0:
            return self.add_argument(f"--{item.name}", action="append", **given)
        return self.add_argument(f"--{item.name}", nargs=places, **given | {"metavar": (_TAKEN[of],) * places})

    def format_help(self) -> str:
        """The options in their groups."""
        places = [item.name.upper() for item in fields(self._kind) if item.metadata["positional"]]
        about = self._kind.__doc__ or ""
        config = "Options in a file, under these names; the command line goes before it."
        return self.page(" ".join([*places, "[--option value ...]"]), about, config, self._groups)


def _noted(item: Field[Any]) -> str:
    """What the help says of an option beside its sentence."""
    default, low = item.metadata["shown"] or item.default, item.metadata["low"]
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    notes = ["required"] if default is MISSING else []
    if default not in (MISSING, None, "") and default is not False:
        notes = [f"default: {default}"]
    notes += [f"at least {low}"] if low is not None else []
    return f" [{'; '.join(notes)}]" if notes else ""


class _Values(NamedTuple):
    """What a field may hold."""

    of: type
    places: int | None  # how many; None: one alone; 0: as often as it is given
    optional: bool  # whether it may be None


def _declared(kind: type) -> dict[Field[Any], _Values]:
    """What each field may hold; a class's own options come before those that it shares with others."""
    hints, listed = typing.get_type_hints(kind), {item.name: item for item in fields(kind)}
    names = [name for owner in kind.__mro__ for name in vars(owner).get("__annotations__", ()) if name in listed]
    found: dict[Field[Any], _Values] = {}
    for name in dict.fromkeys(names):
        hint, optional, places = hints[name], False, None
        if isinstance(hint, types.UnionType):
            (hint,), optional = [part for part in typing.get_args(hint) if part is not types.NoneType], True
        if typing.get_origin(hint) is tuple:
            parts = typing.get_args(hint)
            hint, places = parts[0], 0 if parts[-1] is Ellipsis else len(parts)
        found[listed[name]] = _Values(hint, places, optional)
    return found


def _reader(of: type, low: int | None) -> Callable[[str], Any]:
    """What turns the text of one value into the value."""

    def read(text: str) -> Any:
        if of is Path and not text.strip():
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a path")
        try:
            value = of(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {_WORDS[of]}") from error
        if low is not None and value < low:
            raise argparse.ArgumentTypeError(f"got {text}, expected at least {low}")
        return value

    return read


def show_help(kind: type, arguments: Sequence[str], prog: str) -> None:
    """Show a command's page and end where it is asked for, also beside what is wrong."""
    if {"-h", "--help"} & set(itertools.takewhile(lambda one: one != "--", arguments)):
        _OptionsParser(kind, prog).print_help()
        raise SystemExit(0)


def read_options(kind: type, arguments: Sequence[str], prog: str) -> Any:
    """Read a command's options; a dataclass with a class method `from_file` takes a file's keys in its own way."""
    show_help(kind, arguments, prog)
    parser = _OptionsParser(kind, prog)
    path, rest = take_config(arguments)
    named, left = parser.parse_known_args(_plain_flags(kind, rest[:-1] if rest[-1:] == ["--"] else rest))
    places = [item.name for item in fields(kind) if item.metadata["positional"]]
    names = [*(item.name for item in fields(kind) if not item.metadata["positional"]), "config", "help"]
    if left:
        if left[0].lstrip("-").partition("=")[0] in places:
            parser.error(f"{left[0]}: it is given by its place, without --")
        what = f"there is no such option{did_you_mean(left[0].partition('=')[0], names)}"
        parser.error(f"{left[0]}: {what if left[0].startswith('-') else 'it belongs to no option'}")
    from_file = getattr(kind, "from_file", partial(read_config, kind))
    values = {} if path is None else from_file(read_yaml(path), path)
    values |= {name: tuple(value) if isinstance(value, list) else value for name, value in vars(named).items()}
    missing = [item.name for item in fields(kind) if item.default is MISSING and item.name not in values]
    if missing:
        parser.error(f"{', '.join(missing)}: missing; give {'it' if len(missing) == 1 else 'them'}")
    return kind(**values)


def _plain_flags(kind: type, arguments: Sequence[str]) -> list[str]:
    """Write truth values, which `train` takes, as flags: `--use_cpu true` is `--use_cpu`, false `--no_use_cpu`."""
    flags = {f"--{item.name}" for item, values in _declared(kind).items() if values.of is bool}
    found: list[str] = []
    flag: str | None = None  # what the last argument was, where it was a flag alone
    waiting = iter(arguments)
    for argument in waiting:
        name, given, value = argument.partition("=")
        if argument == "--":
            return [*found, argument, *waiting]
        if given and name in flags and truth_of(value) is not None:
            found.append(name if truth_of(value) else f"--no_{name[2:]}")
        elif flag is not None and argument.lower() in ("true", "false"):  # a folder may be called `t` or `1`
            found[-1] = flag if truth_of(argument) else f"--no_{flag[2:]}"
        else:
            found.append(argument)
        flag = argument if argument in flags else None
    return found


def read_known(kind: type, arguments: Sequence[str], prog: str, given: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Read a command's own options, all of which have defaults, and leave the others; `given` is what a file said."""
    named, left = _OptionsParser(kind, prog).parse_known_args(_plain_flags(kind, arguments))
    return kind(**{**given, **vars(named)}), left


def read_config(kind: type, given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Turn what a file of options holds into the values of a dataclass's fields."""
    declared = {item.name: (item, values) for item, values in _declared(kind).items()}
    found = {}
    for name, value in given.items():
        if name not in declared:
            near = did_you_mean(str(name).lstrip("-"), declared)
            raise InputError(f"config: {path}: {name}: there is no such option{near}")
        try:
            found[name] = _from_yaml(value, *declared[name])
        except argparse.ArgumentTypeError as error:
            raise InputError(f"config: {path}: {name}: {error}") from error
    return found


def _from_yaml(value: Any, item: Field[Any], allowed: _Values) -> Any:
    of, places = allowed.of, allowed.places
    if value is None and allowed.optional:
        return None
    if value is None and item.metadata["null"] is not MISSING:
        return item.metadata["null"]
    if of is bool:
        truth = truth_of(value)
        if truth is None:
            raise argparse.ArgumentTypeError(f"got {value!r}, expected true or false")
        return truth
    read = _reader(of, item.metadata["low"])
    if item.metadata["json"] and isinstance(value, dict):
        return json.dumps(plain(value))
    if places is None:
        if item.metadata["commas"] and isinstance(value, list):
            return ",".join(_scalar(one, of) for one in value)
        return read(_scalar(value, of))
    listed = value if isinstance(value, list) else [value]
    if places not in (0, len(listed)):
        raise argparse.ArgumentTypeError(f"got {value!r}, expected a list of {places}, each {_WORDS[of]}")
    return tuple(read(_scalar(one, of)) for one in listed)


def truth_of(value: Any) -> bool | None:
    """What a truth value of a file says, written as text or not; None where it is none."""
    return value if isinstance(value, bool) else _TRUTH.get(value.lower()) if isinstance(value, str) else None


def _scalar(value: Any, of: type) -> str:
    """The text of one value. YAML reads `no` as false and 0.5 as a number, also where text is wanted."""
    if isinstance(value, bool):
        hint = "; YAML reads yes, no, on and off as truth values: put text in quotes" if of in (str, Path) else ""
        raise argparse.ArgumentTypeError(f"got {value!r}, expected {_WORDS[of]}{hint}")
    if not isinstance(value, str | int | float):
        raise argparse.ArgumentTypeError(f"got {value!r}, expected {_WORDS[of]}")
    return text_of(value) if of in (str, Path) else str(value)


def arguments_of(options: Any) -> list[str]:
    """Write options as a command line that gives the same."""
    arguments: list[str] = []
    for item in fields(options):
        value = getattr(options, item.name)
        if value == item.default:
            continue
        if item.metadata["positional"]:
            arguments.append(value)
        elif isinstance(value, bool):
            arguments.append(f"--{item.name}" if value else f"--no_{item.name}")
        elif isinstance(value, tuple) and _declared(type(options))[item].places == 0:
            arguments += [f"--{item.name}={one}" for one in value]
        elif isinstance(value, tuple):
            arguments += [f"--{item.name}", *map(str, value)]
        else:
            arguments.append(f"--{item.name}={value}")
    return arguments


def take_config(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take `--config FILE` or `--config=FILE` out of a command line."""
    found: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--config":
            found.append(next(waiting, ""))
        elif argument.startswith("--config="):
            found.append(argument.partition("=")[2])
        else:
            rest.append(argument)
    if any(not path or path.startswith("--") for path in found):
        raise InputError("--config: expected a path to a YAML file after it")
    if len(found) > 1:
        raise InputError(f"--config: got {' and '.join(found)}; give one file")
    return (found[0] if found else None), rest


def read_pairs(options: Any, *, lists: bool = False) -> tuple[LoadedData, ValidatedData]:
    """Read and validate the pairs that a command's options of data name; with `lists` ranked lists are kept whole."""
    from mallowspo.data import load_preferences, validate_rows

    with told_as(DATASET_OPTIONS):
        loaded = load_preferences(
            options.dataset_name,
            split=options.dataset_train_split,
            name=options.dataset_config,
            invalid_rows=options.invalid_rows,
        )
    # The reference reads no column of people: a row that training would keep must be in its store.
    rows = validate_rows(
        loaded.dataset, columns=(), invalid_rows=options.invalid_rows, source=options.dataset_name, lists=lists
    )
    return loaded, rows


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The options that a misspelt one may stand for, as the end of a message."""
    dashes = "--" if name.startswith("-") else ""
    near = get_close_matches(name.lstrip("-").replace("-", "_").lower(), sorted(known), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(dashes + one for one in near)}?" if near else ""
