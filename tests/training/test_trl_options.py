"""Every option of TRL and every argument of its constructor: equal to TRL, refused, or listed with its difference.

`trl_options.py` declares what becomes of each; `docs/coming-from-trl.md` is made from the same declaration.
"""

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import trl_options
from datasets import Dataset, IterableDataset
from pairs import add_by_transformers, history, lora, options, saved_llama, small_pairs
from pairs import llama as model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl_options import ARGUMENTS, DIFFERS, EQUAL, OPTIONS, PASSED, REFUSED, is_neutral

import mallowspo
from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.compat import TRLPreferenceTrainer
from mallowspo.errors import InputError
from mallowspo.training.state_file import OPTION_EFFECTS
from tiny import tiny_llama, tiny_tokenizer

SOURCES = Path(mallowspo.__file__).parent
ROWS = small_pairs(12)
COMPARED = (
    "loss",
    "grad_norm",
    "logps/chosen",
    "rewards/margins",
    "eval_loss",
    "eval_rewards/margins",
    "learning_rate",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return saved_llama(tmp_path_factory.mktemp("model"))


def run(ours, given, tmp_path, changes=None, **arguments):
    """Train two steps with TRL or with ours; the layouts round differently, so ours runs padded rows as TRL does."""
    config, trainer = (MallowsPOConfig, MallowsPOTrainer) if ours else (DPOConfig, DPOTrainer)
    own = {"objective": "dpo", "share_prompts": False} if ours else {}
    if ours and not {"sigmoid", "sigmoid_norm"} & set(np.atleast_1d((changes or {}).get("loss_type", "sigmoid"))):
        del own["objective"]  # the loss names it
    args = config(**options(tmp_path / ("ours" if ours else "trl"), max_steps=2, **own) | (changes or {}))
    arguments = {"train_dataset": ROWS, "processing_class": tiny_tokenizer()} | arguments
    made = trainer(given, args=args, **arguments)
    made.train()
    return made


def assert_same_losses(theirs, ours, rel=2e-5):
    assert history(theirs, "loss")
    for name in COMPARED:
        if name == "rewards/margins" and ours.objective.length_normalized:
            continue  # ours are in the unit of the objective's gap, nats per token
        left, right = history(theirs, name), history(ours, name)
        assert len(left) == len(right), name
        np.testing.assert_allclose(left, right, rtol=rel, atol=max(2e-7, rel / 10), err_msg=name)


def cases(kind):
    return [(name, changes) for name, entry in OPTIONS.items() if entry.kind == kind for changes in entry.tries]


# One run of every sort in the default tests, all of them with -m slow.
QUICK = {"loss_type", "loss_weights", "precompute_ref_log_probs", "neftune_noise_alpha", "disable_dropout",
         "per_device_eval_batch_size", "save_only_model", "sync_ref_model"}  # fmt: skip


def runs_beside_trl():
    return [
        pytest.param(name, changes, id=f"{name}-{changes}", marks=() if name in QUICK else pytest.mark.slow)
        for name, changes in cases(EQUAL)
    ]


def test_every_option_and_argument_is_declared_once():
    assert set(OPTIONS) == {field.name for field in fields(DPOConfig)}
    arguments = set(inspect.signature(DPOTrainer.__init__).parameters) - {"self"}
    assert set(ARGUMENTS) == arguments == set(inspect.signature(MallowsPOTrainer.__init__).parameters) - {"self"}
    for name, entry in (OPTIONS | ARGUMENTS).items():
        assert entry.words or entry.kind in (EQUAL, PASSED), f"{name}: a difference or a refusal needs its words"


def test_every_option_either_leaves_a_resumed_run_as_it_is_or_has_an_effect_that_is_told():
    """An option that a later version of TRL brings belongs into one of the two."""
    told = {name for names in OPTION_EFFECTS.values() for name in names}
    refused = {name for name, entry in OPTIONS.items() if entry.kind == REFUSED}  # of one value
    for name in {field.name for field in fields(MallowsPOConfig)}:
        assert (name in told) + (name in refused) + is_neutral(name) == 1, name
    assert told - {field.name for field in fields(MallowsPOConfig)} == {"dtype", "num_processes"}


@pytest.mark.parametrize(("name", "changes"), runs_beside_trl())
def test_an_option_gives_trls_losses(tmp_path, saved, name, changes):
    assert name in changes
    held_out = {"eval_dataset": ROWS.select(range(4))} if "eval_strategy" in changes else {}
    runs = [run(ours, saved, tmp_path, changes, **held_out) for ours in (False, True)]
    assert_same_losses(*runs, rel=OPTIONS[name].rel)
    written = [sorted(p.name for p in Path(r.args.output_dir).glob("checkpoint-*")) for r in runs]
    assert written[0] == written[1]


@pytest.mark.parametrize(("name", "changes"), cases(REFUSED), ids=str)
def test_an_option_is_refused_by_name(tmp_path, name, changes):
    with pytest.raises(InputError, match=f"^{name}: "):
        MallowsPOConfig(**options(tmp_path, **changes))


@pytest.mark.parametrize("loss", ["exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
                                  "apo_zero", "apo_down", "discopop", "sft"])  # fmt: skip
def test_losses_that_are_no_objective_are_refused(tmp_path, loss):
    with pytest.raises(InputError, match="^loss_type: "):
        MallowsPOConfig(**options(tmp_path, loss_type=loss))


# Passed through: proved by class.


def test_what_is_passed_through_is_trls_own_field():
    ours, theirs = ({field.name: field for field in fields(config)} for config in (MallowsPOConfig, DPOConfig))
    for name, entry in OPTIONS.items():
        if entry.kind == PASSED:
            assert name not in MallowsPOConfig.__annotations__, name
            assert repr(ours[name].default) == repr(theirs[name].default), name
            assert ours[name].type == theirs[name].type, name


def read_options():
    """Options that our code reads off a configuration, or sets in one."""
    holders, found = {"args", "settings", "training_args"}, set()
    # A plan reads options to reckon with them; it trains nothing.
    trains = (path for path in (SOURCES / "training").glob("*.py") if path.name != "plan.py")
    files = [*trains, SOURCES / "compat.py", *(SOURCES / "cli").glob("*train*.py"),
             SOURCES / "cli/preflight.py"]  # fmt: skip
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                holder = node.value
                name = holder.id if isinstance(holder, ast.Name) else getattr(holder, "attr", None)
                own = path.name == "config.py" and name == "self" and isinstance(node.ctx, ast.Store)
                if name in holders or own:
                    found.add(node.attr)
    return found


def test_our_code_neither_reads_nor_sets_what_is_passed_through():
    read = read_options()
    assert {"max_length", "precompute_ref_log_probs", "torch_compile"} <= read  # the search finds what is read
    untouched = {name for name, entry in OPTIONS.items() if entry.kind == PASSED and not entry.read}
    assert len(untouched) > 60 and not untouched & read


def test_our_trainer_overrides_nothing_that_reads_what_is_passed_through():
    """What is replaced of TRL's and transformers' trainers; all else runs as it is there."""
    replaced = {
        name
        for cls in (MallowsPOTrainer, TRLPreferenceTrainer)
        for name, value in vars(cls).items()
        if callable(value) and hasattr(DPOTrainer, name) and not name.startswith("__")
    }
    assert replaced == {
        # What a checkpoint's weights are read with: transformers passes over names that differ from the live ones.
        "_issue_warnings_after_load", "_load_best_model", "_load_from_checkpoint",
        "_get_dataloader", "_get_output_dir",
        "_get_train_sampler", "_precompute_ref_logps", "_prepare_dataset", "_save_checkpoint",
        "_set_signature_columns_if_needed",
        # All call what they replace: one tells the last batch of an epoch how many rows are its own, one lets the
        # batches' order be told the epoch, one keeps accelerate from rounding log-probabilities.
        "get_batch_samples", "get_train_dataloader", "create_accelerator_and_postprocess",
        "compute_loss", "evaluate", "evaluation_loop", "log", "predict",
        "prediction_step", "save_model", "train", "training_step",
    }  # fmt: skip


def test_values_arrive_untouched(tmp_path):
    given = {"lr_scheduler_type": "cosine", "warmup_steps": 3, "weight_decay": 0.1, "logging_first_step": True,
             "save_total_limit": 2, "ddp_timeout": 77, "full_determinism": False, "adam_beta2": 0.95}  # fmt: skip
    theirs, ours = (config(**options(tmp_path, **given)) for config in (DPOConfig, MallowsPOConfig))
    for name, entry in OPTIONS.items():
        if entry.kind == PASSED and name != "accelerator_config":
            assert repr(getattr(theirs, name)) == repr(getattr(ours, name)), name


# Differences.


def test_label_smoothing_is_ours_and_trls_sigmoid_ignores_it(tmp_path):
    plain, theirs, ours = (
        run(mine, model(), tmp_path, changes, ref_model=model(seed=1))
        for mine, changes in ((False, {}), (False, {"label_smoothing": 0.2}), (True, {"label_smoothing": 0.2}))
    )
    assert history(plain, "loss") == history(theirs, "loss")
    gap, loss = history(plain, "rewards/margins")[0], history(ours, "loss")[0]
    # log(1 + e^-x) with its label flipped is larger by x, so the smoothed mean is larger by a fifth of the mean gap.
    assert loss == pytest.approx(history(plain, "loss")[0] + 0.2 * gap, rel=1e-5)


# Arguments of the constructor.


def held_by_transformers():
    torch.manual_seed(2)
    made = model()
    add_by_transformers(made, lora(init_lora_weights=False))
    return made


ARGUMENT_RUNS = {
    "model: an instance": lambda: (model(), {"ref_model": model()}),
    "model: adapters that transformers holds": lambda: (held_by_transformers(), {"ref_model": model()}),
    "ref_model": lambda: (model(), {"ref_model": model(seed=7)}),
    "peft_config": lambda: (model(), {"peft_config": lora()}),
    "peft_config: modules_to_save": lambda: (model(), {"peft_config": lora(modules_to_save=["lm_head"])}),
    "peft_config: DoRA": lambda: (model(), {"peft_config": lora(use_dora=True)}),
    "data_collator": lambda: (model(), {
        "ref_model": model(), "data_collator": DataCollatorForPreference(pad_token_id=0, max_length=40)
    }),
    "eval_dataset": lambda: (model(), {
        "ref_model": model(), "eval_dataset": {"a": ROWS.select(range(4)), "b": ROWS.select(range(4, 9))}
    }),
    "compute_metrics": lambda: (model(), {
        "ref_model": model(), "eval_dataset": ROWS.select(range(4)),
        "compute_metrics": lambda found: {"mean": float(np.abs(found.predictions).mean())},
    }),
    "callbacks": lambda: (model(), {"ref_model": model(), "callbacks": [StopAfterOne()]}),
    "processing_class": lambda: (model(), {"ref_model": model(), "processing_class": tiny_tokenizer(pad=False)}),
}  # fmt: skip


class StopAfterOne(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case in ("callbacks", "processing_class", "ref_model") else ())
        for case in ARGUMENT_RUNS
    ],
)
def test_an_argument_gives_trls_losses(tmp_path, case):
    name = case.split(":")[0]
    assert ARGUMENTS[name].kind in (EQUAL, DIFFERS)
    runs = []
    for ours in (False, True):
        given, arguments = ARGUMENT_RUNS[case]()
        changes = {"eval_strategy": "steps", "eval_steps": 2} if "eval_dataset" in arguments else {}
        torch.manual_seed(0)
        runs.append(run(ours, given, tmp_path, changes, **arguments))
    assert_same_losses(*runs)
    for metric in ("eval_a_loss", "eval_b_loss", "eval_mean"):
        assert history(runs[0], metric) == pytest.approx(history(runs[1], metric), rel=1e-5)


