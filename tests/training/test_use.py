"""What people do with a trainer, and what they get wrong."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from pairs import history, options, small_pairs
from trl.trainer.dpo_trainer import DataCollatorForPreference

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.errors import InputError
from tiny import tiny_llama, tiny_tokenizer


def build(setting, tmp_path, rows=None, **changes):
    keep = {key: changes.pop(key) for key in ("eval_dataset", "ref_model", "data_collator") if key in changes}
    args = MallowsPOConfig(**options(tmp_path, **changes))
    return MallowsPOTrainer(setting.path, args=args, train_dataset=setting.rows if rows is None else rows, **keep)


@pytest.mark.parametrize(("batch", "accumulation"), [(13, 1), (4, 1), (4, 4), (4, 2), (5, 3)])
def test_every_pair_counts_once_under_accumulation_and_a_short_last_batch(
    random_setting, tmp_path, batch, accumulation
):
    run = build(
        random_setting, tmp_path, small_pairs(13), learning_rate=0.0, max_steps=-1, num_train_epochs=1,
        logging_steps=100, logging_first_step=False, per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation, dispersion_per="pair",
    )  # fmt: skip
    run.train()
    rows = run.train_dataset
    tokens = sum(2 * len(r["prompt_ids"]) + len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in rows)
    logged = run.state.log_history[-1]
    assert run.total_train_tokens == tokens
    weight = run.calibration.weight(rows["dispersion_raw"])
    record = run._recorder.drain("train") or logged
    assert record["dispersion/weight_mean"] == pytest.approx(weight.mean(), rel=1e-6)
    assert record["dispersion/weight_std"] == pytest.approx(weight.std(), rel=1e-4)


def test_before_training_every_pair_is_a_tie_whatever_it_is_padded_with(random_setting, tmp_path):
    run = build(random_setting, tmp_path, learning_rate=0.0, max_steps=7, share_prompts=False)
    run.train()
    assert history(run, "rewards/accuracies") == [0.5] * 7


def test_predicting_leaves_the_next_evaluation_alone(random_setting, tmp_path):
    rows = random_setting.rows
    run = build(random_setting, tmp_path, eval_dataset=rows.select(range(3)), max_steps=4)
    run.train()
    first = run.evaluate()
    run.predict(run.train_dataset)
    second = run.evaluate()
    assert first["eval_rewards/margins"] == second["eval_rewards/margins"]


def test_new_rows_after_training_where_no_reference_is_needed(random_setting, tmp_path):
    run = build(random_setting, tmp_path, objective="simpo", max_steps=2)
    run.train()
    assert run.evaluate(small_pairs(5))["eval_loss"] > 0
    assert run.predict(small_pairs(5)).metrics["test_loss"] > 0


def test_new_rows_after_full_fine_tuning_are_refused_with_the_way_out(random_setting, tmp_path):
    run = build(random_setting, tmp_path, max_steps=2)
    assert run.evaluate(small_pairs(5))["eval_loss"] == pytest.approx(np.log(2), abs=1e-5)
    run.train()
    with pytest.raises(InputError, match="give the trainer a ref_model"):
        run.evaluate(small_pairs(5))


def test_new_rows_after_training_with_a_reference_of_its_own(random_setting, tmp_path):
    other = tiny_llama(vocab_size=len(tiny_tokenizer()), seed=0)
    run = build(random_setting, tmp_path, max_steps=2, ref_model=other)
    run.train()
    assert run.evaluate(small_pairs(5))["eval_dispersion/weight_mean"] > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dispersion_scale": "5.0"}, "automatic True and this run has False"),
        ({"dispersion_per": "pair"}, "per 'prompt' and this run has 'pair'"),
        ({"dispersion_clip": [0.0, 2.0]}, "clip"),
        ({"dispersion": "none"}, "one of a dispersion index and this run has none"),
    ],
)
def test_resuming_with_another_index_is_refused(random_setting, tmp_path, changes, said):
    run = build(random_setting, tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    run.train()
    other = build(random_setting, tmp_path, max_steps=2, **changes)
    with pytest.raises(InputError, match=said):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_column_that_is_not_read_costs_no_row(random_setting, tmp_path):
    rows = random_setting.rows.to_list()
    for i, row in enumerate(rows):
        row["votes"] = None if i else [1, 2]
        row["weight"] = float("nan") if i % 2 else 1.0
    run = build(random_setting, tmp_path, Dataset.from_list(rows), objective="dpo")
    assert len(run.train_dataset) == len(rows) and run.splits["train"].unread == ("votes", "weight")


def test_rows_left_out_are_named(random_setting, tmp_path):
    rows = [*small_pairs(6), {"prompt": "a", "chosen": "b", "rejected": "b"}, *small_pairs(2)]
    split = build(random_setting, tmp_path, Dataset.from_list(rows), invalid_rows="drop").splits["train"]
    (kind,) = split.dropped
    assert split.to_dict()["dropped_rows"] == {kind: [7]}


def test_margin_twice_is_refused(random_setting, tmp_path):
    rows = random_setting.rows.add_column("margin", [0.5] * len(random_setting.rows))
    with pytest.raises(InputError, match="leave one of the two out"):
        build(random_setting, tmp_path, rows, objective="simpo", margin=0.3)


@pytest.mark.parametrize(("column", "objective"), [("margin", "simpo"), ("dispersion_raw", "mallows_theta")])
def test_a_collator_that_loses_a_column_is_told(random_setting, tmp_path, column, objective):
    rows = random_setting.rows
    if column == "margin":
        rows = rows.add_column("margin", [0.5] * len(rows))
    collator = DataCollatorForPreference(pad_token_id=0)
    with pytest.raises(InputError, match=f"no column '{column}'"):
        build(random_setting, tmp_path, rows, objective=objective, data_collator=collator).train()


def test_weights_of_zero_are_refused(random_setting, tmp_path):
    rows = random_setting.rows.add_column("weight", [0.0] * len(random_setting.rows))
    with pytest.raises(InputError, match="nothing would be learnt"):
        build(random_setting, tmp_path, rows, dispersion="column", dispersion_per="pair")


def test_a_reference_that_nobody_reads_is_refused(random_setting, tmp_path):
    with pytest.raises(InputError, match="ref_model: objective 'simpo'"):
        build(random_setting, tmp_path, objective="simpo", ref_model=tiny_llama())


def test_an_evaluation_split_named_train_stays_apart(random_setting, tmp_path):
    run = build(random_setting, tmp_path, eval_dataset={"train": random_setting.rows.select(range(2))})
    assert run.splits["train"].rows_read == len(random_setting.rows)
    assert run.splits["eval_train"].rows_read == 2


@pytest.mark.parametrize("order", ["agreed_first", "contested_first"])
def test_curriculum_shows_rows_in_the_order_of_their_dispersion(random_setting, tmp_path, order):
    run = build(
        random_setting, tmp_path, dispersion_order=order, max_steps=-1, num_train_epochs=1, dispersion_per="pair",
        per_device_train_batch_size=5,
    )  # fmt: skip
    run.train()
    means = np.array(history(run, "dispersion/weight_mean"))
    assert (np.diff(means) < 0).all() if order == "agreed_first" else (np.diff(means) > 0).all()


def test_filter_trains_on_the_rows_that_it_keeps_with_mean_weight_one(random_setting, tmp_path):
    run = build(random_setting, tmp_path, dispersion_filter=[0.0, 0.5], dispersion_per="pair")
    every = build(random_setting, tmp_path, dispersion_per="pair").train_dataset
    assert len(run.train_dataset) == len(every) // 2
    assert min(run.train_dataset["dispersion_raw"]) >= np.median(every["dispersion_raw"])
    assert run.calibration.weight(run.train_dataset["dispersion_raw"]).mean() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dispersion_order": "hardest_first"}, "dispersion_order: got 'hardest_first'"),
        ({"dispersion_filter": [0.9, 0.1]}, "dispersion_filter"),
        ({"objective": "dpo", "dispersion_order": "agreed_first"}, "where it has no effect"),
        ({"objective": "dpo", "dispersion_filter": [0.0, 0.5]}, "where it has no effect"),
        ({"dispersion_order": "agreed_first", "train_sampling_strategy": "group_by_length"}, "sorts the rows anew"),
        ({"label_smoothing_factor": 0.1}, "is label_smoothing"),
        ({"beta": "0.1"}, "beta: got '0.1'"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        MallowsPOConfig(**options(tmp_path, **changes))


def test_loss_of_a_named_split_can_choose_the_best_model(random_setting, tmp_path):
    rows = random_setting.rows
    run = build(
        random_setting, tmp_path, eval_dataset=rows.select(range(6)), eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1, load_best_model_at_end=True, max_steps=3,
        metric_for_best_model="eval_rewards/accuracies",
    )  # fmt: skip
    run.train()
    best = max(entry["eval_rewards/accuracies"] for entry in run.state.log_history if "eval_loss" in entry)
    assert run.state.best_metric == best
    assert all(torch.isfinite(value).all() for value in run.model.parameters())
