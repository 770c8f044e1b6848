"""The trainer's own promises: the index, its calibration, its metrics, its files, its refusals, what it says."""

import json
import logging
import math
import re

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from pairs import add_by_transformers, build, history, llama, lora, small_pairs, trained
from peft import get_peft_model
from torch.utils.data import BatchSampler
from transformers import AutoModelForCausalLM
from trl.trainer.dpo_trainer import DataCollatorForPreference

from mallowspo.errors import InputError, NonFiniteLossError
from mallowspo.training.description import nothing_trained, rows_filled_up
from mallowspo.training.metrics import METRICS
from tiny import tiny_tokenizer

STEPWISE = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 1}


def weight_of(run, rows=None):
    return run.calibration.weight((run.train_dataset if rows is None else rows)["dispersion_raw"])


# The index and its weight.


def test_index_is_the_entropy_of_the_reference_by_definition(random_setting, tmp_path):
    """Recomputed row by row, unpadded, in float64 from plain logits."""
    run = build(random_setting, tmp_path, max_steps=1, dispersion_per="pair")
    model = AutoModelForCausalLM.from_pretrained(random_setting.path, dtype=torch.float64)
    for i in (0, 7, 20):
        row, shares = run.train_dataset[i], []
        for side in ("chosen_ids", "rejected_ids"):
            ids = torch.tensor([row["prompt_ids"] + row[side]])
            with torch.no_grad():
                p = model(ids).logits[0, len(row["prompt_ids"]) - 1 : -1].softmax(-1)
            shares.append((-(p * p.log()).sum(-1).mean() / np.log(p.shape[-1])).item())
        assert row["dispersion_index"] == pytest.approx(np.mean(shares), rel=1e-5)
        assert row["dispersion_raw"] == pytest.approx(-np.log(np.mean(shares)), rel=1e-4)


def test_mean_training_weight_is_one(setting, tmp_path):
    weight = weight_of(build(setting, tmp_path))
    assert weight.mean() == pytest.approx(1.0, abs=1e-9) and weight.std() > 0


def test_one_index_per_prompt_or_per_pair_and_a_separate_reference_gives_it(random_setting, tmp_path):
    prompts = random_setting.rows["prompt"]
    first, second = (i for i, prompt in enumerate(prompts) if prompt == prompts[0] and i < 2)
    by_prompt, by_pair, by_another = (
        build(random_setting, tmp_path, **changes).train_dataset["dispersion_index"]
        for changes in ({"dispersion_per": "prompt"}, {"dispersion_per": "pair"}, {"ref_model": llama(seed=9)})
    )
    assert by_prompt[first] == by_prompt[second] and by_pair[first] != by_pair[second]
    assert by_another != by_prompt


def test_weight_scales_the_gradient_of_a_pair(random_setting, tmp_path):
    """At a gap of 0 the pull of a pair is w beta / 2: twice the weight, twice the gradient."""
    norms = []
    for weight in (1.0, 2.0):
        rows = random_setting.rows.add_column("weight", [weight] * len(random_setting.rows))
        run = trained(random_setting, tmp_path, rows, dispersion="column", max_steps=1)
        norms.append(history(run, "grad_norm")[0])
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-4)


@pytest.fixture(scope="module")
def plain_losses(random_setting, tmp_path_factory):
    return history(trained(random_setting, tmp_path_factory.mktemp("plain"), max_steps=3), "loss")


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "mallows_phi"}, {"link": "hinge"}, {"label_smoothing": 0.2}, {"sft_weight": 0.5},
        {"length_normalized": True}, {"reference_weight": 0.5}, {"reference_weight": 0.5, "margin": 0.3},
        {"dispersion_scale": "0.3"}, {"dispersion_power": 0.5}, {"dispersion_shrink": 4.0},
        {"objective": "mallows_norm"}, {"dispersion_per": "pair"}, {"dispersion_clip": [0.999, 1.001]},
        {"beta": 0.3}, {"dispersion": "none"}, {"objective": "mallows_simpo"}, {"objective": "rainbow"},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_changes_the_result(random_setting, tmp_path, plain_losses, change):
    assert history(trained(random_setting, tmp_path, max_steps=3, **change), "loss") != plain_losses


def test_kendall_smoothing_changes_the_result(random_setting, tmp_path):
    changes = {"max_steps": 2, "objective": "mallows_phi"}
    runs = (trained(random_setting, tmp_path, kendall_smoothing=smoothing, **changes) for smoothing in (0.0, 0.5, 2.0))
    assert len({history(run, "grad_norm")[1] for run in runs}) == 3


