"""Sampled answers: the model's own distribution, drawn as a tree."""

import numpy as np
import pytest
import torch

from mallowspo.dispersion.answer_samples import sample_answers
from mallowspo.errors import InputError
from tiny import tiny_llama

PROMPTS = [[1, 5, 6], [1, 7]]


@pytest.fixture(scope="module")
def model():
    return tiny_llama(vocab_size=12).eval()


def plain_logp(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy()


def test_scores_along_an_answer_are_those_of_plain_logits(model):
    for prompt, answers in zip(
        PROMPTS, sample_answers(model, PROMPTS, samples=6, max_new_tokens=4, end_id=2), strict=True
    ):
        assert sum(answer.count for answer in answers) == 6
        assert len({answer.ids for answer in answers}) == len(answers)
        for answer in answers:
            logp = plain_logp(model, [*prompt, *answer.ids])[len(prompt) - 1 : -1]
            assert answer.token_logp == pytest.approx(
                [row[token] for row, token in zip(logp, answer.ids, strict=True)], abs=1e-5
            )
            assert answer.token_entropy == pytest.approx(-(np.exp(logp) * logp).sum(-1), abs=1e-5)
            assert answer.logp == pytest.approx(sum(answer.token_logp))
            assert answer.ids[-1] == 2 or len(answer.ids) == 4
            assert 2 not in answer.ids[:-1]


def test_frequencies_are_the_probabilities_of_the_model(model):
    drawn = sample_answers(model, PROMPTS[:1], samples=20_000, max_new_tokens=2, end_id=2)[0]
    wanted = np.exp(plain_logp(model, PROMPTS[0])[-1])
    first = np.zeros(12)
    for answer in drawn:
        first[answer.ids[0]] += answer.count / 20_000
    assert np.abs(first - wanted).max() < 5 * np.sqrt(0.25 / 20_000)
    # Whole answers too: a pair of tokens has the product of both probabilities.
    common = drawn[0]
    assert common.count / 20_000 == pytest.approx(np.exp(common.logp), abs=5 * np.sqrt(0.25 / 20_000))


def test_a_seed_says_it_all_and_the_batch_nothing(model):
    one, same = (
        sample_answers(model, PROMPTS, samples=8, max_new_tokens=3, end_id=2, batch_size=size) for size in (1, 64)
    )
    assert [[(a.ids, a.count) for a in answers] for answers in one] == [
        [(a.ids, a.count) for a in answers] for answers in same
    ]
    other = sample_answers(model, PROMPTS, samples=8, max_new_tokens=3, end_id=2, seed=1)
    assert [[a.ids for a in answers] for answers in other] != [[a.ids for a in answers] for answers in one]


def test_what_cannot_be_sampled_is_refused(model):
    for prompts, samples in (([], 2), ([[]], 2), (PROMPTS, 0)):
        with pytest.raises(InputError):
            sample_answers(model, prompts, samples=samples, end_id=2)
