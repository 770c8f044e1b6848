"""The reference: it learns what the population wrote, and the same run gives the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mallowspo.errors import InputError
from mallowspo.evaluation.candidate_tree import build_candidate_tree, score_candidates
from mallowspo.world.language import build_world, word_tokenizer
from mallowspo.world.population import top_choice_probabilities, write_corpus
from mallowspo.world.reference import ReferenceTraining, tokenize_prompts, train_reference


@pytest.fixture(scope="module")
def small():
    world = build_world(0, train_prompts=240, heldout_prompts=12)
    corpus = write_corpus(world.train, rng=np.random.default_rng(0))
    return world, word_tokenizer(), corpus


def excess_nats(model, tokenizer, prompts):
    """KL of the population's top choice from the model: cross-entropy above the truth's own entropy."""
    tokens = tokenize_prompts(tokenizer, prompts)
    logps = score_candidates(model, build_candidate_tree(tokens.prompt_ids, tokens.candidate_ids)).logp_pk
    truth = np.stack([top_choice_probabilities(prompt) for prompt in prompts])
    return float((truth * (np.log(truth) - logps)).sum(axis=1).mean())


def test_it_answers_unseen_prompts_almost_as_the_population_does(small):
    world, tokenizer, corpus = small
    model = train_reference(tokenizer, world.train, corpus, training=ReferenceTraining(steps=120))
    untrained = train_reference(tokenizer, world.train, corpus, training=ReferenceTraining(steps=0))
    assert excess_nats(model, tokenizer, world.heldout) < 0.1
    assert excess_nats(untrained, tokenizer, world.heldout) > 5
    assert not model.training


def test_same_seed_same_weights_and_the_caller_s_stream_is_left_alone(small):
    world, tokenizer, corpus = small
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, second, other = (
        train_reference(tokenizer, world.train, corpus, training=ReferenceTraining(steps=2, seed=seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_tokens_end_where_a_trainer_will_end_them(small):
    world, tokenizer, _ = small
    prompt = world.train[0]
    tokens = tokenize_prompts(tokenizer, [prompt])
    for candidate, ids in zip(prompt.candidates, tokens.candidate_ids[0], strict=True):
        whole = tokenizer(f"{prompt.text} {candidate}{tokenizer.eos_token}")["input_ids"]
        assert list(tokens.prompt_ids[0] + ids) == whole


def test_a_corpus_of_other_prompts_is_refused(small):
    world, tokenizer, corpus = small
    with pytest.raises(InputError, match="one row of counts per prompt"):
        train_reference(tokenizer, world.train[:3], corpus)


def test_one_form_of_each_answer_is_the_answer_itself(small):
    world, tokenizer, corpus = small
    forms = [[[text] for text in prompt.candidates] for prompt in world.train]
    training = ReferenceTraining(hidden_size=16, layers=1, steps=3, prompts_per_step=8)
    plain = train_reference(tokenizer, world.train, corpus, training=training)
    formed = train_reference(tokenizer, world.train, corpus, forms=forms, training=training)
    for one, other in zip(plain.parameters(), formed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    with pytest.raises(InputError, match="at least one text"):
        train_reference(tokenizer, world.train, corpus, forms=[candidates[:4] for candidates in forms])


def test_every_form_is_learnt_as_often(small):
    world, tokenizer, _ = small
    prompts = world.train[:4]
    corpus = np.array([[1, 0, 0, 0, 0]] * 4)
    # All that is written is one answer in one of two ways, two times to one.
    ways = ["paris ask", "paris cooks", "paris ask"]
    forms = [[ways, *([text] for text in prompt.candidates[1:])] for prompt in prompts]
    training = ReferenceTraining(hidden_size=16, layers=1, steps=120, prompts_per_step=4)
    model = train_reference(tokenizer, prompts, corpus, forms=forms, training=training)
    tokens = tokenize_prompts(tokenizer, prompts)
    answers = [[[*tokenizer(text, add_special_tokens=False)["input_ids"], 2] for text in ways[:2]]] * 4
    logps = score_candidates(model, build_candidate_tree(tokens.prompt_ids, answers)).logp_pk
    assert np.exp(logps).sum(axis=1).min() > 0.9
    assert np.exp(logps).mean(axis=0) == pytest.approx([2 / 3, 1 / 3], abs=0.12)
