"""Every option has the type, a choice and a number that it declares; contradictions are refused by the option's name.

The declarations of TRL and of transformers are the oracle: the cases of types are made from their fields.
"""

import copy
import inspect
import math
import subprocess
import sys
import typing
from dataclasses import fields
from types import NoneType

import numpy as np
import pytest
import torch
from accelerate import ParallelismConfig
from pairs import options
from peft import LoraConfig, get_peft_model
from transformers.trainer_utils import IntervalStrategy, SchedulerType
from trl import DPOConfig, DPOTrainer, ModelConfig

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.errors import InputError
from mallowspo.training.option_values import check_numbers
from mallowspo.training.removed_options import REMOVED_OPTIONS
from tiny import tiny_llama, tiny_tokenizer

HINTS = typing.get_type_hints(MallowsPOConfig)
NAMES = [item.name for item in fields(MallowsPOConfig)]
# Declared as text, or read as a list by TRL though it is none; see the tests below.
ALSO = {
    "loss_type", "dispersion_scale", "dispersion_shrink", "dispersion_alternatives",
    "fsdp", "debug", "gradient_checkpointing",
}  # fmt: skip


def parts(name):
    hint = HINTS[name]
    return set(typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, type(int | str)) else (hint,))


def refused(tmp_path, name, **changes):
    with pytest.raises(InputError, match=f"^{name}: "):
        MallowsPOConfig(**options(tmp_path) | changes)


# Types, choices and ranges.


class Nothing:
    """Of no type that an option could have."""


WRONG = {
    "no declared type": (lambda name: True, [Nothing()]),
    "none": (lambda name: NoneType not in parts(name) and name not in ALSO, [None]),
    "a switch": (lambda name: bool in parts(name) and not {str, int} & parts(name), ["yes", "no", 2, [True]]),
    "a number": (lambda name: {int, float} & parts(name), [math.nan, -math.inf, True, "x", [1]]),
    "a whole number": (lambda name: int in parts(name) and str not in parts(name), [2.5]),
    "numbers": (lambda name: list[float] in parts(name), [["a", 1], [math.nan, 1.0], "x", 3]),
}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        pytest.param(name, values, id=f"{name}: {kind}")
        for kind, (concerns, values) in WRONG.items()
        for name in NAMES
        if concerns(name)
    ],
)
def test_a_value_of_another_type_than_declared_is_refused(tmp_path, name, values):
    for value in values:
        refused(tmp_path, name, **{name: value})


CHOICES = [item.name for item in fields(MallowsPOConfig) if item.metadata.get("choices")]
OURS = ["objective", "link", "dispersion", "dispersion_estimator", "dispersion_map", "dispersion_per"]
OURS += ["dispersion_order", "invalid_rows"]
OF_TRANSFORMERS = ["optim", "lr_scheduler_type", "eval_strategy", "save_strategy", "logging_strategy", "hub_strategy"]


@pytest.mark.parametrize("name", [*CHOICES, *OURS, *OF_TRANSFORMERS])
def test_a_choice_is_among_those_declared(tmp_path, name):
    refused(tmp_path, name, **{name: "middle"})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("learning_rate", [-1.0]),
        ("beta", [0.0, -1.0, "0.1"]),
        ("num_train_epochs", [-2]),
        ("max_steps", [-5]),
        ("max_length", [0]),
        ("gradient_accumulation_steps", [0]),
        ("per_device_train_batch_size", [0]),
        ("precompute_ref_batch_size", [0]),
        ("save_steps", [-3]),
        ("eval_steps", [-2]),
        ("logging_steps", [-1]),
        ("warmup_steps", [-1]),
        ("eval_delay", [-1]),
        ("pad_to_multiple_of", [0, -8, "0", "-8", "x", 2.5]),
        ("ref_model_mixup_alpha", [1.7, -0.2]),
        ("seed", [-1, 2**40]),
        ("data_seed", [-1, 2**64]),
        ("adam_beta1", [-0.1, 1.0, np.float32(1)]),
        ("adam_beta2", [1.0]),
        ("dataloader_num_workers", [-1]),
        ("dataloader_prefetch_factor", [0]),
        ("torch_empty_cache_steps", [0]),
        ("ddp_timeout", [0]),
        ("max_columns", [-1]),
        ("max_nesting", [0]),
        ("max_line_mb", [0]),
        ("displacement_alarm", [-0.1, math.nan]),
        ("dispersion_scale", ["-1", "much"]),
        ("dispersion_power", [-0.1, 1.1, math.nan]),
        ("dispersion_shrink", ["-1", "much", math.inf]),
        ("dispersion_clip", [[1.0], [2.0, 1.0]]),
        ("dispersion_filter", [[0.9, 0.1], [0.5], [0.5, 0.5], [-0.1, 1.0], [0.0, 1.1]]),
        ("loss_weights", [[1.0, 1.0], [0.0]]),
    ],
)
def test_a_number_out_of_its_range(tmp_path, name, values):
    for value in values:
        refused(tmp_path, name, **{name: value})