def test_optimizers_are_used(tmp_path):
    runs = []
    for ours in (False, True):
        given = model()
        optimizer = torch.optim.SGD(given.parameters(), lr=0.05)
        runs.append(run(ours, given, tmp_path, ref_model=model(), optimizers=(optimizer, None)))
    assert_same_losses(*runs)


def test_the_balance_loss_of_a_mixture_of_experts_is_trls(tmp_path):
    def mixture():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            return MixtralForCausalLM(
                MixtralConfig(
                    vocab_size=len(tiny_tokenizer()),
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    num_key_value_heads=2,
                    num_local_experts=2,
                    output_router_logits=True,
                )  # fmt: skip
            )

    runs = [run(ours, mixture(), tmp_path, {"router_aux_loss_coef": 0.3}, ref_model=mixture()) for ours in (0, 1)]
    assert_same_losses(*runs)
    assert history(runs[1], "loss")[0] > 0.8  # log 2, and a balance loss that is at least 0.3


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_an_initialisation_that_changes_the_base_weights_is_refused(tmp_path, init):
    config = lora()
    config.init_lora_weights = init
    with pytest.raises(InputError, match="init_lora_weights: .*ref_model"):
        run(True, "nowhere", tmp_path, peft_config=config)


def test_with_a_reference_model_pissa_starts_at_its_reference(tmp_path):
    made = run(True, model(), tmp_path, peft_config=lora(init_lora_weights="pissa"), ref_model=model())
    assert history(made, "logps_delta/chosen")[0] == pytest.approx(0, abs=1e-3)
    assert history(made, "loss")[0] == pytest.approx(np.log(2), abs=1e-4)


