"""Packed rows in the trainer: chosen with a reason, equal to padded rows, and in pieces that change nothing."""

import copy
import json
import logging
import math
import os
from functools import partial

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from pairs import build, history, llama, lora, options, small_pairs, trained
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, TrainerCallback
from trl import DPOConfig, DPOTrainer

from forks import in_child, ranks
from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.errors import InputError
from mallowspo.training import scoring_path as file
from tiny import tiny_tokenizer

LOGGED = ("loss", "grad_norm", "entropy", "mean_token_accuracy", "logits/chosen", "logits/rejected", "logps/chosen")
DPO = {"objective": "dpo"}


@pytest.fixture(autouse=True)
def _leave_no_precision_behind():
    """Accelerate keeps the precision of a process; the next test's trainer may not be the first to ask for another."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def assert_same_run(first, second, rel=1e-4, atol=2e-5):
    """The layouts round differently: 1e-6 in a reward at the first step, and training spreads it."""
    for name in LOGGED:
        assert history(first, name) == pytest.approx(history(second, name), rel=rel, abs=atol), name
    assert history(first, "num_tokens") == history(second, "num_tokens")
    # At the first step policy and stored reference differ by rounding alone, and which way is chance.
    assert history(first, "rewards/accuracies")[1:] == history(second, "rewards/accuracies")[1:]
    for name, value in first.model.named_parameters():
        other = dict(second.model.named_parameters())[name]
        assert (value - other).norm() <= 1e-3 * value.norm(), name


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "dpo", "max_steps": 8},
        {"objective": "mallows_theta", "max_steps": 8},
        {"objective": "mallows_phi", "gradient_accumulation_steps": 2, "max_steps": 6},
        {"objective": "simpo", "gradient_checkpointing": True, "max_steps": 6},
    ],
    ids=lambda changes: changes["objective"],
)
def test_packed_rows_train_as_padded_rows(setting, tmp_path, changes):
    packed = trained(setting, tmp_path, **changes)
    padded = trained(setting, tmp_path, **changes, share_prompts=False)
    assert (packed.scoring.path, padded.scoring.path) == ("packed", "padded")
    assert_same_run(packed, padded)


@pytest.mark.parametrize("precompute", [True, False])
def test_packed_rows_train_an_adapter_as_padded_rows(random_setting, tmp_path, precompute):
    changes = DPO | {"max_steps": 8, "precompute_ref_log_probs": precompute, "learning_rate": 1e-2}
    runs = [
        trained(random_setting, tmp_path, peft_config=lora(), share_prompts=share, **changes)
        for share in (True, False)
    ]
    assert_same_run(*runs)
    assert history(runs[0], "loss")[-1] < 0.69


@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2}, {"truncation_mode": "keep_end"}], ids=str)
def test_pieces_of_a_batch_are_the_batch(random_setting, tmp_path, monkeypatch, changes):
    changes = {"objective": "dpo", "max_steps": 6, "max_length": 40, **changes}
    whole = trained(random_setting, tmp_path, **changes)
    monkeypatch.setattr(file, "_cpu_row_tokens", lambda config: 60)
    pieces = build(random_setting, tmp_path, **changes)
    batch = pieces.data_collator([pieces.train_dataset[i] for i in range(4)])
    assert len(pieces.scoring.pieces(batch)) > 1 == len(whole.scoring.pieces(batch))
    pieces.train()
    assert_same_run(whole, pieces)


def test_the_largest_piece_comes_first_and_the_metrics_keep_the_batchs_order(random_setting, tmp_path, monkeypatch):
    monkeypatch.setattr(file, "_cpu_row_tokens", lambda config: 40)
    run = build(random_setting, tmp_path, objective="dpo", max_steps=1, learning_rate=0.0)
    sizes, recorded = [], []
    score, add = run._score_pairs, run._record
    run._score_pairs = lambda model, piece: sizes.append(_pair_tokens(piece)) or score(model, piece)
    run._record = lambda inputs, pairs, **own: recorded.append((inputs, pairs)) or add(inputs, pairs, **own)
    run.train()
    (inputs, pairs), *_ = recorded
    assert len(sizes) > 2 and sizes == sorted(sizes, reverse=True)
    in_order = [_pair_tokens(piece) for piece in run.scoring.pieces(inputs)]
    assert in_order != sizes == sorted(in_order, reverse=True)
    expected = run.scoring.score_all(run.model, inputs)
    torch.testing.assert_close(pairs.policy.logp_bk, expected.logp_bk, rtol=0, atol=1e-4)
    assert not torch.allclose(expected.logp_bk, expected.logp_bk.flip(0), rtol=0, atol=1e-2)


def _pair_tokens(piece):
    prompt = (piece["attention_mask"] - piece["completion_mask"]).sum() // 2
    return int(prompt + piece["completion_mask"].sum())


@pytest.mark.parametrize(("hidden", "layers", "tokens"), [(64, 2, 1536), (512, 8, 660), (4096, 32, 512)])
def test_a_row_on_a_processor_keeps_what_fits(hidden, layers, tokens):
    config = LlamaConfig(hidden_size=hidden, intermediate_size=round(2.6875 * hidden), num_hidden_layers=layers)
    assert file._cpu_row_tokens(config) == tokens


def test_loss_outside_of_a_step_leaves_no_gradient_behind(random_setting, tmp_path, monkeypatch):
    monkeypatch.setattr(file, "_cpu_row_tokens", lambda config: 1)
    run = build(random_setting, tmp_path, objective="dpo")
    batch = run.data_collator([run.train_dataset[i] for i in range(3)])
    loss = run.compute_loss(run.model, batch)
    assert all(value.grad is None for value in run.model.parameters())
    loss.backward()
    monkeypatch.setattr(file, "_cpu_row_tokens", lambda config: 10**6)
    other = build(random_setting, tmp_path, objective="dpo")
    other.compute_loss(other.model, batch).backward()
    for ours, theirs in zip(run.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_evaluation_and_reference_pass_share_too(random_setting, tmp_path):
    rows, results = random_setting.rows, []
    evaluating = {"eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 5, "max_steps": 3}
    for share in (True, False):
        held_out = rows.select(range(20, 30))
        first = rows.select(range(20))
        run = trained(random_setting, tmp_path, first, eval_dataset=held_out, share_prompts=share, **evaluating)
        evaluated = next(entry for entry in run.state.log_history if "eval_loss" in entry)
        results.append((run.train_dataset[:], evaluated))
    for name in ("ref_chosen_logps", "ref_rejected_logps", "dispersion_index", "dispersion_raw"):
        assert results[0][0][name] == pytest.approx(results[1][0][name], rel=1e-5)
    for name, value in results[1][1].items():
        if name.startswith("eval_") and not name.endswith(("_runtime", "_per_second")):
            assert results[0][1][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_a_separate_reference_is_packed_too(random_setting, tmp_path):
    other = llama(seed=9)
    runs = [
        trained(random_setting, tmp_path, ref_model=copy.deepcopy(other), share_prompts=share, max_steps=4, **DPO)
        for share in (None, False)
    ]
    assert_same_run(*runs)
    assert abs(history(runs[0], "loss")[0] - 0.6931472) > 1e-3


@pytest.mark.parametrize("adapter", [False, True], ids=["whole model", "adapter"])
@pytest.mark.parametrize("precompute", [False, True], ids=["live", "stored"])
@pytest.mark.parametrize("share", [None, False], ids=["packed", "padded"])
def test_in_bfloat16_training_begins_at_log_2(random_setting, tmp_path, share, precompute, adapter):
    """In float32 the reference would differ from a policy in bfloat16 by some hundredths at the first step."""
    changes = DPO | {"max_steps": 1, "share_prompts": share, "precompute_ref_log_probs": precompute, "bf16": True}
    run = trained(random_setting, tmp_path, peft_config=lora(r=2) if adapter else None, **changes)
    # A stored reference was scored in rows of other lengths, which round differently; a live one in the same row.
    assert history(run, "loss")[0] == pytest.approx(math.log(2), abs=3e-3 if precompute else 1e-6)


def replicated():
    """Every layer twice, as PEFT does it; the second halves have a configuration object of their own."""
    twice = lora(target_modules=["q_proj"], layer_replication=[[0, 2], [0, 2]])
    return llama(), {"peft_config": twice}


def grown():
    """One more layer, a deep copy of the last."""
    model = llama()
    layer = copy.deepcopy(model.model.layers[1])
    layer.self_attn.layer_idx = 2
    model.model.layers.append(layer)
    model.config.num_hidden_layers = 3
    return model, {"ref_model": llama(seed=5)}


@pytest.mark.parametrize("made", [replicated, grown], ids=lambda made: made.__name__)
@pytest.mark.parametrize("bf16", [False, True])
def test_a_model_whose_layers_cannot_all_be_packed_gives_trls_numbers_in_padded_rows(tmp_path, made, bf16):
    runs = []
    for config, trainer, extra in ((DPOConfig, DPOTrainer, {}), (MallowsPOConfig, MallowsPOTrainer, DPO)):
        model, arguments = made()
        torch.manual_seed(0)
        args = config(**options(tmp_path, max_steps=2, **extra) | {"bf16": bf16})
        tokenizer = tiny_tokenizer()
        run = trainer(model, args=args, train_dataset=small_pairs(8), processing_class=tokenizer, **arguments)
        run.train()
        runs.append(run)
    theirs, ours = runs
    assert ours.scoring.path == "padded" and "on a trial" in ours.scoring.reason
    for name in ("loss", "logps/chosen", "rewards/margins"):
        rel, atol = (2e-2, 2e-2) if bf16 else (2e-5, 2e-6)
        assert history(ours, name) == pytest.approx(history(theirs, name), rel=rel, abs=atol), name


def test_sharing_that_fails_its_trial_is_refused_where_it_was_asked_for(tmp_path):
    model, arguments = grown()
    with pytest.raises(InputError, match="^share_prompts: "):
        build(model, tmp_path, small_pairs(8), share_prompts=True, **DPO, **arguments)


def bloom():
    torch.manual_seed(0)
    return BloomForCausalLM(BloomConfig(vocab_size=len(tiny_tokenizer()), hidden_size=32, n_head=4, n_layer=1))


def test_a_model_that_cannot_share_trains_in_padded_rows_or_is_refused_and_says_why(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="mallowspo"):
        run = trained(bloom(), tmp_path, small_pairs(8), objective="simpo", max_steps=1)
    assert run.scoring.path == "padded" and "padded rows (padded): bloom: ALiBi derives distances" in caplog.text
    with pytest.raises(InputError, match="^share_prompts: .*bloom: ALiBi"):
        build(bloom(), tmp_path, small_pairs(8), objective="simpo", share_prompts=True)


@pytest.mark.parametrize("share", [None, True, False])
def test_flex_attention_on_a_cpu_is_refused_before_the_first_step(random_setting, tmp_path, share):
    flex = {"model_init_kwargs": {"attn_implementation": "flex_attention"}}
    with pytest.raises(InputError, match="^attn_implementation: "):
        build(random_setting, tmp_path, share_prompts=share, **DPO, **flex)


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"torch_compile": True}, "padded", "torch_compile"),
        ({"neftune_noise_alpha": 5.0}, "padded", "neftune_noise_alpha"),
        ({"disable_dropout": False}, "padded", "with dropout"),
        ({"share_prompts": False}, "padded", "share_prompts: false"),
        ({"optim": "sgd"}, "packed", "llama with sdpa attention"),
    ],
    ids=str,
)
def test_what_of_the_run_stands_against_it_is_told(random_setting, tmp_path, caplog, changes, path, said):
    with caplog.at_level(logging.INFO, logger="mallowspo"):
        run = build(random_setting, tmp_path, **DPO | changes)
    assert run.scoring.path == path and said in run.scoring.reason
    assert f"({path}): {run.scoring.reason}" in caplog.text


def test_dropout_that_is_a_number_takes_padded_rows(tmp_path):
    model, reference = (llama(**drop) for drop in ({"attention_dropout": 0.2}, {}))
    run = build(model, tmp_path, small_pairs(8), ref_model=reference, **DPO)
    assert run.scoring.path == "padded" and "attention_dropout 0.2" in run.scoring.reason


def test_identical_responses_tie_exactly(random_setting, tmp_path):
    """A pair whose responses differ only after the cut has a margin of exactly 0 in both layouts."""
    run = build(random_setting, tmp_path, objective="dpo")
    row = dict(run.train_dataset[0])
    row["rejected_ids"] = row["chosen_ids"]
    with torch.no_grad():
        scores = run.scoring.score(run.model, run.data_collator([row]))
    assert scores.logp_bk[0, 0] == scores.logp_bk[0, 1]


def test_long_prompts_are_cut_as_before(random_setting, tmp_path):
    """Right truncation that leaves the two responses different prompts trains like padded rows."""
    words = " ".join(["one two three four five six seven eight"] * 4)
    rows = Dataset.from_list(
        [{"prompt": f"{words} {i}?", "chosen": " yes one", "rejected": f" no {words[: 20 + i]}"} for i in range(8)]
    )
    changes = DPO | {"max_steps": 4, "max_length": 30, "truncation_mode": "keep_end"}
    packed, padded = (trained(random_setting, tmp_path, rows, share_prompts=one, **changes) for one in (True, False))
    assert_same_run(packed, padded)


class CountSynchronisations(TrainerCallback):
    """Counts the gradient buckets that data parallelism exchanges; a model this small has one bucket."""

    def __init__(self):
        self.trainer, self.calls = None, 0

    def hook(self, group, bucket):
        self.calls += 1
        return allreduce_hook(group, bucket)

    def on_step_begin(self, args, state, control, **kwargs):
        wrapped = self.trainer.model_wrapped
        if state.global_step == 0 and hasattr(wrapped, "register_comm_hook"):
            wrapped.register_comm_hook(None, self.hook)


def train_in_pieces(setting, folder, batch_size):
    """In each process: train in small pieces, and write what came of it."""
    file._cpu_row_tokens = lambda config: 60
    counter, changes = CountSynchronisations(), {"per_device_train_batch_size": batch_size, "max_steps": 4}
    # Columns that change the loss of their row, so that the mean over ranks is seen to be one weighted mean.
    rows = small_pairs(16).add_column("beta", [0.1, 0.5] * 8).add_column("loss_weight", [1.0, 0.0, 2.0, 0.5] * 4)
    run = build(setting, folder, rows, gradient_accumulation_steps=2, **DPO, **changes)
    run.add_callback(counter)
    counter.trainer = run
    run.train()
    if run.accelerator.is_main_process:
        batch = run.data_collator([run.train_dataset[i] for i in range(batch_size)])
        found = {name: history(run, name) for name in ("loss", "grad_norm")} | {
            "world": run.accelerator.num_processes,
            "path": run.scoring.path,
            "pieces": len(run.scoring.pieces(batch)),
            "calls": counter.calls,
            "drift": sorted(run.displacement.pairs[:, 0].tolist()),
        }
        (folder / "found.json").write_text(json.dumps(found))
        torch.save(run.accelerator.unwrap_model(run.model).state_dict(), folder / "weights.pt")


def test_two_processes_synchronise_once_a_step_and_train_as_one(random_setting, tmp_path):
    """Batches of 2 on each of two processes, cut in pieces, are batches of 4 on one."""
    found = []
    for name, world, size in (("two", ranks(2), 4), ("one", [{}], 8)):
        folder = tmp_path / name
        folder.mkdir()
        work = partial(train_in_pieces, random_setting, folder, size)
        children = [in_child(work, environment=rank) for rank in world]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(world)
        found.append((json.loads((folder / "found.json").read_text()), torch.load(folder / "weights.pt")))
    (two, two_weights), (one, one_weights) = found
    assert (two["world"], one["world"], two["path"]) == (2, 1, "packed")
    assert two["pieces"] > 1 and two["calls"] == 4  # steps, whatever accumulation and pieces
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    # The alarm of displacement sees every pair of both processes, once.
    assert two["drift"] == pytest.approx(one["drift"], rel=1e-2, abs=1e-4) and len(one["drift"]) == 32
    for name, value in one_weights.items():
        assert (value - two_weights[name]).norm() <= 1e-3 * value.norm(), name
