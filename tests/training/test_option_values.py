"""Every option of the configuration has the type, a choice and a number that it declares, or is refused by its name.

The declarations of TRL and of transformers are the oracle: the cases are made from their fields, not listed by hand.
"""

import copy
import math
import typing
from dataclasses import fields
from types import NoneType

import numpy as np
import pytest
import torch
from pairs import options
from peft import LoraConfig, get_peft_model
from transformers.trainer_utils import IntervalStrategy, SchedulerType
from trl import DPOConfig, ModelConfig

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.errors import InputError
from mallowspo.training.option_values import check_numbers
from tiny import tiny_llama, tiny_tokenizer

HINTS = typing.get_type_hints(MallowsPOConfig)
NAMES = [item.name for item in fields(MallowsPOConfig)]
# Declared as text, or read as a list by TRL though it is none; see the tests below.
ALSO = {"loss_type", "dispersion_scale", "fsdp", "debug", "gradient_checkpointing"}


def parts(name):
    hint = HINTS[name]
    return set(typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, type(int | str)) else (hint,))


def refused(tmp_path, name, value):
    with pytest.raises(InputError, match=f"^{name}: "):
        MallowsPOConfig(**options(tmp_path) | {name: value})


class Nothing:
    """Of no type that an option could have."""


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_no_declared_type_is_refused(tmp_path, name):
    refused(tmp_path, name, Nothing())


@pytest.mark.parametrize("name", [name for name in NAMES if NoneType not in parts(name) and name not in ALSO])
def test_none_is_refused_where_it_is_not_declared(tmp_path, name):
    refused(tmp_path, name, None)


@pytest.mark.parametrize("name", [name for name in NAMES if bool in parts(name) and not {str, int} & parts(name)])
@pytest.mark.parametrize("value", ["yes", "no", 2, [True]], ids=str)
def test_a_switch_is_true_or_false(tmp_path, name, value):
    refused(tmp_path, name, value)


@pytest.mark.parametrize("name", [name for name in NAMES if {int, float} & parts(name)])
@pytest.mark.parametrize("value", [math.nan, -math.inf, True, "x", [1]], ids=str)
def test_a_number_is_one_and_finite(tmp_path, name, value):
    refused(tmp_path, name, value)


@pytest.mark.parametrize("name", [name for name in NAMES if int in parts(name) and str not in parts(name)])
def test_a_whole_number_is_whole(tmp_path, name):
    refused(tmp_path, name, 2.5)


@pytest.mark.parametrize("name", [name for name in NAMES if list[float] in parts(name)])
@pytest.mark.parametrize("value", [["a", 1], [math.nan, 1.0], "x", 3], ids=str)
def test_a_list_of_numbers_holds_numbers(tmp_path, name, value):
    refused(tmp_path, name, value)


@pytest.mark.parametrize("name", [item.name for item in fields(MallowsPOConfig) if item.metadata.get("choices")])
def test_a_choice_is_among_those_declared(tmp_path, name):
    refused(tmp_path, name, "middle")


@pytest.mark.parametrize(
    "name", ["optim", "lr_scheduler_type", "eval_strategy", "save_strategy", "logging_strategy", "hub_strategy"]
)
def test_a_choice_of_transformers_is_among_its_values(tmp_path, name):
    refused(tmp_path, name, "middle")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("save_steps", [-3]),
        ("eval_steps", [-2]),
        ("logging_steps", [-1]),
        ("warmup_steps", [-1]),
        ("eval_delay", [-1]),
        ("max_steps", [-5]),
        ("pad_to_multiple_of", [0, -8, "0", "-8", "x", 2.5]),
        ("ref_model_mixup_alpha", [1.7, -0.2]),
        ("seed", [-1, 2**40]),
        ("data_seed", [-1, 2**64]),
        ("adam_beta1", [-0.1, 1.0]),
        ("adam_beta2", [1.0]),
        ("dataloader_num_workers", [-1]),
        ("dataloader_prefetch_factor", [0]),
        ("torch_empty_cache_steps", [0]),
        ("ddp_timeout", [0]),
        ("max_columns", [-1]),
        ("max_nesting", [0]),
        ("max_line_mb", [0]),
    ],
)
def test_a_number_out_of_its_range(tmp_path, name, values):
    for value in values:
        refused(tmp_path, name, value)