@pytest.mark.parametrize("changes", [{"lora_r": 0}, {"lora_alpha": -1}, {"lora_dropout": 1.0}], ids=str)
def test_numbers_of_the_models_options(changes):
    with pytest.raises(InputError, match=f"^{next(iter(changes))}: "):
        check_numbers(ModelConfig(**changes))


@pytest.mark.parametrize("what", ["save", "logging"])
def test_no_step_is_no_interval(tmp_path, what):
    refused(tmp_path, f"{what}_steps", **{f"{what}_strategy": "steps", f"{what}_steps": 0})
    MallowsPOConfig(**options(tmp_path, **{f"{what}_strategy": "no", f"{what}_steps": 0}))


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing_kwargs": {"a": 1}},
        {"gradient_checkpointing_kwargs": '{"a": 1}'},
        {"activation_checkpointing_kwargs": {"use_reentrant": True, "a": 1}},
        {"lr_scheduler_kwargs": {"a": 1}},
        {"lr_scheduler_kwargs": "a"},
        {"lr_scheduler_kwargs": None, "lr_scheduler_type": "warmup_stable_decay"},
        {"lr_scheduler_kwargs": None, "lr_scheduler_type": "cosine_with_min_lr"},
        {"lr_scheduler_kwargs": {"num_cycles": "x"}, "lr_scheduler_type": "cosine"},
        {"model_init_kwargs": "{"},
        {"model_init_kwargs": "[1]"},
        {"accelerator_config": {"no": 1}},
        {"accelerator_config": "nowhere.json"},
        {"fsdp_config": "nowhere.json"},
        {"optim_args": "momentum", "optim": "sgd"},
        {"optim_args": "momentum=x", "optim": "sgd"},
    ],
    ids=str,
)
def test_nested_settings_that_their_reader_refuses(tmp_path, changes):
    refused(tmp_path, next(iter(changes)), **changes)


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