def test_a_policy_that_does_not_start_at_its_reference_is_told_or_refused(tmp_path, caplog):
    from peft import LoHaConfig

    made = run(True, model(), tmp_path, peft_config=lora(init_lora_weights=False))  # asked for
    assert any("init_lora_weights: false" in record.message for record in caplog.records)
    assert abs(history(made, "logps_delta/chosen")[0]) > 1e-2
    run(True, model(), tmp_path, peft_config=LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))


def head_adapter():
    made = model()
    add_by_transformers(made, lora(target_modules=["lm_head"]))
    return made


def test_an_adapter_on_the_head_is_refused(tmp_path):
    """TRL's refusal knows only PEFT's wrapper on the policy."""
    from peft import get_peft_model

    on_head = lora(target_modules=["q_proj", "lm_head"])
    with pytest.raises(ValueError, match="lm_head"):
        run(True, model(), tmp_path, peft_config=on_head)
    with pytest.raises(InputError, match="lm_head"):
        run(True, model(), tmp_path, ref_model=get_peft_model(model(), on_head))
    with pytest.raises(InputError, match="lm_head"):
        run(True, head_adapter(), tmp_path, {"objective": "mallows_theta"})


@pytest.mark.parametrize("names", [("mine",), ("default", "ref")], ids=str)
def test_an_adapter_of_which_no_copy_can_be_made_is_named(tmp_path, names):
    from peft import get_peft_model

    def wrapped():
        torch.manual_seed(2)
        made = get_peft_model(model(), lora(), adapter_name=names[0])
        for name in names[1:]:
            made.add_adapter(name, lora())
        return made

    with pytest.raises(InputError, match=f"^model: .*{names[-1]!r}"):
        run(True, wrapped(), tmp_path)
    runs = [run(ours, wrapped(), tmp_path, ref_model=model(seed=7)) for ours in (False, True)]
    assert_same_losses(*runs)


