"""`mallowspo train`: the flags and YAML of `trl dpo`, and ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mallowspo.errors import InputError

__all__ = ["make_parser", "train_command", "train_in_this_process"]


def make_parser() -> Any:
    """TRL's parser over TRL's argument groups, with our configuration in place of `DPOConfig`."""
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser

    from mallowspo.training import MallowsPOConfig

    groups: Any = (ScriptArguments, MallowsPOConfig, ModelConfig, DatasetMixtureConfig)
    return TrlParser(groups, prog="mallowspo train")


def train_command(arguments: Sequence[str]) -> int:
    """Run `mallowspo train`; flags of `accelerate launch` start it under a launcher.

    Args:
        arguments: The command line after `train`.

    Returns:
        The exit code.

    Raises:
        InputError: Arguments or data that cannot be used.
    """
    arguments = list(arguments)
    _check_config_file(arguments)
    parser = make_parser()
    try:
        *parsed, from_yaml, from_line = parser.parse_args_and_config(
            arguments, return_remaining_strings=True, separate_remaining_strings=True
        )
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"arguments: {error}") from error
    launch = [*from_yaml, *from_line]
    if not launch or "LOCAL_RANK" in os.environ:
        return train_in_this_process(*parsed)
    return _launch(launch, _without(arguments, from_line))


def _check_config_file(arguments: Sequence[str]) -> None:
    if "--config" not in arguments:
        return
    rest = arguments[arguments.index("--config") + 1 :]
    if not rest:
        raise InputError("--config: expected a path to a YAML file after it")
    if not Path(rest[0]).is_file():
        raise InputError(f"--config: there is no file {rest[0]}")
    import yaml

    try:
        values = yaml.safe_load(Path(rest[0]).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config: {rest[0]} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"--config: {rest[0]} must hold a mapping of option to value")


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
    import subprocess

    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from mallowspo.compat import accelerate_launch_arguments

    try:
        launch = accelerate_launch_arguments(launch)
    except ValueError as error:
        raise InputError(str(error)) from error
    parser = launch_command_parser()
    known = {option for action in parser._actions for option in action.option_strings}
    for argument in launch:
        if argument.startswith("--") and argument.split("=")[0] not in known:
            raise InputError(
                f"{argument}: neither an option of `mallowspo train` nor of `accelerate launch`; see "
                "`mallowspo train --help`"
            )
    command = parser.parse_args([*launch, "--module", "mallowspo.cli.main", "train", *arguments])
    try:
        launch_command(command)
    except subprocess.CalledProcessError as error:
        return error.returncode  # the child has said what was wrong
    except ChildFailedError as error:
        return max(failure.exitcode for failure in error.failures.values())
    return 0


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
    from trl import get_peft_config, get_quantization_config

    from mallowspo.cli.run_record import write_run_record
    from mallowspo.training import MallowsPOTrainer

    _check_model(model_args.model_name_or_path)
    init = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    training_args.model_init_kwargs = init | (training_args.model_init_kwargs or {})
    data = _load_splits(script_args, training_args, mixture_args)
    trainer = MallowsPOTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=data["train"],
        eval_dataset=data.get("eval"),
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    _summarise(trainer)
    result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    metrics = dict(result.metrics)
    if trainer.accelerator.is_main_process:
        path = write_run_record(trainer, script_args, model_args, metrics)
        sys.stderr.write(f"Model and {path.name} written to {training_args.output_dir}\n")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    trainer.end()
    return 0


def _check_model(name: str | None) -> None:
    if not name:
        raise InputError("model_name_or_path: it is missing; give the path of a saved model or a hub name")
    path = Path(name)
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not path.expanduser().is_dir():
        raise InputError(f"model_name_or_path: there is no folder {name}")
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
        raise InputError(f"model_name_or_path: {name} has no config.json; it is not a saved model")


def _load_splits(script_args: Any, training_args: Any, mixture_args: Any) -> dict[str, Any]:
    """The training split, and the evaluation split where evaluation is on."""
    evaluating = training_args.eval_strategy != "no"
    if mixture_args.datasets:
        from trl import get_dataset

        if script_args.dataset_name:
            raise InputError("datasets and dataset_name: give one of them")
        loaded = get_dataset(mixture_args)
        if evaluating and script_args.dataset_test_split not in loaded:
            raise InputError("eval_strategy: the mixture has no test split; set test_split_size, or eval_strategy: no")
        data = {"train": loaded[script_args.dataset_train_split]}
        return data | ({"eval": loaded[script_args.dataset_test_split]} if evaluating else {})
    if not script_args.dataset_name:
        raise InputError(
            "dataset_name: it is missing; give a .jsonl, .json, .csv or .parquet file, a folder saved by datasets, or "
            "a hub name (or a mixture under `datasets`)"
        )
    from mallowspo.data.sources import load_preferences

    def load(split: str) -> Any:
        return load_preferences(
            script_args.dataset_name,
            split=split,
            name=script_args.dataset_config,
            streaming=script_args.dataset_streaming,
            invalid_rows=training_args.invalid_rows,
        )

    loaded_train = load(script_args.dataset_train_split)
    for problem in loaded_train.dropped[:10]:
        sys.stderr.write(f"left out: row {problem.row_index + 1:,}: {problem.detail}\n")
    data = {"train": loaded_train.dataset}
    return data | ({"eval": load(script_args.dataset_test_split).dataset} if evaluating else {})


def _summarise(trainer: Any) -> None:
    """A table of what is about to be trained, on the main process."""
    if not trainer.accelerator.is_main_process:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="mallowspo train", show_header=False, title_justify="left")
    objective, calibration = trainer.objective, trainer.calibration
    table.add_row("objective", f"{trainer.args.objective} ({objective.link} link), beta {trainer.beta:g}")
    for name, split in trainer.splits.items():
        used, dropped = split.to_dict()["rows_used"], sum(split.dropped.values())
        reasons = ", ".join(f"{count:,} {kind}" for kind, count in sorted(split.dropped.items()))
        cut = f"; cut at max_length: {split.truncated['chosen']:,} chosen, {split.truncated['rejected']:,} rejected"
        table.add_row(f"{name} rows", f"{used:,}" + (f" (dropped {dropped:,}: {reasons})" if dropped else "") + cut)
    if calibration is None:
        table.add_row("dispersion", "none: every prompt has weight 1")
    else:
        low, high = calibration.weight_quantiles[0], calibration.weight_quantiles[-1]
        table.add_row(
            "dispersion",
            f"{calibration.source}, per {calibration.per}; scale {calibration.scale:.4g}; weight mean "
            f"{calibration.weight_mean:.3f}, 5-95% {low:.2f} to {high:.2f}; {calibration.floored:,} floored, "
            f"{calibration.clipped:,} clipped",
        )
    Console(stderr=True).print(table)
