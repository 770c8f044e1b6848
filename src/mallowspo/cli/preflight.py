"""What can be told of a training run before its data is read and its model is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mallowspo.errors import InputError
from mallowspo.scoring.model_checks import refuse_adapter_folder
from mallowspo.training.adapters import ADAPTER_ADVICE

__all__ = ["check_before_loading", "refuse_resume"]

_WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")


def check_before_loading(training_args: Any, model_args: Any) -> None:
    """Refuse what cannot work, while it costs nothing.

    Args:
        training_args: `MallowsPOConfig`.
        model_args: TRL's `ModelConfig`.

    Raises:
        InputError: A model that is none, an output folder that is a file, a package that is missing, a metric that
            is never logged.
    """
    _check_model(model_args.model_name_or_path)
    output = Path(training_args.output_dir)
    if output.exists() and not output.is_dir():
        raise InputError(f"output_dir: {output} is a file; name a folder, or a path where nothing is yet")
    quantized = model_args.load_in_4bit or model_args.load_in_8bit
    for wanted, option, package in (
        (quantized, "load_in_4bit / load_in_8bit", "bitsandbytes"),
        (training_args.use_liger_kernel, "use_liger_kernel", "liger_kernel"),
        (training_args.deepspeed, "deepspeed", "deepspeed"),
    ):
        if wanted and find_spec(package) is None:
            raise InputError(f"{option}: it needs the package {package}, which is not installed")
    _check_metric(training_args)


def _check_model(name: str | None) -> None:
    if not name:
        raise InputError("model_name_or_path: it is missing; give the path of a saved model or a hub name")
    path = Path(name)
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not path.is_dir():
        raise InputError(f"model_name_or_path: there is no folder {name}")
    if not path.is_dir():
        return
    refuse_adapter_folder(name, "model_name_or_path", ADAPTER_ADVICE)
    if not (path / "config.json").is_file():
        raise InputError(f"model_name_or_path: {name} has no config.json; it is not a saved model")
    if not any(next(path.glob(pattern), None) for pattern in _WEIGHTS):
        raise InputError(f"model_name_or_path: {name} has no weights (none of {', '.join(_WEIGHTS)})")


def _check_metric(args: Any) -> None:
    """A misspelt `metric_for_best_model` would otherwise stop the run at its first evaluation."""
    from mallowspo.training.metrics import METRICS

    name = args.metric_for_best_model
    if name and name.removeprefix("eval_") not in {"loss", "runtime", *METRICS}:
        raise InputError(
            f"metric_for_best_model: got {name!r}, which is never logged; expected eval_loss or eval_ before one of "
            f"{', '.join(METRICS)}"
        )


def refuse_resume(args: Any) -> None:
    """Look whether there is something to resume, before a model is loaded; the trainer looks again.

    Args:
        args: `MallowsPOConfig`.

    Raises:
        InputError: No checkpoint is there, or the one that is named is not whole.
    """
    from mallowspo.training.checkpoints import chosen_checkpoint

    chosen_checkpoint(args.resume_from_checkpoint, Path(args.output_dir))
