"""The pairs of a ranked list stay together, share what they share, and train as padded rows do."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from pairs import history, options, small_pairs

from mallowspo import MallowsPOConfig, MallowsPOTrainer
from mallowspo.training.prompt_sampler import ListSampler


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


def ranked_lists(count=8):
    answers = [" rice", " seven, I think", " no", " use a brush and wait"]
    return Dataset.from_list(
        [
            {
                "prompt": f"Question {i}: how do I cook, paint, add and count up to {i * i}? Answer:",
                "responses": answers, "ranks": np.roll([1, 2, 3, 4], i).tolist(),
            }
            for i in range(count)
        ]
    )  # fmt: skip


def build(setting, tmp_path, **changes):
    given = {"objective": "dpo", "max_steps": 6, "per_device_train_batch_size": 6, "num_train_epochs": 2, **changes}
    return MallowsPOTrainer(
        setting.path, args=MallowsPOConfig(**options(tmp_path, **given)), train_dataset=ranked_lists()
    )


def test_a_list_of_four_is_one_prompt_and_four_responses_in_the_row(random_setting, tmp_path):
    run = build(random_setting, tmp_path)
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
    packed = build(random_setting, tmp_path, objective=objective)
    padded = build(random_setting, tmp_path, objective=objective, share_prompts=False)
    packed.train()
    padded.train()
    assert (packed.scoring.path, padded.scoring.path) == ("packed", "padded")
    for name in ("loss", "grad_norm", "logps/chosen", "entropy"):
        assert history(packed, name) == pytest.approx(history(padded, name), rel=1e-4, abs=2e-5), name
    if objective == "mallows_theta":  # plain DPO scores its reference live
        for name in ("ref_chosen_logps", "ref_rejected_logps", "dispersion_raw"):
            np.testing.assert_allclose(packed.train_dataset[name], padded.train_dataset[name], rtol=1e-5)


def test_two_and_two_steps_are_four(random_setting, tmp_path):
    whole = build(random_setting, tmp_path / "a", max_steps=10)
    whole.train()
    first = build(random_setting, tmp_path / "b", max_steps=10, save_strategy="steps", save_steps=9)
    first.train()
    again = build(random_setting, tmp_path / "b", max_steps=10)
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-9"))
    assert history(again, "loss")[-1] == history(whole, "loss")[-1] and len(history(whole, "loss")) == 10
    for name, value in whole.model.named_parameters():
        assert torch.equal(value, dict(again.model.named_parameters())[name]), name


def test_rows_that_are_pairs_are_drawn_as_trl_draws_them(random_setting, tmp_path):
    run = MallowsPOTrainer(
        random_setting.path, args=MallowsPOConfig(**options(tmp_path)), train_dataset=small_pairs(8)
    )
    assert run.train_sampler() is None
    assert build(random_setting, tmp_path, train_sampling_strategy="sequential").train_sampler() is None