def test_votes_and_rankings_and_columns_feed_the_weight(random_setting, tmp_path):
    rows = random_setting.rows
    votes = rows.add_column("votes", [[9, 1] if i % 4 < 2 else [6, 5] for i in range(len(rows))])
    weight = weight_of(build(random_setting, tmp_path, votes, dispersion="votes", dispersion_per="pair"))
    assert weight[0] > 1 > weight[2] and weight.mean() == pytest.approx(1)
    phi = rows.add_column("dispersion", [0.1 if i % 4 < 2 else 0.8 for i in range(len(rows))])
    weight = weight_of(build(random_setting, tmp_path, phi, dispersion="column", dispersion_scale="1.0"))
    assert weight[0] == pytest.approx(-2 * np.log(0.1)) and weight[2] == pytest.approx(-2 * np.log(0.8))
    rankings = rows.add_column("rankings", [[[1, 2], [1, 2], [2, 1], [1, 2]] for _ in range(len(rows))])
    weight = weight_of(build(random_setting, tmp_path, rankings, dispersion="rankings", dispersion_scale="1.0"))
    assert weight[0] == pytest.approx(-2 * np.log(1 / 3))


def test_weights_of_zero_are_refused(random_setting, tmp_path):
    rows = random_setting.rows.add_column("weight", [0.0] * len(random_setting.rows))
    with pytest.raises(InputError, match="nothing would be learnt"):
        build(random_setting, tmp_path, rows, dispersion="column", dispersion_per="pair")


def test_evaluation_reuses_the_training_calibration(random_setting, tmp_path):
    rows = random_setting.rows
    run = trained(
        random_setting, tmp_path, rows.select(range(20)), eval_dataset={"a": rows.select(range(20, 30))},
        eval_strategy="steps", eval_steps=2, max_steps=2, per_device_eval_batch_size=5,
    )  # fmt: skip
    evaluated = [entry for entry in run.state.log_history if "eval_a_loss" in entry][0]
    expected = weight_of(run, run.eval_dataset["a"])
    assert evaluated["eval_a_dispersion/weight_mean"] == pytest.approx(expected.mean(), rel=1e-6)
    assert expected.mean() != pytest.approx(1.0, abs=1e-6)


def test_calibration_travels_with_the_checkpoint(random_setting, tmp_path):
    changes = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    first = trained(random_setting, tmp_path, **changes)
    saved = json.loads((tmp_path / "checkpoint-1" / "mallowspo.json").read_text())
    assert saved["calibration"]["scale"] == first.calibration.scale
    # Other data, another mean: a resumed run keeps the scale that it began with.
    second = build(random_setting, tmp_path, random_setting.rows.select(range(9)), allow_other_data=True, **changes)
    assert second.calibration.scale != first.calibration.scale
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert second.calibration == first.calibration
    for change, said in (
        ({"dispersion_scale": "5.0"}, "automatic True .*False"),
        ({"dispersion_per": "pair"}, "per 'prompt' .*'pair'"),
        ({"dispersion_clip": [0.0, 2.0]}, "clip"),
        ({"dispersion": "none"}, "one of a dispersion index .*none"),
    ):
        with pytest.raises(InputError, match=f"^resume_from_checkpoint: .*{said}"):
            build(random_setting, tmp_path, max_steps=2, **change).train(
                resume_from_checkpoint=str(tmp_path / "checkpoint-1")
            )


# Metrics.


def test_metrics_are_exact_over_uneven_batches(random_setting, tmp_path):
    """12 rows in batches of 5, 5 and 2: every row counts the same."""
    values = []
    for size in (5, 12):
        held_out = random_setting.rows.select(range(12))
        run = build(random_setting, tmp_path, eval_dataset=held_out, per_device_eval_batch_size=size)
        torch.manual_seed(0)
        with torch.no_grad():
            for value in run.model.parameters():
                value.add_(torch.randn_like(value) * 0.01)
        values.append(run.evaluate())
    for name in ("eval_rewards/accuracies", "eval_rewards/margins", "eval_entropy", "eval_dispersion/weight_p90"):
        assert values[0][name] == pytest.approx(values[1][name], rel=1e-4)
    assert values[0]["eval_rewards/accuracies"] not in (0.0, 0.5, 1.0)


