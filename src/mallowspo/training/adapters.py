"""Adapters and the reference: which model plays it, and whether an untrained policy is equal to it."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import DistributedType, is_peft_model

from mallowspo.compat import reference_model
from mallowspo.errors import InputError
from mallowspo.scoring import ReferenceKey, score_padded
from mallowspo.scoring.model_checks import adapter_configs, refuse_adapter_folder, unwrapped_adapters

__all__ = ["ADAPTER_ADVICE", "compare_at_start", "reference_words", "refuse_lost_reference"]

logger = get_logger(__name__)

ADAPTER_ADVICE = (
    "merge it into that model with merge_and_unload and save the result, or train on from it in Python: give the "
    "trainer AutoPeftModelForCausalLM.from_pretrained(FOLDER, is_trainable=True), whose state before training is the "
    "reference"
)

# Values of LoraConfig.init_lora_weights that take something out of the base weights and put it into the adapter, so
# that the policy is the model that was given only while the adapter is on.
_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")

COMPARED_ROWS = 2
"""Rows on which an untrained policy is held against its reference."""


def refuse_lost_reference(model: Any, ref_model: Any, peft_config: Any) -> None:
    """Refuse, before anything is loaded, what is known to leave no reference.

    Args:
        model: A name, a path or a model.
        ref_model: A separate reference, or None.
        peft_config: The adapter that is about to be put on, or None.

    Raises:
        InputError: An adapter's folder as the model; a model of which nothing can be trained. Without a `ref_model`:
            an adapter whose initialisation changes the base weights; one whose name its copy cannot be made under.
    """
    refuse_adapter_folder(model, "model", ADAPTER_ADVICE)
    if isinstance(model, torch.nn.Module) and peft_config is None:
        if not any(value.requires_grad for value in model.parameters()):
            adapters = bool(adapter_configs(model))
            raise InputError(
                "model: none of its parameters can be trained"
                + ("; load the adapter with is_trainable=True" if adapters else " (requires_grad is False in all)")
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
    configs = [config for config in (peft_config, *adapter_configs(model).values()) if config is not None]
    for config in configs:
        given = getattr(config, "init_lora_weights", None)
        if isinstance(given, str) and given.lower().startswith(_CHANGES_BASE):
            raise InputError(
                f"init_lora_weights: got {given!r}, which changes the base weights, so that the model with its "
                "adapter off is no longer the reference. Give the untouched model as ref_model, or leave "
                "init_lora_weights out"
            )


def reference_words(trainer: Any) -> str:
    """Which model plays the reference, in words for the log.

    Args:
        trainer: A `MallowsPOTrainer`.

    Returns:
        Such as `the policy with its adapter off`.
    """
    if not (trainer.objective.needs_reference or trainer.settings.reads_entropy):
        return "none"
    held = unwrapped_adapters(trainer.accelerator.unwrap_model(trainer.model))
    if trainer.ref_model is not None:
        name = getattr(getattr(trainer.ref_model, "config", None), "_name_or_path", "") or "the one that was given"
        without = ", without the adapters that transformers holds in the policy" if held else ""
        return f"a separate model ({name}{without if trainer.reference_is_ours else ''})"
    if is_peft_model(trainer.model):
        policy = trainer.accelerator.unwrap_model(trainer.model)
        copied = "ref" in policy.peft_config
        return "a frozen copy of the adapter as it was given" if copied else "the policy with its adapter off"
    return "the policy before training" + (", the adapters that transformers holds included" if held else "")


def compare_at_start(trainer: Any, *, fresh_adapter: bool) -> None:
    """Hold an untrained policy against its reference, where a new adapter stands between the two.

    A new adapter should change nothing. Where it does, its initialisation has changed the base weights (as PiSSA's
    does), and what is left with the adapter off is no model that anybody trained.

    Args:
        trainer: A `MallowsPOTrainer`, ready to train.
        fresh_adapter: The trainer has just put the adapter on.

    Raises:
        InputError: They differ, and the adapter's configuration does not ask for that.
    """
    from mallowspo.training.reference import live_tolerance

    plain = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    reads = trainer.objective.needs_reference or trainer.settings.reads_entropy
    if not fresh_adapter or not reads or trainer.ref_model is not None:
        return
    if not is_peft_model(trainer.model) or trainer.accelerator.distributed_type not in plain:
        return
    rows = trainer.train_dataset.select(range(min(COMPARED_ROWS, len(trainer.train_dataset))))
    batch = trainer.data_collator(list(rows))
    batch = {k: v.to(trainer.accelerator.device) for k, v in batch.items() if isinstance(v, torch.Tensor)}
    with reference_model(trainer, before_training=True) as model:
        reference = score_padded(model, batch)
    policy = trainer.model
    training = policy.training
    policy.eval()
    try:
        with torch.no_grad(), trainer.accelerator.autocast():
            start = score_padded(policy, batch)
    finally:
        policy.train(training)
    gap = (start.logp_bk - reference.logp_bk).abs().cpu()
    dtype = str(next(policy.parameters()).dtype)
    key = ReferenceKey(dtype=dtype, mixed_precision=str(trainer.accelerator.mixed_precision))
    if bool((gap <= torch.as_tensor(live_tolerance(key, start.length_bk.cpu().numpy()))).all()):
        return
    config = next(iter(policy.peft_config.values()))
    asked = [name for name, value in config.to_dict().items() if name.startswith("init") and value is False]
    nats = f"by up to {gap.max().item():.3g} nats on {len(rows)} rows"
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
