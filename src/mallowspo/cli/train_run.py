"""What `mallowspo train` does: load, train, save, and write `run.json`."""

from __future__ import annotations

import gc
import json
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from traceback import walk_tb
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import get_dataset, get_quantization_config

from mallowspo.cli.options import DATASET_OPTIONS
from mallowspo.cli.preflight import refuse_resume
from mallowspo.cli.signals import is_first_process
from mallowspo.cli.train_options import TrainParser, adapter_config, option_of
from mallowspo.data.fingerprint import rows_fingerprint
from mallowspo.data.limits import Limits
from mallowspo.data.sources import load_preferences
from mallowspo.errors import InputError, reason_of, told_as
from mallowspo.files import write_json
from mallowspo.loading import loading, while_loading
from mallowspo.progress import current_lines
from mallowspo.training import MallowsPOTrainer
from mallowspo.training.checkpoints import run_folder
from mallowspo.training.description import run_table_rows
from mallowspo.training.streaming import is_streaming
from mallowspo.versions import library_versions

__all__ = ["run_training"]


def run_training(script_args: Any, training_args: Any, model_args: Any, mixture_args: Any) -> None:
    """Load, train, save, and write `run.json`; what shows before the model is loaded is refused by then."""
    with run_folder(Path(training_args.output_dir)) if is_first_process() else nullcontext():
        with _building({}):
            peft_config = adapter_config(model_args)
        if is_first_process():
            refuse_resume(training_args, peft_config)
        _train(script_args, training_args, model_args, mixture_args, peft_config)


def _train(script_args: Any, training_args: Any, model_args: Any, mixture_args: Any, peft_config: Any) -> None:
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
            peft_config=peft_config,
        )
    if script_args.ignore_bias_buffers:
        model: Any = trainer.model
        model._ddp_params_and_buffers_to_ignore = [
            name for name, buffer in model.named_buffers() if str(buffer.dtype) == "torch.bool"
        ]
    if current_lines() is not None:
        for kind in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(kind)
        trainer.add_callback(_Lines())
    _summarise(trainer, unparsable)
    resume = training_args.resume_from_checkpoint
    result = trainer.train(resume_from_checkpoint=None if str(resume).lower() in ("none", "false", "") else resume)
    trainer.save_model(training_args.output_dir)
    metrics = dict(result.metrics)
    if trainer.accelerator.is_main_process:
        path = _write_record(trainer, script_args, model_args, metrics, unparsable)
        sys.stderr.write(f"Model and {path.name} written to {training_args.output_dir}\n")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    _finish(trainer)


@contextmanager
def _building(model_init_kwargs: dict[str, Any]) -> Iterator[None]:
    """Name the option where a library refuses, while the trainer is built, what is not known before."""
    try:
        yield
    except Exception as error:
        if any(frame.f_code.co_name == "init_hf_repo" for frame, _ in walk_tb(error.__traceback__)):
            raise InputError(f"push_to_hub: the repository cannot be made ({reason_of(error)})") from error
        cause = (error.__cause__ if isinstance(error, InputError) else None) or error
        named = [key for key in model_init_kwargs if re.search(rf"\b{re.escape(key)}\b", str(cause))]
        if while_loading(cause) and (named or (model_init_kwargs and not isinstance(error, InputError))):
            keys = ", ".join(named or model_init_kwargs)
            raise InputError(f"model_init_kwargs: {keys}: cannot be used ({reason_of(cause)})") from error
        ours = [frame.f_globals["__name__"] for frame, _ in walk_tb(error.__traceback__)][-1].startswith("mallowspo.")
        if ours or isinstance(error, InputError) or not isinstance(error, _REFUSALS):
            raise
        raise InputError(f"{option_of(error, TrainParser().names)}: {reason_of(error)}") from error


_REFUSALS = (ValueError, ImportError, NotImplementedError)


