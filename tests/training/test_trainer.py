"""The trainer's own promises: the index, its calibration, its metrics, its files, its refusals."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from pairs import history, options, small_pairs
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import DPOConfig

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.errors import InputError, NonFiniteLossError
from tiny import tiny_llama, tiny_tokenizer


def build(setting, tmp_path, rows=None, **changes):
    keep = {key: changes.pop(key) for key in ("eval_dataset", "peft_config", "ref_model") if key in changes}
    args = MallowsPOConfig(**options(tmp_path, **changes))
    return MallowsPOTrainer(setting.path, args=args, train_dataset=setting.rows if rows is None else rows, **keep)


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
    run = build(setting, tmp_path)
    weight = run.calibration.weight(run.train_dataset["dispersion_raw"])
    assert weight.mean() == pytest.approx(1.0, abs=1e-9) and weight.std() > 0


def test_one_index_per_prompt_or_per_pair(random_setting, tmp_path):
    prompts = random_setting.rows["prompt"]
    first, second = (i for i, prompt in enumerate(prompts) if prompt == prompts[0] and i < 2)
    by_prompt = build(random_setting, tmp_path, dispersion_per="prompt").train_dataset["dispersion_index"]
    by_pair = build(random_setting, tmp_path, dispersion_per="pair").train_dataset["dispersion_index"]
    assert by_prompt[first] == by_prompt[second] and by_pair[first] != by_pair[second]


def test_weight_scales_the_gradient_of_a_pair(random_setting, tmp_path):
    """At a gap of 0 the pull of a pair is w beta / 2: twice the weight, twice the gradient."""
    norms = []
    for weight in (1.0, 2.0):
        rows = random_setting.rows.add_column("weight", [weight] * len(random_setting.rows))
        run = build(random_setting, tmp_path, rows, dispersion="column", max_steps=1)
        run.train()
        norms.append(history(run, "grad_norm")[0])
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "mallows_phi"}, {"link": "hinge"}, {"label_smoothing": 0.2}, {"sft_weight": 0.5},
        {"length_normalized": True}, {"reference_weight": 0.5}, {"reference_weight": 0.5, "margin": 0.3},
        {"dispersion_scale": "0.3"}, {"dispersion_per": "pair"}, {"dispersion_clip": [0.999, 1.001]},
        {"beta": 0.3}, {"dispersion": "none"}, {"objective": "mallows_simpo"}, {"objective": "rainbow"},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_changes_the_result(random_setting, tmp_path, plain_losses, change):
    assert losses(random_setting, tmp_path, **change) != plain_losses


def losses(setting, folder, **changes):
    run = build(setting, folder, max_steps=3, **changes)
    run.train()
    return history(run, "loss")


@pytest.fixture(scope="module")
def plain_losses(random_setting, tmp_path_factory):
    return losses(random_setting, tmp_path_factory.mktemp("plain"))


def test_kendall_smoothing_changes_the_result(random_setting, tmp_path):
    norms = set()
    for smoothing in (0.0, 0.5, 2.0):
        run = build(random_setting, tmp_path, max_steps=2, objective="mallows_phi", kendall_smoothing=smoothing)
        run.train()
        norms.add(history(run, "grad_norm")[1])
    assert len(norms) == 3


def test_votes_and_rankings_and_columns_feed_the_weight(random_setting, tmp_path):
    n = len(random_setting.rows)
    votes = random_setting.rows.add_column("votes", [[9, 1] if i % 4 < 2 else [6, 5] for i in range(n)])
    run = build(random_setting, tmp_path, votes, dispersion="votes", dispersion_per="pair")
    weight = run.calibration.weight(run.train_dataset["dispersion_raw"])
    assert weight[0] > 1 > weight[2] and weight.mean() == pytest.approx(1)
    phi = random_setting.rows.add_column("dispersion", [0.1 if i % 4 < 2 else 0.8 for i in range(n)])
    run = build(random_setting, tmp_path, phi, dispersion="column", dispersion_scale="1.0")
    weight = run.calibration.weight(run.train_dataset["dispersion_raw"])
    assert weight[0] == pytest.approx(-2 * np.log(0.1)) and weight[2] == pytest.approx(-2 * np.log(0.8))
    rankings = random_setting.rows.add_column("rankings", [[[1, 2], [1, 2], [2, 1], [1, 2]] for _ in range(n)])
    run = build(random_setting, tmp_path, rankings, dispersion="rankings", dispersion_scale="1.0")
    assert run.calibration.weight(run.train_dataset["dispersion_raw"])[0] == pytest.approx(-2 * np.log(1 / 3))


def test_evaluation_reuses_the_training_calibration(random_setting, tmp_path):
    rows = random_setting.rows
    run = build(
        random_setting, tmp_path, rows.select(range(20)), eval_dataset={"a": rows.select(range(20, 30))},
        eval_strategy="steps", eval_steps=2, max_steps=2, per_device_eval_batch_size=5,
    )  # fmt: skip
    run.train()
    evaluated = [entry for entry in run.state.log_history if "eval_a_loss" in entry][0]
    expected = run.calibration.weight(run.eval_dataset["a"]["dispersion_raw"])
    assert evaluated["eval_a_dispersion/weight_mean"] == pytest.approx(expected.mean(), rel=1e-6)
    assert expected.mean() != pytest.approx(1.0, abs=1e-6)


def test_metrics_are_exact_over_uneven_batches(random_setting, tmp_path):
    """12 rows in batches of 5, 5 and 2: every row counts the same."""
    rows = random_setting.rows
    values = []
    for size in (5, 12):
        run = build(
            random_setting, tmp_path, eval_dataset=rows.select(range(12)), per_device_eval_batch_size=size,
            objective="mallows_theta",
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.no_grad():
            for value in run.model.parameters():
                value.add_(torch.randn_like(value) * 0.01)
        values.append(run.evaluate())
    for name in ("eval_rewards/accuracies", "eval_rewards/margins", "eval_entropy", "eval_dispersion/weight_p90"):
        assert values[0][name] == pytest.approx(values[1][name], rel=1e-4)
    assert values[0]["eval_rewards/accuracies"] not in (0.0, 0.5, 1.0)


def test_our_metrics_stand_beside_trls(random_setting, tmp_path):
    run = build(random_setting, tmp_path, max_steps=1)
    run.train()
    logged = set(run.state.log_history[0])
    assert {
        "loss", "grad_norm", "learning_rate", "entropy", "num_tokens", "mean_token_accuracy", "logits/chosen",
        "logits/rejected", "logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected",
        "rewards/accuracies", "rewards/margins", "dispersion/weight_mean", "dispersion/weight_std",
        "dispersion/weight_p10", "dispersion/weight_p90", "dispersion/weight_clipped", "dispersion/entropy_mean",
        "rewards/margins_weighted", "logps_delta/chosen", "logps_delta/rejected", "logps_delta/chosen_per_token",
        "logps_delta/displaced",
    } <= logged  # fmt: skip


def test_a_tie_counts_half(random_setting, tmp_path):
    run = build(random_setting, tmp_path, objective="dpo", max_steps=1)
    run.train()
    assert history(run, "rewards/accuracies")[0] == 0.5


def test_calibration_travels_with_the_checkpoint(random_setting, tmp_path):
    changes = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    first = build(random_setting, tmp_path, **changes)
    first.train()
    saved = json.loads((tmp_path / "checkpoint-1" / "mallowspo.json").read_text())
    assert saved["calibration"]["scale"] == first.calibration.scale
    # Other data, another mean: a resumed run keeps the scale that it began with.
    second = build(random_setting, tmp_path, random_setting.rows.select(range(9)), allow_other_data=True, **changes)
    assert second.calibration.scale != first.calibration.scale
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert second.calibration == first.calibration


def test_saved_model_loads_and_generates(setting, tmp_path):
    run = build(setting, tmp_path, max_steps=2)
    run.train()
    run.save_model()
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = run.processing_class("Once upon a time", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=5, do_sample=False).shape[1] > ids.shape[1]


def test_lora_reference_is_the_adapter_switched_off(setting, tmp_path):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    run = build(setting, tmp_path, peft_config=lora, max_steps=10, objective="mallows_theta", learning_rate=1e-2)
    run.train()
    assert history(run, "loss")[0] == pytest.approx(np.log(2), abs=2e-6)
    assert history(run, "loss")[-1] != pytest.approx(np.log(2), abs=1e-3)
    row = run.train_dataset[0]
    batch = run.data_collator([{key: row[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")}])
    with torch.no_grad(), run.model.disable_adapter():
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        logp = run.model(**{k: batch[k] for k in ("input_ids", "attention_mask")}, labels=labels, fused_lm_head=True)
    assert logp.log_probs.sum(1)[0].item() == pytest.approx(row["ref_chosen_logps"], rel=1e-5)


def test_a_separate_reference_gives_the_index(random_setting, tmp_path):
    other = tiny_llama(vocab_size=len(tiny_tokenizer()), seed=9)
    with_other = build(random_setting, tmp_path, ref_model=other)
    without = build(random_setting, tmp_path)
    assert with_other.train_dataset["dispersion_index"] != without.train_dataset["dispersion_index"]


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


@pytest.mark.parametrize("objective", ["simpo", "mallows_simpo"])
def test_no_reference_model_is_kept_where_none_is_needed(random_setting, tmp_path, objective):
    run = build(random_setting, tmp_path, objective=objective, max_steps=2)
    assert run.ref_model is None
    run.train()
    assert ("logps_delta/chosen" in run.state.log_history[0]) is False


def test_margin_column_is_honoured_or_refused(random_setting, tmp_path):
    rows = random_setting.rows
    margins = rows.add_column("margin", [0.1 * i for i in range(len(rows))])

    def losses(data):
        run = build(random_setting, tmp_path, data, objective="simpo", max_steps=2)
        run.train()
        return history(run, "loss")

    assert losses(margins) != losses(rows)
    with pytest.raises(InputError, match="column 'margin' in the train data: objective 'dpo' has no margin"):
        build(random_setting, tmp_path, margins, objective="dpo")


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        (small_pairs(4), {"dispersion": "votes"}, "dispersion: votes needs a column 'votes'"),
        (small_pairs(4), {"dispersion": "column"}, "needs either a column 'dispersion'"),
        (small_pairs(4), {"max_length": 5}, "prompt_too_long"),
        (Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "b"}] * 3), {}, "identical"),
        (Dataset.from_list([{"question": "a", "answer": "b"}]), {}, "question"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_before_a_model_is_loaded(
    random_setting, tmp_path, rows, changes, said
):
    (tmp_path / "broken").mkdir()
    tiny_tokenizer().save_pretrained(tmp_path / "broken")  # a tokenizer and no weights: loading a model would fail
    args = MallowsPOConfig(**options(tmp_path, **changes))
    with pytest.raises(InputError, match=said):
        MallowsPOTrainer(str(tmp_path / "broken"), args=args, train_dataset=rows, processing_class=tiny_tokenizer())


def test_dropping_is_counted(random_setting, tmp_path):
    rows = Dataset.from_list([*small_pairs(6), {"prompt": "a", "chosen": "b", "rejected": "b"}])
    run = build(random_setting, tmp_path, rows, invalid_rows="drop")
    split = run.splits["train"]
    assert len(run.train_dataset) == 6 and split.rows_read == 7 and sum(split.dropped.values()) == 1


def test_trls_configuration_is_refused_with_the_way_out(random_setting, tmp_path):
    with pytest.raises(InputError, match="expected MallowsPOConfig"):
        MallowsPOTrainer(random_setting.path, args=DPOConfig(**options(tmp_path)), train_dataset=random_setting.rows)
