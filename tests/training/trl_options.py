"""What becomes of every option of TRL: the one declaration that the tests go through and the page is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mallowspo.training.config import REFUSED_OPTIONS

EQUAL = "equal"  # run beside TRL: the same losses
PASSED = "passed through"  # read by transformers and TRL alone; nothing of ours reads or changes it
REFUSED = "refused"  # with a reason
DIFFERS = "differs"  # with the difference


@dataclass(frozen=True)
class Treatment:
    """What becomes of one option."""

    kind: str  # one of the four above
    words: str = ""  # for the page
    tries: tuple[dict[str, Any], ...] = ()  # to run beside TRL, or to be refused, this option among them
    rel: float = 2e-5  # how far the losses of a run may be apart
    read: bool = False  # by our code too, for what `words` say


def _equal(*tries: dict[str, Any], words: str = "", rel: float = 2e-5) -> Treatment:
    return Treatment(EQUAL, words, tries, rel)


def _refused(words: str, *tries: dict[str, Any]) -> Treatment:
    return Treatment(REFUSED, words, tries)


def _passed(words: str = "", *, read: bool = False) -> Treatment:
    return Treatment(PASSED, words, read=read)


_PACKED = "`share_prompts` is off then (padded rows, as TRL's), and the log says why"
_EVAL: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2}

# TRL's own options, and those of TrainingArguments that reach data, scoring, loss, saving or resuming.
OPTIONS: dict[str, Treatment] = {
    # Loss
    "beta": _equal({"beta": 0.5}, words="0 and below is refused; above 100 the log warns"),
    "loss_type": _equal(
        {"loss_type": "sigmoid"},
        {"loss_type": ["ipo"]},
        {"loss_type": "hinge"},
        {"loss_type": "sigmoid_norm"},
        {"loss_type": ["sigmoid", "sft"]},
        words="`sigmoid` is TRL's default and leaves `objective` as it is (dpo is TRL's); `ipo`, `hinge` and "
        "`sigmoid_norm` name the objective with the same numbers where none is named; `sft` beside one of them is "
        "`sft_weight`. The other losses are refused: they are no objective here. `rewards/*` of "
        "an objective per token are per token, TRL's are sums",
    ),
    "loss_weights": _equal(
        {"loss_weights": [0.5], "loss_type": "hinge"},
        {"loss_weights": [1.0, 0.2], "loss_type": ["sigmoid", "sft"]},
        {"loss_weights": [0.3, 2.0], "loss_type": ["sft", "ipo"]},
        words="numbers > 0; with `sft`, `sft_weight` is the ratio of the two",
    ),
    "label_smoothing": Treatment(
        DIFFERS,
        "the probability that a label is flipped, for every objective (conservative DPO). TRL's `sigmoid`, `hinge` "
        "and `ipo` ignore it, and its `robust` divides by 1 - 2ε. The log says so",
        ({"label_smoothing": 0.2},),
    ),
    "label_smoothing_factor": _refused(
        "it is for losses over tokens, and TRL's DPO ignores it; set `label_smoothing`",
        {"label_smoothing_factor": 0.1},
    ),
    "router_aux_loss_coef": _equal(
        {"router_aux_loss_coef": 0.0}, words="of a mixture of experts; padded rows where it is not 0"
    ),
    # Reference
    "precompute_ref_log_probs": _equal(
        {"precompute_ref_log_probs": True},
        words="set by itself where the reference is read for the dispersion, where it comes from a store, and where "
        "the objective has none",
    ),
    "precompute_ref_batch_size": _equal({"precompute_ref_batch_size": 3, "precompute_ref_log_probs": True}),
    "sync_ref_model": _equal(
        {"sync_ref_model": True, "ref_model_sync_steps": 1},
        words="refused where the dispersion is read off the reference, which must stay as it is then, and with an "
        "adapter (`use_peft`, `peft_config`), as in TRL: no separate reference is kept",
    ),
    "ref_model_mixup_alpha": _equal({"ref_model_mixup_alpha": 0.9, "sync_ref_model": True, "ref_model_sync_steps": 1}),
    "ref_model_sync_steps": _equal({"ref_model_sync_steps": 1, "sync_ref_model": True}),
    # Data
    "max_length": _equal({"max_length": 34}, {"max_length": None}),
    "truncation_mode": _equal({"truncation_mode": "keep_end", "max_length": 24}),
    "pad_to_multiple_of": _equal({"pad_to_multiple_of": 8}),
    "pad_token": _equal(
        {"pad_token": "<s>"},
        words="it must be a token of the tokenizer. Where the model has no row for the pad token, batches are filled "
        "up with another id: padding is told by position",
    ),
    "dataset_num_proc": _equal({"dataset_num_proc": 1}),
    "remove_unused_columns": _equal({"remove_unused_columns": False}),
    "train_sampling_strategy": _equal(
        {"train_sampling_strategy": "sequential"},
        words="with rows that are ranked lists, `random` draws whole lists; `group_by_length` fails in TRL, whose "
        "rows have no `input_ids`, and is refused",
    ),
    "length_column_name": _passed("read with `group_by_length` alone"),
    "seed": _equal({"seed": 11}),
    "data_seed": _equal({"data_seed": 5}),
    "per_device_train_batch_size": _equal(
        {"per_device_train_batch_size": 3},
        words="with several processes, rows that fill up an epoch's last batch count once ([engines](engines.md))",
    ),
    "gradient_accumulation_steps": _equal({"gradient_accumulation_steps": 2}),
    "num_train_epochs": _equal({"num_train_epochs": 1.0, "max_steps": -1}, words="0 trains nothing, and is said"),
    "max_steps": _equal({"max_steps": 3}),
    "dataloader_drop_last": _equal(
        {"dataloader_drop_last": True, "per_device_train_batch_size": 5, "max_steps": -1, "num_train_epochs": 1},
        words="without it, the rows that fill up an uneven last batch of several processes weigh nothing; TRL trains "
        "on them twice",
    ),
    "dataloader_num_workers": _equal({"dataloader_num_workers": 1}),
    "dataloader_pin_memory": _equal({"dataloader_pin_memory": False}),
    # Model and scoring
    "model_init_kwargs": _equal({"model_init_kwargs": {"dtype": "bfloat16"}}, rel=2e-2),
    "trust_remote_code": _passed("read for the tokenizer too", read=True),
    "disable_dropout": _equal({"disable_dropout": False}, words=f"where it is off: {_PACKED}"),
    "neftune_noise_alpha": _equal(
        {"neftune_noise_alpha": 5.0},
        words=f"{_PACKED}. With an adapter TRL puts noise on its reference too, which here scores in evaluation mode",
    ),
    "bf16": Treatment(
        DIFFERS,
        "given, it does what it does in TRL; not given, a CPU takes float32 (TRL: bfloat16 with `use_cpu`, an error "
        "without it) and an accelerator bfloat16, as in TRL",
        ({"bf16": True},),
        2e-2,
    ),
    "gradient_checkpointing": _equal(
        {"gradient_checkpointing": True},
        words="refused, before the model is loaded, where its class has none. With a live reference TRL's steps grow "
        "longer with their number (it leaves a hook on the embeddings in each); these do not",
    ),
    "gradient_checkpointing_kwargs": _equal(
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    ),
    "use_cache": _equal({"use_cache": True}),
    "torch_compile": Treatment(DIFFERS, _PACKED, ({"torch_compile": True},), read=True),
    "use_liger_kernel": Treatment(DIFFERS, f"its layers' kernels are used; {_PACKED}", read=True),
    "optim": _equal({"optim": "sgd", "learning_rate": 0.1}, words="lomo and adalomo take padded rows"),
    "activation_offloading": _passed(
        "its context is entered around every training step, as in TRL; refused without an accelerator, where TRL ends "
        "in an error",
        read=True,
    ),
    "parallelism_config": _passed(
        "a `cp_size` or `sp_size` above 1 is refused, before the model is loaded", read=True
    ),
    "fsdp": _passed("refused in a single process and with version 1 of FSDP, before the model is loaded", read=True),
    "fsdp_config": _passed("a file that cannot be read is refused", read=True),
    # Optimiser
    "learning_rate": _equal({"learning_rate": 1e-2}, words="0 is said, less is refused"),
    "max_grad_norm": _equal({"max_grad_norm": 0.1}),
    # Evaluation, saving and resuming
    "eval_strategy": _equal(_EVAL),
    "per_device_eval_batch_size": _equal(
        _EVAL | {"per_device_eval_batch_size": 2},
        words="a metric is the mean over the rows; TRL's is the mean of the batches' means, so a short last batch "
        "counts for more there",
    ),
    "eval_on_start": _equal(_EVAL | {"eval_on_start": True}),
    "prediction_loss_only": _equal(_EVAL | {"prediction_loss_only": True}),
    "metric_for_best_model": _equal(
        _EVAL | {"metric_for_best_model": "rewards/margins", "load_best_model_at_end": True, "save_strategy": "best"},
        words="a name that is never logged is refused before the run",
    ),
    "load_best_model_at_end": _equal(
        _EVAL | {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 2}
    ),
    "save_strategy": _equal({"save_strategy": "epoch"}, words="every checkpoint holds `mallowspo.json` as well"),
    "save_only_model": _equal({"save_only_model": True, "save_strategy": "steps", "save_steps": 1}),
    "resume_from_checkpoint": _passed(
        "checkpoints of ours go on with their calibration; `true` takes the newest one of the last run", read=True
    ),
    "output_dir": _passed("gets `mallowspo.json`, `run.json` (from the command line) and a model card too", read=True),
    "disable_tqdm": _passed("the reference pass has a bar too", read=True),
    "push_to_hub": _passed("`mallowspo train` pushes at the end, as `trl dpo` does", read=True),
    "deepspeed": _passed("packed rows too ([engines](engines.md))", read=True),
}  # fmt: skip

# Options of TrainingArguments that transformers alone reads: the optimiser, its schedule, logging, the hub, engines.
_UNTOUCHED = """
    lr_scheduler_type lr_scheduler_kwargs warmup_steps optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
    optim_target_modules fp16 tf32 auto_find_batch_size logging_strategy logging_steps logging_first_step
    log_on_each_node logging_nan_inf_filter log_level log_level_replica trackio_space_id trackio_bucket_id
    trackio_static_space_id eval_steps eval_delay eval_do_concat_batches eval_use_gather_object eval_accumulation_steps
    save_steps save_on_each_node save_total_limit hub_token hub_private_repo hub_model_id hub_strategy hub_always_push
    hub_revision ignore_data_skip accelerator_config