@pytest.mark.parametrize("precompute", [False, True])
def test_a_reference_in_training_mode_scores_as_in_evaluation_mode(tmp_path, precompute):
    """Its attention drops nothing, though `attention_dropout` is no module that `disable_dropout` would reach."""
    changes = {"precompute_ref_log_probs": precompute}
    made = run(True, model(), tmp_path, changes, ref_model=model(seed=7, attention_dropout=0.4).train())
    theirs = run(False, model(), tmp_path, changes, ref_model=model(seed=7))
    assert_same_losses(theirs, made)


def logits_halved(name):
    """A model whose logits are not the product with the head's weight, though its head is a plain `Linear`."""
    made = model()
    if name == "hook on the head":
        made.lm_head.register_forward_hook(lambda module, given, out: out * 0.5)
    elif name == "hook before the head":
        made.lm_head.register_forward_pre_hook(lambda module, given: (given[0] * 0.5,))
    elif name == "patched head":
        inner = made.lm_head.forward
        made.lm_head.forward = lambda hidden: inner(hidden) * 0.5
    elif name == "forward of its own":
        made.__class__ = HalvedLlama
    else:
        made.register_forward_hook(halve)
    return made


def halve(module, given, out):
    if getattr(out, "logits", None) is not None:
        out.logits = out.logits * 0.5
    return out


