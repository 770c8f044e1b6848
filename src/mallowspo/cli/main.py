"""`mallowspo`: one command for each thing that it does."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import typer

from mallowspo import __version__
from mallowspo.cli.check import check
from mallowspo.cli.dispersion import dispersion
from mallowspo.cli.evaluate import evaluate
from mallowspo.cli.exits import exit_code_of
from mallowspo.cli.experiment import experiment
from mallowspo.cli.hints import usage_message
from mallowspo.cli.quickstart import quickstart
from mallowspo.cli.reference import reference
from mallowspo.cli.signals import Terminated, was_terminated
from mallowspo.errors import InputError
from mallowspo.progress import lines_for_a_log
from mallowspo.redaction import hide_in_tracebacks

# The mistakes in options, by the one class of them that typer makes public: it carries its own copy of click.
_USAGE: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="mallowspo",
    help="Preference fine-tuning that respects how much people agree on each prompt.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(quickstart)
app.command()(reference)
app.command()(check)
app.command()(dispersion)
app.command()(evaluate)
app.add_typer(experiment)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Train on preference data; takes the flags and YAML of `trl dpo`, and ours.",
)
def train(context: typer.Context) -> None:
    """Stand for `mallowspo train` in the list of commands; `main` hands its arguments to TRL's parser instead."""
    raise typer.Exit(run_train(context.args))


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Show the version.")) -> None:
    """Preference fine-tuning that respects how much people agree on each prompt."""
    if version:
        typer.echo(f"mallowspo {__version__}")
        raise typer.Exit


def run_train(arguments: Sequence[str]) -> int:
    """Run `mallowspo train`; its parser is TRL's, so typer never sees these arguments."""
    from mallowspo.cli.train import train_command

    return train_command(list(arguments))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `mallowspo` program.

    Args:
        arguments: The command line without the program's name; None takes the process's own.

    Raises:
        SystemExit: 0; 1 for findings; 2 for a mistake in what was given, with one message and no traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _print_anything()
    hide_in_tracebacks()

    def run() -> int:
        if given[:1] == ["train"]:
            return run_train(given[1:])
        return _run_typer(given)

    with lines_for_a_log():
        raise SystemExit(exit_code_of(run, given))


def _print_anything() -> None:
    """A character that the terminal's encoding lacks is shown by its number; it must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _run_typer(given: list[str]) -> int:
    """Let typer read the options; what is wrong with them is one message that comes without the usage."""
    try:
        code = app(args=given, prog_name="mallowspo", standalone_mode=False)
    except typer.Abort as error:
        raise error.__cause__ or error from None
    except _USAGE as error:
        # The class for `mallowspo` without arguments, whose message is the help itself.
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{error.format_message()}\n")
            return 2
        raise InputError(usage_message(error)) from error
    if code == 130:  # typer ends so where Ctrl-C was pressed or the process was asked to end, and says nothing
        raise Terminated if was_terminated() else KeyboardInterrupt
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