def test_the_trial_of_nested_settings_draws_no_random_number(tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    MallowsPOConfig(**options(tmp_path, gradient_checkpointing_kwargs={"use_reentrant": False}))
    assert torch.equal(before, torch.get_rng_state())


def test_every_option_of_ours_has_its_help():
    ours = {item.name: item for item in fields(MallowsPOConfig)}
    for name in ours.keys() - {item.name for item in fields(DPOConfig)}:
        words = ours[name].metadata["help"]
        assert len(words) > 20 and words.endswith(".") and ("One of: " in words) == (name in OURS), name


# Options that contradict each other.


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dispersion", {"objective": "mallows_phi", "dispersion": "none"}),
        ("dispersion", {"objective": "dpo", "link": "kendall"}),
        ("margin", {"objective": "mallows_ipo", "margin": 0.5}),
        ("margin", {"objective": "dpo", "margin": 0.5}),
        ("kendall_smoothing", {"kendall_smoothing": 0.1}),
        ("dispersion_scale", {"objective": "dpo", "dispersion_scale": "0.3"}),
        ("dispersion_power", {"objective": "dpo", "dispersion_power": 0.5}),
        ("dispersion_shrink", {"objective": "dpo", "dispersion_shrink": 0.5}),
        ("dispersion_votes", {"dispersion_shrink": "votes"}),
        ("dispersion_votes", {"dispersion_map": "isotonic"}),
        ("dispersion_votes", {"dispersion_votes": "votes.jsonl"}),
        ("dispersion_alternatives", {"dispersion_map": "mallows", "dispersion_alternatives": "many"}),
        ("dispersion_per", {"objective": "dpo", "dispersion_per": "pair"}),
        ("dispersion_order", {"objective": "dpo", "dispersion_order": "agreed_first"}),
        ("dispersion_filter", {"objective": "dpo", "dispersion_filter": [0.0, 0.5]}),
        (
            "dispersion_order",
            {"dispersion_order": "agreed_first", "train_sampling_strategy": "group_by_length"},
        ),
        ("dispersion_(map|estimator)", {"dispersion_estimator": "answer_entropy"}),
        (
            "dispersion_(map|estimator)",
            {"dispersion_estimator": "reference_margin", "dispersion_map": "mallows"},
        ),
        ("dispersion_map", {"dispersion_map": "mallows"}),
        ("(dispersion_)?alternatives", {"dispersion_map": "mallows", "dispersion_alternatives": 1}),
        ("dispersion_alternatives", {"dispersion_alternatives": 5}),
        ("dispersion_alternatives", {"dispersion": "votes", "dispersion_alternatives": 5}),
        ("dispersion_spread", {"dispersion_spread": [0.1, 0.5]}),
        ("dispersion_spread", {"dispersion_map": "quantile", "dispersion_spread": [0.5, 0.1]}),
        ("displacement_alarm", {"objective": "simpo", "displacement_alarm": 0.1}),
        ("loss_type", {"loss_type": ["ipo"], "objective": "hinge"}),
        ("loss_type", {"loss_type": ["sigmoid", "ipo"]}),
        ("sft_weight", {"loss_type": ["sigmoid", "sft"], "sft_weight": 0.3}),
        ("train_sampling_strategy", {"train_sampling_strategy": "group_by_length"}),
        ("sync_ref_model", {"sync_ref_model": True}),
        ("sync_ref_model", {"objective": "dpo", "sync_ref_model": True, "precompute_ref_log_probs": True}),
    ],
    ids=str,
)
def test_contradictions_are_refused_by_name(tmp_path, name, changes):
    refused(tmp_path, name, **changes)


def test_defaults_are_those_of_the_architecture(tmp_path):
    config = MallowsPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert (config.objective, config.resolved_dispersion) == ("mallows_theta", "entropy")
    assert (config.dispersion_estimator, config.dispersion_map) == ("mean_entropy", "neglog")
    assert (config.resolved_scale, config.dispersion_per) == ("auto", "prompt")
    assert config.resolved_clip == (0.0, 10.0) and config.resolved_objective.kendall_smoothing == 0.5
    assert config.precompute_ref_log_probs is True
    none = MallowsPOConfig(str(tmp_path), use_cpu=True, bf16=False, dispersion="none")
    assert none.resolved_dispersion == "none" and none.precompute_ref_log_probs is False


@pytest.mark.parametrize(
    ("changes", "objective", "sft", "scale"),
    [
        ({"loss_type": "ipo"}, "ipo", 0.0, 1.0),
        ({"loss_type": ["hinge"], "loss_weights": [2.0]}, "hinge", 0.0, 2.0),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [0.5, 0.2], "objective": "dpo"}, "dpo", 0.4, 0.5),
        ({"loss_type": ["sft", "sigmoid"], "loss_weights": [0.2, 1.0]}, "mallows_theta", 0.2, 1.0),
        ({"loss_type": ["ipo"], "objective": "mallows_ipo"}, "mallows_ipo", 0.0, 1.0),
        ({"loss_type": "sigmoid_norm"}, "dpo", 0.0, 1.0),
        ({"loss_type": "sigmoid_norm", "objective": "dpo"}, "dpo", 0.0, 1.0),
    ],
    ids=str,
)
def test_losses_of_trl_are_read(tmp_path, changes, objective, sft, scale):
    config = MallowsPOConfig(**options(tmp_path, **changes))
    assert config.objective == objective and config.resolved_objective.sft_weight == pytest.approx(sft)
    assert config.loss_scale == scale
    per_token = changes["loss_type"] == "sigmoid_norm" or "ipo" in changes["loss_type"]
    assert config.resolved_objective.length_normalized == per_token
    again = MallowsPOConfig(**options(tmp_path, **changes, **({"sft_weight": config.sft_weight} if sft else {})))
    assert again.resolved_objective == config.resolved_objective


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.0}, ["learning_rate"]),
        ({"num_train_epochs": 0, "max_steps": -1}, ["num_train_epochs"]),
        ({"beta": 1e9}, ["beta"]),
        ({"label_smoothing": 0.1}, ["label_smoothing"]),
        ({"loss_type": "ipo"}, ["loss_type"]),
        ({}, []),
    ],
    ids=str,
)
def test_what_is_seldom_meant_gets_a_line(tmp_path, changes, named):
    assert [remark.split()[0] for remark in MallowsPOConfig(**options(tmp_path, **changes)).remarks] == named


