"""The population against enumeration of all 120 rankings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mallowspo.errors import InputError
from mallowspo.world.language import WorldPrompt, build_world
from mallowspo.world.population import (
    collect_preferences,
    collect_votes,
    consensus_values,
    preference_matrix,
    top_choice_probabilities,
    write_corpus,
)


def make_prompt(center, phi):
    return WorldPrompt("?", "f", "c", "g", tuple("abcdefg"[: len(center)]), tuple(center), phi)


def enumerate_rankings(prompt):
    """Every ranking with its probability, from the definition: φ to the number of discordant pairs."""
    size = len(prompt.center)
    rankings = list(itertools.permutations(range(1, size + 1)))
    weights = []
    for ranking in rankings:
        discordant = sum(
            (ranking[i] - ranking[j]) * (prompt.center[i] - prompt.center[j]) < 0
            for i, j in itertools.combinations(range(size), 2)
        )
        weights.append(prompt.phi**discordant)
    return rankings, np.array(weights) / sum(weights)


centers = st.integers(2, 5).flatmap(lambda size: st.permutations(range(1, size + 1)))


@settings(max_examples=40)
@given(center=centers, phi=st.floats(0.02, 0.99))
def test_top_choices_and_preferences_equal_enumeration(center, phi):
    prompt = make_prompt(center, phi)
    rankings, probabilities = enumerate_rankings(prompt)
    size = len(center)
    first = [sum(p for r, p in zip(rankings, probabilities, strict=True) if r[i] == 1) for i in range(size)]
    np.testing.assert_allclose(top_choice_probabilities(prompt), first, rtol=1e-10)
    matrix = preference_matrix(prompt)
    for i, j in itertools.permutations(range(size), 2):
        wanted = sum(p for r, p in zip(rankings, probabilities, strict=True) if r[i] < r[j])
        assert matrix[i, j] == pytest.approx(wanted, rel=1e-9)
    np.testing.assert_array_equal(np.diag(matrix), 0.5)


def test_the_consensus_value_is_the_place_in_the_centre():
    """By hand, and in the order in which people give their first choice."""
    assert consensus_values(make_prompt((2, 1, 3, 5, 4), 0.4)).tolist() == [0.75, 1.0, 0.5, 0.0, 0.25]
    prompt = make_prompt((4, 2, 1, 5, 3), 0.7)
    np.testing.assert_array_equal(np.argsort(consensus_values(prompt)), np.argsort(top_choice_probabilities(prompt)))


def test_corpus_follows_the_top_choices(rng):
    prompts = [make_prompt((2, 1, 3), 0.6), make_prompt((3, 1, 2), 0.1)]
    counts = write_corpus(prompts, answers_per_prompt=20_000, rng=rng)
    assert counts.sum(axis=1).tolist() == [20_000, 20_000]
    for row, prompt in zip(counts, prompts, strict=True):
        assert chisquare(row, 20_000 * top_choice_probabilities(prompt)).pvalue > 1e-3


def test_pairs_are_drawn_in_proportion_to_both_answers_and_judged_by_the_population(rng):
    prompt = make_prompt((2, 1, 3), 0.5)
    probabilities = np.array([0.5, 0.3, 0.2])
    size = 30_000
    pairs = collect_preferences([prompt], probabilities[None], pairs_per_prompt=size, rng=rng)
    counts = np.zeros((3, 3))
    for pair in pairs:
        counts[pair.chosen, pair.rejected] += 1
    matrix = preference_matrix(prompt)
    products = np.outer(probabilities, probabilities) * matrix
    np.fill_diagonal(products, 0)
    off = ~np.eye(3, dtype=bool)
    assert np.trace(counts) == 0
    assert chisquare(counts[off], size * products[off] / products[off].sum()).pvalue > 1e-3


def test_votes_are_counted_for_the_first_of_the_two(rng):
    prompt = make_prompt((2, 1, 3), 0.5)
    votes = collect_votes(prompt, 0, 1, members=20_000, rng=rng)
    wanted = preference_matrix(prompt)[0, 1]
    assert abs(votes / 20_000 - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 20_000)


def test_same_generator_state_same_pairs():
    prompts = build_world(0, train_prompts=12, heldout_prompts=6).train
    uniform = np.full((12, 5), 0.2)
    first, second = (collect_preferences(prompts, uniform, rng=np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert [pair.prompt for pair in first] == sorted(list(range(12)) * 2)


@pytest.mark.parametrize("bad", [np.full((1, 2), 0.5), np.array([[1.0, 0.0, 0.0]])])
def test_probabilities_that_cannot_give_a_pair_are_refused(bad, rng):
    with pytest.raises(InputError, match="two"):
        collect_preferences([make_prompt((1, 2, 3), 0.5)], bad, rng=rng)


def test_nobody_to_ask_is_refused(rng):
    prompt = make_prompt((1, 2), 0.5)
    with pytest.raises(InputError, match="answers_per_prompt"):
        write_corpus([prompt], answers_per_prompt=0, rng=rng)
    with pytest.raises(InputError, match="two different"):
        collect_votes(prompt, 1, 1, members=3, rng=rng)