@pytest.mark.parametrize(("batch", "accumulation"), [(13, 1), (4, 1), (4, 4), (4, 2), (5, 3)])
def test_every_pair_counts_once_under_accumulation_and_a_short_last_batch(
    random_setting, tmp_path, batch, accumulation
):
    run = trained(
        random_setting, tmp_path, small_pairs(13), learning_rate=0.0, max_steps=-1, num_train_epochs=1,
        logging_steps=100, logging_first_step=False, per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation, dispersion_per="pair",
    )  # fmt: skip
    rows = run.train_dataset
    tokens = sum(2 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows)
    assert run.total_train_tokens == tokens
    record = run._stores["train"].drain() or run.state.log_history[-1]
    assert record["dispersion/weight_mean"] == pytest.approx(weight_of(run).mean(), rel=1e-6)
    assert record["dispersion/weight_std"] == pytest.approx(weight_of(run).std(), rel=1e-4)


def test_before_training_every_pair_is_a_tie_that_counts_half_whatever_it_is_padded_with(random_setting, tmp_path):
    run = trained(random_setting, tmp_path, learning_rate=0.0, max_steps=7, share_prompts=False)
    assert history(run, "rewards/accuracies") == [0.5] * 7
    assert history(run, "logps_delta/displaced") == [0.0] * 7
    assert {"loss", "grad_norm", *METRICS} - {"aux_loss", "beta", "loss_weight", "rewards/ndcg"} <= set(
        run.state.log_history[0]
    )


def test_predicting_leaves_the_next_evaluation_alone(random_setting, tmp_path):
    run = trained(random_setting, tmp_path, eval_dataset=random_setting.rows.select(range(3)), max_steps=4)
    first = run.evaluate()
    run.predict(run.train_dataset)
    second = run.evaluate()
    assert first["eval_rewards/margins"] == second["eval_rewards/margins"]


def test_a_metric_of_ours_can_choose_the_best_model(random_setting, tmp_path):
    run = trained(
        random_setting, tmp_path, eval_dataset=random_setting.rows.select(range(6)), eval_steps=1, max_steps=3,
        load_best_model_at_end=True, metric_for_best_model="eval_rewards/accuracies", **STEPWISE,
    )  # fmt: skip
    best = max(entry["eval_rewards/accuracies"] for entry in run.state.log_history if "eval_loss" in entry)
    assert run.state.best_metric == best
    assert all(torch.isfinite(value).all() for value in run.model.parameters())


# References.


def test_lora_reference_is_the_adapter_switched_off(setting, tmp_path):
    run = trained(setting, tmp_path, peft_config=lora(), max_steps=10, learning_rate=1e-2)
    assert history(run, "loss")[0] == pytest.approx(math.log(2), abs=2e-6)
    assert history(run, "loss")[-1] != pytest.approx(math.log(2), abs=1e-3)
    row = run.train_dataset[0]
    batch = run.data_collator([{key: row[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}])
    with torch.no_grad(), run.model.disable_adapter():
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        logp = run.model(**{k: batch[k] for k in ("input_ids", "attention_mask")}, labels=labels, fused_lm_head=True)
    assert logp.log_probs.sum(1)[0].item() == pytest.approx(row["ref_chosen_logps"], rel=1e-5)


def held():
    model = llama()
    add_by_transformers(model, lora())
    return model


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        (None, lambda: {"peft_config": lora()}, "the policy with its adapter off"),
        (lambda: get_peft_model(llama(seed=9), lora()), dict, "a frozen copy of the adapter"),
        (held, lambda: {"precompute_ref_log_probs": True}, ".*adapters that transformers holds included"),
        (held, lambda: {"ref_model": llama()}, "a separate model"),
        (None, lambda: {"objective": "simpo"}, "none"),
    ],
)
def test_the_reference_is_named(random_setting, tmp_path, caplog, model, given, said):
    model = random_setting if model is None else model()
    with caplog.at_level(logging.INFO, logger="mallowspo"):
        build(model, tmp_path, random_setting.rows, **{"objective": "dpo"} | given())
    assert re.search(f"; reference = {said}", caplog.text)


@pytest.mark.parametrize("adapter", [{}, {"peft_config": lora()}])
def test_a_step_leaves_nothing_behind_on_the_embeddings(random_setting, tmp_path, adapter):
    """TRL switches checkpointing off and on around a live reference; each time it leaves a hook, and steps grow."""
    changes = {
        "objective": "dpo",
        "gradient_checkpointing": True,
        "eval_strategy": "steps",
        "eval_steps": 1,
        **adapter,
    }
    hooks = [
        len(run.model.get_input_embeddings()._forward_hooks)
        for steps in (1, 6)
        for run in [
            trained(
                random_setting, tmp_path / str(steps), eval_dataset=random_setting.rows, max_steps=steps, **changes
            )
        ]
    ]
    assert hooks[0] == hooks[1]


