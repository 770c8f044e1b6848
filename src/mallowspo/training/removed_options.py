"""Options that TRL and transformers have removed or renamed, each with what stands in its place.

`MallowsPOConfig`, `MallowsPOTrainer` and the command line read the hints from here. Nothing heavy is imported.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from mallowspo.errors import InputError

__all__ = ["REMOVED_OPTIONS", "knows_removed_options"]

_LENGTH = "set max_length, which counts prompt and response together, and truncation_mode"
_NEVER_GENERATED = "no text is generated while training: run mallowspo evaluate on the saved model"
_ADAPTERS = (
    "give a PeftModel, whose adapter as it is before training is the reference, or a ref_model; one adapter is "
    "trained, named default"
)
_PADDING = "padding is told by position, so no value is wanted; pad_token names another token to fill up with"
_MODEL_TYPE = "the model's own configuration tells; only causal language models are trained"
_LOADED_OUTSIDE = "load the model yourself and give it as model, or set model_init_kwargs"

REMOVED_OPTIONS: dict[str, str] = {
    # TRL's DPOConfig and DPOTrainer
    "rpo_alpha": "set sft_weight (or loss_type: [sigmoid, sft] with loss_weights: [1, alpha])",
    "max_prompt_length": _LENGTH,
    "max_completion_length": _LENGTH,
    "max_target_length": _LENGTH,
    "generate_during_eval": _NEVER_GENERATED,
    "dpo_alpha": "set beta",
    "reference_free": "set reference_weight: 0 (objective simpo is that, with a mean over tokens and a margin)",
    "force_use_ref_model": "give ref_model: a separate reference is used wherever one is given",
    "model_adapter_name": _ADAPTERS,
    "ref_adapter_name": _ADAPTERS,
    "reference_adapter_name": _ADAPTERS,
    "label_pad_token_id": _PADDING,
    "padding_value": _PADDING,
    "is_encoder_decoder": _MODEL_TYPE,
    "use_num_logits_to_keep": "leave it out: the head is computed on response tokens alone",
    "use_logits_to_keep": "leave it out: the head is computed on response tokens alone",
    "use_liger_loss": "leave it out: the head is computed on response tokens alone, in chunks",
    "base_model_attribute_name": "leave it out: the model's own base_model is used",
    "tools": "give every row a column tools",
    "ref_model_init_kwargs": "load the reference yourself and give it as ref_model",
    "tokenizer": "it is called processing_class now",
    "preprocess_logits_for_metrics": "give compute_metrics, which is handed the logits of the batch",
    "model_init": _LOADED_OUTSIDE,
    "compute_loss_func": "choose objective and its axes, or write a subclass with its own compute_loss",
    "precompute_ref_eval_batch_size": "set precompute_ref_batch_size",
    "f_divergence_params": "set f_divergence_type (reverse_kl is what all objectives here are built on)",
    "gamma_beta_ratio": "set margin with objective simpo or mallows_simpo: it is the same number",
    "simpo_gamma": "set margin: gamma / beta, with objective simpo or mallows_simpo",
    "cpo_alpha": "set sft_weight",
    # transformers' TrainingArguments
    "evaluation_strategy": "it is called eval_strategy now",
    "group_by_length": "leave it out: packed rows have no padding to save, and rows have no lengths to group by",
    "warmup_ratio": "set warmup_steps, which below 1 is a share of all steps: warmup_steps: 0.1",
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "overwrite_output_dir": "leave it out: without resume_from_checkpoint a run begins anew; name another output_dir",
    "per_gpu_train_batch_size": "set per_device_train_batch_size",
    "per_gpu_eval_batch_size": "set per_device_eval_batch_size",
    "no_cuda": "set use_cpu",
    "use_mps_device": "leave it out: the device that is there is used",
    "fp16_backend": "leave it out: torch's own mixed precision is used",
    "half_precision_backend": "leave it out: torch's own mixed precision is used",
    "fp16_opt_level": "leave it out: apex is gone; set bf16 or fp16",
    "bf16_opt_level": "leave it out: apex is gone; set bf16 or fp16",
    "tpu_num_cores": "start the processes with accelerate launch --tpu",
    "tpu_metrics_debug": "set debug: tpu_metrics_debug",
    "past_index": "leave it out: no model that is trained here has such states",
    "adafactor": "set optim: adafactor",
    "sharded_ddp": "set fsdp, or start with accelerate launch and a configuration for it",
    "fsdp_min_num_params": "set fsdp_config",
    "fsdp_transformer_layer_cls_to_wrap": "set fsdp_config",
    "ray_scope": "search over options with the tool that you like; each trial is one run",
    "include_inputs_for_metrics": "set include_for_metrics: [inputs]",
    "include_tokens_per_second": "num_tokens is logged with every step; divide by the time",
    "save_safetensors": "leave it out: models are always saved as safetensors",
    "push_to_hub_model_id": "set hub_model_id",
    "push_to_hub_organization": "set hub_model_id: organization/name",
    "push_to_hub_token": "set hub_token",
    "torchdynamo": "set torch_compile_backend",
    "jit_mode_eval": "set torch_compile",
    "use_ipex": "leave it out: torch's own kernels are used",
    "mp_parameters": "leave it out: SageMaker's model parallelism is gone",
    "torch_dtype": "set dtype (in Python: model_init_kwargs={'dtype': ...})",
    "use_auth_token": "set hub_token, or log in with hf auth login",
}


def knows_removed_options(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor refuse keyword arguments that were options once, in words instead of a `TypeError`."""
    known = frozenset(inspect.signature(init).parameters)

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        gone = [name for name in kwargs if name in REMOVED_OPTIONS and name not in known]
        if gone:
            raise InputError("; ".join(f"{name}: this option is gone; {REMOVED_OPTIONS[name]}" for name in gone))
        init(self, *args, **kwargs)

    return checked
