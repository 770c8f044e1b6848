"""Exact agreement, entropy and optimum against enumeration, simulation and numerical optimisation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import entropy, kendalltau

from mallowspo.errors import InputError
from mallowspo.evaluation.exact import (
    agreement,
    choice_entropy,
    optimal_frontier,
    order_accuracy,
    outside_mass,
    share_of_optimum,
    terciles,
)


def draw(seed, prompts=4, candidates=3, *, outside=True):
    """Random policies (with some mass outside) and random preferences."""
    rng = np.random.default_rng(seed)
    policy, reference = (rng.dirichlet(np.ones(candidates + 1), size=prompts) for _ in range(2))
    if not outside:
        policy, reference = (p[:, :-1] / p[:, :-1].sum(1, keepdims=True) for p in (policy, reference))
    else:
        policy, reference = policy[:, :-1], reference[:, :-1]
    upper = np.triu(rng.uniform(size=(prompts, candidates, candidates)), 1)
    lower = np.tril(np.ones((candidates, candidates)), -1) * (1 - upper.transpose(0, 2, 1))
    preferences = upper + lower + 0.5 * np.eye(candidates)
    return np.log(policy), np.log(reference), preferences


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_agreement_equals_a_table_of_all_outcomes(seed):
    policy, reference, preferences = draw(seed, prompts=1)
    answers = range(4)  # the last one is "outside"
    pi, ref = (np.append(np.exp(x[0]), 1 - np.exp(x[0]).sum()) for x in (policy, reference))
    counted = renormalised = 0.0
    for i, j in itertools.product(answers, answers):
        if i == 3:
            wins = 0.0
        elif j == 3:
            wins = 1.0
        else:
            wins = preferences[0, i, j]
            renormalised += pi[i] / (1 - pi[3]) * ref[j] / (1 - ref[3]) * wins
        counted += pi[i] * ref[j] * wins
    result = agreement(policy, reference, preferences)
    assert result.counted_p[0] == pytest.approx(counted, abs=1e-12)
    assert result.renormalised_p[0] == pytest.approx(renormalised, abs=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_a_policy_against_itself_ties(seed):
    policy, _, preferences = draw(seed)
    result = agreement(policy, policy, preferences)
    np.testing.assert_allclose(result.renormalised_p, 0.5, atol=1e-12)
    np.testing.assert_allclose(result.counted_p, 0.5 * (1 - outside_mass(policy) ** 2), atol=1e-12)


def test_mass_that_leaves_the_candidates_is_lost_but_does_not_show_when_renormalised():
    _, reference, preferences = draw(1, outside=False)
    whole, leaking = (
        agreement(reference, reference, preferences),
        agreement(reference + np.log(0.8), reference, preferences),
    )
    np.testing.assert_allclose(leaking.counted_p, 0.8 * whole.counted_p)
    np.testing.assert_allclose(leaking.renormalised_p, whole.renormalised_p)


def test_choice_entropy_equals_scipy():
    policy, _, _ = draw(2)
    wanted = [entropy(row / row.sum()) for row in np.exp(policy)]
    np.testing.assert_allclose(choice_entropy(policy), wanted, rtol=1e-12)
    assert choice_entropy([[0.0, -np.inf]]).tolist() == [0.0]


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), strength=st.floats(0.0, 4.0))
def test_no_policy_lies_above_the_frontier(seed, strength):
    _, reference, preferences = draw(seed)
    rng = np.random.default_rng(seed + 1)
    whole = np.exp(np.concatenate([reference, np.log(outside_mass(reference))[:, None]], axis=1))
    tilted = whole * np.exp(strength * rng.normal(size=whole.shape))
    tilted /= tilted.sum(1, keepdims=True)
    kl = float((tilted * np.log(tilted / whole)).sum(1).mean())
    reached = agreement(np.log(tilted[:, :-1]), reference, preferences).counted_p.mean()
    frontier = optimal_frontier(reference, preferences, np.geomspace(1e-3, 1e3, 400))
    # The interpolated frontier lies below the exact one between its points, by less than this.
    assert reached <= np.interp(kl, frontier.kl, frontier.agreement) + 1e-4


def test_the_frontier_s_points_solve_the_penalised_problem():
    _, reference, preferences = draw(7, prompts=1)
    whole = np.append(np.exp(reference[0]), outside_mass(reference)[0])

    def negative_objective(logits, temperature):
        pi = np.exp(logits - np.logaddexp.reduce(logits))
        reached = agreement(np.log(pi[None, :-1]), reference, preferences).counted_p[0]
        return -(reached - temperature * (pi * np.log(pi / whole)).sum())

    for temperature in (0.05, 0.3, 2.0):
        found = minimize(negative_objective, np.zeros(4), args=(temperature,), tol=1e-12)
        frontier = optimal_frontier(reference, preferences, [temperature])
        assert frontier.agreement[0] - temperature * frontier.kl[0] == pytest.approx(-found.fun, abs=1e-8)


def test_the_frontier_bears_a_reference_without_outside_mass():
    _, reference, preferences = draw(3, outside=False)
    frontier = optimal_frontier(reference, preferences, [1e-4, 1.0, 1e4])
    assert np.isfinite(frontier.kl).all()
    assert frontier.agreement[0] == pytest.approx(0.5, abs=1e-4)
    assert np.all(np.diff(frontier.kl) >= 0)
    assert np.all(np.diff(frontier.agreement) >= 0)


def test_the_order_of_the_implicit_reward_is_kendalls_tau():
    """The share of pairs in order is (τ + 1)/2 of SciPy, where no two rewards are equal."""
    policy, reference, _ = draw(11)
    ranks = np.stack([np.random.default_rng(p).permutation(policy.shape[1]) + 1 for p in range(len(policy))])
    found = order_accuracy(policy, reference, ranks)
    reward = policy - reference
    taus = [kendalltau(one, -rank).statistic for one, rank in zip(reward, ranks, strict=True)]
    np.testing.assert_allclose(found, (np.asarray(taus) + 1) / 2, atol=1e-12)
    np.testing.assert_array_equal(order_accuracy(reference, reference, ranks), 0.5)


def test_share_of_optimum_is_one_on_the_frontier_and_undefined_at_the_start():
    _, reference, preferences = draw(4)
    frontier = optimal_frontier(reference, preferences, np.geomspace(1e-2, 1e3, 50))
    assert share_of_optimum(frontier.agreement[30], frontier.kl[30], frontier) == pytest.approx(1.0)
    assert np.isnan(share_of_optimum(0.5, 0.0, frontier))


@given(size=st.integers(3, 100), seed=st.integers(0, 100))
def test_terciles_are_ordered_and_even(size, seed):
    values = np.random.default_rng(seed).normal(size=size)
    labels = terciles(values)
    counts = np.bincount(labels, minlength=3)
    assert counts.max() - counts.min() <= 1
    assert values[labels == 0].max() <= values[labels == 1].min()
    assert values[labels == 1].max() <= values[labels == 2].min()


def test_arrays_that_do_not_fit_are_refused():
    policy, reference, preferences = draw(0)
    with pytest.raises(InputError, match="same candidates"):
        agreement(policy[:2], reference, preferences)
    with pytest.raises(InputError, match="sum to 1"):
        agreement(policy, reference, preferences * 0.9)
    with pytest.raises(InputError, match="at most 1"):
        outside_mass([[0.0, 0.0]])
    with pytest.raises(InputError, match="numbers > 0"):
        optimal_frontier(reference, preferences, [0.0])
    with pytest.raises(InputError, match="at least 3"):
        terciles([1.0, 2.0])
