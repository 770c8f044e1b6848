"""Adapters: whether they leave a reference, which model plays it, and whether a checkpoint has those of the run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model

from mallowspo.errors import InputError
from mallowspo.files import parse_json, plain
from mallowspo.scoring import score_padded
from mallowspo.scoring.model_checks import (
    adapter_configs,
    base_model,
    refuse_adapter_folder,
    unwrapped_adapters,
)
from mallowspo.scoring.self_check import sum_tolerance

__all__ = [
    "ADAPTER_ADVICE",
    "compare_at_start",
    "reference_words",
    "refuse_lost_reference",
    "refuse_other_adapters",
    "refuse_unmatched",
]

logger = get_logger(__name__)

ADAPTER_ADVICE = (
    "merge it into that model with merge_and_unload and save the result, or train on from it in Python: give the "
    "trainer AutoPeftModelForCausalLM.from_pretrained(FOLDER, is_trainable=True), whose state before training is the "
    "reference"
)

# Values of LoraConfig.init_lora_weights that take something out of the base weights and put it into the adapter, so
# that the policy is the model that was given only while the adapter is on.
_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")

_CONFIG = "adapter_config.json"
_WHOLE_MODELS = ("model*.safetensors", "pytorch_model*.bin")
# Where an adapter came from and what it is used for; none of it reaches the policy that is trained.
_NO_POLICY = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
    "tokenizer_name_or_path",
}
# TRL's frozen copy of a pretrained adapter, which it makes where it can.
_FROZEN_COPY = "ref"


def refuse_lost_reference(model: Any, ref_model: Any, peft_config: Any) -> None:
    """Refuse, before anything is loaded, what is known to leave no reference."""
    refuse_adapter_folder(model, "model", ADAPTER_ADVICE)
    if isinstance(model, torch.nn.Module) and peft_config is None:
        if not any(value.requires_grad for value in model.parameters()):
            adapters = bool(adapter_configs(model))
            raise InputError(
                "model: none of its parameters can be trained"
                + ("; load the adapter with is_trainable=True" if adapters else " (requires_grad is False in all)")
            )
    configs = [config for config in (peft_config, *adapter_configs(model).values()) if config is not None]
    for config in configs:
        if config.task_type not in (None, "CAUSAL_LM"):
            given = getattr(config.task_type, "value", config.task_type)
            raise InputError(
                f"lora_task_type: got {given!r} (task_type of peft_config), with which PEFT loads no trained "
                "adapter for a causal language model; set CAUSAL_LM"
            )
    if ref_model is not None:
        return
    if isinstance(model, torch.nn.Module) and is_peft_model(model):
        # TRL copies the adapter of one name to the other.
        held = adapter_configs(model)
        if "default" not in held or "ref" in held:
            named = ", ".join(map(repr, held))
            raise InputError(
                f"model: got adapters called {named}. The reference is a frozen copy, called 'ref', of the adapter "
                "called 'default', so there must be a 'default' and not yet a 'ref': load the adapter to train with "
                "adapter_name='default', take off a 'ref' with delete_adapter('ref'), or give a ref_model"
            )
    for config in configs:
        given = getattr(config, "init_lora_weights", None)
        if isinstance(given, str) and given.lower().startswith(_CHANGES_BASE):
            raise InputError(
                f"init_lora_weights: got {given!r}, which changes the base weights, so that the model with its "
                "adapter off is no longer the reference. Give the untouched model as ref_model, or leave "
                "init_lora_weights out"
            )


def refuse_unmatched(model: Any, peft_config: Any) -> None:
    """Refuse a module to save or a parameter to adapt that is not there: PEFT would pass over it."""
    known = {
        "modules_to_save": [name for name, _ in model.named_modules()],
        "target_parameters": getattr(getattr(model, "base_model", None), "targeted_parameter_names", ()),
    }
    for option, names in known.items():
        for given in getattr(peft_config, option, None) or ():
            if not any(name.endswith(given) for name in names):
                kind = type(base_model(model)).__name__
                raise InputError(f"lora_{option}: {kind} has no {given!r} ({option} of peft_config)")


def reference_words(policy: Any, ref_model: Any, *, ours: bool) -> str:
    """Which model plays the reference, in words for the log; `ours` where nobody gave a `ref_model`."""
    held = unwrapped_adapters(policy)
    if ref_model is not None:
        name = getattr(getattr(ref_model, "config", None), "_name_or_path", "") or "the one that was given"
        without = ", without the adapters that transformers holds in the policy" if held else ""
        return f"a separate model ({name}{without if ours else ''})"
    if is_peft_model(policy):
        copied = "ref" in policy.peft_config
        return "a frozen copy of the adapter as it was given" if copied else "the policy with its adapter off"
    return "the policy before training" + (", the adapters that transformers holds included" if held else "")


def compare_at_start(
    policy: Any, reference: AbstractContextManager[Any], batch: Mapping[str, Any], accelerator: Any
) -> None:
    """Refuse a new adapter that stands between an untrained policy and its reference, unless it was asked for."""
    # A new adapter should change nothing. Where it does, its initialisation has changed the base weights (as PiSSA's
    # does), and what is left with the adapter off is no model that anybody trained.
    batch = {k: v.to(accelerator.device) for k, v in batch.items() if isinstance(v, torch.Tensor)}
    with reference as model:
        expected = score_padded(model, batch)
    training = policy.training
    policy.eval()
    try:
        with torch.no_grad(), accelerator.autocast():
            start = score_padded(policy, batch)
    finally:
        policy.train(training)
    gap = (start.logp_bk - expected.logp_bk).abs().cpu()
    precision = f"{next(policy.parameters()).dtype} {accelerator.mixed_precision}"
    if bool((gap <= torch.as_tensor(sum_tolerance(precision, start.length_bk.cpu().numpy()))).all()):
        return
    config = next(iter(accelerator.unwrap_model(policy).peft_config.values()))
    asked = [name for name, value in config.to_dict().items() if name.startswith("init") and value is False]
    nats = f"by up to {gap.max().item():.3g} nats on {len(gap)} rows"
    if asked or config.is_prompt_learning:
        why = f"{asked[0]}: false" if asked else f"{config.peft_type.value}: its virtual tokens begin at random"
        logger.warning(f"{why}: the untrained policy differs from its reference {nats}, so rewards do not begin at 0")
        return
    inits = {k: v for k, v in config.to_dict().items() if k.startswith("init") and v is not None}
    raise InputError(
        f"peft_config: the untrained policy differs from its reference {nats}: this initialisation of "
        f"{config.peft_type.value} ({', '.join(f'{k}: {v}' for k, v in inits.items()) or 'its only one'}) has changed "
        "the base weights, or does not begin at zero. Give the untouched model as ref_model, or choose another"
    )


def refuse_other_adapters(folder: Path, configs: Mapping[str, Any], *, loaded: bool, held: bool = False) -> None:
    """Refuse to go on from a checkpoint with other adapters than it was trained with; the field is named."""
    # PEFT loads an adapter's weights by their names alone: onto other modules, another scale or another kind of
    # adapter it loads some or none of them, mostly without a word, and the optimizer's state then belongs to other
    # weights.
    # `configs` are those of this run by name, none for full fine-tuning. `loaded`: they are on their model, so that
    # PEFT has filled in what was left to it; else that is not compared. `held`: transformers itself holds them.
    saved = _saved_adapters(folder)
    again = "or begin anew without resume_from_checkpoint"
    if saved and not configs:
        kinds = ", ".join(sorted({str(values.get("peft_type")) for values in saved.values()}))
        raise InputError(
            f"peft_config (use_peft): {folder} holds an adapter ({kinds}) and this run trains the whole model; resume "
            f"with the same adapter, {again}"
        )
    if configs and not saved:
        if any(next(folder.glob(pattern), None) for pattern in _WHOLE_MODELS):
            raise InputError(
                f"peft_config (use_peft): {folder} holds a whole model and this run trains an adapter; resume without "
                f"it, {again}"
            )
        return  # an engine's own form, which says nothing of adapters
    if saved and held:
        raise InputError(
            f"model: {folder} holds an adapter, and transformers cannot load one into a model that holds it without "
            "PEFT's wrapper. Give the model without it and the adapter as peft_config; begin anew without "
            "resume_from_checkpoint"
        )
    names = set(saved) ^ set(configs)
    if names - ({_FROZEN_COPY} if _FROZEN_COPY in configs else set()):
        before, after = (", ".join(sorted(group)) for group in (saved, configs))
        raise InputError(
            f"peft_config: {folder} holds the adapters {before} and this run has {after}; resume with them, {again}"
        )
    for name in set(saved) & set(configs):
        for option, before, after in _differences(saved[name], configs[name], loaded=loaded):
            raise InputError(
                f"peft_config ({option}): {folder} was trained with {before} and this run has {after}; resume with "
                f"the same, {again}"
            )


def _saved_adapters(folder: Path) -> dict[str, dict[str, Any]]:
    """Configurations of a checkpoint's adapters: PEFT writes `default` to the top and others to folders."""
    found = {}
    for path in [folder / _CONFIG, *sorted(folder.glob(f"*/{_CONFIG}"))]:
        if path.is_file():
            try:
                found["default" if path.parent == folder else path.parent.name] = dict(parse_json(path.read_bytes()))
            except (OSError, TypeError, ValueError) as error:
                raise InputError(
                    f"{path}: cannot be read ({error}); delete the checkpoint, or restore the file"
                ) from error
    return found


def _differences(saved: dict[str, Any], config: Any, *, loaded: bool) -> list[tuple[str, str, str]]:
    """Fields of one adapter that differ, the kind first: name, value in the checkpoint, value in this run."""
    found = []
    now = config.to_dict()
    # A field that came with a later version of PEFT had its default before.
    for name in sorted(now.keys() - _NO_POLICY, key=lambda name: (name != "peft_type", name)):
        if not loaded and now[name] in (None, "all-linear"):
            continue
        before, after = _comparable(saved.get(name, _default(config, name))), _comparable(now[name])
        if before != after:
            found.append((name, *(repr(value) for value in (before, after))))
    return found


def _default(config: Any, name: str) -> Any:
    item = next((one for one in fields(config) if one.name == name), None)
    if item is None:
        return None
    if item.default_factory is not MISSING:
        return item.default_factory()
    return None if item.default is MISSING else item.default


def _comparable(value: Any) -> Any:
    """A value as PEFT's JSON holds it; names of modules in one order, since PEFT keeps them as a set."""
    value = plain(sorted(value, key=str) if isinstance(value, set) else getattr(value, "value", value))
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return value