# What this model, this machine or this launch cannot do, told before anything is loaded.


@pytest.mark.parametrize(
    ("name", "changes", "arguments"),
    [
        ("sync_ref_model", {"sync_ref_model": True}, {"peft_config": LoraConfig()}),
        ("activation_offloading", {"activation_offloading": True}, {}),
        ("fsdp", {"fsdp": "full_shard"}, {}),
        ("fsdp", {"fsdp": True, "fsdp_config": {"version": 1}}, {}),
        *(
            ("parallelism_config", {"parallelism_config": ParallelismConfig(**{size: 2})}, {})
            for size in ("cp_size", "sp_size")
            if size in inspect.signature(ParallelismConfig).parameters  # accelerate 1.10 has no sp_size
        ),
        ("model_init_kwargs", {"model_init_kwargs": {"distributed_config": {"fsdp_size": 2}}}, {}),
    ],
)
def test_refused_before_the_model_is_loaded(tmp_path, name, changes, arguments):
    args = MallowsPOConfig(**options(tmp_path, objective="dpo", **changes))
    with pytest.raises(InputError, match=f"^{name}: "):
        MallowsPOTrainer("nowhere/at-all", args=args, train_dataset=[], **arguments)


def test_a_moving_reference_and_an_adapter_that_is_on(tmp_path):
    wrapped = get_peft_model(tiny_llama(len(tiny_tokenizer())), LoraConfig(task_type="CAUSAL_LM"))
    args = MallowsPOConfig(**options(tmp_path, objective="dpo", sync_ref_model=True))
    with pytest.raises(InputError, match="^sync_ref_model: "):
        MallowsPOTrainer(wrapped, args=args, train_dataset=[], processing_class=tiny_tokenizer())


# Options that TRL and transformers have removed: refused with what stands in their place.


@pytest.mark.parametrize("name", ["rpo_alpha", "max_prompt_length", "warmup_ratio", "group_by_length", "logging_dir"])
def test_a_removed_option_is_refused_with_what_replaces_it(tmp_path, name):
    with pytest.raises(InputError, match=f"^{name}: ") as told:
        MallowsPOConfig(**options(tmp_path), **{name: 1})
    assert REMOVED_OPTIONS[name] in str(told.value)


def test_every_removed_option_and_argument_is_named_at_once(tmp_path):
    with pytest.raises(InputError, match="rpo_alpha: .*; reference_free: "):
        MallowsPOConfig(**options(tmp_path), rpo_alpha=1.0, reference_free=True)
    with pytest.raises(InputError, match="tokenizer: .* processing_class"):
        MallowsPOTrainer(model="nowhere", tokenizer=object())
    with pytest.raises(TypeError, match="no_such_option"):  # never was one
        MallowsPOConfig(**options(tmp_path), no_such_option=1)


def test_no_option_that_exists_is_called_removed_and_what_a_hint_names_exists():
    exist = {field.name for field in fields(DPOConfig)} | set(inspect.signature(DPOTrainer.__init__).parameters)
    assert not exist & set(REMOVED_OPTIONS)
    for name, hint in REMOVED_OPTIONS.items():
        if hint.startswith("set "):
            assert hint.split()[1].strip(",:;") in {*NAMES, "dtype", "the"}, (name, hint)


def test_the_hints_cost_no_heavy_import():
    heavy = "{'torch', 'trl', 'transformers'}"
    code = f"import sys, mallowspo.training.removed_options; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
