"""`mallowspo train`: the flags and YAML of `trl dpo`, and ours."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from traceback import walk_tb
from typing import Any

from mallowspo.errors import InputError, reason_of
from mallowspo.files import to_the_end
from mallowspo.progress import ProgressLines, current_lines, on_a_terminal

__all__ = ["make_parser", "train_command", "train_in_this_process"]

_LAUNCHED = "MALLOWSPO_LAUNCHED"
_MODULE = "mallowspo.cli.main"


def make_parser() -> Any:
    """TRL's parser over TRL's argument groups, with our configuration in place of `DPOConfig`."""
    from mallowspo.cli.train_options import TrainParser

    return TrainParser()


def train_command(arguments: Sequence[str]) -> int:
    """Run `mallowspo train`; flags of `accelerate launch` start it under a launcher.

    Args:
        arguments: The command line after `train`.

    Returns:
        The exit code.

    Raises:
        InputError: Arguments or data that cannot be used.
    """
    from mallowspo.cli.options import take_config
    from mallowspo.cli.preflight import check_options
    from mallowspo.cli.train_options import refuse_unknown

    path, options = take_config(arguments)
    parser = make_parser()
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
        raise InputError(f"{_option_of(error, parser.names)}: {error}") from error
    # A launched process reads the launcher's options from the same YAML again, and must not obey them again.
    if not launch or _LAUNCHED in os.environ or "LOCAL_RANK" in os.environ:
        if on_a_terminal() or os.environ.get("RANK", "0") != "0":
            return train_in_this_process(*parsed)
        with ProgressLines("mallowspo train"):
            return train_in_this_process(*parsed)
    output_dir = Path(parsed[1].output_dir)
    try:
        return _launch(launch, _without(arguments, from_line))
    finally:
        # The processes do not end in order: one may write into a save that the first one has cleared.
        to_the_end(lambda: _clear(output_dir))


def _clear(output_dir: Path) -> None:
    """Clear a run's folder of what a cut-off save left, unless somebody else is writing there."""
    from mallowspo.training.checkpoints import run_folder

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
    from accelerate.commands.launch import launch_command_parser

    from mallowspo.cli.launching import launched, several_without_accelerators
    from mallowspo.compat import accelerate_launch_arguments

    try:
        launch = accelerate_launch_arguments(launch)
    except ValueError as error:
        raise InputError(str(error)) from error
    again = [*several_without_accelerators(launch), "--module", _MODULE, "train", *arguments]
    command = launch_command_parser().parse_args(again)
    if command.training_script != _MODULE:
        hint = "; did you mean --config before it?" if command.training_script.endswith((".yaml", ".yml")) else ""
        raise InputError(f"{command.training_script}: it belongs to no option{hint}")
    os.environ[_LAUNCHED] = "1"
    return launched(again)


def train_in_this_process(script_args: Any, training_args: Any, model_args: Any, mixture_args: Any) -> int:
    """Load, train, save, and write `run.json`.

    Args:
        script_args: TRL's `ScriptArguments`.
        training_args: `MallowsPOConfig`.
        model_args: TRL's `ModelConfig`.
        mixture_args: TRL's `DatasetMixtureConfig`.

    Returns:
        0.

    Raises:
        InputError: Data or options that cannot be used; before the model is loaded where they show by then.
        NonFiniteLossError: A loss became NaN or infinite.
    """
    from trl import get_peft_config

    from mallowspo.cli.preflight import check_before_loading, refuse_resume
    from mallowspo.cli.signals import is_first_process
    from mallowspo.training.checkpoints import run_folder
    from mallowspo.training.option_values import check_numbers

    for group in (script_args, model_args, mixture_args):
        check_numbers(group)
    check_before_loading(training_args, model_args)
    with run_folder(Path(training_args.output_dir)) if is_first_process() else nullcontext():
        if is_first_process():
            with _building({}):
                peft_config = get_peft_config(model_args)
            refuse_resume(training_args, peft_config)
        _train(script_args, training_args, model_args, mixture_args)
    return 0


def _train(script_args: Any, training_args: Any, model_args: Any, mixture_args: Any) -> None:
    from trl import get_peft_config, get_quantization_config

    from mallowspo.cli.run_record import write_run_record
    from mallowspo.data.limits import Limits
    from mallowspo.loading import loading
    from mallowspo.training import MallowsPOTrainer

    init = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    given = training_args.model_init_kwargs or {}
    training_args.model_init_kwargs = init | given
    with Limits.of(training_args).in_force():
        data, unparsable = _load_splits(script_args, training_args, mixture_args)
    with _building(given), loading("model_name_or_path", model_args.model_name_or_path, also_ours=True):
        trainer = MallowsPOTrainer(
            model=model_args.model_name_or_path,
            args=training_args,
            train_dataset=data["train"],
            eval_dataset=data.get("eval"),
            quantization_config=get_quantization_config(model_args),
            peft_config=get_peft_config(model_args),
        )
    if script_args.ignore_bias_buffers:
        model: Any = trainer.model
        model._ddp_params_and_buffers_to_ignore = [
            name for name, buffer in model.named_buffers() if str(buffer.dtype) == "torch.bool"
        ]
    if current_lines() is not None:
        from mallowspo.cli.train_lines import report_in_lines

        report_in_lines(trainer)
    _summarise(trainer, unparsable)
    resume = training_args.resume_from_checkpoint
    result = trainer.train(resume_from_checkpoint=None if str(resume).lower() in ("none", "false", "") else resume)
    trainer.save_model(training_args.output_dir)
    metrics = dict(result.metrics)
    if trainer.accelerator.is_main_process:
        path = write_run_record(trainer, script_args, model_args, metrics, unparsable)
        sys.stderr.write(f"Model and {path.name} written to {training_args.output_dir}\n")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    _finish(trainer)


