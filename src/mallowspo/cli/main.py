"""`mallowspo`: one command for each thing that it does."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mallowspo import __version__
from mallowspo.cli.check import CheckOptions, check
from mallowspo.cli.dispersion import DispersionOptions, dispersion
from mallowspo.cli.evaluate import EvaluateOptions, evaluate
from mallowspo.cli.exits import exit_code_of
from mallowspo.cli.experiment import EXPERIMENTS
from mallowspo.cli.options import did_you_mean, read_options
from mallowspo.cli.quickstart import QuickstartOptions, quickstart
from mallowspo.cli.reference import ReferenceOptions, reference
from mallowspo.errors import InputError
from mallowspo.progress import lines_for_a_log
from mallowspo.redaction import hide_in_tracebacks

__all__ = ["COMMANDS", "main"]

# A command's words → its options, and what it does with them: its exit code, None for 0.
COMMANDS: Mapping[str, tuple[type, Callable[[Any], int | None]]] = {
    "quickstart": (QuickstartOptions, quickstart),
    "reference": (ReferenceOptions, reference),
    "check": (CheckOptions, check),
    "dispersion": (DispersionOptions, dispersion),
    "evaluate": (EvaluateOptions, evaluate),
    **{f"experiment {name}": command for name, command in EXPERIMENTS.items()},
}
_ABOUT = {
    "": "Preference fine-tuning that respects how much people agree on each prompt.",
    "train": "Train on preference data; takes the flags and YAML of `trl dpo`, and ours.",
    "plan": "Tell what a training run will need of memory, hours and money, from the model's configuration alone.",
    "experiment": "Run one of the paper's studies: results.json, figures and a report.html, whichever way it goes.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; ends with SystemExit: 0; 1 for findings; 2 for a mistake in what was given."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _print_anything()
    hide_in_tracebacks()
    with lines_for_a_log():
        raise SystemExit(exit_code_of(lambda: _run(given), given))


def _print_anything() -> None:
    """A character that the terminal's encoding lacks is shown by its number; it must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _run(given: list[str]) -> int:
    if given[:1] == ["train"]:
        from mallowspo.cli.train import train_command

        return train_command(given[1:])
    if given[:1] == ["plan"]:
        from mallowspo.cli.plan import plan_command

        return plan_command(given[1:])
    group = "experiment" if given[:1] == ["experiment"] else ""
    rest = given[1:] if group else given
    if not rest:
        sys.stderr.write(_list_of_commands(group))
        return 2
    if rest[0] in ("--help", "-h"):
        sys.stdout.write(_list_of_commands(group))
        return 0
    if rest[0] == "--version" and not group:
        sys.stdout.write(f"mallowspo {__version__}\n")
        return 0
    words = f"{group} {rest[0]}".strip()
    if words not in COMMANDS:
        kind = "option" if rest[0].startswith("-") else "command"
        near = did_you_mean(rest[0], [*_commands(group), *(["version", "help"] if kind == "option" else [])])
        program = f"mallowspo {group}".strip()
        raise InputError(f"{rest[0]}: there is no such {kind}{near}; see `{program} --help`")
    options, command = COMMANDS[words]
    return command(read_options(options, rest[1:], f"mallowspo {words}")) or 0


def _commands(group: str) -> dict[str, str]:
    """The commands of the program or of a group, each with what it does."""
    about = {words: kind.__doc__ or "" for words, (kind, _) in COMMANDS.items()} | _ABOUT
    if group:
        return {words.partition(" ")[2]: text for words, text in about.items() if words.startswith(f"{group} ")}
    return {words: text for words, text in about.items() if words and " " not in words}


def _list_of_commands(group: str) -> str:
    """The help of the program or of a group."""
    width = max(60, min(shutil.get_terminal_size((80, 24)).columns, 100))
    program = f"mallowspo {group}".strip()
    lines = [f"usage: {program} COMMAND [--option value ...]", "", *textwrap.wrap(_ABOUT[group], width), ""]
    lines += [f"`{program} COMMAND --help` shows the options of a command.", "", "Commands:"]
    for name, text in _commands(group).items():
        first = text.split("\n\n")[0]
        lines += textwrap.wrap(
            " ".join(first.split()), width, initial_indent=f"  {name:<14}", subsequent_indent=" " * 16
        )
    if not group:
        lines += ["", "Options:", "  --version     Show the version."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
