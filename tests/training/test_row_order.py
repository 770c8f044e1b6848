"""Curriculum and filter by dispersion; the pairs of a ranked list stay together, and train as padded rows do."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pairs import build, history, small_pairs, trained
from transformers import AutoModelForCausalLM

from mallowspo.dispersion.calibration import ENTROPY_FLOOR
from mallowspo.training.row_order import ListSampler, selected_rows


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 20)))
def test_orders_are_sorted_and_lose_nothing(raw):
    agreed, contested = (selected_rows(raw, order=f"{name}_first") for name in ("agreed", "contested"))
    assert (np.diff(raw[agreed]) <= 0).all() and (np.diff(raw[contested]) >= 0).all()
    assert sorted(agreed) == sorted(contested) == selected_rows(raw).tolist() == list(range(len(raw)))


@given(st.integers(10, 60), st.integers(0, 4), st.integers(6, 10))
def test_filter_keeps_the_share_that_it_says(count, low, high):
    rng = np.random.default_rng(count)
    raw = rng.permutation(np.linspace(0, 5, count))  # no ties
    kept = selected_rows(raw, keep=(low / 10, high / 10))
    assert abs(len(kept) - count * (high - low) / 10) <= 2
    ranks = np.argsort(np.argsort(-raw))[kept] / (count - 1)
    assert ranks.min() >= low / 10 - 1e-9 and ranks.max() <= high / 10 + 1e-9


def test_rows_of_one_prompt_stay_or_go_together():
    raw = np.array([3.0, 3.0, 3.0, 1.0, 1.0, 0.5])
    kept = selected_rows(raw, keep=(0.0, 0.5))
    assert kept.tolist() in ([0, 1, 2], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("order", ["agreed_first", "contested_first"])
def test_curriculum_shows_rows_in_the_order_of_their_dispersion(random_setting, tmp_path, order):
    run = trained(
        random_setting, tmp_path, dispersion_order=order, max_steps=-1, num_train_epochs=1, dispersion_per="pair",
        per_device_train_batch_size=5,
    )  # fmt: skip
    means = np.array(history(run, "dispersion/weight_mean"))
    assert (np.diff(means) < 0).all() if order == "agreed_first" else (np.diff(means) > 0).all()


def test_filter_trains_on_the_rows_that_it_keeps_with_mean_weight_one(random_setting, tmp_path):
    run = build(random_setting, tmp_path, dispersion_filter=[0.0, 0.5], dispersion_per="pair")
    every = build(random_setting, tmp_path, dispersion_per="pair").train_dataset
    assert len(run.train_dataset) == len(every) // 2
    assert min(run.train_dataset["dispersion_raw"]) >= np.median(every["dispersion_raw"])
    assert run.calibration.weight(run.train_dataset["dispersion_raw"]).mean() == pytest.approx(1.0)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_rows_at_the_end_of_the_map_are_counted_among_those_that_train(random_setting, tmp_path, share):
    model = AutoModelForCausalLM.from_pretrained(random_setting.path)
    model.model.norm.weight.data.mul_(1e5)  # sure of every token: entropies below what the map tells apart
    run = build(model, tmp_path, random_setting.rows, dispersion_filter=[0.0, share], dispersion_per="pair")
    floored = np.asarray(run.train_dataset["dispersion_index"]) < ENTROPY_FLOOR
    assert run.calibration.floored == floored.sum() > 0 and run.calibration.rows == len(run.train_dataset)


# Ranked lists.


@given(st.lists(st.integers(0, 6), max_size=25), st.integers(0, 3))
def test_every_row_once_and_lists_in_one_piece_in_their_order(row_index, epoch):
    sampler = ListSampler(row_index, seed=5)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(row_index))) and len(sampler) == len(row_index)
    drawn = [row_index[i] for i in order]
    for name in set(row_index):
        places = [i for i, found in enumerate(drawn) if found == name]
        assert places == list(range(places[0], places[0] + len(places)))
        assert [order[i] for i in places] == sorted(order[i] for i in places)
    assert sampler.has_lists == (len(set(row_index)) < len(row_index))


def test_an_epoch_is_an_order_of_its_own_and_the_same_again():
    sampler = ListSampler(np.repeat(np.arange(20), 3), seed=1)
    first, again = list(sampler), list(ListSampler(np.repeat(np.arange(20), 3), seed=1))
    sampler.set_epoch(1)
    assert first == again and list(sampler) != first
    assert list(ListSampler(np.repeat(np.arange(20), 3), seed=2)) != first


ANSWERS = [" rice", " seven, I think", " no", " use a brush and wait"]
LISTS = Dataset.from_list(
    [
        {
            "prompt": f"Question {i}: how do I cook, paint, add and count up to {i * i}? Answer:",
            "responses": ANSWERS,
            "ranks": np.roll([1, 2, 3, 4], i).tolist(),
        }
        for i in range(8)
    ]
)
OPTIONS = {"objective": "dpo", "max_steps": 6, "per_device_train_batch_size": 6, "num_train_epochs": 2}


def test_a_list_of_four_is_one_prompt_and_four_responses_in_the_row(random_setting, tmp_path):
    run = build(random_setting, tmp_path, LISTS, **OPTIONS)
    batch = next(iter(run.get_train_dataloader()))
    (row,) = {int(i) for i in batch["row_index"]}
    length = {len(run.train_dataset[i]["prompt_ids"]) for i in range(48) if run.train_dataset[i]["row_index"] == row}
    seen = []
    forward = run.model.forward
    run.model.forward = lambda *args, **kwargs: seen.append(kwargs["packed"]) or forward(*args, **kwargs)
    with torch.no_grad():
        run.scoring.score(run.model, batch)
    (group,) = seen[0].groups
    assert len(group.responses) == 4 and group.prompt[1] - group.prompt[0] in length
    assert len(seen[0].carrier_c) == 12


@pytest.mark.parametrize("objective", ["dpo", "mallows_theta"])
def test_lists_train_as_in_padded_rows(random_setting, tmp_path, objective):
    changes = OPTIONS | {"objective": objective}
    packed = trained(random_setting, tmp_path, LISTS, **changes)
    padded = trained(random_setting, tmp_path, LISTS, **changes, share_prompts=False)
    assert (packed.scoring.path, padded.scoring.path) == ("packed", "padded")
    for name in ("loss", "grad_norm", "logps/chosen", "entropy"):
        assert history(packed, name) == pytest.approx(history(padded, name), rel=1e-4, abs=2e-5), name
    if objective == "mallows_theta":  # plain DPO scores its reference live
        for name in ("ref_chosen_logps", "ref_rejected_logps", "dispersion_raw"):
            np.testing.assert_allclose(packed.train_dataset[name], padded.train_dataset[name], rtol=1e-5)


def test_a_resumed_run_draws_the_lists_of_one_that_was_not_interrupted(random_setting, tmp_path):
    changes = OPTIONS | {"max_steps": 10, "save_strategy": "steps", "save_steps": 9}
    whole = trained(random_setting, tmp_path, LISTS, **changes)
    again = build(random_setting, tmp_path, LISTS, **changes)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    assert history(again, "loss")[-1] == history(whole, "loss")[-1] and len(history(whole, "loss")) == 10
    for name, value in whole.model.named_parameters():
        assert torch.equal(value, dict(again.model.named_parameters())[name]), name


def test_rows_that_are_pairs_are_drawn_as_trl_draws_them(random_setting, tmp_path):
    assert build(random_setting, tmp_path, small_pairs(8)).train_sampler() is None
    sequential = OPTIONS | {"train_sampling_strategy": "sequential"}
    assert build(random_setting, tmp_path, LISTS, **sequential).train_sampler() is None
