"""`mallowspo train`: the flags and YAML of `trl dpo`, and ours."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from mallowspo.cli.launching import launched, read_launch, several_without_accelerators
from mallowspo.cli.options import take_config
from mallowspo.cli.preflight import check_before_loading, check_options
from mallowspo.cli.signals import is_first_process
from mallowspo.cli.train_options import TrainParser, option_of, refuse_unknown
from mallowspo.compat import accelerate_launch_arguments
from mallowspo.errors import InputError
from mallowspo.files import to_the_end
from mallowspo.progress import ProgressLines, on_a_terminal
from mallowspo.training.checkpoints import run_folder
from mallowspo.training.option_values import check_numbers

__all__ = ["train_command"]

_LAUNCHED = "MALLOWSPO_LAUNCHED"
_MODULE = "mallowspo.cli.main"


def train_command(arguments: Sequence[str]) -> int:
    """Run `mallowspo train` and give its exit code; flags of `accelerate launch` start it under a launcher."""
    # TRL says these names as they were before transformers 5.23; nobody who reads the log can change that.
    warnings.filterwarnings("ignore", r"`\w*gradient_checkpointing\w*` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "target_parameters=", RuntimeWarning)  # which is refused
    path, options = take_config(arguments)
    parser = TrainParser()
    from_yaml = parser.set_defaults_from_file(path) if path is not None else []
    namespace, from_line = parser.parse_known_args(options)
    if from_yaml or from_line:
        refuse_unknown(parser, from_yaml, from_line, path)
    check_options(namespace)
    launch = [*from_yaml, *from_line]
    try:
        *parsed, _ = parser.parse_args_into_dataclasses(options, return_remaining_strings=True)
    except InputError:
        raise
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise InputError(f"{option_of(error, parser.names)}: {error}") from error
    # A launched process reads the launcher's options from the same YAML again, and must not obey them again.
    if not launch or _LAUNCHED in os.environ or "LOCAL_RANK" in os.environ:
        lines = not on_a_terminal() and is_first_process()
        with ProgressLines("mallowspo train") if lines else nullcontext():
            script_args, training_args, model_args, mixture_args = parsed
            for group in (script_args, model_args, mixture_args, *mixture_args.datasets):
                check_numbers(group)
            check_before_loading(training_args, model_args)
            from mallowspo.cli.train_run import run_training  # takes seconds to import

            run_training(script_args, training_args, model_args, mixture_args)
        return 0
    output_dir = Path(parsed[1].output_dir)
    try:
        return _launch(launch, _without(arguments, from_line))
    finally:
        # The processes do not end in order: one may write into a save that the first one has cleared.
        to_the_end(lambda: _clear(output_dir))


def _clear(output_dir: Path) -> None:
    """Clear a run's folder of what a cut-off save left, unless somebody else is writing there."""
    if output_dir.is_dir():
        with suppress(InputError), run_folder(output_dir):
            pass


def _without(arguments: Sequence[str], remaining: Sequence[str]) -> list[str]:
    """The arguments without those that the parser left over; both are in the order of the command line."""
    left, kept = list(remaining), []
    for argument in arguments:
        if left and argument == left[0]:
            left.pop(0)
        else:
            kept.append(argument)
    return kept


def _launch(launch: list[str], arguments: list[str]) -> int:
    """Start this command again under `accelerate launch`."""
    try:
        launch = accelerate_launch_arguments(launch)
    except ValueError as error:
        raise InputError(str(error)) from error
    again = [*several_without_accelerators(launch), "--module", _MODULE, "train", *arguments]
    command = read_launch(again)
    if command.training_script != _MODULE:
        hint = "; did you mean --config before it?" if command.training_script.endswith((".yaml", ".yml")) else ""
        raise InputError(f"{command.training_script}: it belongs to no option{hint}")
    os.environ[_LAUNCHED] = "1"
    return launched(again)