def _finish(trainer: Any) -> None:
    """Close the trackers and the process group.

    DDP's reducer must let go of the group first. As its last owner it would destroy the group while it holds the
    interpreter's lock, and wait for a Gloo thread that waits for that lock: ranks were seen to hang so.
    """
    trainer.accelerator.wait_for_everyone()
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
    gc.collect()
    trainer.accelerator.end_training()


def _load_splits(
    script_args: Any, training_args: Any, mixture_args: Any
) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """The training split, the evaluation split where evaluation is on, and the lines that could not be read."""
    evaluating = training_args.eval_strategy != "no"
    _refuse_other_way(script_args, mixture_args)
    if mixture_args.datasets:
        return _load_mixture(script_args, mixture_args, evaluating), {}
    if not script_args.dataset_name:
        raise InputError(
            "dataset_name: it is missing; give a .jsonl, .json, .csv or .parquet file, a folder saved by datasets, or "
            "a hub name (or a mixture under `datasets`)"
        )
    splits = {"train": "dataset_train_split"} | ({"eval": "dataset_test_split"} if evaluating else {})
    loaded = {}
    for name, option in splits.items():
        with told_as(DATASET_OPTIONS | {"split": option, "streaming": "dataset_streaming"}):
            loaded[name] = load_preferences(
                script_args.dataset_name,
                split=getattr(script_args, option),
                name=script_args.dataset_config,
                streaming=script_args.dataset_streaming and name == "train",
                invalid_rows=training_args.invalid_rows,
            )
    return {name: one.dataset for name, one in loaded.items()}, {name: one.dropped for name, one in loaded.items()}


def _refuse_other_way(script_args: Any, mixture_args: Any) -> None:
    """Refuse what only a mixture reads beside `dataset_name`, and the other way round."""
    if mixture_args.datasets:
        given = {"dataset_streaming": script_args.dataset_streaming, "dataset_config": script_args.dataset_config}
        advice = {"dataset_streaming": "streaming", "dataset_config": "name under datasets"}
        way = "a mixture (datasets)"
    else:
        given = {"streaming": mixture_args.streaming, "test_split_size": mixture_args.test_split_size}
        advice = {"streaming": "dataset_streaming", "test_split_size": "a folder with train.jsonl and test.jsonl"}
        way = "dataset_name"
    for name, value in given.items():
        if value:
            raise InputError(f"{name}: got {value!r}, which nothing reads with {way}; give {advice[name]} instead")


def _load_mixture(script_args: Any, mixture_args: Any, evaluating: bool) -> dict[str, Any]:
    if script_args.dataset_name:
        raise InputError("datasets and dataset_name: give one of them")
    if mixture_args.streaming and mixture_args.test_split_size is not None:
        raise InputError("test_split_size: a stream cannot be split; leave it out, or set streaming: false")
    if all(one.fraction == 0 for one in mixture_args.datasets):
        raise InputError("datasets: fraction: got 0 for all of them, so that there are no rows")
    try:
        loaded: Any = get_dataset(mixture_args)
    except MemoryError:
        raise
    except Exception as error:  # each format of datasets has errors of its own
        option = "test_split_size" if "test_size" in str(error) else "datasets"
        raise InputError(f"{option}: {reason_of(error.__cause__ or error)}") from error
    if evaluating and script_args.dataset_test_split not in loaded:
        raise InputError("eval_strategy: the mixture has no test split; set test_split_size, or eval_strategy: no")
    if script_args.dataset_train_split not in loaded:
        raise InputError(
            f"dataset_train_split: got {script_args.dataset_train_split!r}, and the mixture has {', '.join(loaded)}"
        )
    data = {"train": loaded[script_args.dataset_train_split]}
    return data | ({"eval": loaded[script_args.dataset_test_split]} if evaluating else {})


