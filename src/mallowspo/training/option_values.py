"""Values of options, checked against what the fields declare: their types, choices and ranges, and nested settings.

TRL and transformers look at few of them. What none of them reads is wrong all the same, and what one of them reads
would end in an error that names no option, often after the model is loaded.
"""

from __future__ import annotations

import json
import math
import os
import re
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler
from transformers.trainer_pt_utils import AcceleratorConfig

from mallowspo.errors import InputError, not_one_of, reason_of

__all__ = ["KIND_WORDS", "check_numbers", "check_optimizer", "check_values", "kind_words", "kinds_of"]

KIND_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}

# What is accepted beside the declared type, since TRL, transformers or a property of ours turns it into that.
_ALSO: Mapping[str, tuple[Any, ...]] = {
    "loss_type": (str,),
    "dispersion_scale": (float,),
    "dispersion_shrink": (float,),
    "dispersion_alternatives": (int,),
    "fsdp": (bool, list),
    "accelerator_config": (AcceleratorConfig,),
    "debug": (types.NoneType,),
    "gradient_checkpointing": (types.NoneType,),
}

_BELOW_ONE = math.nextafter(1, 0)
# Lowest and highest value, None: finite. Whether it is a whole number is declared by the field.
_RANGES: Mapping[str, tuple[float, float | None]] = {
    "max_steps": (-1, None),
    "displacement_alarm": (0, math.inf),
    "seed": (0, 2**32 - 1),  # numpy's; torch alone would take more
    "data_seed": (0, 2**63 - 1),
    "adam_beta1": (0, _BELOW_ONE),
    "adam_beta2": (0, _BELOW_ONE),
    "lora_dropout": (0, _BELOW_ONE),
    "ref_model_mixup_alpha": (0, 1),
    "max_length": (2, None),
} | {
    name: (low, None)
    for low, names in (
        (
            0,
            "learning_rate num_train_epochs warmup_steps weight_decay adam_epsilon max_grad_norm neftune_noise_alpha "
            "router_aux_loss_coef dataloader_num_workers logging_steps eval_steps save_steps eval_delay "
            "save_total_limit fraction",
        ),
        (
            1,
            "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
            "precompute_ref_batch_size pad_to_multiple_of dataset_num_proc dataloader_prefetch_factor "
            "eval_accumulation_steps torch_empty_cache_steps ref_model_sync_steps ddp_bucket_cap_mb ddp_timeout "
            "lora_r lora_alpha stream_window",
        ),
    )
    for name in names.split()
}

# Settings that may be written as the path of a JSON file.
_FILES = ("accelerator_config", "fsdp_config", "deepspeed")
# Optimisers that are made of a whole model's layers, so that no trial without one says anything.
_OF_A_MODEL = ("galore", "apollo", "lomo", "adalomo")


def check_values(config: Any) -> None:
    """Check every field of a `DPOConfig` by what it declares, before TRL and transformers read it."""
    hints = typing.get_type_hints(type(config))
    for item in fields(config):
        value, kinds = getattr(config, item.name), kinds_of(hints[item.name])
        optional = types.NoneType in typing.get_args(hints[item.name])
        if not kinds or (value is None and optional):
            continue
        if not any(_is_a(value, kind) for kind in (*kinds, *_ALSO.get(item.name, ()))):
            expected = " or ".join(dict.fromkeys(kind_words(kind) for kind in kinds))
            raise InputError(f"{item.name}: got {value!r}, expected {expected}")
        choices = item.metadata.get("choices") or [
            member.value for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum) for member in kind
        ]
        if choices and str in kinds and value not in choices:
            raise not_one_of(item.name, value, choices)
    _check_padding(config.pad_to_multiple_of)
    check_numbers(config)
    for what in ("save", "logging"):
        if getattr(config, f"{what}_strategy") == "steps" and getattr(config, f"{what}_steps") == 0:
            raise InputError(f"{what}_steps: got 0, expected a number above 0; for never, set {what}_strategy: no")
    if config.dataloader_num_workers == 0:
        for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
            if getattr(config, name):
                raise InputError(f"{name}: it is for workers, and there are none; set dataloader_num_workers too")
    _check_nested(config)


def check_numbers(options: Any) -> None:
    """Check the numbers among a dataclass' fields: finite, and in their range."""
    hints = typing.get_type_hints(type(options))
    for item in fields(options):
        name, value = item.name, getattr(options, item.name)
        numbers: Any = value if isinstance(value, list | tuple) else [value]
        for one in numbers:
            if isinstance(one, bool) or not isinstance(one, Real):
                continue
            number: Any = one if isinstance(one, Integral) else float(one)  # not rounded as numpy's short ones
            low, high = _RANGES.get(name, (-math.inf, None))
            if low <= number <= (math.inf if high is None else high) and (math.isfinite(number) or high == math.inf):
                continue
            whole = int in kinds_of(hints[name])
            kind = "a number" if high == math.inf else f"a {'whole' if whole else 'finite'} number"
            bounds = f" >= {low}" if low > -math.inf else ""
            if high is not None and high < math.inf:
                bounds = f" from {low} to {'below 1' if high == _BELOW_ONE else f'{high:,}'}"
            raise InputError(f"{name}: got {value!r}, expected {kind}{bounds}")


