"""Candidate scores and sequence KL against one plain forward pass per sequence."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mallowspo.errors import InputError
from mallowspo.evaluation.candidate_tree import build_candidate_tree, score_candidates, sequence_kl
from mallowspo.evaluation.exact import outside_mass

END, VOCABULARY = 2, 6
PROMPTS = [[1, 3], [1, 4, 5, 3], [5]]
CANDIDATES = [
    [[3, END], [3, 4, END], [5, 5, 5, END]],
    [[END], [4, END], [4, 3, END]],
    [[1, END], [0, END], [1, 1, 3, 4, END]],
]


def tiny_model(seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.6,  # far from uniform, so that mistakes in the order of tokens show
    )
    return LlamaForCausalLM(config).double().eval()


@pytest.fixture(scope="module")
def tree():
    return build_candidate_tree(PROMPTS, CANDIDATES)


@pytest.fixture(scope="module")
def policy():
    return tiny_model(0)


@pytest.fixture(scope="module")
def reference():
    return tiny_model(1)


@torch.no_grad()
def next_logps(model, prefix):
    return model(input_ids=torch.tensor([prefix])).logits[0, -1].log_softmax(-1).numpy()


def sequence_logp(model, prompt, answer):
    return sum(next_logps(model, prompt + answer[:i])[token] for i, token in enumerate(answer))


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_candidates_equal_one_forward_pass_each(policy, tree, batch_size):
    wanted = [
        [sequence_logp(policy, prompt, answer) for answer in answers]
        for prompt, answers in zip(PROMPTS, CANDIDATES, strict=True)
    ]
    scores = score_candidates(policy, tree, batch_size=batch_size)
    np.testing.assert_allclose(scores.logp_pk, wanted, rtol=1e-10)


def test_padding_has_no_influence(policy, tree):
    other = build_candidate_tree(PROMPTS, CANDIDATES, pad_id=5)
    np.testing.assert_array_equal(score_candidates(policy, tree).logp_pk, score_candidates(policy, other).logp_pk)


def test_the_model_comes_back_in_the_mode_it_was_in(policy, tree):
    policy.train()
    score_candidates(policy, tree)
    assert policy.training
    policy.eval()


def exits_of(candidates):
    """All (prefix, token) by which an answer leaves the candidates: an enumeration of its own."""
    inside = {tuple(answer[:i]) for answer in candidates for i in range(len(answer))}
    whole = {tuple(answer) for answer in candidates}
    for prefix, token in itertools.product(inside, range(VOCABULARY)):
        step = (*prefix, token)
        if step not in inside and step not in whole:
            yield list(step)


def test_candidates_and_exits_hold_all_probability(policy, tree):
    outside = outside_mass(score_candidates(policy, tree).logp_pk)
    for p, (prompt, answers) in enumerate(zip(PROMPTS, CANDIDATES, strict=True)):
        left = sum(np.exp(sequence_logp(policy, prompt, step)) for step in exits_of(answers))
        assert outside[p] == pytest.approx(left, abs=1e-10)


def test_the_tree_s_part_of_the_kl_equals_the_kl_of_where_an_answer_ends_or_leaves(policy, reference, tree):
    kl = sequence_kl(
        policy,
        reference,
        tree,
        score_candidates(policy, tree),
        score_candidates(reference, tree),
        exits_per_prompt=0,
        end_id=END,
    )
    for p, (prompt, answers) in enumerate(zip(PROMPTS, CANDIDATES, strict=True)):
        wanted = 0.0
        for step in [*answers, *exits_of(answers)]:
            first, second = (sequence_logp(model, prompt, step) for model in (policy, reference))
            wanted += np.exp(first) * (first - second)
        assert kl.tree_p[p] == pytest.approx(wanted, rel=1e-9)
    assert kl.remainder_p.tolist() == [0.0] * 3


def remainder_by_enumeration(policy, reference, prompt, answers, max_new_tokens):
    """Expected KL after leaving, over every continuation of at most `max_new_tokens` tokens."""

    def onwards(prefix, left):
        if prefix[-1] == END:
            return 0.0
        first, second = next_logps(policy, prompt + prefix), next_logps(reference, prompt + prefix)
        here = float((np.exp(first) * (first - second)).sum())
        if left == 0:
            return here
        return here + sum(np.exp(first[v]) * onwards([*prefix, v], left - 1) for v in range(VOCABULARY))

    return sum(
        np.exp(sequence_logp(policy, prompt, step)) * onwards(step, max_new_tokens) for step in exits_of(answers)
    )


def test_the_remainder_is_unbiased(policy, reference):
    prompt, answers = PROMPTS[0], CANDIDATES[0]
    tree = build_candidate_tree([prompt], [answers])
    wanted = remainder_by_enumeration(policy, reference, prompt, answers, 2)
    kl = sequence_kl(
        policy,
        reference,
        tree,
        score_candidates(policy, tree),
        score_candidates(reference, tree),
        exits_per_prompt=4000,
        max_new_tokens=2,
        end_id=END,
    )
    assert kl.standard_error < 0.05 * wanted
    assert abs(kl.remainder_p[0] - wanted) < 4 * kl.standard_error
    assert 0 < kl.cut_share < 1
    assert kl.total_p[0] == kl.tree_p[0] + kl.remainder_p[0]


def test_a_policy_has_no_kl_from_itself_and_draws_are_reproducible(policy, reference, tree):
    scores, other = score_candidates(policy, tree), score_candidates(reference, tree)
    same = sequence_kl(policy, policy, tree, scores, scores, end_id=END)
    np.testing.assert_allclose(same.total_p, 0.0, atol=1e-12)
    first, second, third = (
        sequence_kl(policy, reference, tree, scores, other, end_id=END, seed=seed).remainder_p for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


@pytest.mark.parametrize(
    ("prompts", "candidates", "says"),
    [
        ([], [], "at least one prompt"),
        ([[1]], [], "one set per prompt"),
        ([[1], []], [[[END]], [[END]]], "at least one token"),
        ([[1], [1]], [[[3, END]], [[3, END], [4, END]]], "1 candidates"),
        ([[1]], [[[3], [3, END]]], "beginning of"),
        ([[1]], [[[3, END], [3, END]]], "beginning of"),
    ],
)
def test_candidates_that_are_not_separate_events_are_refused(prompts, candidates, says):
    with pytest.raises(InputError, match=says):
        build_candidate_tree(prompts, candidates)