class HalvedLlama(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        return halve(self, args, super().forward(*args, **kwargs))


@pytest.mark.parametrize("share", [None, False])
@pytest.mark.parametrize(
    "name", ["hook on the head", "hook before the head", "patched head", "forward of its own", "hook on the model"]
)
def test_logits_that_are_not_the_heads_product_are_refused(tmp_path, name, share):
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(logits_halved(name)(ids).logits, model()(ids).logits * 0.5)
    changes = {"share_prompts": share}
    with pytest.raises(InputError, match="^lm_head: "):
        run(True, logits_halved(name), tmp_path, changes, ref_model=model())
    with pytest.raises(InputError, match="^lm_head: "):
        run(True, model(), tmp_path, changes, ref_model=logits_halved(name))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"args": "trl"}, "^args: got DPOConfig"),
        ({"train_dataset": None}, "^train_dataset: "),
        ({"train_dataset": "stream"}, "stream"),
        ({"data_collator": DataCollatorForPreference(pad_token_id=0)}, "^data_collator: "),
        ({"processing_class": object()}, "^processing_class: "),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "-".join(value),
)
def test_arguments_that_are_refused(tmp_path, saved, arguments, said):
    given = {"args": MallowsPOConfig(**options(tmp_path)), "train_dataset": ROWS} | arguments
    if given["args"] == "trl":
        given["args"] = DPOConfig(**options(tmp_path))
    if isinstance(given["train_dataset"], str):
        given["train_dataset"] = IterableDataset.from_generator(lambda: iter(ROWS))
    with pytest.raises(InputError, match=said):
        MallowsPOTrainer(saved, **given)


def test_a_model_of_another_kind_is_refused_by_its_argument(tmp_path, saved):
    bart = BartForConditionalGeneration(BartConfig(vocab_size=400, d_model=16, encoder_layers=1, decoder_layers=1))
    with pytest.raises(InputError, match="^model: .*decoder"):
        run(True, bart, tmp_path)
    with pytest.raises(InputError, match="^ref_model: .*decoder"):
        run(True, saved, tmp_path, ref_model=bart)
    gpt = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=400, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(InputError, match="^gradient_checkpointing: OpenAIGPTLMHeadModel"):
        run(True, gpt, tmp_path, {"gradient_checkpointing": True})


def test_an_adapters_folder_is_refused_with_what_to_do(tmp_path, saved):
    from peft import AutoPeftModelForCausalLM, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "adapter"
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(saved), lora())
    wrapped.save_pretrained(folder)
    with pytest.raises(InputError, match="it is an adapter of the base model .*is_trainable=True"):
        run(True, str(folder), tmp_path)
    frozen = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(InputError, match="none of its parameters can be trained.*is_trainable=True"):
        run(True, frozen, tmp_path)
    advised = AutoPeftModelForCausalLM.from_pretrained(folder, is_trainable=True)
    assert history(run(True, advised, tmp_path), "loss")[0] == pytest.approx(np.log(2), abs=1e-5)


# Tokens beyond the embedding.


def test_a_token_that_the_model_has_no_row_for_is_refused(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<tool>"])
    rows = Dataset.from_list([dict(row, chosen=row["chosen"] + (" <tool>" if i == 5 else "")) for i, row in
                              enumerate(ROWS)])  # fmt: skip
    with pytest.raises(InputError, match=r"row 6: '<tool>'.*resize_token_embeddings"):
        run(True, model(), tmp_path, train_dataset=rows, processing_class=tokenizer, ref_model=model())


def test_a_token_that_the_reference_has_no_row_for_is_refused_too(tmp_path):
    with pytest.raises(InputError, match="^ref_model: .*resize_token_embeddings"):
        run(True, model(), tmp_path, ref_model=tiny_llama(vocab_size=300))


@pytest.mark.parametrize("lacking", [("model", "ref_model"), ("ref_model",)], ids=str)
def test_a_pad_token_that_a_model_has_no_row_for_changes_nothing(tmp_path, lacking):
    tokenizer = tiny_tokenizer(pad=False)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    policy, reference = (len(tokenizer) - (name in lacking) for name in ("model", "ref_model"))
    made, plain = (
        run(True, tiny_llama(policy), tmp_path, processing_class=one, ref_model=tiny_llama(reference, seed=5))
        for one in (tokenizer, tiny_tokenizer(pad=False))
    )
    assert history(made, "loss") == history(plain, "loss")


def test_a_pad_token_that_is_none_is_refused(tmp_path, saved):
    with pytest.raises(InputError, match="pad_token: got '<nope>'"):
        run(True, saved, tmp_path, {"pad_token": "<nope>"})


def test_the_page_has_every_option():
    page = (Path(__file__).resolve().parents[2] / "docs/coming-from-trl.md").read_text(encoding="utf-8")
    for name in (*OPTIONS, *ARGUMENTS):
        assert f"`{name}`" in page, name
    assert trl_options.table(OPTIONS) in page and trl_options.table(ARGUMENTS) in page