def check_optimizer(config: Any) -> None:
    """Make the optimiser for one number, where `optim_args` are given."""
    given = config.optim_args
    if not given:
        return
    if not all(re.fullmatch(r"\w+=[^=]+", part) for part in given.replace(" ", "").split(",")):
        raise InputError(f"optim_args: got {given!r}, expected name=value, more of them after commas")
    if config.optim.startswith(_OF_A_MODEL):
        return
    from transformers import Trainer

    try:
        made, arguments = Trainer.get_optimizer_cls_and_kwargs(config)
        made([torch.nn.Parameter(torch.zeros(1))], **arguments)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(
            f"optim_args: got {given!r}, which {config.optim.value} refuses ({reason_of(error)})"
        ) from error
    except Exception:  # a package or a device that is missing: told where the optimiser is made
        return


def kinds_of(hint: Any) -> list[Any]:
    """The classes that an annotation allows; empty where it allows anything."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [kinds_of(part) for part in typing.get_args(hint) if part is not types.NoneType]
        return [] if any(not part for part in parts) else [kind for part in parts for kind in part]
    if origin is typing.Literal:
        return [type(choice) for choice in typing.get_args(hint)]
    if origin in (list, dict):
        inner = typing.get_args(hint)
        return [hint] if origin is list and inner and inner[0] in (str, int, float, bool) else [origin]
    return [hint] if isinstance(hint, type) else []


def kind_words(kind: Any) -> str:
    """What a value of one of the classes of `kinds_of` is called in a message."""
    inner = typing.get_args(kind)
    if inner:
        return f"a list of {'text' if inner[0] is str else 'numbers'}"
    return KIND_WORDS.get(kind, "text" if issubclass(kind, Enum) else kind.__name__)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value of Python is what TRL's parser would make of it; numbers of numpy are numbers too."""
    if kind is bool:
        return isinstance(value, bool | np.bool_) or (isinstance(value, int) and value in (0, 1))
    if isinstance(value, bool | np.bool_):
        return False
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real)
    if kind is str:
        return isinstance(value, str | os.PathLike)
    if kind is dict:
        return isinstance(value, Mapping)
    if kind is list or typing.get_origin(kind) is list:
        inner = typing.get_args(kind)
        return isinstance(value, list | tuple) and all(_is_a(one, inner[0]) for one in value if inner)
    return isinstance(value, kind)


def _check_padding(value: Any) -> None:
    """The command line hands it over as text, a number or a word."""
    if isinstance(value, str) and value.lower() not in ("auto", "none", "null"):
        if not re.fullmatch(r"[1-9]\d*", value):
            raise InputError(f"pad_to_multiple_of: got {value!r}, expected a whole number >= 1, auto or none")


def _check_nested(config: Any) -> None:
    """Read settings that are a mapping, in JSON or not, and hand each to the one who will read it."""
    hints = typing.get_type_hints(type(config))
    for item in fields(config):
        value = getattr(config, item.name)
        if value is None and item.name == "lr_scheduler_kwargs":
            value = {}  # some schedules cannot do without
        if value is None or dict not in kinds_of(hints[item.name]):
            continue
        if isinstance(value, str) and (value.startswith("{") or item.name not in _FILES):
            value = _parsed(item.name, value)
        trial = _TRIALS.get(item.name)
        if trial is None:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trial(value, config)
        except (TypeError, ValueError, AttributeError, KeyError, OSError) as error:
            raise InputError(
                f"{item.name}: got {getattr(config, item.name)!r}, which cannot be used ({reason_of(error)})"
            ) from error


def _parsed(name: str, text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"{name}: got {text!r}, which is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{name}: got {text!r}, expected a mapping such as '{{\"key\": 1}}'")
    return value


def _try_checkpointing(given: Any, config: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    arguments: dict[str, Any] = {"use_reentrant": False} | dict(given)
    checkpoint(torch.neg, torch.zeros(1, requires_grad=True), **arguments)


def _try_schedule(given: Any, config: Any) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    get_scheduler(
        config.lr_scheduler_type,
        optimizer,
        num_warmup_steps=0,
        num_training_steps=10,
        scheduler_specific_kwargs=dict(given),
    )


def _try_accelerator(given: Any, config: Any) -> None:
    if isinstance(given, str):
        AcceleratorConfig.from_json_file(given)
    elif isinstance(given, Mapping):
        AcceleratorConfig(**given)


def _try_fsdp(given: Any, config: Any) -> None:
    if isinstance(given, str):
        json.loads(Path(given).read_text(encoding="utf-8"))


# Who reads a mapping, given it on something small. Those of the model and of DeepSpeed need the model.
_TRIALS: Mapping[str, Callable[[Any, Any], None]] = {
    "activation_checkpointing_kwargs": _try_checkpointing,
    "gradient_checkpointing_kwargs": _try_checkpointing,
    "lr_scheduler_kwargs": _try_schedule,
    "accelerator_config": _try_accelerator,
    "fsdp_config": _try_fsdp,
}