""".split()
# Such of which another value trains the same; see `NEUTRAL`.
_UNTOUCHED_AND_NEUTRAL = """
    average_tokens_across_devices bf16_full_eval fp16_full_eval activation_checkpointing
    activation_checkpointing_kwargs torch_compile_backend torch_compile_mode liger_kernel_config
    torch_empty_cache_steps include_num_input_tokens_seen report_to run_name project include_for_metrics
    batch_eval_metrics enable_jit_checkpoint greater_is_better restore_callback_states_from_checkpoint full_determinism
    use_cpu dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order label_names ddp_find_unused_parameters ddp_bucket_cap_mb
    ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout debug skip_memory_metrics do_train do_eval
    do_predict local_rank
""".split()
OPTIONS |= {name: _passed() for name in (*_UNTOUCHED, *_UNTOUCHED_AND_NEUTRAL)}
# What steers losses outside our axes: refused with the words of the page.
OPTIONS |= {
    name: _refused(REFUSED_OPTIONS[name][1], {name: value})
    for name, value in {
        "ld_alpha": 0.5,
        "f_divergence_type": "js_divergence",
        "f_alpha_divergence_coef": 0.7,
        "use_weighting": True,
        "discopop_tau": 0.1,
        "padding_free": True,
    }.items()
}
# Saving is in two steps here, so what follows a save reads these once more.
OPTIONS |= {
    "hub_revision": _passed(read=True),
    "save_total_limit": _passed("counts the checkpoints of this run; an earlier one's in the folder stay", read=True),
}

# Options, TRL's and ours, of which another value trains the same rows with the same loss and the same steps, but for
# rounding: a resumed run may have another one without a word. Of the rest, `OPTION_EFFECTS` says what comes of it.
NEUTRAL = set(_UNTOUCHED_AND_NEUTRAL) | set(
    """
    activation_offloading allow_other_data dataloader_num_workers dataloader_pin_memory dataset_num_proc deepspeed
    disable_tqdm displacement_alarm fsdp fsdp_config gradient_checkpointing gradient_checkpointing_kwargs
    length_column_name load_best_model_at_end max_columns max_line_mb max_nesting metric_for_best_model output_dir
    pad_to_multiple_of pad_token parallelism_config per_device_eval_batch_size precompute_ref_batch_size
    precompute_ref_log_probs
    prediction_loss_only remove_unused_columns resume_from_checkpoint share_prompts torch_compile trust_remote_code
    use_cache use_liger_kernel
    """.split()
)
_NEUTRAL_GROUPS = ("eval_", "hub_", "log", "push_to_hub", "save_", "trackio_")


def is_neutral(name: str) -> bool:
    """Whether a resumed run comes to the same with another value of an option."""
    return name in NEUTRAL or name.startswith(_NEUTRAL_GROUPS)


# Arguments of the constructor.
ARGUMENTS: dict[str, Treatment] = {
    "model": _equal(
        words="a name, a path or a model; with PEFT's wrapper or with the adapters that transformers holds. An "
        "adapter's folder, an adapter on `lm_head`, a hook or a forward that changes the logits (TRL computes losses "
        "without it), a model of which nothing can be trained, and one with an encoder or without an output head (TRL "
        "trains the first or ends in an error) are refused. Without a `ref_model`, an adapter in "
        "PEFT's wrapper must be called `default`, and none `ref`: TRL fails there"
    ),
    "ref_model": _equal(
        words="refused where the objective reads no reference, and where a token of the data has no row in it. It "
        "always scores in evaluation mode; in TRL one that comes in training mode stays in it, and so does a policy "
        "that is its own reference: `disable_dropout` leaves a dropout that is a number (`attention_dropout`) on"
    ),
    "args": Treatment(
        DIFFERS,
        "a `MallowsPOConfig`, which takes every field of `DPOConfig`; a `DPOConfig` is refused, since it names no "
        "objective. Left out, the defaults train `mallows_theta`",
    ),
    "data_collator": _equal(words="TRL's own is refused where the dispersion is read, whose column it drops"),
    "train_dataset": Treatment(
        DIFFERS,
        "every layout of TRL, and ranked lists. A stream is read in windows, with a column, a store or a live "
        "reference ([how](training.md#a-training-set-that-is-streamed)). Rows that cannot be trained on stop the run "
        "(`invalid_rows: drop` leaves them out)",
    ),
    "eval_dataset": _equal(words="one or several by name; the metrics of a named one get its name"),
    "processing_class": Treatment(
        DIFFERS, "a tokenizer; a processor for images is refused. Tokens that the model has no row for are refused"
    ),
    "compute_metrics": _equal(),
    "callbacks": _equal(),
    "optimizers": _equal(),
    "quantization_config": _passed("a model with a quantised head takes padded rows"),
    "peft_config": _equal(
        words="where the untrained policy is not its reference (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA change the base "
        "weights) a `ref_model` is asked for; TRL trains on against the changed weights"
    ),
}


def table(entries: dict[str, Treatment]) -> str:
    """The rows of the page, in the order of the kinds and then of the names."""
    order = (DIFFERS, REFUSED, EQUAL, PASSED)
    rows = ["| option | here | what to know |", "|---|---|---|"]
    for kind in order:
        for name, entry in sorted(entries.items()):
            if entry.kind == kind and (entry.words or kind != PASSED):
                rows.append(f"| `{name}` | {kind} | {entry.words} |")
    rest = sorted(name for name, entry in entries.items() if entry.kind == PASSED and not entry.words)
    if rest:
        rows += ["", "Passed through untouched: " + ", ".join(f"`{name}`" for name in rest) + "."]
    return "\n".join(rows)


__all__ = ["ARGUMENTS", "DIFFERS", "EQUAL", "OPTIONS", "PASSED", "REFUSED", "Treatment", "is_neutral", "table"]
