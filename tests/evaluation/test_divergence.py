"""The sampled KL of two tiny models against the sum over all responses."""

import itertools

import numpy as np
import pytest
import torch

from mallowspo.errors import InputError
from mallowspo.evaluation.divergence import sequence_kl
from tiny import tiny_llama

END, VOCABULARY, LENGTH = 2, 5, 3
PROMPTS = [[1, 3], [1, 4, 4]]


def models():
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16, "initializer_range": 0.6}
    return [tiny_llama(seed=seed, eos_token_id=END, **sizes) for seed in (1, 2)]


def responses():
    """Every response: it ends with the end token, or is cut at the third token."""
    for length in range(1, LENGTH + 1):
        for row in itertools.product(range(VOCABULARY), repeat=length):
            if END not in row[:-1] and (row[-1] == END or length == LENGTH):
                yield list(row)


def log_prob(model, prompt, response):
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
    return sum(float(logps[len(prompt) - 1 + t, token]) for t, token in enumerate(response))


def enumerated(prompt, policy, reference):
    rows = list(responses())
    p = np.asarray([log_prob(policy, prompt, row) for row in rows])
    q = np.asarray([log_prob(reference, prompt, row) for row in rows])
    assert np.exp(p).sum() == pytest.approx(1.0, abs=1e-6)
    return float(np.exp(p) @ (p - q)), float(np.exp(p) @ np.asarray([len(row) for row in rows]))


def test_it_is_the_sum_over_all_responses():
    policy, reference = models()
    for prompt in PROMPTS:
        truth, length = enumerated(prompt, policy, reference)
        found = sequence_kl(policy, reference, [prompt], samples=600, max_new_tokens=LENGTH, batch_size=300)
        # Four standard errors, with a seed that is fixed.
        assert found.kl == pytest.approx(truth, abs=4 * found.kl_standard_error)
        assert found.kl_plain == pytest.approx(truth, abs=4 * found.kl_plain_standard_error)
        assert found.kl_per_token == pytest.approx(truth / length, abs=4 * found.kl_per_token_standard_error)
        assert 0 < found.kl_standard_error < found.kl_plain_standard_error < 0.2 * truth
        assert found.tokens_per_response == pytest.approx(length, rel=0.05)


def test_over_several_prompts_tokens_not_prompts_share_the_nats():
    policy, reference = models()
    prompts = [[4], [1, 3, 3]]  # whose responses differ in length
    truths, lengths = map(np.asarray, zip(*(enumerated(prompt, policy, reference) for prompt in prompts), strict=True))
    found = sequence_kl(policy, reference, prompts, samples=1000, max_new_tokens=LENGTH, batch_size=500)
    assert found.kl == pytest.approx(truths.mean(), rel=0.02)
    pooled, mean_of_ratios = truths.sum() / lengths.sum(), (truths / lengths).mean()
    assert found.kl_per_token == pytest.approx(pooled, rel=0.01)
    assert abs(found.kl_per_token - pooled) < abs(found.kl_per_token - mean_of_ratios)


def test_the_standard_errors_are_those_of_another_draw():
    """30 seeds: their spread is the error that each of them states."""
    policy, reference = models()
    draws = [
        sequence_kl(policy, reference, PROMPTS[:1], samples=40, max_new_tokens=LENGTH, batch_size=40, seed=seed)
        for seed in range(30)
    ]
    for name in ("kl", "kl_plain", "kl_per_token"):
        spread = np.std([getattr(one, name) for one in draws], ddof=1)
        stated = np.sqrt(np.mean([getattr(one, f"{name}_standard_error") ** 2 for one in draws]))
        # The spread of 30 draws lies within 0.6 and 1.4 of the truth all but once in a thousand times.
        assert 0.6 < spread / stated < 1.4, name


def test_the_batch_size_changes_nothing_and_the_responses_can_be_had():
    policy, reference = models()
    had = {}

    def measure(**options):
        return sequence_kl(policy, reference, PROMPTS, samples=6, max_new_tokens=LENGTH, **options)

    one = measure(batch_size=1)
    many = measure(batch_size=5, on_response=lambda p, s, response: had.update({(p, s): response}))
    assert one.kl == pytest.approx(many.kl, rel=1e-5) and one.tokens_per_response == many.tokens_per_response
    assert one != measure(seed=1)
    assert sorted(had) == [(p, s) for p in range(2) for s in range(6)]
    assert np.mean([len(row) for row in had.values()]) == many.tokens_per_response
    plain = [log_prob(policy, PROMPTS[p], row) - log_prob(reference, PROMPTS[p], row) for (p, _), row in had.items()]
    assert np.mean(plain) == pytest.approx(many.kl_plain, rel=1e-4)


def test_a_model_is_at_no_distance_from_itself():
    policy, _ = models()
    found = sequence_kl(policy, policy, PROMPTS, samples=4, max_new_tokens=LENGTH)
    assert found.kl == found.kl_plain == found.kl_per_token == 0.0
    assert 0 <= found.cut <= 1 and found.prompts == 2


def test_other_vocabularies_and_no_prompts_are_refused():
    policy, _ = models()
    with pytest.raises(InputError, match="5 and 7 tokens"):
        sequence_kl(policy, tiny_llama(vocab_size=7), PROMPTS, max_new_tokens=2)
    for prompts in ([], [[]]):
        with pytest.raises(InputError, match="at least one prompt"):
            sequence_kl(policy, policy, prompts)