def _summarise(trainer: Any, unparsable: dict[str, tuple[Any, ...]]) -> None:
    """A table of what is about to be trained, on the main process."""
    if not trainer.accelerator.is_main_process:
        return
    table = Table(title="mallowspo train", show_header=False, title_justify="left")
    for name, lines in unparsable.items():
        if lines:
            rows = ", ".join(f"{line.row_index + 1:,}" for line in lines[:5]) + (", …" if len(lines) > 5 else "")
            table.add_row(f"{name} lines", f"{len(lines):,} could not be read: line {rows}")
    for label, text in run_table_rows(
        trainer.settings,
        trainer.splits,
        trainer.reference_sources,
        trainer.scoring,
        trainer.calibration,
        rows=None if is_streaming(trainer.train_dataset) else len(trainer.train_dataset),
        remarks=trainer.remarks,
    ):
        table.add_row(label, text)
    Console(stderr=True).print(table)


class _Lines(TrainerCallback):
    """Training told in lines, for a log that nobody watches: the bar of transformers fills it with carriage returns.

    Steps and evaluations are stages of the command's lines; what is logged is one line each.
    """

    def __init__(self) -> None:
        self._evaluated = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say that it begins, and at which step."""
        self._show("Training", state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count a step."""
        self._show("Training", state.global_step, state.max_steps)

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        """Count a batch of an evaluation."""
        self._evaluated += 1
        total = len(eval_dataloader) if hasattr(eval_dataloader, "__len__") else 0
        self._show(f"Evaluating after step {state.global_step}", self._evaluated, total)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to count anew."""
        self._evaluated = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Print what is logged."""
        if logs and state.is_world_process_zero:
            values = {
                name: float(f"{value:.4g}") if isinstance(value, float) else value
                for name, value in logs.items()
                if name != "total_flos"
            }
            sys.stderr.write(f"step {state.global_step}: {json.dumps(values, default=str)}\n")

    def _show(self, stage: str, done: int, total: int) -> None:
        lines = current_lines()
        if lines is not None:
            lines.show(stage, done, total)


def _write_record(
    trainer: Any,
    script_args: Any,
    model_args: Any,
    metrics: dict[str, Any],
    unparsable: dict[str, tuple[Any, ...]],
) -> Path:
    """Write `run.json`: what the run was made of, and what came out; an earlier one is kept under another name."""
    history = trainer.state.log_history
    last: dict[str, Any] = {}
    for entry in history:
        last |= entry
    record = {
        "format": 1,
        "versions": library_versions(),
        "machine": {"platform": platform.platform(), "device": str(trainer.accelerator.device)},
        "processes": trainer.accelerator.num_processes,
        "objective": {"preset": trainer.args.objective, **asdict(trainer.objective)},
        "config": trainer.args.to_dict(),
        "model": {"name_or_path": model_args.model_name_or_path, "peft": model_args.use_peft},
        "data": {
            "name": script_args.dataset_name,
            "fingerprint": None
            if is_streaming(trainer.train_dataset)
            else rows_fingerprint(trainer.train_dataset, ["prompt_ids", "chosen_ids", "rejected_ids"]),
            "splits": {name: split.to_dict() for name, split in trainer.splits.items()},
            "unparsable_lines": {
                name: [problem.row_index + 1 for problem in lines[:1000]] for name, lines in unparsable.items()
            },
        },
        "calibration": None if trainer.calibration is None else trainer.calibration.to_dict(),
        "displacement": trainer.displacement.to_dict() if trainer.objective.needs_reference else None,
        "steps": trainer.state.global_step,
        "train_metrics": metrics,
        "final_metrics": last,
        "log_history": history,
    }
    path = Path(trainer.args.output_dir) / "run.json"
    if path.exists():
        written = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC).strftime("%Y%m%dT%H%M%SZ")
        kept = path.with_name(f"run-{written}.json")
        path.rename(kept)
        sys.stderr.write(f"The record of an earlier run in this folder is kept as {kept.name}\n")
    write_json(path, record)
    return path