@pytest.mark.parametrize("what", ["save", "logging"])
def test_no_step_is_no_interval(tmp_path, what):
    with pytest.raises(InputError, match=f"^{what}_steps: "):
        MallowsPOConfig(**options(tmp_path, **{f"{what}_strategy": "steps", f"{what}_steps": 0}))
    MallowsPOConfig(**options(tmp_path, **{f"{what}_strategy": "no", f"{what}_steps": 0}))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"gradient_checkpointing_kwargs": {"a": 1}}, "gradient_checkpointing_kwargs"),
        ({"gradient_checkpointing_kwargs": '{"a": 1}'}, "gradient_checkpointing_kwargs"),
        ({"activation_checkpointing_kwargs": {"use_reentrant": True, "a": 1}}, "activation_checkpointing_kwargs"),
        ({"lr_scheduler_kwargs": {"a": 1}}, "lr_scheduler_kwargs"),
        ({"lr_scheduler_kwargs": "a"}, "lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": "x"}}, "lr_scheduler_kwargs"),
        ({"model_init_kwargs": "{"}, "model_init_kwargs"),
        ({"model_init_kwargs": "[1]"}, "model_init_kwargs"),
        ({"accelerator_config": {"no": 1}}, "accelerator_config"),
        ({"accelerator_config": "nowhere.json"}, "accelerator_config"),
        ({"fsdp_config": "nowhere.json"}, "fsdp_config"),
        ({"optim": "sgd", "optim_args": "momentum"}, "optim_args"),
        ({"optim": "sgd", "optim_args": "momentum=x"}, "optim_args"),
    ],
    ids=str,
)
def test_nested_settings_that_their_reader_refuses(tmp_path, changes, name):
    with pytest.raises(InputError, match=f"^{name}: "):
        MallowsPOConfig(**options(tmp_path, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 1},
        {"learning_rate": np.float32(1e-3), "seed": np.int64(3), "disable_dropout": np.bool_(True)},
        {"save_strategy": "steps", "save_steps": 0.25},
        {"eval_strategy": IntervalStrategy.STEPS, "eval_steps": 0.5},
        {"eval_strategy": "steps", "eval_steps": 0},  # transformers takes logging_steps then
        {"lr_scheduler_type": SchedulerType.COSINE},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": '{"min_lr_rate": 0.1}'},
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 4}},
        {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"model_init_kwargs": '{"dtype": "bfloat16"}'},
        {"accelerator_config": '{"split_batches": true}'},
        {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=true"},
        {"pad_to_multiple_of": "8"},
        {"pad_to_multiple_of": "none"},
        {"loss_type": "hinge"},
        {"report_to": ["none"]},
        {"debug": None},
        {"include_num_input_tokens_seen": True},
        {"gradient_checkpointing": None},
        {"max_steps": -1},
    ],
    ids=str,
)
def test_what_trl_accepts_and_converts_is_accepted(tmp_path, changes):
    DPOConfig(**options(tmp_path, **changes))
    MallowsPOConfig(**options(tmp_path, **changes))


def test_what_the_documentation_writes_is_accepted(tmp_path):
    given = {"dispersion_clip": (0.0, 5.0), "dispersion_scale": 0.5, "displacement_alarm": math.inf}
    config = MallowsPOConfig(**options(tmp_path / "x", **given))
    assert (config.resolved_clip, config.resolved_scale) == ((0.0, 5.0), 0.5)
    assert MallowsPOConfig(output_dir=tmp_path, use_cpu=True).output_dir == str(tmp_path)


def test_a_configuration_can_be_made_again_from_its_own_values(tmp_path):
    first = MallowsPOConfig(**options(tmp_path, report_to="none", debug="underflow_overflow"))
    again = MallowsPOConfig(**{name: copy.copy(getattr(first, name)) for name in NAMES})
    assert {name: getattr(again, name) for name in NAMES} == {name: getattr(first, name) for name in NAMES}


@pytest.mark.parametrize("changes", [{"lora_r": 0}, {"lora_alpha": -1}, {"lora_dropout": 1.0}], ids=str)
def test_numbers_of_the_models_options(changes):
    with pytest.raises(InputError, match=f"^{next(iter(changes))}: "):
        check_numbers(ModelConfig(**changes))


# What this model, this machine or this launch cannot do, told before anything is loaded.


@pytest.mark.parametrize(
    ("changes", "arguments", "name"),
    [
        ({"sync_ref_model": True}, {"peft_config": LoraConfig()}, "sync_ref_model"),
        ({"activation_offloading": True}, {}, "activation_offloading"),
        ({"fsdp": "full_shard"}, {}, "fsdp"),
    ],
)
def test_refused_before_the_model_is_loaded(tmp_path, changes, arguments, name):
    args = MallowsPOConfig(**options(tmp_path, objective="dpo", **changes))
    with pytest.raises(InputError, match=f"^{name}: "):
        MallowsPOTrainer("nowhere/at-all", args=args, train_dataset=[], **arguments)


def test_a_moving_reference_and_an_adapter_that_is_on(tmp_path):
    wrapped = get_peft_model(tiny_llama(len(tiny_tokenizer())), LoraConfig(task_type="CAUSAL_LM"))
    args = MallowsPOConfig(**options(tmp_path, objective="dpo", sync_ref_model=True))
    with pytest.raises(InputError, match="^sync_ref_model: "):
        MallowsPOTrainer(wrapped, args=args, train_dataset=[], processing_class=tiny_tokenizer())


def test_a_moving_reference_has_no_scores_to_keep(tmp_path):
    with pytest.raises(InputError, match="^sync_ref_model: "):
        MallowsPOConfig(**options(tmp_path, objective="dpo", sync_ref_model=True, precompute_ref_log_probs=True))


def test_the_trial_of_nested_settings_draws_no_random_number(tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    MallowsPOConfig(**options(tmp_path, gradient_checkpointing_kwargs={"use_reentrant": False}))
    assert torch.equal(before, torch.get_rng_state())
