"""What can be told of a training run before its data is read and its model is loaded."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mallowspo.cli.options import did_you_mean
from mallowspo.cli.signals import is_first_process
from mallowspo.errors import InputError, not_one_of
from mallowspo.loading import check_saved_model
from mallowspo.outputs import writable_folder

__all__ = [
    "check_attention",
    "check_attention_name",
    "check_before_loading",
    "check_mixed_precision",
    "check_options",
    "check_precision",
    "need_one_precision",
    "refuse_resume",
]

# What pip calls a package that is imported under another name, and the extras of this project.
_EXTRAS = {
    "bitsandbytes": "'mallowspo[quantization]'",
    "deepspeed": "'mallowspo[deepspeed]'",
    "vaderSentiment": "'mallowspo[experiments]'",
    "liger_kernel": "liger-kernel",
    "flash_attn": "flash-attn",
    "flash_attn_interface": "flash-attn-3 (see its page)",
    "galore_torch": "galore-torch",
    "apollo_torch": "apollo-torch",
    "lomo_optim": "lomo-optim",
    "optimi": "torch-optimi",
}
# Packages of which one is enough for a tracker, where they do not bear its name.
_TRACKERS = {
    "azure_ml": ("azureml",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "flyte": ("flytekit",),
}
_OPTIMIZERS = tuple(
    (re.compile(pattern), package)
    for pattern, package in (
        (r"galore_.*", "galore_torch"),
        (r"apollo_.*", "apollo_torch"),
        (r"(ada)?lomo", "lomo_optim"),
        (r"grokadamw", "grokadamw"),
        (r"schedule_free_.*", "schedulefree"),
        (r"stable_adamw", "optimi"),
        (r"adamw_torch_[48]bit", "torchao"),
        (r"adamw_torch_xla", "torch_xla"),
        (r"adamw_torch_npu_fused", "torch_npu"),
        (r"adamw_anyprecision", "torchdistx"),
        (r"paged_.*|.*_bnb.*|(adamw|lion|ademamix)(_8bit|_32bit)|ademamix", "bitsandbytes"),
    )
)
_ATTENTIONS = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flash_attention_4": "flash_attn",
}
_WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")


def check_before_loading(training_args: Any, model_args: Any) -> None:
    """Refuse what cannot work, while it costs nothing."""
    from mallowspo.training.config import refuse_unfit_models

    name = model_args.model_name_or_path
    _check_model(name)
    revision, trust = model_args.model_revision, training_args.trust_remote_code
    check_saved_model("model_name_or_path", name, revision=revision, trust_remote_code=trust)
    refuse_unfit_models(name, None, training_args, revision, option="model_name_or_path")
    if is_first_process():
        writable_folder(training_args.output_dir, "output_dir")
    _check_metric(training_args)


def check_options(options: Any) -> None:
    """Refuse what this machine has not, before the configuration is made: transformers would end in a traceback."""
    need_one_precision(options)
    _need_package(options.load_in_4bit, "load_in_4bit", "bitsandbytes")
    _need_package(options.load_in_8bit, "load_in_8bit", "bitsandbytes")
    _need_package(options.use_liger_kernel, "use_liger_kernel", "liger_kernel")
    _need_package(options.deepspeed, "deepspeed", "deepspeed")
    _check_trackers(options.report_to)
    _check_optimizer(options.optim)
    check_attention(options.attn_implementation, use_cpu=options.use_cpu)
    check_precision(bf16=options.bf16, fp16=options.fp16, tf32=options.tf32, use_cpu=options.use_cpu)


def need_one_precision(options: Any) -> None:
    """Refuse a base that would be quantised twice."""
    if options.load_in_4bit and options.load_in_8bit:
        raise InputError("load_in_4bit and load_in_8bit: give one of them")


def _need_package(wanted: object, option: str, package: str) -> None:
    """Raise `InputError` where an option is given whose package is not installed."""
    if wanted and not _installed(package):
        extra = _EXTRAS.get(package, package)
        raise InputError(f"{option}: it needs the package {package}, which is not installed: pip install {extra}")


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _check_trackers(given: Any) -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in given if isinstance(given, list) else [given]:
        if name in (None, "none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise not_one_of("report_to", name, ["none", "all", *sorted(INTEGRATION_TO_CALLBACK)])
        packages = _TRACKERS.get(name, (name,))
        if not any(_installed(package) for package in packages):
            raise InputError(
                f"report_to: {name} needs the package {packages[0]}, which is not installed: pip install "
                f"{packages[0]}, or report_to: none"
            )


def _check_optimizer(given: Any) -> None:
    from transformers.training_args import OptimizerNames

    name = str(getattr(given, "value", given))
    allowed = [one.value for one in OptimizerNames]
    if name not in allowed:
        raise InputError(f"optim: got {name!r}{did_you_mean(name, allowed)}; it is one of {', '.join(allowed)}")
    for part, package in _OPTIMIZERS:
        if part.fullmatch(name):
            _need_package(True, f"optim: {name}", package)
            return


def check_attention(name: str | None, *, use_cpu: bool = False) -> None:
    """Refuse an `attn_implementation` that transformers has not, or whose package or device is missing."""
    check_attention_name(name)
    if name is None:
        return
    if "/" in name:
        _need_package(True, f"attn_implementation: {name}", "kernels")
        return
    package = _ATTENTIONS.get(name.removeprefix("paged|"))
    if package is not None:
        # With the package kernels, transformers takes the same attention from the hub.
        _need_package(not _installed("kernels"), f"attn_implementation: {name}", package)
        if use_cpu or not _has_cuda():
            raise InputError(f"attn_implementation: {name} needs a CUDA device; leave it out, or give sdpa")


def check_attention_name(name: str | None) -> None:
    """Refuse an `attn_implementation` that transformers has not."""
    if name is None or "/" in name:
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    allowed = sorted({"eager", *(one for one in ALL_ATTENTION_FUNCTIONS.valid_keys() if "|" not in one)})
    if name.removeprefix("paged|") not in allowed:
        raise InputError(
            f"attn_implementation: got {name!r}{did_you_mean(name, allowed)}; it is one of {', '.join(allowed)}, or a "
            "kernel of the hub such as kernels-community/flash-attn"
        )


def check_precision(*, bf16: Any, fp16: Any, tf32: Any = None, use_cpu: bool = False) -> None:
    """Refuse a precision that the device does not offer; what was not asked for is never refused."""
    import torch

    if bf16 and fp16:
        raise InputError("bf16 and fp16: give one of them")
    on_cpu = _on_cpu(use_cpu)
    if fp16 and on_cpu:
        raise InputError("fp16: it needs an accelerator; give bf16: true for a CPU, or neither for float32")
    if bf16 and on_cpu and not use_cpu:
        raise InputError("bf16: there is no accelerator here; add use_cpu: true to train on the CPU, or bf16: false")
    if bf16 and _gpu_lacks_bf16(use_cpu):
        raise InputError("bf16: this GPU has no bfloat16; give fp16: true")
    if tf32 and not (_has_cuda() and not use_cpu and torch.cuda.get_device_capability()[0] >= 8):
        raise InputError("tf32: it needs a CUDA device of the Ampere generation or newer; leave it out")


def check_mixed_precision(name: str, *, use_cpu: bool = False) -> None:
    """Refuse a `mixed_precision` that the device does not offer; bf16 is for a CPU too."""
    if name == "fp16" and _on_cpu(use_cpu):
        raise InputError("mixed_precision: fp16 needs an accelerator; give bf16, or no for float32")
    if name == "bf16" and _gpu_lacks_bf16(use_cpu):
        raise InputError("mixed_precision: this GPU has no bfloat16; give fp16, or no for float32")


def _on_cpu(use_cpu: bool) -> bool:
    import torch

    return use_cpu or not torch.accelerator.is_available()


def _gpu_lacks_bf16(use_cpu: bool) -> bool:
    import torch

    return _has_cuda() and not use_cpu and not torch.cuda.is_bf16_supported()


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _check_model(name: str | None) -> None:
    if not name:
        raise InputError("model_name_or_path: it is missing; give the path of a saved model or a hub name")
    path = Path(name)  # transformers expands no ~ either
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not path.is_dir():
        raise InputError(f"model_name_or_path: there is no folder {name}")
    if not path.is_dir():
        return
    from mallowspo.scoring.model_checks import refuse_adapter_folder
    from mallowspo.training.adapters import ADAPTER_ADVICE

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


def refuse_resume(args: Any, peft_config: Any) -> None:
    """Look whether there is something to resume, and whether it has this run's adapter, before a model is loaded.

    The trainer looks again.
    """
    from mallowspo.training.adapters import refuse_other_adapters
    from mallowspo.training.checkpoints import chosen_checkpoint

    folder, _ = chosen_checkpoint(args.resume_from_checkpoint, Path(args.output_dir))
    if folder is not None:
        refuse_other_adapters(folder, {} if peft_config is None else {"default": peft_config}, loaded=False)
