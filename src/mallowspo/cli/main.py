"""`mallowspo`: one command for each thing that it does."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from mallowspo import __version__
from mallowspo.cli.check import check
from mallowspo.cli.dispersion import dispersion
from mallowspo.cli.evaluate import evaluate
from mallowspo.cli.exits import exit_code_of
from mallowspo.cli.experiment import experiment
from mallowspo.cli.quickstart import quickstart
from mallowspo.cli.reference import reference
from mallowspo.redaction import hide_in_tracebacks

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
    hide_in_tracebacks()

    def run() -> int:
        if given[:1] == ["train"]:
            return run_train(given[1:])
        app(args=given, prog_name="mallowspo")  # ends in SystemExit; a mistake in the options is code 2
        return 0

    raise SystemExit(exit_code_of(run))


if __name__ == "__main__":
    main()