@contextmanager
def _building(model_init_kwargs: dict[str, Any]) -> Iterator[None]:
    """Name the option where a library refuses, while the trainer is built, what is not known before.

    Args:
        model_init_kwargs: As the user gave them.

    Yields:
        Nothing.

    Raises:
        InputError: Names the option that the library speaks of.
    """
    from mallowspo.loading import while_loading

    try:
        yield
    except Exception as error:
        cause = (error.__cause__ if isinstance(error, InputError) else None) or error
        named = [key for key in model_init_kwargs if re.search(rf"\b{re.escape(key)}\b", str(cause))]
        if while_loading(cause) and (named or (model_init_kwargs and not isinstance(error, InputError))):
            keys = ", ".join(named or model_init_kwargs)
            raise InputError(f"model_init_kwargs: {keys}: cannot be used ({reason_of(cause)})") from error
        ours = [frame.f_globals["__name__"] for frame, _ in walk_tb(error.__traceback__)][-1].startswith("mallowspo.")
        if ours or isinstance(error, InputError) or not isinstance(error, _REFUSALS):
            raise
        raise InputError(f"{_option_of(error, make_parser().names)}: {reason_of(error)}") from error


_REFUSALS = (ValueError, ImportError, NotImplementedError)


def _option_of(error: Exception, names: set[str]) -> str:
    """The first option that a library's message speaks of; PEFT writes the names without lora_ and with spaces."""
    found = {
        name: re.search(rf"\b{name.removeprefix('lora_').replace('_', '[ _]')}\b", str(error), re.IGNORECASE)
        for name in names
        if "_" in name
    }
    return min(((match.start(), name) for name, match in found.items() if match), default=(0, "arguments"))[1]


def _finish(trainer: Any) -> None:
    """Close the trackers and the process group.

    DDP's reducer must let go of the group first. As its last owner it would destroy the group while it holds the
    interpreter's lock, and wait for a Gloo thread that waits for that lock: ranks were seen to hang so.
    """
    import gc

    trainer.accelerator.wait_for_everyone()
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
    gc.collect()
    trainer.end()


def _load_splits(
    script_args: Any, training_args: Any, mixture_args: Any
) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """The training split, the evaluation split where evaluation is on, and the lines that could not be read."""
    evaluating = training_args.eval_strategy != "no"
    if mixture_args.datasets:
        return _load_mixture(script_args, mixture_args, evaluating), {}
    if not script_args.dataset_name:
        raise InputError(
            "dataset_name: it is missing; give a .jsonl, .json, .csv or .parquet file, a folder saved by datasets, or "
            "a hub name (or a mixture under `datasets`)"
        )
    from mallowspo.data.sources import load_preferences

    splits = {"train": script_args.dataset_train_split}
    if evaluating:
        splits["eval"] = script_args.dataset_test_split
    loaded = {
        name: load_preferences(
            script_args.dataset_name,
            split=split,
            name=script_args.dataset_config,
            streaming=script_args.dataset_streaming,
            invalid_rows=training_args.invalid_rows,
        )
        for name, split in splits.items()
    }
    return {name: one.dataset for name, one in loaded.items()}, {name: one.dropped for name, one in loaded.items()}


def _load_mixture(script_args: Any, mixture_args: Any, evaluating: bool) -> dict[str, Any]:
    from trl import get_dataset

    if script_args.dataset_name:
        raise InputError("datasets and dataset_name: give one of them")
    try:
        loaded: Any = get_dataset(mixture_args)
    except (OSError, ValueError) as error:
        raise InputError(f"datasets: {error}") from error
    if evaluating and script_args.dataset_test_split not in loaded:
        raise InputError("eval_strategy: the mixture has no test split; set test_split_size, or eval_strategy: no")
    data = {"train": loaded[script_args.dataset_train_split]}
    return data | ({"eval": loaded[script_args.dataset_test_split]} if evaluating else {})


def _summarise(trainer: Any, unparsable: dict[str, tuple[Any, ...]]) -> None:
    """A table of what is about to be trained, on the main process."""
    if not trainer.accelerator.is_main_process:
        return
    from rich.console import Console
    from rich.table import Table

    from mallowspo.training.description import run_table_rows

    table = Table(title="mallowspo train", show_header=False, title_justify="left")
    for name, lines in unparsable.items():
        if lines:
            rows = ", ".join(f"{line.row_index + 1:,}" for line in lines[:5]) + (", …" if len(lines) > 5 else "")
            table.add_row(f"{name} lines", f"{len(lines):,} could not be read: line {rows}")
    for label, text in run_table_rows(trainer):
        table.add_row(label, text)
    Console(stderr=True).print(table)