@pytest.mark.parametrize("objective", ["simpo", "mallows_simpo"])
def test_no_reference_model_is_kept_where_none_is_needed(random_setting, tmp_path, objective):
    run = trained(random_setting, tmp_path, objective=objective, max_steps=2)
    assert run.ref_model is None and "logps_delta/chosen" not in run.state.log_history[0]
    with pytest.raises(InputError, match="^ref_model: "):
        build(random_setting, tmp_path, objective="simpo", ref_model=llama())


def test_new_rows_after_training_need_a_reference_that_is_still_there(random_setting, tmp_path):
    run = trained(random_setting, tmp_path, objective="simpo", max_steps=2)
    assert run.evaluate(small_pairs(5))["eval_loss"] > 0 and run.predict(small_pairs(5)).metrics["test_loss"] > 0
    run = trained(random_setting, tmp_path, max_steps=2, ref_model=llama())
    assert run.evaluate(small_pairs(5))["eval_dispersion/weight_mean"] > 0
    run = build(random_setting, tmp_path, max_steps=2)
    assert run.evaluate(small_pairs(5))["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    run.train()
    with pytest.raises(InputError, match="give the trainer a ref_model"):
        run.evaluate(small_pairs(5))


# What a run saves and says.


def test_saved_model_loads_and_generates(setting, tmp_path):
    run = trained(setting, tmp_path, max_steps=2)
    run.save_model()
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = run.processing_class("Once upon a time", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=5, do_sample=False).shape[1] > ids.shape[1]


def test_the_card_of_an_adapter_is_ours(random_setting, tmp_path):
    run = trained(random_setting, tmp_path, objective="dpo", max_steps=1, peft_config=lora())
    for folder in (tmp_path, tmp_path / "elsewhere"):
        run.save_model(str(folder))
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "MallowsPO" in card and "2405.14953" in card
        assert "More Information Needed" not in card and "library_name: peft" in card


@pytest.mark.parametrize(("spread", "said"), [(0.01, True), (0.5, False)])
def test_weights_that_hardly_differ_are_said(random_setting, tmp_path, caplog, spread, said):
    rows = small_pairs(12).add_column("weight", [1 + spread * (-1) ** i for i in range(12)])
    with caplog.at_level(logging.WARNING):
        run = build(random_setting, tmp_path, rows, dispersion="column", dispersion_per="pair")
    assert any("hardly differ" in remark for remark in run.remarks) is said is ("hardly differ" in caplog.text)


@pytest.mark.parametrize("rows", [7, 8, 9, 16, 1])
@pytest.mark.parametrize(("batch_size", "processes"), [(2, 2), (4, 2), (3, 3)])
def test_rows_filled_up_are_accelerates(rows, batch_size, processes):
    sampler = BatchSampler(range(rows), batch_size, drop_last=False)
    shards = [BatchSamplerShard(sampler, processes, i) for i in range(processes)]
    drawn = sum(len(batch) for shard in shards for batch in shard)
    assert drawn - rows == rows_filled_up(rows, batch_size=batch_size, processes=processes)
    assert rows_filled_up(rows, batch_size=batch_size, processes=1) == 0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"learning_rate": 0.0, "max_steps": 2}, "learning rate was 0"),
        ({"num_train_epochs": 0, "max_steps": -1}, "0 steps"),
        ({"max_steps": 2}, None),
    ],
    ids=str,
)
def test_a_training_that_was_none_is_said(random_setting, tmp_path, caplog, changes, why):
    run = build(random_setting, tmp_path, objective="dpo", **changes)
    with caplog.at_level(logging.WARNING):
        run.train()
    said = [record.message for record in caplog.records if "nothing was trained" in record.message]
    assert len(said) == (why is not None) and all(why in text for text in said)


def test_gradients_that_were_all_0_are_said():
    assert "gradient" in nothing_trained([{"loss": 0.7, "grad_norm": 0.0, "learning_rate": 1e-6}], steps=1)


# What stops a run.


def test_nan_loss_stops_the_run_and_names_the_row(random_setting, tmp_path):
    def poisoned(examples):
        batch = collate(examples)
        # The sixth row's stored reference is damaged: the loss of that pair alone is NaN.
        for place, row in enumerate(batch["row_index"].tolist()):
            if row == 5:
                batch["ref_chosen_logps"][place] = float("nan")
        return batch

    run = build(
        random_setting, tmp_path, max_steps=20, save_strategy="steps", save_steps=1, objective="dpo",
        precompute_ref_log_probs=True,
    )  # fmt: skip
    collate, run.data_collator = run.data_collator, poisoned
    with pytest.raises(NonFiniteLossError, match=r"row 6 \(loss nan\)") as caught:
        run.train()
    assert "weights are finite" in str(caught.value)
    for checkpoint in tmp_path.glob("checkpoint-*"):
        for value in AutoModelForCausalLM.from_pretrained(checkpoint).parameters():
            assert torch.isfinite(value).all()


def test_broken_weights_are_told_from_broken_rows(random_setting, tmp_path):
    run = build(random_setting, tmp_path, max_steps=3, objective="dpo")
    next(run.model.parameters()).data[:] = float("nan")
    with pytest.raises(NonFiniteLossError, match="weights are already not finite"):
        run.train()


def test_margin_column_is_honoured_or_refused(random_setting, tmp_path):
    rows = random_setting.rows
    margins = rows.add_column("margin", [0.1 * i for i in range(len(rows))])
    plain, other = (
        history(trained(random_setting, tmp_path, data, objective="simpo", max_steps=2), "loss")
        for data in (rows, margins)
    )
    assert plain != other
    with pytest.raises(InputError, match="column 'margin' in the train data: objective 'dpo' has no margin"):
        build(random_setting, tmp_path, margins, objective="dpo")
    with pytest.raises(InputError, match="^margin: "):
        build(random_setting, tmp_path, margins, objective="simpo", margin=0.3)


@pytest.mark.parametrize(("column", "objective"), [("margin", "simpo"), ("dispersion_raw", "mallows_theta")])
def test_a_collator_that_loses_a_column_is_told(random_setting, tmp_path, column, objective):
    rows = random_setting.rows
    if column == "margin":
        rows = rows.add_column("margin", [0.5] * len(rows))
    collator = DataCollatorForPreference(pad_token_id=0)
    with pytest.raises(InputError, match=f"no column '{column}'"):
        build(random_setting, tmp_path, rows, objective=objective, data_collator=collator)


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        (small_pairs(4), {"dispersion": "votes"}, "^dispersion: votes needs a column 'votes'"),
        (small_pairs(4), {"dispersion": "column"}, "^dispersion: column needs either a column 'dispersion'"),
        (small_pairs(4), {"max_length": 5}, "prompt_too_long"),
        (Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "b"}] * 3), {}, "identical"),
        (Dataset.from_list([{"question": "a", "answer": "b"}]), {}, "question"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_before_a_model_is_loaded(tmp_path, rows, changes, said):
    tiny_tokenizer().save_pretrained(tmp_path)  # a tokenizer and no weights: loading a model would fail
    with pytest.raises(InputError, match=said):
        build(str(tmp_path), tmp_path / "out", rows, **changes)


def test_rows_left_out_are_counted_and_named(random_setting, tmp_path):
    rows = Dataset.from_list([*small_pairs(6), {"prompt": "a", "chosen": "b", "rejected": "b"}, *small_pairs(2)])
    run = build(random_setting, tmp_path, rows, invalid_rows="drop")
    told = run.splits["train"].to_dict()
    (kind,) = told["dropped"]
    assert told["dropped"] == {kind: 1} and told["dropped_rows"] == {kind: [7]}
    assert (told["rows_read"], told["rows_used"]) == (9, len(run.train_dataset)) == (9, 8)


def test_a_column_that_is_not_read_costs_no_row(random_setting, tmp_path):
    rows = random_setting.rows.to_list()
    for i, row in enumerate(rows):
        row["votes"] = None if i else [1, 2]
        row["weight"] = float("nan") if i % 2 else 1.0
    run = build(random_setting, tmp_path, Dataset.from_list(rows), objective="dpo")
    assert len(run.train_dataset) == len(rows) and run.splits["train"].unread == ("votes", "weight")


def test_an_evaluation_split_named_train_stays_apart(random_setting, tmp_path):
    run = build(random_setting, tmp_path, eval_dataset={"train": random_setting.rows.select(range(2))})
    assert run.splits["train"].rows_read == len(random_setting.rows)
    assert run.splits["eval_train"].rows_read == 2
